//! Compares the error of quantization with the update of the adapter: `‖W − dequantized‖ / ‖ΔW‖`.
//!
//! An adapter that was trained on 4-bit weights has adapted to their error, which the original weights do
//! not have. Folding it into those is harmless where the error is small compared with the update, and
//! changes the model where it is not.

use std::path::{Path, PathBuf};

use common::adapter::{AdapterConfig, find_base};
use common::checkpoint::{Tensor, cast_from_f32};
use common::kernels::linear::Weight;
use common::nf4::{Quantized, Scheme};
use common::weight_names::canonical_name;
use common::{Result, cli};
use serde_json::{Value, json};

use crate::base::{Base, release};
use crate::plan::{MergePlan, OutputTensor};
use crate::request::Request;

/// The number of rows of each weight that are compared.
const ROWS: usize = 16;

/// Sums of squares over sampled rows: of the error of quantization, and of the update.
#[derive(Debug, Default)]
struct SquareSums {
    error: f64,
    update: f64,
}

impl SquareSums {
    /// The ratio of the norms of error and update; `None` where there is no update.
    fn ratio(&self) -> Option<f64> {
        (self.update > 0.0).then(|| (self.error / self.update).sqrt())
    }

    fn add(&mut self, error: impl Iterator<Item = f32>, update: impl Iterator<Item = f32>) {
        let squares =
            |values: &mut dyn Iterator<Item = f32>| values.map(|value| f64::from(value).powi(2)).sum::<f64>();
        self.error += squares(&mut { error });
        self.update += squares(&mut { update });
    }
}

/// Prints which base is used and how it differs from its counterpart, and returns that for the record.
pub(crate) fn describe(request: &Request, base: &Base, plan: &MergePlan<'_>) -> Result<Value> {
    let kind = if is_quantized(base) { "dequantized" } else { "original" };
    cli::note(format_args!("base: {} ({kind} weights)", base.directory.display()));
    let mut quality = json!({ "directory": base.directory, "weights": kind });
    let other = counterpart(base, &request.adapters[0]);
    let sums = match &other {
        Some(other) => Some(compare_bases(plan, other)?),
        None if is_quantized(base) => None,
        None => Some(compare_quantized(plan)?),
    };
    if let Some(ratio) = sums.and_then(|sums| sums.ratio()) {
        let against = match &other {
            Some(other) => format!("against {}", other.directory.display()),
            None => "should the adapter have been trained over NF4 weights".into(),
        };
        cli::note(format_args!("‖W − dequantized‖ / ‖ΔW‖ = {ratio:.2}, {against}"));
        if other.is_some() && !is_quantized(base) {
            cli::note(
                "the adapter was trained on the quantized weights; without --base it is folded into those",
            );
        }
        quality["quantization_error_over_update"] = json!(ratio);
    }
    if request.requantize
        && let Some(ratio) = compare_requantized(plan)?.ratio()
    {
        cli::warn(format_args!(
            "--requantize rounds the merged weights to 4 bits again: \
             the error is {ratio:.2} times as large as what the adapter adds"
        ));
        quality["requantization_error_over_update"] = json!(ratio);
    }
    Ok(quality)
}

/// The counterpart of the base: for a 4-bit base the original model that it was made from, for another
/// base the 4-bit model that the adapter names. `None` where it is not known or does not exist any more.
fn counterpart(base: &Base, adapter: &Path) -> Option<Base> {
    let directory = match is_quantized(base) {
        true => made_from(&base.directory)?,
        false => find_base(adapter, &AdapterConfig::read(adapter).ok()?).ok()?,
    };
    let other = Base::open(&directory).ok()?;
    (is_quantized(&other) != is_quantized(base)).then_some(other)
}

/// Whether a model's weights are in 4 bits.
pub(crate) fn is_quantized(base: &Base) -> bool {
    base.config.get("quantization_config").is_some_and(|value| !value.is_null())
}

/// The model that `quantize` made a directory from.
fn made_from(directory: &Path) -> Option<PathBuf> {
    let recipe = cli::recipe_of(directory, "quantize")?;
    Some(PathBuf::from(recipe["model"].as_str()?))
}

