//! Tiny random models of every family against transformers, PEFT and bitsandbytes
//! (`scripts/golden/tiny_models.py`): logits, losses and every adapter's gradients, and one of them with
//! dropout and NEFTune's noise (`scripts/golden/noise.py`).

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::adapter::AdapterConfig;
use common::checkpoint::{Checkpoint, Tensor};
use common::device::{Device, Vector};
use common::model::{
    AdapterSettings, Batch, Cache, KeyValueCache, Model, Noise, Objective, Sequence, Supervised, TapePlan,
};
use tests::tolerance::difference;

/// Every model of `scripts/golden/tiny_models.py`.
fn models() -> Vec<String> {
    let entries = std::fs::read_dir(golden().join("models")).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    assert!(names.len() >= 21, "{names:?}");
    names
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden")
}

struct Golden {
    directory: PathBuf,
    expected: Checkpoint,
}

impl Golden {
    fn open(family: &str) -> Self {
        let directory = golden().join("models").join(family);
        let expected = Checkpoint::open_file(&directory.join("expected.safetensors")).unwrap();
        Self { directory, expected }
    }

    /// The base, dense or quantized by bitsandbytes, with or without the adapter.
    fn model(&self, base: &str, adapter: bool) -> Model {
        let directory = match base {
            "dense" => self.directory.clone(),
            _ => self.directory.join(base),
        };
        match adapter {
            true => Model::load_with_base(&self.directory.join("adapter"), &directory, &Device::Cpu).unwrap(),
            false => Model::load(&directory, &Device::Cpu).unwrap(),
        }
    }

    fn values(&self, name: &str) -> Vec<f32> {
        self.expected.tensor(name).unwrap().to_f32().unwrap()
    }

    fn integers(&self, name: &str) -> Vec<i64> {
        let Tensor { bytes, .. } = self.expected.tensor(name).unwrap();
        bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
    }

    fn tokens(&self, name: &str) -> Vec<u32> {
        self.integers(name).into_iter().map(|token| token as u32).collect()
    }

    /// The supervised sequences, each with its mask.
    fn sequences(&self) -> Vec<(Vec<u32>, Vec<bool>)> {
        let tokens = self.tokens("batch.input_ids");
        let trained: Vec<bool> = self.integers("batch.labels").iter().map(|&label| label >= 0).collect();
        let mut start = 0;
        let lengths = self.integers("batch.lengths");
        lengths
            .iter()
            .map(|&length| {
                let range = start..start + length as usize;
                start = range.end;
                (tokens[range.clone()].to_vec(), trained[range].to_vec())
            })
            .collect()
    }
}

/// Zeros to add the gradients of a model's adapters to.
fn no_gradients(model: &Model) -> Vector {
    Vector::zeros(model.adapters().values.len(), &Device::Cpu).unwrap()
}

fn pack(sequences: &[(Vec<u32>, Vec<bool>)]) -> Batch {
    Batch::pack(sequences.iter().map(|(tokens, trained)| Sequence { tokens, trained }), 0)
}

#[test]
fn logits_are_transformers() {
    for family in models() {
        let golden = Golden::open(&family);
        let tokens = golden.tokens("input_ids");
        let rows: Vec<u32> = (0..tokens.len() as u32).collect();
        for (base, adapter, name) in [
            ("dense", false, "dense.logits"),
            ("nf4", false, "nf4.logits"),
            ("dense", true, "dense.adapter.logits"),
            ("nf4", true, "nf4.adapter.logits"),
        ] {
            let model = golden.model(base, adapter);
            let logits = model.logits(&Batch::prompt(&tokens, 0), &rows, Cache::None).unwrap();
            let difference = difference(&logits, &golden.values(name));
            assert!(difference < 1e-5, "{family}: {name} differs by {difference:e}");
        }
    }
}

