//! `--verify DIR --against SOURCE`: quantizes again and compares.

use std::path::Path;

use common::checkpoint::{Checkpoint, Tensor};
use common::cli::{self, Progress, Unit};
use common::model::with_canonical_names;
use common::nf4::{Absmax, Quantized, part_of};
use common::{Result, bail, error};

/// Checks that a 4-bit directory, ours or another's, is what quantizing `source` gives.
///
/// Packed weights have to be equal to the bit, and what is not quantized equal in value. Of the
/// 8-bit absmax, bitsandbytes' CPU build looks codes up in a table of 65,536 cells and so may be a
/// cell or a step off; they are counted and bounded by that.
pub fn verify(directory: &Path, source: &Path) -> Result<()> {
    let written = with_canonical_names(Checkpoint::open(directory)?)?;
    let source = with_canonical_names(Checkpoint::open(source)?)?;
    if let Some(name) =
        written.names().find(|name| part_of(&written, name).is_none() && !source.contains(name))
    {
        bail!(Missing, "tensor {name} is not in {}", source.path().display());
    }
    let progress = Progress::new("verify", source.names().count() as u64, Unit::Items("tensors"));
    let (mut quantized, mut kept, mut codes_apart) = (0, 0, 0);
    for tensor in source.tensors() {
        cli::check_interrupted()?;
        match Quantized::load(&written, &tensor.name)? {
            Some(found) => {
                codes_apart += compare(&tensor, &found)?;
                quantized += 1;
            }
            None => {
                if !same_values(&tensor, &written.tensor(&tensor.name)?)? {
                    bail!(Malformed, "tensor {} differs from {}", tensor.name, source.path().display());
                }
                kept += 1;
            }
        }
        tensor.bytes.release();
        progress.add(1);
    }
    drop(progress);
    if quantized == 0 {
        return Err(error!("{} has no 4-bit weight", directory.display())
            .hint("quantize makes a 4-bit directory; --against names what it was made from"));
    }
    cli::note(format_args!(
        "{quantized} weights in 4 bits are equal to the bit, {codes_apart} absmax codes differ by a step; \
         {kept} tensors are as they were"
    ));
    Ok(())
}

/// Compares a 4-bit weight with its source; returns how many absmax codes differ by a step.
fn compare(tensor: &Tensor, found: &Quantized) -> Result<usize> {
    let name = &tensor.name;
    if tensor.shape != found.shape() {
        bail!(Malformed, "tensor {name} has shape {:?}, its source {:?}", found.shape(), tensor.shape);
    }
    let expected = Quantized::quantize(tensor, found.scheme())?;
    if let Some(byte) = found.packed().iter().zip(expected.packed().iter()).position(|(a, b)| a != b) {
        let (row, column) = (2 * byte / tensor.shape[1], 2 * byte % tensor.shape[1]);
        bail!(
            Malformed,
            "tensor {name} has other 4-bit codes than its source gives, first near [{row}, {column}]"
        );
    }
    let mut apart = 0;
    for block in 0..found.block_count() {
        let (is, should) = (found.absmax_of(block), expected.absmax_of(block));
        if is == should {
            continue;
        }
        let (near, counts) = match (found.absmax(), expected.absmax()) {
            (
                Absmax::Nested { codes, absmax, block_size, .. },
                Absmax::Nested { codes: expected_codes, offset, .. },
            ) => {
                let step = codes[block].abs_diff(expected_codes[block]);
                let cell = absmax[block / block_size] * (2.0 / 65536.0) + 8.0 * f32::EPSILON * offset.abs();
                (step <= 1 || (is - should).abs() <= cell, step > 0)
            }
            _ => (false, false),
        };
        if !near {
            bail!(Malformed, "tensor {name} has absmax {is} in block {block}, its source gives {should}");
        }
        apart += usize::from(counts);
    }
    Ok(apart)
}

/// Equal in shape and value; the dtype may be wider.
fn same_values(left: &Tensor, right: &Tensor) -> Result<bool> {
    if left.dtype == right.dtype {
        return Ok(left.shape == right.shape && *left.bytes == *right.bytes);
    }
    Ok(left.shape == right.shape && left.to_f32()? == right.to_f32()?)
}
