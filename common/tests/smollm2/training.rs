//! LoRA gradients and ten optimizer steps on NF4, and the ways to cut a batch into passes.

use std::collections::HashMap;
use std::ops::Range;

use common::checkpoint::Checkpoint;
use common::device::{Device, Vector};
use common::kernels::adamw::{AdamW, Moments, clip_factor, gradient_norm};
use common::model::{AdapterSettings, Batch, Loss, Model, Sequence};

use super::{Base, Budget, PROJECTIONS, golden};

const STEPS: usize = 10;
const LEARNING_RATE: f32 = 1e-3;
const ROWS_PER_STEP: usize = 4;
const TENSORS: usize = 420;
/// Entries of each tensor that the golden holds.
const SAMPLES: usize = 32;

struct Golden(Checkpoint);

/// The ids of a row, and which of them are supervised.
struct Row {
    tokens: Vec<u32>,
    trained: Vec<bool>,
}

impl Golden {
    fn open() -> Self {
        Self(Checkpoint::open_file(&golden("training.safetensors")).unwrap())
    }

    fn floats(&self, name: &str) -> Vec<f64> {
        self.0.tensor(name).unwrap().to_f32().unwrap().into_iter().map(f64::from).collect()
    }

    fn integers(&self, name: &str) -> Vec<i32> {
        let bytes = self.0.tensor(name).unwrap().bytes;
        bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect()
    }

    fn rows(&self) -> Vec<Row> {
        let (ids, labels) = (self.integers("rows.ids"), self.integers("rows.labels"));
        let mut start = 0;
        let lengths = self.integers("rows.lengths");
        let rows: Vec<Row> = lengths
            .iter()
            .map(|&length| {
                let range = start..start + length as usize;
                start = range.end;
                Row {
                    tokens: ids[range.clone()].iter().map(|&id| id as u32).collect(),
                    trained: labels[range].iter().map(|&label| label >= 0).collect(),
                }
            })
            .collect();
        assert_eq!((rows.len(), start), (STEPS * ROWS_PER_STEP, ids.len()));
        rows
    }

    /// Norms and sampled entries of 420 tensors against `found`. Norms are measured by themselves,
    /// entries by `unit` of the expected one and its tensor's root mean square.
    fn compare(
        &self,
        kind: &str,
        found: &[f32],
        places: &[Range<usize>],
        limit: f64,
        unit: impl Fn(f64, f64) -> f64,
    ) -> [Budget; 2] {
        let mut norms = Budget::new(format!("{kind}: norms of {TENSORS} tensors"), 1e-4);
        let mut entries = Budget::new(format!("{kind}: entries of {TENSORS} tensors"), limit);
        let expected_norms = self.floats(&format!("{kind}.norm"));
        let values = self.floats(&format!("{kind}.value"));
        let indices = self.integers("grad.index");
        let counts = (places.len(), expected_norms.len(), indices.len());
        assert_eq!(counts, (TENSORS, TENSORS, TENSORS * SAMPLES));
        for (t, place) in places.iter().enumerate() {
            let (found, expected) = (&found[place.clone()], expected_norms[t]);
            norms.meet(norm(found), expected, expected, || format!("tensor {t}"));
            let root_mean_square = expected / (found.len() as f64).sqrt();
            for sample in t * SAMPLES..(t + 1) * SAMPLES {
                let (index, value) = (indices[sample] as usize, values[sample]);
                let unit = unit(value, root_mean_square);
                entries.meet(f64::from(found[index]), value, unit, || format!("tensor {t} entry {index}"));
            }
        }
        [norms, entries]
    }
}

/// Start value of entry `e` of tensor `t`, as `scripts/golden/training.py` explains.
fn formula(t: usize, e: usize) -> f32 {
    let mut h = (t as u32).wrapping_mul(0x9E37_79B1).wrapping_add(e as u32);
    h = (h ^ (h >> 16)).wrapping_mul(0x85EB_CA6B);
    h = (h ^ (h >> 13)).wrapping_mul(0xC2B2_AE35);
    h ^= h >> 16;
    let bytes: i32 = h.to_le_bytes().into_iter().map(i32::from).sum();
    (bytes - 510) as f32 * if t.is_multiple_of(2) { 2.0f32.powi(-13) } else { 2.0f32.powi(-14) }
}

/// The model with the formula's adapter, and where tensor t lies among its parameters.
fn start() -> Option<(Model, Vec<Range<usize>>)> {
    let mut model = Base::Nf4.load()?;
    model.add_adapters(&AdapterSettings::default()).unwrap();
    let tensors = &model.adapters().tensors;
    let by_name: HashMap<&str, &Range<usize>> =
        tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.range)).collect();
    let mut places = Vec::new();
    for layer in 0..model.config().layers.len() {
        for projection in PROJECTIONS {
            for part in ["lora_A", "lora_B"] {
                places.push(by_name[&*format!("model.layers.{layer}.{projection}.{part}.weight")].clone());
            }
        }
    }
    let fill = |parameters: &mut Vector| {
        for (t, place) in places.iter().enumerate() {
            let values = &mut parameters.host_mut()?[place.clone()];
            values.iter_mut().enumerate().for_each(|(e, value)| *value = formula(t, e));
        }
        Ok(())
    };
    model.update_parameters(fill).unwrap();
    Some((model, places))
}

