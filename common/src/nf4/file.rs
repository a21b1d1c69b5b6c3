//! A quantized weight in a checkpoint: the tensors that bitsandbytes keeps for a linear layer.

use super::quantized::{Absmax, Quantized, QuantizedSpec, Scheme};
use super::state::{self, State};
use super::{NESTED_BLOCK_SIZE, QuantType};
use crate::checkpoint::{Bytes, Checkpoint, Dtype, Tensor, TensorSpec};
use crate::{Context, Result, bail, error};

impl Quantized {
    /// Loads the 4-bit weight of a name such as `model.layers.0.mlp.up_proj.weight`; `None` where the
    /// checkpoint does not have it in 4 bits. Weights written by any version of bitsandbytes are read, also
    /// those whose packed codes are stored as BF16, F16 or F32.
    pub fn load(checkpoint: &Checkpoint, weight: &str) -> Result<Option<Self>> {
        let Some(quant_type) = quant_type_of(checkpoint, weight)? else { return Ok(None) };
        let state = checkpoint.tensor(&state::key(weight, quant_type))?;
        let state = State::read(&state.bytes).with_context(|| format!("tensor {}", state.name))?;
        if state.quant_type != quant_type {
            bail!(
                Malformed,
                "tensor {weight} is {} by its quant_state, {quant_type} by that tensor's name",
                state.quant_type
            );
        }
        let parts = Parts { checkpoint, weight };
        let Some(count) = state.shape[0].checked_mul(state.shape[1]) else {
            bail!(Malformed, "tensor {weight} has the impossible shape {:?} in its quant_state", state.shape);
        };
        let blocks = count.div_ceil(state.block_size);
        let packed = parts.packed(state.shape, count)?;
        parts.check_codebook(quant_type)?;
        let absmax = match state.nested {
            None => Absmax::Plain(parts.floats("absmax", blocks)?),
            Some((offset, block_size)) => {
                let map = parts.floats("nested_quant_map", 256)?;
                let absmax = parts.floats("nested_absmax", blocks.div_ceil(block_size))?;
                let mut array = Box::new([0.0; 256]);
                array.copy_from_slice(&map);
                Absmax::Nested { codes: parts.codes(blocks)?, map: array, absmax, offset, block_size }
            }
        };
        Ok(Some(Self {
            shape: state.shape,
            quant_type,
            block_size: state.block_size,
            dtype: state.dtype,
            packed,
            absmax,
        }))
    }

    /// The names, dtypes and shapes of the tensors that quantizing `weight` will give.
    pub fn specs(weight: &TensorSpec, scheme: Scheme) -> Result<Vec<TensorSpec>> {
        let Ok(shape) = <[usize; 2]>::try_from(weight.shape.as_slice()) else {
            bail!(
                Unsupported,
                "tensor {} has shape {:?}, expected two dimensions",
                weight.name,
                weight.shape
            );
        };
        let count = weight.size()? / weight.dtype.bitsize().div_ceil(8);
        let blocks = count.div_ceil(scheme.block_size);
        let state = State {
            quant_type: scheme.quant_type,
            block_size: scheme.block_size,
            dtype: weight.dtype,
            shape,
            nested: scheme.double_quant.then_some((0.0, NESTED_BLOCK_SIZE)),
        };
        let state_len = state.to_json().with_context(|| format!("tensor {}", weight.name))?.len();
        let part =
            |part: &str, dtype, length| TensorSpec::new(part_name(&weight.name, part), dtype, [length]);
        let mut specs = vec![
            TensorSpec::new(weight.name.clone(), Dtype::U8, [count.div_ceil(2), 1]),
            part("absmax", if scheme.double_quant { Dtype::U8 } else { Dtype::F32 }, blocks),
            part("quant_map", Dtype::F32, 16),
            TensorSpec::new(state::key(&weight.name, scheme.quant_type), Dtype::U8, [state_len]),
        ];
        if scheme.double_quant {
            specs.push(part("nested_absmax", Dtype::F32, blocks.div_ceil(NESTED_BLOCK_SIZE)));
            specs.push(part("nested_quant_map", Dtype::F32, 256));
        }
        Ok(specs)
    }

    /// The tensors of a checkpoint that hold this weight, as bitsandbytes writes them.
    pub fn to_tensors(&self, weight: &str) -> Result<Vec<Tensor>> {
        let bytes =
            |name: String, shape: Vec<usize>, bytes: Bytes| Tensor { name, dtype: Dtype::U8, shape, bytes };
        let floats =
            |part, values: &[f32]| Tensor::from_f32(part_name(weight, part), vec![values.len()], values);
        let mut tensors = vec![
            bytes(weight.into(), vec![self.packed.len(), 1], self.packed.clone()),
            floats("quant_map", self.quant_type.values()),
        ];
        let nested = match &self.absmax {
            Absmax::Plain(absmax) => {
                tensors.push(floats("absmax", absmax));
                None
            }
            Absmax::Nested { codes, map, absmax, offset, block_size } => {
                tensors.push(bytes(part_name(weight, "absmax"), vec![codes.len()], codes.clone()));
                tensors.push(floats("nested_absmax", absmax));
                tensors.push(floats("nested_quant_map", map.as_slice()));
                Some((*offset, *block_size))
            }
        };
        let state = State {
            quant_type: self.quant_type,
            block_size: self.block_size,
            dtype: self.dtype,
            shape: self.shape,
            nested,
        }
        .to_json()?;
        tensors.push(bytes(state::key(weight, self.quant_type), vec![state.len()], state.into()));
        Ok(tensors)
    }
}

