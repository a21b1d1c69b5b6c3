//! Quantizes one file of a checkpoint, tensor by tensor, so that only one tensor is in memory.

use std::path::Path;

use common::Result;
use common::checkpoint::{Checkpoint, FileWriter, Tensor, TensorSpec};
use common::cli::{self, Progress};
use common::nf4::Quantized;

use crate::plan::{Action, QuantizationPlan};

/// The specifications of the tensors that a source file becomes.
pub(crate) fn output_specs(source: &Checkpoint, plan: &QuantizationPlan) -> Result<Vec<TensorSpec>> {
    let mut specs = Vec::new();
    for tensor in source.tensors() {
        specs.extend(plan.output_specs(&TensorSpec::from(&tensor))?);
    }
    Ok(specs)
}

/// Writes the quantized file of a source file. Counts the bytes of the source on `progress`.
pub(crate) fn quantize(
    source: &Checkpoint,
    plan: &QuantizationPlan,
    output: &Path,
    progress: &Progress,
) -> Result<()> {
    let writer = FileWriter::create(output, output_specs(source, plan)?)?;
    let tensors: Vec<Tensor> = source.tensors().collect();
    for (index, tensor) in tensors.iter().enumerate() {
        cli::check_interrupted()?;
        if let Some(next) = tensors.get(index + 1) {
            next.bytes.prefetch();
        }
        match plan.action(&tensor.name) {
            Action::Quantize => {
                let quantized = Quantized::quantize(tensor, plan.scheme())?;
                for part in quantized.to_tensors(&tensor.name)? {
                    writer.write(&part.name, &part.bytes)?;
                }
                progress.add(tensor.bytes.len() as u64);
            }
            Action::Keep | Action::Copy => {
                writer.copy(&tensor.name, &tensor.bytes, |bytes| progress.add(bytes))?;
            }
        }
        tensor.bytes.release();
    }
    writer.finish()
}