#[test]
fn loss_and_every_gradient_are_pefts() {
    for family in models() {
        let golden = Golden::open(&family);
        let batch = pack(&golden.sequences());
        for base in ["dense", "nf4"] {
            let mut model = golden.model(base, true);
            let mut gradients = no_gradients(&model);
            let scale = 1.0 / batch.targets.len() as f32;
            let loss = model.loss_and_gradients(&batch, scale, 0, &mut gradients).unwrap();
            let expected = golden.values(&format!("{base}.loss"))[0];
            assert!((loss.mean() as f32 - expected).abs() < 1e-5, "{family} {base}: loss {}", loss.mean());
            // Compared as PEFT would save them.
            model
                .update_parameters(|values| {
                    *values = gradients;
                    Ok(())
                })
                .unwrap();
            let saved = tempfile::tempdir().unwrap();
            let config = AdapterConfig::read(&golden.directory.join("adapter")).unwrap();
            model.adapter(config).unwrap().save(saved.path()).unwrap();
            let saved = Checkpoint::open(saved.path()).unwrap();
            let names = golden.expected.names().filter(|name| name.starts_with(&format!("{base}.grad.")));
            assert_eq!(saved.names().count(), names.count(), "{family}");
            for tensor in saved.tensors() {
                let name = format!("{base}.grad.{}", tensor.name);
                let difference = difference(&tensor.to_f32().unwrap(), &golden.values(&name));
                assert!(difference < 1e-4, "{family}: {name} differs by {difference:e}");
            }
        }
    }
}

/// Prefers the first of two sequences to the second: −ln σ(β·(ln p(first) − ln p(second))), the form of
/// preference losses.
struct Preference {
    beta: f64,
    /// Rows of the first sequence.
    first: usize,
}

impl Objective for Preference {
    fn loss(&self, log_probabilities: &[f64]) -> common::Result<(f64, Vec<f32>)> {
        let (first, second) = log_probabilities.split_at(self.first);
        let margin = self.beta * (first.iter().sum::<f64>() - second.iter().sum::<f64>());
        let slope = (self.beta / (1.0 + margin.exp())) as f32;
        let weights = [vec![slope; first.len()], vec![-slope; second.len()]].concat();
        Ok(((-margin).exp().ln_1p(), weights))
    }
}

/// An objective that sees all log-probabilities before it says what each row counts: by the chain rule, its
/// gradients are those of the two sequences, each alone, which are PEFT's.
#[test]
fn an_objective_weighs_rows_by_their_log_probabilities() {
    let golden = Golden::open("qwen3");
    let model = golden.model("nf4", true);
    let sequences = &golden.sequences()[..2];
    let alone = [0, 1].map(|index| {
        let batch = pack(&sequences[index..=index]);
        let mut gradients = no_gradients(&model);
        let loss = model.loss_and_gradients(&batch, 1.0, 0, &mut gradients).unwrap();
        (loss, gradients)
    });
    let [(first, of_first), (second, of_second)] = &alone;
    let beta = 0.05;
    let margin = beta * (second.sum - first.sum);
    let slope = (beta / (1.0 + margin.exp())) as f32;
    let expected: Vec<f32> = of_first
        .host()
        .unwrap()
        .iter()
        .zip(of_second.host().unwrap())
        .map(|(first, second)| slope * (first - second))
        .collect();
    for recomputed in [0, 1] {
        let batch = pack(sequences);
        let mut gradients = no_gradients(&model);
        let objective = Preference { beta, first: first.tokens };
        let tape = model.forward(&batch, recomputed).unwrap();
        let loss = model.backward(tape, &objective, &mut gradients).unwrap();
        assert!((loss.sum - (-margin).exp().ln_1p()).abs() < 1e-5, "{}", loss.sum);
        let difference = difference(gradients.host().unwrap(), &expected);
        assert!(difference < 1e-5, "gradients differ by {difference:e}");
    }
}

/// As in `scripts/golden/noise.py`.
const NOISE: Noise =
    Noise { seed: (9 << 32) + 11, step: 5, first_token: 0, dropout: 0.3, neftune_alpha: 8.0 };

#[test]
fn dropout_is_pefts_and_noise_is_transformers() {
    let golden = Golden::open("llama");
    let expected = Checkpoint::open_file(&self::golden().join("noise.safetensors")).unwrap();
    let values = |name: &str| expected.tensor(name).unwrap().to_f32().unwrap();
    let model = golden.model("dense", true);
    for (case, noise) in [
        ("dropout", Noise { neftune_alpha: 0.0, ..NOISE }),
        ("neftune", Noise { dropout: 0.0, ..NOISE }),
        ("both", NOISE),
    ] {
        let batch = pack(&golden.sequences()).with_noise(noise);
        let mut gradients = no_gradients(&model);
        let scale = 1.0 / batch.targets.len() as f32;
        let loss = model.loss_and_gradients(&batch, scale, 0, &mut gradients).unwrap();
        let expected = values(&format!("{case}.loss"))[0];
        assert!((loss.mean() as f32 - expected).abs() < 1e-5, "{case}: loss {}", loss.mean());
        for tensor in &model.adapters().tensors {
            let name = format!("{case}.grad.base_model.model.{}", tensor.name);
            let difference = difference(&gradients.host().unwrap()[tensor.range.clone()], &values(&name));
            assert!(difference < 1e-4, "{name} differs by {difference:e}");
        }
    }
}