impl QuantizedSpec {
    /// Finds the 4-bit weight of a name, which should be `[N, K]`, from the headers alone, where
    /// [`Quantized::load`] would load it.
    pub fn find(checkpoint: &Checkpoint, weight: &str, shape: [usize; 2]) -> Result<Option<Self>> {
        if quant_type_of(checkpoint, weight)?.is_none() {
            return Ok(None);
        }
        let parts = Parts { checkpoint, weight };
        parts.packed(shape, shape[0] * shape[1])?;
        let absmax = checkpoint.tensor(&part_name(weight, "absmax"))?;
        let nested = checkpoint.get(&part_name(weight, "nested_absmax"));
        let nested_blocks = nested.map(|absmax| absmax.element_count());
        Ok(Some(Self { shape, blocks: absmax.element_count(), nested_blocks }))
    }
}

/// The 4-bit type in which a checkpoint has a weight; `None` where it is not quantized. Other quantizations
/// are an error.
fn quant_type_of(checkpoint: &Checkpoint, weight: &str) -> Result<Option<QuantType>> {
    let types = [QuantType::Nf4, QuantType::Fp4];
    if let Some(found) = types.into_iter().find(|&kind| checkpoint.contains(&state::key(weight, kind))) {
        return Ok(Some(found));
    }
    match checkpoint.get(weight) {
        Some(tensor) if matches!(tensor.dtype, Dtype::U8 | Dtype::I8) => Err(error!(
            "tensor {weight} is {} without a quant_state of bitsandbytes' 4-bit types",
            tensor.dtype
        )
        .hint("8-bit and other quantizations are not read; begin with the original model")),
        _ => Ok(None),
    }
}

/// The weight that a tensor of bitsandbytes, such as `….absmax`, belongs to; `None` for other tensors.
pub fn part_of<'a>(checkpoint: &Checkpoint, name: &'a str) -> Option<&'a str> {
    let parts = [".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map"];
    let weight = parts.iter().find_map(|part| name.strip_suffix(part));
    let weight = weight.or_else(|| Some(name.split_once(".quant_state.bitsandbytes__")?.0))?;
    let quantized = [QuantType::Nf4, QuantType::Fp4];
    quantized.iter().any(|&kind| checkpoint.contains(&state::key(weight, kind))).then_some(weight)
}

fn part_name(weight: &str, part: &str) -> String {
    format!("{weight}.{part}")
}

/// The tensors beside a packed weight.
struct Parts<'a> {
    checkpoint: &'a Checkpoint,
    weight: &'a str,
}

