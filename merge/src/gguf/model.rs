//! A model with its adapters as a GGUF file.

use std::path::Path;

use common::checkpoint::Dtype;
use common::cli::{self, Progress, Unit};
use common::gguf::{GgufWriter, Metadata, TensorInfo};
use common::model::{Config, is_composite, text_config};
use common::text::files::TOKENIZER;
use common::weight_names::{EMBEDDING, canonical_name};
use common::{Context, Result, files};
use serde_json::Value;

use super::architectures::Architecture;
use super::quantization::Quantization;
use super::tensors::{GgufTensor, tensors};
use super::{general, vocabulary, write};
use crate::base::Base;
use crate::plan::MergePlan;

/// The weights of a model with all updates, which are computed while they are written.
pub(crate) struct ModelTensors<'a> {
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<GgufTensor<'a>>,
}

impl<'a> ModelTensors<'a> {
    /// Takes the weights from `plan`, whose base is `base`, for the file `file`. `texts` is a directory with config.json
    /// and the tokenizer of the result. Without `quantization`, the weights have the 16-bit type nearest to the base's.
    pub(crate) fn new(
        base: &Base,
        plan: &'a MergePlan<'a>,
        architecture: &Architecture,
        quantization: Option<Quantization>,
        texts: &Path,
        file: &Path,
    ) -> Result<Self> {
        let json: Value = files::read_json(&texts.join("config.json"), files::CONFIG)?;
        if is_composite(&json) {
            cli::note("the file is of the text model; the weights that read images are left out");
        }
        let json = text_config(&json)?;
        let config = Config::parse(&json)?;
        architecture.check(&config)?;
        let quantization = quantization.unwrap_or_else(|| sixteen_bits(plan));
        let family = architecture.family;
        let tensors = tensors(plan, family, &json, &config, quantization)?;
        let mut metadata = Metadata::default();
        general::write_keys(
            family.name,
            file,
            texts,
            &infos(&tensors),
            quantization.file_type(),
            &mut metadata,
        )?;
        architecture.write_keys(&json, &config, &mut metadata)?;
        vocabulary::write(texts, architecture.vocabulary, config.vocabulary, None, &mut metadata)
            .with_context(|| format!("cannot write {TOKENIZER} of {}", base.directory.display()))?;
        Ok(Self { metadata, tensors })
    }

    /// Writes the file `path`, which must not exist.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let infos = infos(&self.tensors);
        let size = infos.iter().filter_map(TensorInfo::size).sum::<u64>();
        let progress = Progress::new("merge", size, Unit::Bytes);
        let writer = GgufWriter::create(path, &self.metadata, &infos)?;
        write::write_all(&self.tensors, &writer, &progress)?;
        writer.finish()
    }
}

/// The names, shapes and types of tensors.
pub(super) fn infos(tensors: &[GgufTensor<'_>]) -> Vec<TensorInfo> {
    tensors.iter().map(|tensor| tensor.info.clone()).collect()
}

/// The 16-bit type nearest to that of the base's embedding table: bf16 where it is in bf16.
fn sixteen_bits(plan: &MergePlan<'_>) -> Quantization {
    let table = plan.tensors().find(|tensor| canonical_name(&tensor.spec.name) == EMBEDDING);
    match table.map(|tensor| tensor.spec.dtype) {
        Some(Dtype::BF16) => Quantization::Bf16,
        _ => Quantization::F16,
    }
}