fn pack(rows: &[Row]) -> Batch {
    let sequences = rows.iter().map(|Row { tokens, trained }| Sequence { tokens, trained });
    Batch::pack(sequences, 0)
}

/// The loss of a batch, and the gradients of its mean.
fn gradients(model: &Model, batch: &Batch, recomputed: usize) -> (Loss, Vector) {
    let mut gradients = Vector::zeros(model.adapters().values.len(), &Device::Cpu).unwrap();
    let scale = 1.0 / batch.targets.len() as f32;
    let loss = model.loss_and_gradients(batch, scale, recomputed, &mut gradients).unwrap();
    (loss, gradients)
}

fn norm(values: &[f32]) -> f64 {
    gradient_norm(&Vector::Cpu(values.to_vec())).unwrap()
}

#[test]
fn gradients_and_ten_steps_are_pefts() {
    let Some((mut model, places)) = start() else { return };
    let golden = Golden::open();
    let (expected_losses, expected_norms) = (golden.floats("losses"), golden.floats("grad_norms"));
    let mut losses = Budget::new("losses of ten steps", 5e-5);
    let mut norms = Budget::new("gradient norms of ten steps", 1e-4);
    let mut first = None;

    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut moments = Moments::new(model.adapters().values.len(), &Device::Cpu).unwrap();
    for (step, rows) in golden.rows().chunks(ROWS_PER_STEP).enumerate() {
        let (loss, gradients) = gradients(&model, &pack(rows), 0);
        if step == 0 {
            first = Some(golden.compare("grad", gradients.host().unwrap(), &places, 3e-4, gradient_unit));
        }
        let norm = gradient_norm(&gradients).unwrap();
        losses.meet(loss.mean(), expected_losses[step], 1.0, || format!("step {step}"));
        norms.meet(norm, expected_norms[step], expected_norms[step], || format!("step {step}"));
        let clip = clip_factor(norm, 1.0);
        let step = |parameters: &mut Vector| {
            optimizer.step(parameters, &gradients, clip, &mut moments, LEARNING_RATE)
        };
        model.update_parameters(step).unwrap();
    }
    // Where gradients are near zero Adam divides rounding by rounding, so weights may part by a
    // small share of a step.
    let values = model.adapters().values.host().unwrap();
    let after = golden.compare("after", values, &places, 0.05, |_, _| LEARNING_RATE.into());
    let budgets = [losses, norms].into_iter().chain(first.unwrap()).chain(after);
    budgets.for_each(Budget::settle);
}

/// Relative to an entry where it is large, to its tensor where it is small.
fn gradient_unit(value: f64, root_mean_square: f64) -> f64 {
    value.abs() + root_mean_square
}

#[test]
fn packed_is_unpacked_is_accumulated() {
    let Some((model, places)) = start() else { return };
    let mut rows = Golden::open().rows();
    rows.truncate(ROWS_PER_STEP);
    let whole = pack(&rows);
    let (loss, packed) = gradients(&model, &whole, 0);
    let packed = packed.host().unwrap();
    for (what, rows_in_pass) in [("one by one", 1), ("accumulated in twos", 2)] {
        let mut cut = Vector::zeros(packed.len(), &Device::Cpu).unwrap();
        let mut sum = 0.0;
        for rows in rows.chunks(rows_in_pass) {
            let scale = 1.0 / whole.targets.len() as f32;
            sum += model.loss_and_gradients(&pack(rows), scale, 0, &mut cut).unwrap().sum;
        }
        let cut = cut.host().unwrap();
        let mut losses = Budget::new(format!("loss, packed and {what}"), 5e-6);
        losses.meet(sum / whole.targets.len() as f64, loss.mean(), 1.0, || what.into());
        losses.settle();
        let mut entries = Budget::new(format!("gradients, packed and {what}"), 3e-4);
        for (t, place) in places.iter().enumerate() {
            let (cut, packed) = (&cut[place.clone()], &packed[place.clone()]);
            let root_mean_square = norm(packed) / (packed.len() as f64).sqrt();
            for (&cut, &packed) in cut.iter().zip(packed) {
                let (cut, packed) = (f64::from(cut), f64::from(packed));
                entries.meet(cut, packed, gradient_unit(packed, root_mean_square), || format!("tensor {t}"));
            }
        }
        entries.settle();
    }
}

#[test]
fn recomputed_is_kept_bit_for_bit() {
    let Some((model, _)) = start() else { return };
    let batch = pack(&Golden::open().rows()[..2]);
    let run = |recomputed| {
        let (loss, gradients) = gradients(&model, &batch, recomputed);
        (loss, gradients.to_vec().unwrap())
    };
    let kept = run(0);
    for recomputed in [7, model.config().layers.len()] {
        assert!(run(recomputed) == kept, "{recomputed} blocks recomputed");
    }
}