impl Parts<'_> {
    /// The packed codes of the weight, which has `count` elements.
    fn packed(&self, shape: [usize; 2], count: usize) -> Result<Bytes> {
        let packed = self.checkpoint.tensor(self.weight)?.bytes;
        if packed.len() != count.div_ceil(2) {
            bail!(
                Malformed,
                "tensor {} has {} bytes, but {shape:?} packed in 4 bits takes {}",
                self.weight,
                packed.len(),
                count.div_ceil(2)
            );
        }
        Ok(packed)
    }

    fn tensor(&self, part: &str, length: usize) -> Result<Tensor> {
        let tensor = self.checkpoint.tensor(&part_name(self.weight, part))?;
        if tensor.element_count() != length {
            bail!(Malformed, "tensor {} has shape {:?}, expected [{length}]", tensor.name, tensor.shape);
        }
        Ok(tensor)
    }

    /// The elements of a tensor beside the weight, which must be finite and `length` in number.
    fn floats(&self, part: &str, length: usize) -> Result<Vec<f32>> {
        let tensor = self.tensor(part, length)?;
        let values = tensor.to_f32()?;
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            bail!(Malformed, "tensor {} has {} at [{index}]", tensor.name, values[index]);
        }
        Ok(values)
    }

    fn codes(&self, length: usize) -> Result<Bytes> {
        let tensor = self.tensor("absmax", length)?;
        if tensor.dtype != Dtype::U8 {
            bail!(
                Malformed,
                "tensor {} is {}, expected U8 with double quantization",
                tensor.name,
                tensor.dtype
            );
        }
        Ok(tensor.bytes)
    }

    /// Fails where the file has another codebook than the one that bitsandbytes' kernels have built in.
    fn check_codebook(&self, quant_type: QuantType) -> Result<()> {
        let found = self.floats("quant_map", 16)?;
        let same = found.iter().zip(quant_type.values()).all(|(found, value)| (found - value).abs() < 1e-6);
        if !same {
            bail!(
                Malformed,
                "tensor {} is not the codebook of {quant_type}: {found:?}",
                part_name(self.weight, "quant_map")
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::write_file;

    fn weight() -> Tensor {
        let values: Vec<f32> =
            (0..96 * 200).map(|i| (i as f32 * 0.7).sin() * (i as f32 * 0.001).cos()).collect();
        Tensor::from_f32("w", vec![96, 200], &values)
    }

    fn written(tensors: &[Tensor]) -> (tempfile::TempDir, Checkpoint) {
        let directory = tempfile::tempdir().unwrap();
        write_file(&directory.path().join("model.safetensors"), tensors).unwrap();
        let checkpoint = Checkpoint::open(directory.path()).unwrap();
        (directory, checkpoint)
    }

    fn error_of(tensors: &[Tensor]) -> String {
        Quantized::load(&written(tensors).1, "w").unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_comes_back_and_was_announced() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            for double_quant in [true, false] {
                let scheme = Scheme { quant_type, block_size: 128, double_quant };
                let quantized = Quantized::quantize(&weight(), scheme).unwrap();
                let tensors = quantized.to_tensors("w").unwrap();
                let by_name = |mut specs: Vec<TensorSpec>| {
                    specs.sort_by(|a, b| a.name.cmp(&b.name));
                    specs
                };
                let announced = Quantized::specs(&TensorSpec::from(&weight()), scheme).unwrap();
                assert_eq!(by_name(announced), by_name(tensors.iter().map(TensorSpec::from).collect()));
                let (_directory, checkpoint) = written(&tensors);
                let parts = checkpoint.names().filter(|name| part_of(&checkpoint, name) == Some("w"));
                assert_eq!(parts.count(), tensors.len() - 1, "all but the weight itself");
                let read = Quantized::load(&checkpoint, "w").unwrap().unwrap();
                assert_eq!(read.dequantize(), quantized.dequantize());
                assert_eq!((read.shape(), read.block_size()), ([96, 200], 128));
                let spec = QuantizedSpec::find(&checkpoint, "w", [96, 200]).unwrap().unwrap();
                assert_eq!(spec, QuantizedSpec::new([96, 200], scheme));
                let absmax = match read.absmax() {
                    Absmax::Plain(absmax) => 4 * absmax.len(),
                    Absmax::Nested { codes, map, absmax, .. } => codes.len() + 4 * (map.len() + absmax.len()),
                };
                assert_eq!(spec.bytes(), (read.packed().len() + absmax) as u64);
                let other = QuantizedSpec::find(&checkpoint, "w", [96, 300]).unwrap_err();
                assert!(other.to_string().contains("[96, 300] packed in 4 bits takes 14400"), "{other}");
            }
        }
    }

    #[test]
    fn packed_weights_stored_as_bf16_are_the_same_bytes() {
        let quantized = Quantized::quantize(&weight(), Scheme::default()).unwrap();
        let mut tensors = quantized.to_tensors("w").unwrap();
        tensors[0].dtype = Dtype::BF16;
        tensors[0].shape = vec![96 * 200 / 4, 1];
        let read = Quantized::load(&written(&tensors).1, "w").unwrap().unwrap();
        assert_eq!(read.dequantize(), quantized.dequantize());
    }

    #[test]
    fn a_weight_in_full_precision_is_none_and_8_bits_are_refused() {
        let (_directory, checkpoint) = written(&[weight()]);
        assert!(Quantized::load(&checkpoint, "w").unwrap().is_none());
        let bytes = Tensor { name: "w".into(), dtype: Dtype::I8, shape: vec![4], bytes: vec![0; 4].into() };
        assert!(error_of(&[bytes]).contains("tensor w is I8 without a quant_state"));
    }

    #[test]
    fn wrong_and_missing_parts_are_named() {
        let tensors = Quantized::quantize(&weight(), Scheme::default()).unwrap().to_tensors("w").unwrap();
        for missing in 0..tensors.len() - 1 {
            let mut tensors = tensors.clone();
            let name = tensors.remove(missing).name;
            let error = error_of(&tensors);
            assert!(error.ends_with(&format!("has no tensor {name}")), "{error}");
        }
        for wrong in 0..tensors.len() - 1 {
            let mut tensors = tensors.clone();
            let tensor = &mut tensors[wrong];
            let size = tensor.dtype.bitsize() / 8;
            let length = tensor.bytes.len() / size - 1;
            tensor.bytes = tensor.bytes.slice(0..length * size).unwrap();
            tensor.shape = vec![length];
            let name = tensor.name.clone();
            let error = error_of(&tensors);
            assert!(error.contains(&format!("tensor {name} has")), "{name}: {error}");
        }
        for (part, fault) in [("quant_map", "not the codebook"), ("nested_absmax", "NaN at [0]")] {
            let mut tensors = tensors.clone();
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == part_name("w", part)).unwrap();
            let value = if part == "quant_map" { 0.25 } else { f32::NAN };
            let mut bytes = tensor.bytes.to_vec();
            bytes[..4].copy_from_slice(&f32::to_le_bytes(value));
            tensor.bytes = bytes.into();
            assert!(error_of(&tensors).contains(fault), "{}", error_of(&tensors));
        }
    }
}
