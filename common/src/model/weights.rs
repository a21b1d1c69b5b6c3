//! A model's directory, opened: its configuration and its weights, under the names that transformers
//! gives them in a causal language model.
//!
//! As transformers 5 does, a head that config.json calls tied is one of its own where the file stores another.

use std::borrow::Cow;
use std::path::Path;

use rayon::prelude::*;

use super::{Config, quantization};
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::gguf::GgufFile;
use crate::weight_names::{EMBEDDING, HEAD, canonical_name, reads_images};
use crate::{Context, Result, error, llama_cpp};

/// Prefixes that a wrapper around a model leaves in the names of its weights, what the wrapper is, and
/// what saves the model inside it.
const WRAPPERS: [(&str, &str, &str); 5] = [
    ("_orig_mod.", "torch.compile", "model._orig_mod.save_pretrained(…)"),
    ("_fsdp_wrapped_module.", "FSDP", "the trainer's save_model with FULL_STATE_DICT"),
    ("_checkpoint_wrapped_module.", "a checkpoint wrapper", "the unwrapped model's save_pretrained(…)"),
    ("base_model.model.", "PEFT", "model.merge_and_unload().save_pretrained(…)"),
    ("module.", "DataParallel or DeepSpeed", "model.module.save_pretrained(…)"),
];

/// Numbers that a thread compares at a time.
const CHUNK: usize = 1 << 18;

/// A model of which headers have been read.
#[derive(Debug)]
pub struct Weights {
    /// The configuration, whose `tied_head` has been corrected by the weights.
    pub config: Config,
    /// The weights by their names in transformers.
    pub checkpoint: Checkpoint,
}

impl Weights {
    /// Opens a model's directory, or a GGUF file.
    pub fn open(directory: &Path) -> Result<Self> {
        if llama_cpp::is_file(directory) {
            let file = GgufFile::open(directory)?;
            let (json, family) = llama_cpp::config_json(&file)?;
            let config = Config::parse(&json).with_context(|| directory.display().to_string())?;
            let head = config.layers.first().map_or(0, |layer| layer.attention.spec.heads.size);
            return Ok(Self { checkpoint: llama_cpp::checkpoint(&file, family, head)?, config });
        }
        let mut config = Config::read(directory)?;
        let mut checkpoint = text_weights(Checkpoint::open(directory)?, &config)?;
        if config.tied_head {
            // One stored table serves as both, whichever it is.
            if !checkpoint.contains(EMBEDDING) {
                let head = HEAD.trim_end_matches("weight");
                let table = EMBEDDING.trim_end_matches("weight");
                checkpoint = checkpoint.renamed(|name| match name.strip_prefix(head) {
                    Some(part) => Cow::Owned(format!("{table}{part}")),
                    None => Cow::Borrowed(name),
                })?;
            }
            config.tied_head = !has_own_head(&checkpoint)?;
        }
        Ok(Self { config, checkpoint })
    }
}

/// The weights of the text model that `config` describes, as [`with_separate_experts`] has them: those that read
/// images are left out.
pub fn text_weights(checkpoint: Checkpoint, config: &Config) -> Result<Checkpoint> {
    Ok(with_separate_experts(checkpoint, config)?.without(reads_images))
}

/// A checkpoint's tensors under their names in a causal language model of transformers. Names that some
/// wrapper has changed, and weights packed in formats that are not read, are refused.
pub fn with_canonical_names(checkpoint: Checkpoint) -> Result<Checkpoint> {
    for tensor in checkpoint.tensors() {
        expect_unwrapped(&tensor.name, checkpoint.path())?;
        quantization::expect_unpacked(&tensor, checkpoint.path())?;
    }
    checkpoint.renamed(canonical_name)
}