/// Blocks that run twice and steps that are cut into passes see what they would have seen.
#[test]
fn noise_depends_on_seed_step_and_place_alone() {
    let golden = Golden::open("qwen2");
    let sequences = golden.sequences();
    let model = golden.model("nf4", true);
    let run = |noise: Noise, cut: usize, recomputed: usize| {
        let mut gradients = no_gradients(&model);
        let (mut sum, mut first_token) = (0.0, noise.first_token);
        for sequences in [&sequences[..cut], &sequences[cut..]] {
            let batch = pack(sequences).with_noise(Noise { first_token, ..noise });
            first_token += batch.len() as u32;
            sum += model.loss_and_gradients(&batch, 1.0, recomputed, &mut gradients).unwrap().sum;
        }
        (sum, gradients.to_vec().unwrap())
    };
    let whole = run(NOISE, 2, 0);
    assert_eq!(run(NOISE, 2, 2), whole, "recomputed");
    let cut = run(NOISE, 1, 0);
    assert!((cut.0 - whole.0).abs() < 1e-4 * whole.0 && difference(&cut.1, &whole.1) < 1e-5);
    for other in [Noise { seed: 1, ..NOISE }, Noise { step: 6, ..NOISE }, Noise { first_token: 1, ..NOISE }] {
        assert!((run(other, 2, 0).0 - whole.0).abs() > 1e-3 * whole.0, "{other:?}");
    }
}

#[test]
fn recomputed_is_kept_bit_for_bit() {
    let golden = Golden::open("qwen3");
    let batch = pack(&golden.sequences());
    let model = golden.model("nf4", true);
    let run = |recomputed| {
        let mut gradients = no_gradients(&model);
        let loss = model.loss_and_gradients(&batch, 0.1, recomputed, &mut gradients).unwrap();
        (loss, gradients.to_vec().unwrap())
    };
    assert_eq!(run(0), run(1));
    assert_eq!(run(0), run(2));
}

/// Slices of any number of rows give the whole's loss and gradients, with inputs that wait elsewhere too.
#[test]
fn slices_are_the_whole() {
    for family in models() {
        let golden = Golden::open(&family);
        let model = golden.model("nf4", true);
        // The last rows have no targets, nor has a slice between.
        let mut sequences = golden.sequences();
        let last = sequences.len() - 1;
        let unsupervised = (0..9).map(|t| t % 7).collect();
        sequences.insert(last, (unsupervised, vec![false; 9]));
        let mut batch = pack(&sequences);
        // Adapters of experts have no dropout.
        if model.config().layers.iter().all(|layer| layer.router().is_none()) {
            batch = batch.with_noise(Noise { neftune_alpha: 0.0, ..NOISE });
        }
        let run = |plan: TapePlan, objective: &dyn Objective| {
            let mut gradients = no_gradients(&model);
            let tape = model.forward(&batch, plan).unwrap();
            let loss = model.backward(tape, objective, &mut gradients).unwrap();
            (loss.sum, gradients.to_vec().unwrap())
        };
        let objectives: [&dyn Objective; 2] =
            [&Supervised { scale: 1.0 }, &Preference { beta: 0.05, first: 3 }];
        for objective in objectives {
            let whole = run(0.into(), objective);
            for (rows, recomputed) in [(5, 1), (batch.len() - 1, 2)] {
                let plan = TapePlan { recomputed, offloaded: recomputed, slice: Some(rows) };
                let sliced = run(plan, objective);
                assert!(
                    (whole.0 - sliced.0).abs() < 1e-5 * whole.0,
                    "{family}: {} and {}",
                    whole.0,
                    sliced.0
                );
                let difference = difference(&whole.1, &sliced.1);
                // The slope of a soft-cap, 1 − tanh², loses digits where the cap is nearly reached.
                let bound = if model.config().logit_softcap.is_some() { 1e-4 } else { 1e-5 };
                assert!(difference < bound, "{family}: slices of {rows} rows differ by {difference:e}");
            }
            let plan = TapePlan { recomputed: 2, offloaded: 2, slice: Some(batch.len()) };
            assert!(run(plan, objective) == whole, "{family}: one slice is the whole to the bit");
        }
    }
}

