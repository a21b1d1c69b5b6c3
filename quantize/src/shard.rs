//! One file of a checkpoint, tensor by tensor: only the tensor at hand is in memory.

use std::path::Path;

use common::Result;
use common::checkpoint::{Checkpoint, FileWriter, Tensor, TensorSpec};
use common::cli::{self, Progress};
use common::nf4::Quantized;

use crate::plan::{Fate, Plan};

/// The tensors that a source file becomes.
pub fn outcome(source: &Checkpoint, plan: &Plan) -> Result<Vec<TensorSpec>> {
    let mut specs = Vec::new();
    for tensor in source.tensors() {
        specs.extend(plan.outcome(&TensorSpec::from(&tensor))?);
    }
    Ok(specs)
}

/// Writes the file that a source file becomes. Counts source bytes on `progress`.
pub fn quantize(source: &Checkpoint, plan: &Plan, output: &Path, progress: &Progress) -> Result<()> {
    let writer = FileWriter::create(output, outcome(source, plan)?)?;
    let tensors: Vec<Tensor> = source.tensors().collect();
    for (index, tensor) in tensors.iter().enumerate() {
        cli::check_interrupted()?;
        if let Some(next) = tensors.get(index + 1) {
            next.bytes.prefetch();
        }
        match plan.fate(&tensor.name) {
            Fate::Quantize => {
                let quantized = Quantized::quantize(tensor, plan.scheme())?;
                for part in quantized.to_tensors(&tensor.name)? {
                    writer.write(&part.name, &part.bytes)?;
                }
                progress.add(tensor.bytes.len() as u64);
            }
            Fate::Keep | Fate::Copy => {
                writer.copy(&tensor.name, &tensor.bytes, |bytes| progress.add(bytes))?;
            }
        }
        tensor.bytes.release();
    }
    writer.finish()
}
