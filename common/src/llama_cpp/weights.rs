//! The tensors of a GGUF file as those of a checkpoint of transformers.
//!
//! Tensors of 16 and 32 bits stay in the map of the file. Blocks are decoded to f16 in memory.

use rayon::prelude::*;

use super::families::{Family, halves};
use crate::checkpoint::{Bytes, Checkpoint, Dtype, Tensor, cast_from_f32};
use crate::gguf::{GgufFile, TensorInfo, TensorType, decode_rows};
use crate::{Result, bail, error};

/// More experts of a layer than any model has.
const MOST_EXPERTS: usize = 1024;

/// The tensors of a file, whose heads have `head` rows of queries or keys.
pub fn checkpoint(file: &GgufFile, family: &Family, head: usize) -> Result<Checkpoint> {
    let mut tensors = Vec::new();
    // The factors of angles are in config.json.
    for info in file.tensors().filter(|info| !info.name.starts_with("rope_f")) {
        let experts = match info.shape[..] {
            [experts, _, _] if experts <= MOST_EXPERTS => experts,
            _ => 1,
        };
        let Some(names) = family.names_in_checkpoint(&info.name, experts) else {
            return Err(error!(
                "{}: tensor {} has no name in {}",
                file.path().display(),
                info.name,
                family.model_type
            )
            .hint("the file is of a newer variant of the family; read the model's directory instead"));
        };
        tensors.extend(parts(file, info, names, family, head)?);
    }
    tensors.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Checkpoint::of_tensors(file.path(), tensors)
}

/// The tensor or, where it has matrices of experts, each of them.
fn parts(
    file: &GgufFile,
    info: &TensorInfo,
    names: Vec<String>,
    family: &Family,
    head: usize,
) -> Result<Vec<Tensor>> {
    let whole = tensor(file, info, names[0].clone(), family, head)?;
    let [experts, rows, columns] = info.shape[..] else { return Ok(vec![whole]) };
    if names.len() != experts {
        bail!(Malformed, "tensor {} {:?}: at most 2 dimensions expected", info.name, info.shape);
    }
    let size = whole.bytes.len() / experts;
    let part = |(place, name)| {
        let bytes = whole.bytes.slice(place * size..(place + 1) * size)?;
        Some(Tensor { name, dtype: whole.dtype, shape: vec![rows, columns], bytes })
    };
    names.into_iter().enumerate().map(part).collect::<Option<_>>().ok_or_else(|| {
        error!(Malformed, "tensor {} {:?} is not of {experts} matrices", info.name, info.shape)
    })
}

fn tensor(file: &GgufFile, info: &TensorInfo, name: String, family: &Family, head: usize) -> Result<Tensor> {
    let (_, bytes) = file.tensor(&info.name)?;
    let dtype = match info.kind {
        TensorType::F32 => Dtype::F32,
        TensorType::BF16 => Dtype::BF16,
        _ => Dtype::F16,
    };
    let mut bytes = match info.kind.is_quantized() {
        true => decoded(info, bytes)?,
        false => bytes.clone(),
    };
    if family.reorders(&name) {
        let rows = info.shape.first().copied().unwrap_or_default();
        if head == 0 || rows == 0 || !rows.is_multiple_of(head) || head % 2 == 1 {
            bail!(Mismatch, "tensor {} {:?} is not of heads of {head} rows", info.name, info.shape);
        }
        let mut rows_of_heads = bytes.to_vec();
        let width = bytes.len() / rows;
        halves(&mut rows_of_heads, head, width);
        bytes = rows_of_heads.into();
    }
    let tensor = Tensor { name, dtype, shape: info.shape.clone(), bytes };
    match family.offset(&tensor.name) {
        0.0 => Ok(tensor),
        offset => {
            let values: Vec<f32> = tensor.to_f32()?.iter().map(|value| value - offset).collect();
            Ok(Tensor::from_f32(tensor.name, tensor.shape, &values))
        }
    }
}

/// The numbers of a tensor of blocks, in f16.
fn decoded(info: &TensorInfo, bytes: &Bytes) -> Result<Bytes> {
    let columns = info.columns();
    let row_bytes = info.kind.row_bytes(columns);
    let mut out = vec![0; bytes.len() / row_bytes.max(1) * columns * 2];
    let rows = out.par_chunks_exact_mut(2 * columns).zip(bytes.par_chunks_exact(row_bytes));
    rows.enumerate().try_for_each_init(
        || vec![0.0; columns],
        |values, (row, (out, bytes))| {
            decode_rows(info.kind, bytes, values);
            match cast_from_f32(Dtype::F16, values, out)? {
                None => Ok(()),
                Some(column) => {
                    Err(error!(Malformed, "tensor {} has {} at [{row}, {column}]", info.name, values[column]))
                }
            }
        },
    )?;
    bytes.release();
    Ok(out.into())
}
