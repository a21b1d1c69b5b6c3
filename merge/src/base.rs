//! The model that is folded into: its weights by name, dense or in 4 bits.

use std::path::{Path, PathBuf};

use common::checkpoint::{Checkpoint, Dtype, TensorSpec};
use common::kernels::linear::Weight;
use common::model::{check_config, expect_readable, has_own_head, with_canonical_names};
use common::nf4::{Quantized, part_of};
use common::{Context, Result, files};
use serde_json::Value;

/// A model directory.
pub struct Base {
    pub directory: PathBuf,
    pub config: Value,
    checkpoint: Checkpoint,
}

impl Base {
    /// Opens a model, dense or with bitsandbytes' 4-bit weights.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = files::read(&path, files::CONFIG).hint("--base names a model's directory")?;
        let config: Value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        check_config(&config).with_context(|| path.display().to_string())?;
        expect_readable(&config, directory).with_context(|| path.display().to_string())?;
        let checkpoint = with_canonical_names(Checkpoint::open(directory)?)?;
        Ok(Self { directory: directory.to_path_buf(), config, checkpoint })
    }

    /// The weight files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.checkpoint.files()
    }

    /// The names of all weights; what lies beside a 4-bit weight is not one.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.checkpoint.names().filter(|name| part_of(&self.checkpoint, name).is_none())
    }

    /// Whether there is a weight of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// The shape of a weight, as it is when it is dense.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weight(name).ok().map(|(spec, _)| spec.shape)
    }

    /// Whether config.json says that the head is the embedding table.
    pub fn says_tied(&self) -> bool {
        self.config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Whether a head is stored that is not the embedding table, whatever config.json says.
    pub fn has_own_head(&self) -> Result<bool> {
        has_own_head(&self.checkpoint)
    }

    /// A weight, and what it is when it is dense: its name, the dtype it has or had, and its shape.
    ///
    /// A 4-bit weight dequantizes to f32 unrounded, as in the model that an adapter was trained over;
    /// it is rounded once, when all has been added.
    pub fn weight(&self, name: &str) -> Result<(TensorSpec, Weight)> {
        Ok(match Quantized::load(&self.checkpoint, name)? {
            Some(quantized) => (
                TensorSpec::new(name, quantized.dtype(), quantized.shape()),
                Weight::Quantized(quantized.with_dtype(Dtype::F32)),
            ),
            None => {
                let tensor = self.checkpoint.tensor(name)?;
                (TensorSpec::new(name, tensor.dtype, tensor.shape.clone()), Weight::Dense(tensor))
            }
        })
    }
}

/// Gives back the memory of a weight that has been read.
pub fn release(weight: &Weight) {
    match weight {
        Weight::Dense(tensor) => tensor.bytes.release(),
        Weight::Quantized(quantized) => quantized.packed().release(),
    }
}

/// Whether numbers of this dtype can be folded into.
pub fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32)
}
