//! `--verify DIR --against SOURCE`: quantizes the source again and compares the result.

use std::path::Path;

use common::checkpoint::Tensor;
use common::cli::{self, Progress, Unit};
use common::nf4::{Absmax, Quantized, part_of};
use common::{Context, Result, bail, error};

use crate::config::open_weights;

/// Checks that a 4-bit directory, made by this tool or by bitsandbytes, is the result of quantizing
/// `source`.
///
/// Everything that dequantizing reads is compared. Packed weights must be equal to the bit, and tensors that
/// are not quantized equal in value. bitsandbytes' CPU build looks up the codes of 8-bit absmax in a table
/// of 65,536 cells and so may be off by a cell or a step; such codes are counted.
pub(crate) fn verify(directory: &Path, source: &Path) -> Result<()> {
    let written = open_weights(directory)?;
    let source = open_weights(source)?;
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

/// Compares a 4-bit weight with its source; returns the number of absmax codes that differ by a step.
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
    if found.dtype() != expected.dtype() {
        bail!(
            Malformed,
            "tensor {name} dequantizes to {}, its source is {}",
            found.dtype(),
            expected.dtype()
        );
    }
    match (found.absmax(), expected.absmax()) {
        (Absmax::Plain(is), Absmax::Plain(should)) => {
            match is.iter().zip(should).position(|(is, should)| is != should) {
                None => Ok(0),
                Some(block) => {
                    bail!(
                        Malformed,
                        "tensor {name} has absmax {} in block {block}, its source gives {}",
                        is[block],
                        should[block]
                    )
                }
            }
        }
        (is, should) => compare_nested(is, should).with_context(|| format!("tensor {name}")),
    }
}

/// Compares absmax that are quantized themselves; returns the number of codes that differ by a step.
///
/// The mean that is subtracted before quantizing is a sum, which other programs add up in another order,
/// so it and the nested absmax may differ in the last bits.
fn compare_nested(is: &Absmax, should: &Absmax) -> Result<usize> {
    let (
        Absmax::Nested { codes, map, absmax, offset, block_size },
        Absmax::Nested {
            codes: source_codes,
            map: source_map,
            absmax: source_absmax,
            offset: source_offset,
            block_size: source_block_size,
        },
    ) = (is, should)
    else {
        bail!(Bug, "absmax of two schemes");
    };
    if block_size != source_block_size {
        bail!(Malformed, "nested_blocksize is {block_size}, expected {source_block_size}");
    }
    if map != source_map {
        bail!(Malformed, "nested_quant_map is not the map of bitsandbytes");
    }
    let last_bits = 8.0 * f32::EPSILON * source_offset.abs();
    if (offset - source_offset).abs() > last_bits {
        bail!(Malformed, "nested_offset is {offset}, its source gives {source_offset}");
    }
    let differs = |(is, should): (&f32, &f32)| (is - should).abs() > last_bits + 8.0 * f32::EPSILON * should;
    if let Some(block) = absmax.iter().zip(source_absmax).position(differs) {
        let (is, should) = (absmax[block], source_absmax[block]);
        bail!(Malformed, "nested_absmax has {is} at [{block}], its source gives {should}");
    }
    let mut apart = 0;
    for (block, (code, source_code)) in codes.iter().zip(source_codes.iter()).enumerate() {
        let steps = code.abs_diff(*source_code);
        // A cell of the table in which bitsandbytes' CPU build looks codes up.
        let cell = source_absmax[block / block_size] * (2.0 / 65536.0);
        let difference = (map[usize::from(*code)] - map[usize::from(*source_code)]).abs()
            * source_absmax[block / block_size];
        if steps > 1 && difference > cell {
            bail!(Malformed, "absmax has code {code} in block {block}, its source gives {source_code}");
        }
        apart += usize::from(steps > 0);
    }
    Ok(apart)
}

/// Whether two tensors have equal shapes and values, even if their dtypes differ.
fn same_values(left: &Tensor, right: &Tensor) -> Result<bool> {
    if left.dtype == right.dtype {
        return Ok(left.shape == right.shape && *left.bytes == *right.bytes);
    }
    Ok(left.shape == right.shape && left.to_f32()? == right.to_f32()?)
}