#[test]
fn packed_is_one_by_one() {
    for family in models() {
        let golden = Golden::open(&family);
        let sequences = golden.sequences();
        let model = golden.model("nf4", true);
        if model.config().router_loss.is_some() {
            continue; // The balance of experts is one of all tokens of a pass together.
        }
        let mut packed = no_gradients(&model);
        let whole = model.loss_and_gradients(&pack(&sequences), 1.0, 0, &mut packed).unwrap();
        let mut accumulated = no_gradients(&model);
        let mut sum = 0.0;
        for sequence in sequences.chunks(1) {
            sum += model.loss_and_gradients(&pack(sequence), 1.0, 0, &mut accumulated).unwrap().sum;
        }
        assert!((whole.sum - sum).abs() < 1e-4 * sum, "{family}: {} and {sum}", whole.sum);
        let difference = difference(packed.host().unwrap(), accumulated.host().unwrap());
        // The slope of a soft-cap, 1 − tanh², loses digits where the cap is nearly reached.
        let bound = if model.config().logit_softcap.is_some() { 1e-4 } else { 1e-5 };
        assert!(difference < bound, "{family}: gradients differ by {difference:e}");
    }
}

#[test]
fn the_cache_changes_nothing() {
    for family in models() {
        let golden = Golden::open(&family);
        let model = golden.model("nf4", true);
        let tokens = golden.tokens("input_ids");
        if model.config().is_stretched(tokens.len()) {
            // The angles of all tokens change when the text grows beyond what the model was trained on.
            continue;
        }
        let expected = golden.values("nf4.adapter.logits");
        let v = model.config().vocabulary;
        // Seven tokens at once, then one by one.
        let mut cache = KeyValueCache::new();
        model.logits(&Batch::prompt(&tokens[..7], 0), &[6], Cache::Extend(&mut cache)).unwrap();
        for t in 7..tokens.len() {
            let batch = Batch::prompt(&tokens[t..=t], t);
            let logits = model.logits(&batch, &[0], Cache::Extend(&mut cache)).unwrap();
            let difference = difference(&logits, &expected[t * v..(t + 1) * v]);
            assert!(difference < 1e-5, "{family}: token {t} differs by {difference:e}");
        }
        assert_eq!(cache.len(), tokens.len());
        // Two packed continuations of one shared prefix: the first seven tokens again.
        cache.truncate(7);
        assert_eq!(cache.len(), 7);
        let rest = Sequence { tokens: &tokens[7..], trained: &[] };
        let batch = Batch::pack([rest, rest], 7);
        let logits = model.logits(&batch, &batch.last_rows(), Cache::Shared(&cache)).unwrap();
        for logits in logits.chunks(v) {
            let difference = difference(logits, &expected[(tokens.len() - 1) * v..]);
            assert!(difference < 1e-5, "{family}: the shared prefix differs by {difference:e}");
        }
    }
}