/// A checkpoint's tensors as [`with_canonical_names`] has them, and where it stores the matrices of all experts of a
/// layer as one tensor, as transformers 5 can, each matrix as a tensor of its own.
pub fn with_separate_experts(checkpoint: Checkpoint, config: &Config) -> Result<Checkpoint> {
    let mut checkpoint = with_canonical_names(checkpoint)?;
    for modules in config.experts() {
        let Some(fused) = checkpoint.get(&modules.name) else { continue };
        let [n, k] = modules.shape;
        let expected = [modules.experts.len(), n, k];
        if fused.shape != expected {
            return Err(error!(
                Malformed,
                "tensor {}: shape {expected:?} expected, found {:?}", modules.name, fused.shape
            ));
        }
        let matrices = modules.experts.iter().flatten();
        checkpoint.split(&modules.name, matrices.map(|module| (module.weight(), module.shape.to_vec())))?;
    }
    Ok(checkpoint)
}

fn expect_unwrapped(name: &str, file: &Path) -> Result<()> {
    let is_wrapped = |prefix: &str| {
        name.starts_with(prefix) || (prefix.starts_with('_') && name.contains(&format!(".{prefix}")))
    };
    match WRAPPERS.iter().find(|(prefix, ..)| is_wrapped(prefix)) {
        None => Ok(()),
        Some((prefix, wrapper, saves)) => Err(error!(
            "{}: tensor {name} is named with {prefix}, which {wrapper} puts in front",
            file.display()
        )
        .hint(format!("save the model inside the wrapper: {saves}"))),
    }
}

/// Whether a head is stored that is not the embedding table.
pub fn has_own_head(checkpoint: &Checkpoint) -> Result<bool> {
    match (checkpoint.get(HEAD), checkpoint.get(EMBEDDING)) {
        (Some(head), Some(table)) => Ok(!are_equal(&head, &table)?),
        (head, _) => Ok(head.is_some()),
    }
}

/// Whether two tensors of BF16, F16 or F32 have the same shape and values.
fn are_equal(left: &Tensor, right: &Tensor) -> Result<bool> {
    let is_float = |tensor: &Tensor| matches!(tensor.dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32);
    if left.shape != right.shape || !is_float(left) || !is_float(right) {
        return Ok(false);
    }
    let count = left.element_count();
    // Tables that differ mostly do so at once.
    let equal = (0..count.div_ceil(CHUNK)).into_par_iter().map(|chunk| {
        let range = chunk * CHUNK..count.min((chunk + 1) * CHUNK);
        let mut values = [vec![0.0; range.len()], vec![0.0; range.len()]];
        for (tensor, values) in [left, right].into_iter().zip(&mut values) {
            tensor.read_f32(range.clone(), values)?;
            // Two tables of a gigabyte are never resident as a whole.
            let size = tensor.bytes.len() / count;
            if let Some(read) = tensor.bytes.slice(range.start * size..range.end * size) {
                read.release();
            }
        }
        match values[0] == values[1] {
            true => Ok(()),
            false => Err(None),
        }
    });
    let equal = match equal.collect::<Result<(), Option<crate::Error>>>() {
        Ok(()) => true,
        Err(None) => false,
        Err(Some(error)) => return Err(error),
    };
    Ok(equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_wrappers_leave() {
        for (name, wrapper) in [
            ("_orig_mod.model.norm.weight", "torch.compile"),
            ("model.layers.0._orig_mod.mlp.up_proj.weight", "torch.compile"),
            ("module.model.norm.weight", "DataParallel"),
            ("base_model.model.model.norm.weight", "PEFT"),
        ] {
            let error = expect_unwrapped(name, Path::new("m")).unwrap_err();
            assert!(error.to_string().contains(wrapper), "{error}");
        }
        assert!(expect_unwrapped("model.layers.0.module.weight", Path::new("m")).is_ok());
    }

    #[test]
    fn values_are_compared_and_not_bytes() {
        let values: Vec<f32> = (0..300_000).map(|i| (i % 100) as f32).collect();
        let wide = Tensor::from_f32("a", vec![300, 1000], &values);
        let narrow: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        let narrow = Tensor { dtype: Dtype::BF16, bytes: narrow.into(), ..wide.clone() };
        assert!(are_equal(&wide, &narrow).unwrap());
        let mut other = values.clone();
        other[299_999] += 1.0;
        assert!(!are_equal(&narrow, &Tensor::from_f32("b", vec![300, 1000], &other)).unwrap());
        assert!(!are_equal(&wide, &Tensor::from_f32("b", vec![1000, 300], &values)).unwrap());
    }
}
