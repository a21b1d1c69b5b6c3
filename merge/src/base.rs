//! The base model that adapters are folded into: its weights by name, dense or in 4 bits.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use common::checkpoint::{Bytes, Checkpoint, Dtype, TensorSpec};
use common::kernels::linear::Weight;
use common::model::{
    Config, canonical_name, check_config, expect_readable, has_own_head, is_composite, with_canonical_names,
    with_separate_experts,
};
use common::nf4::{Absmax, Quantized, part_of};
use common::weight_names::within_larger_model;
use common::{Context, Result, files};
use serde_json::Value;

/// A base model.
pub(crate) struct Base {
    /// The directory of the model.
    pub directory: PathBuf,
    /// The content of its config.json.
    pub config: Value,
    checkpoint: Checkpoint,
    /// The name of each tensor in the files, by the name that it has here, in a model that also reads images.
    stored: HashMap<String, String>,
}

impl Base {
    /// Opens a model, dense or with bitsandbytes' 4-bit weights.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = files::read(&path, files::CONFIG).hint("--base names a model's directory")?;
        let config: Value = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        check_config(&config).with_context(|| path.display().to_string())?;
        expect_readable(&config, directory).with_context(|| path.display().to_string())?;
        let checkpoint = Checkpoint::open(directory)?;
        let stored = match is_composite(&config) {
            true => checkpoint.names().map(|name| (canonical_name(name).into(), name.into())).collect(),
            false => HashMap::new(),
        };
        // Models of families that are not known are merged by the names of their tensors.
        let checkpoint = match Config::parse(&config) {
            Ok(config) => with_separate_experts(checkpoint, &config)?,
            Err(_) => with_canonical_names(checkpoint)?,
        };
        Ok(Self { directory: directory.to_path_buf(), config, checkpoint, stored })
    }

    /// The paths of the weight files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        self.checkpoint.files()
    }

    /// The names of all weights, without the tensors that belong to a 4-bit weight.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.checkpoint.names().filter(|name| part_of(&self.checkpoint, name).is_none())
    }

    /// The name that a weight has in the result: the one that it has in the files of a model that also reads
    /// images, so that the result is such a model too.
    pub(crate) fn name_in_result(&self, name: &str) -> String {
        match self.stored.get(name) {
            Some(stored) => stored.clone(),
            None if self.stored.is_empty() => name.to_string(),
            None => within_larger_model(name).into_owned(),
        }
    }

    /// Whether there is a weight of that name.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(name)
    }

    /// The shape of a weight, dequantized if it is in 4 bits.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.weight(name).ok().map(|(spec, _)| spec.shape)
    }

    /// Whether config.json ties the head to the embedding table, or says nothing in a family that does.
    pub(crate) fn says_tied(&self) -> bool {
        let written = || self.config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
        Config::parse(&self.config).map_or_else(|_| written(), |config| config.tied_head)
    }

    /// Whether the checkpoint has a head that differs from the embedding table, whatever config.json says.
    pub(crate) fn has_own_head(&self) -> Result<bool> {
        has_own_head(&self.checkpoint)
    }

    /// A weight, and its specification when it is dense: name, dtype (before quantization) and shape.
    ///
    /// A 4-bit weight dequantizes to f32 without rounding, as in the model that an adapter was trained on;
    /// it is rounded once, after all updates have been added.
    pub(crate) fn weight(&self, name: &str) -> Result<(TensorSpec, Weight)> {
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

/// Releases the memory of a weight that has been read.
pub(crate) fn release(weight: &Weight) {
    bytes_of(weight).for_each(Bytes::release);
}

/// The bytes of some of the `count` rows of a weight, as far as they are as many for every row.
pub(crate) fn bytes_of_rows(
    weight: &Weight,
    rows: Range<usize>,
    count: usize,
) -> impl Iterator<Item = Bytes> {
    bytes_of(weight).filter_map(move |bytes| {
        let before = |row: usize| bytes.len() * row / count.max(1);
        bytes.slice(before(rows.start)..before(rows.end))
    })
}

/// The bytes of a weight in the model's files.
fn bytes_of(weight: &Weight) -> impl Iterator<Item = &Bytes> {
    let (values, scales) = match weight {
        Weight::Dense(tensor) => (&tensor.bytes, None),
        Weight::Quantized(quantized) => match quantized.absmax() {
            Absmax::Nested { codes, .. } => (quantized.packed(), Some(codes)),
            Absmax::Plain(_) => (quantized.packed(), None),
        },
    };
    [values].into_iter().chain(scales)
}

/// Whether updates can be added to weights of this dtype.
pub(crate) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::BF16 | Dtype::F16 | Dtype::F32)
}