/// Texts of different lengths that are read and continued in the same passes are each as alone, in all families. A text
/// is rounded otherwise in a larger product, and no more.
#[test]
fn texts_continue_together_as_each_does_alone() {
    for family in models() {
        let golden = Golden::open(&family);
        let tokens = golden.tokens("input_ids");
        let texts = [&tokens[..], &tokens[3..], &tokens[..9], &tokens[5..6]];
        for (base, adapter) in [("dense", false), ("nf4", true)] {
            let model = golden.model(base, adapter);
            let mut caches = texts.map(|_| KeyValueCache::new());
            for most in [2, 5, 1, 1, 4] {
                let (mut members, mut read) = (Vec::new(), Vec::new());
                let unread = texts.iter().zip(&mut caches).filter(|(text, cache)| cache.len() < text.len());
                for (text, cache) in unread {
                    let end = text.len().min(cache.len() + most);
                    if model.config().is_stretched(end) {
                        // The angles of all tokens change when the text grows beyond what the model was trained on.
                        continue;
                    }
                    read.push(&text[..end]);
                    members.push((&text[cache.len()..end], cache));
                }
                if members.is_empty() {
                    break;
                }
                let logits = model.continue_texts(&mut members, false).unwrap();
                assert_eq!(logits.rows().len(), read.len());
                for (found, text) in logits.rows().zip(read) {
                    let row = [text.len() as u32 - 1];
                    let alone = model.logits(&Batch::prompt(text, 0), &row, Cache::None).unwrap();
                    let difference = difference(found, &alone);
                    assert!(
                        difference < 1e-5,
                        "{family} {base}: {} tokens differ by {difference:e}",
                        text.len()
                    );
                }
            }
            // A copy of the beginning of another text is continued as that is.
            let (len, mut copy) = (caches[0].len(), KeyValueCache::new());
            copy.reserve(len, model.config(), &Device::Cpu).unwrap();
            copy.copy_prefix(&caches[0], len - 1).unwrap();
            caches[0].truncate(len - 1);
            let last = &tokens[len - 1..len];
            let mut both = [(last, &mut caches[0]), (last, &mut copy)];
            let logits = model.continue_texts(&mut both, false).unwrap();
            let rows: Vec<&[f32]> = logits.rows().collect();
            assert!(rows[0] == rows[1], "{family} {base}: a copy");
        }
    }
}

/// A pass that fails leaves the caches as they were.
#[test]
fn a_pass_that_fails_adds_nothing() {
    let golden = Golden::open("qwen2");
    let model = golden.model("dense", false);
    let [mut long, mut short] = [(); 2].map(|()| KeyValueCache::new());
    let all = vec![1; model.config().max_positions];
    model.continue_texts(&mut [(&all, &mut long), (&[1, 2], &mut short)], false).unwrap();
    let expected = model.continue_texts(&mut [(&[3], &mut short)], false).unwrap();
    short.truncate(2);
    let error = model.continue_texts(&mut [(&[3], &mut short), (&[1], &mut long)], false).err().unwrap();
    assert!(error.to_string().contains("exceeds the model's"), "{error}");
    assert_eq!((short.len(), long.len()), (2, all.len()));
    let found = model.continue_texts(&mut [(&[3], &mut short)], false).unwrap();
    assert!(found.rows().next() == expected.rows().next());
}

/// Adapters that were taken off a model give the same bits when they are put back, whatever was there meanwhile.
#[test]
fn adapters_take_turns_on_one_model() {
    for family in models() {
        let mut model = Golden::open(&family).model("dense", true);
        let batch = Batch::prompt(&[3, 1, 4, 1, 5], 0);
        let logits = |model: &Model| model.logits(&batch, &[4], Cache::None).unwrap();
        let (first, of_base) = (logits(&model), model.base_logits(&batch, &[4], Cache::None).unwrap());
        let adapter = model.detach_adapters();
        assert!(first != of_base && logits(&model) == of_base, "{family}: the base is left");
        model.add_adapters(&AdapterSettings { rank: 2, ..AdapterSettings::default() }).unwrap();
        let fill = |values: &mut Vector| {
            values.host_mut()?.fill(0.1);
            Ok(())
        };
        model.update_parameters(fill).unwrap();
        let second = logits(&model);
        assert!(second != first && second != of_base, "{family}: another adapter");
        let other = model.detach_adapters();
        model.attach_adapters(adapter).unwrap();
        assert!(logits(&model) == first, "{family}: the first adapter again");
        model.attach_adapters(other).unwrap();
        assert!(logits(&model) == second, "{family}: the other one in its place");
    }
}

/// PEFT's tensors, by name, come out of a model as they went in.
#[test]
fn an_adapter_survives_a_round_trip() {
    for family in models() {
        let golden = Golden::open(&family);
        let model = golden.model("dense", true);
        let directory = tempfile::tempdir().unwrap();
        let config = AdapterConfig::read(&golden.directory.join("adapter")).unwrap();
        model.adapter(config).unwrap().save(directory.path()).unwrap();
        let tensors = |directory: &Path| {
            let checkpoint = Checkpoint::open(directory).unwrap();
            let tensor =
                |tensor: Tensor| (tensor.name.clone(), (tensor.shape.clone(), tensor.to_f32().unwrap()));
            checkpoint.tensors().map(tensor).collect::<BTreeMap<_, _>>()
        };
        assert!(tensors(directory.path()) == tensors(&golden.directory.join("adapter")), "{family}");
    }
}