/// Compares the base with its counterpart on the weights that adapters change.
fn compare_bases(plan: &MergePlan<'_>, counterpart: &Base) -> Result<SquareSums> {
    let mut sums = SquareSums::default();
    for tensor in plan.tensors().filter(|tensor| !tensor.updates.is_empty()) {
        let name = canonical_name(&tensor.spec.name);
        if !counterpart.contains(&name) {
            continue;
        }
        let (spec, weight) = counterpart.weight(&name)?;
        let other = OutputTensor { spec, weight, updates: Vec::new(), rows: None, requantize: false };
        if other.spec.shape != tensor.spec.shape {
            continue;
        }
        for row in sample(tensor) {
            let (plain, folded, counterpart) =
                (base_row(tensor, row)?, folded_row(tensor, row)?, folded_row(&other, row)?);
            sums.add(differences(&plain, &counterpart), differences(&folded, &plain));
        }
        release(&tensor.weight);
        release(&other.weight);
    }
    Ok(sums)
}

/// Compares the weights of an original base with the same weights in NF4, as if the adapter had been
/// trained on those.
fn compare_quantized(plan: &MergePlan<'_>) -> Result<SquareSums> {
    let mut sums = SquareSums::default();
    for tensor in plan.tensors().filter(|tensor| !tensor.updates.is_empty()) {
        for row in sample(tensor) {
            let plain = base_row(tensor, row)?;
            if plain.iter().any(|value| !value.is_finite()) {
                // Writing the tensor fails with an error that names it.
                continue;
            }
            let dequantized = through_4_bits(tensor, &plain, Scheme::default())?;
            sums.add(differences(&plain, &dequantized), differences(&folded_row(tensor, row)?, &plain));
        }
        release(&tensor.weight);
    }
    Ok(sums)
}

/// Compares the folded weights with the same weights after they are quantized again.
fn compare_requantized(plan: &MergePlan<'_>) -> Result<SquareSums> {
    let mut sums = SquareSums::default();
    for tensor in plan.tensors().filter(|tensor| tensor.requantize && !tensor.updates.is_empty()) {
        let Weight::Quantized(quantized) = &tensor.weight else { continue };
        for row in sample(tensor) {
            let folded = folded_row(tensor, row)?;
            let again = through_4_bits(tensor, &folded, quantized.scheme())?;
            sums.add(differences(&folded, &again), differences(&folded, &base_row(tensor, row)?));
        }
    }
    Ok(sums)
}

/// Quantizes and dequantizes a row by itself. Its blocks may begin elsewhere than in the whole weight,
/// which changes single values but not the size of the error.
fn through_4_bits(tensor: &OutputTensor<'_>, row: &[f32], scheme: Scheme) -> Result<Vec<f32>> {
    let mut bytes = vec![0; tensor.row_size()];
    cast_from_f32(tensor.spec.dtype, row, &mut bytes)?;
    let (name, shape) = (tensor.spec.name.clone(), vec![1, row.len()]);
    let tensor = Tensor { name, dtype: tensor.spec.dtype, shape, bytes: bytes.into() };
    Ok(Quantized::quantize(&tensor, scheme)?.dequantize())
}

fn differences<'a>(left: &'a [f32], right: &'a [f32]) -> impl Iterator<Item = f32> + 'a {
    left.iter().zip(right).map(|(left, right)| left - right)
}

/// The indices of at most [`ROWS`] rows at even distances.
fn sample(tensor: &OutputTensor<'_>) -> impl Iterator<Item = usize> {
    let (rows, _) = tensor.rows_and_columns();
    (0..rows).step_by(rows.div_ceil(ROWS).max(1))
}

/// A row of the result, `[columns]`.
fn folded_row(tensor: &OutputTensor<'_>, row: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.rows_and_columns().1];
    tensor.fold(row..row + 1, &mut values)?;
    Ok(values)
}

/// A row of the weight that the result begins with, before the adapters change it, `[columns]`.
fn base_row(tensor: &OutputTensor<'_>, row: usize) -> Result<Vec<f32>> {
    let mut values = vec![0.0; tensor.rows_and_columns().1];
    tensor.read(row..row + 1, &mut values)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_4_bit_model_names_the_original_that_quantize_made_it_from() {
        let directory = tempfile::tempdir().unwrap();
        let record = |tool: &str, unfinished: bool| {
            let made_by = json!({"tool": tool, "version": "0", "recipe": {"model": "/models/base"},
                "unfinished": unfinished});
            fs_err::write(directory.path().join("made-by.json"), made_by.to_string()).unwrap();
            made_from(directory.path())
        };
        assert_eq!(record("quantize", false), Some(PathBuf::from("/models/base")));
        assert_eq!(record("merge", false), None, "another tool's recipe means something else");
        assert_eq!(record("quantize", true), None, "an unfinished result");
    }
}
