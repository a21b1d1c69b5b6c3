//! Writes a model with its adapters as a GGUF file, for llama.cpp, Ollama and LM Studio.
//!
//! The file has what llama.cpp's converter would make of the merged directory, and llama-quantize of that, without
//! either on the disk: each tensor is folded in f32, a few rows at a time, and goes to the file in its final type.
//!
//! | file | what it is |
//! |---|---|
//! | `architectures` | the families that llama.cpp knows, and what it wants to know of each |
//! | `differences` | models that llama.cpp would compute in another way |
//! | `rope` | rotary embeddings |
//! | `tensors` | names and sources of the tensors |
//! | `quantization` | which type each tensor gets |
//! | `write` | tensors to the file |
//! | `general` | what describes the file |
//! | `vocabulary` | the tokenizer |
//! | `adapter` | an adapter alone |

mod adapter;
mod architectures;
mod differences;
mod general;
mod quantization;
mod rope;
mod tensors;
mod vocabulary;
mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use common::adapter::Adapter;
use common::checkpoint::Dtype;
use common::cli::{self, Destination, OutputFile, Progress, Unit};
use common::gguf::{GgufWriter, Metadata, TensorInfo};
use common::model::{Config, is_composite, text_config};
use common::text::files::TOKENIZER;
use common::weight_names::{EMBEDDING, canonical_name};
use common::{Context, Error, Result, files};
use serde_json::Value;

use self::adapter::AdapterTensors;
use self::architectures::Architecture;
pub(crate) use self::quantization::Quantization;
use self::tensors::GgufTensor;
use crate::base::Base;
use crate::companions::companions;
use crate::modelfile::modelfile;
use crate::plan::MergePlan;
use crate::request::{Request, warn_of_other_bases};
use crate::work;

/// What a GGUF file is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// The model with its adapters, in this type or in 16 bits.
    Model(Option<Quantization>),
    /// The adapter alone.
    Adapter,
}

/// Writes the file, and returns its path.
pub(crate) fn export(request: &Request, content: Content) -> Result<PathBuf> {
    let base = Base::open(&request.base)?;
    let architecture =
        Architecture::of(&base.config).with_context(|| base.directory.display().to_string())?;
    warn_of_other_bases(request)?;
    let adapters: Vec<Adapter> =
        request.adapters.iter().map(|path| Adapter::load(path)).collect::<Result<_>>()?;
    let inputs: Vec<PathBuf> =
        request.adapters.iter().chain(&request.file).cloned().chain([base.directory.clone()]).collect();
    let destination = Destination::file(&request.output, &inputs)?;
    match content {
        Content::Model(quantization) => {
            write_model(request, &base, architecture, &adapters, quantization, &destination, &inputs)?;
        }
        Content::Adapter => {
            let [adapter] = &adapters[..] else {
                return Err(Error::usage(format!(
                    "--adapter-gguf takes one adapter, found {}",
                    adapters.len()
                ))
                .hint("make a file of each, or leave the option out for the merged model"));
            };
            let config = Config::parse(&base.config)?;
            let tensors = AdapterTensors::new(adapter, architecture.family, &config, &request.output)?;
            let mut output = OutputFile::begin(&destination, request.force, "merge")?;
            output.fill(|path| tensors.write(path))?;
            output.place()?;
            output.finish();
        }
    }
    Ok(request.output.clone())
}

fn write_model(
    request: &Request,
    base: &Base,
    architecture: &Architecture,
    adapters: &[Adapter],
    quantization: Option<Quantization>,
    destination: &Destination,
    inputs: &[PathBuf],
) -> Result<()> {
    let plan = MergePlan::new(base, adapters, &request.weights, u64::MAX, false)?;
    let resized = plan.resized_by.map(|index| request.adapters[index].as_path());
    let beside = companions(&base.directory, &request.adapters, resized)?;
    beside.expect_inside()?;
    work::warn_of_missing_tokenizer(&plan, resized);
    let modelfile_path = request.output.with_extension("Modelfile");
    let modelfile_destination = Destination::file(&modelfile_path, inputs)?;
    // What is finished last begins first, so that a run after a kill finds what that has left.
    let mut modelfile_output = OutputFile::begin(&modelfile_destination, request.force, "merge")?;
    let mut output = OutputFile::begin(destination, request.force, "merge")?;
    let texts = output.folder()?;
    work::write_texts(base, &plan, &beside, &texts, request)?;
    let json: Value = files::read_json(&texts.join("config.json"), files::CONFIG)?;
    if is_composite(&json) {
        cli::note("the file is of the text model; the weights that read images are left out");
    }
    let json = text_config(&json)?;
    let config = Config::parse(&json)?;
    architecture.check(&config)?;
    let quantization = quantization.unwrap_or_else(|| sixteen_bits(&plan));
    let tensors = tensors::tensors(&plan, architecture.family, &json, &config, quantization)?;
    let infos: Vec<TensorInfo> = tensors.iter().map(|tensor| tensor.info.clone()).collect();
    let mut metadata = Metadata::default();
    general::write_keys(
        architecture.family.name,
        &request.output,
        &texts,
        &infos,
        quantization.file_type(),
        &mut metadata,
    )?;
    architecture.write_keys(&json, &config, &mut metadata)?;
    vocabulary::write(&texts, architecture.vocabulary, config.vocabulary, None, &mut metadata)
        .with_context(|| format!("cannot write {} of {}", TOKENIZER, base.directory.display()))?;
    if !adapters.is_empty() {
        work::describe(request, base, &plan)?;
    }
    output.fill(|path| write_tensors(path, &metadata, &tensors, &infos))?;
    let from = format!("./{}", request.output.file_name().unwrap_or_default().to_string_lossy());
    let modelfile = modelfile(&texts, &from);
    output.place()?;
    if let Some(text) = modelfile {
        modelfile_output.write(&text)?;
    }
    output.finish();
    modelfile_output.finish();
    Ok(())
}

fn write_tensors(
    path: &Path,
    metadata: &Metadata,
    tensors: &[GgufTensor<'_>],
    infos: &[TensorInfo],
) -> Result<()> {
    let size = infos.iter().filter_map(TensorInfo::size).sum::<u64>();
    let progress = Progress::new("merge", size, Unit::Bytes);
    let writer = GgufWriter::create(path, metadata, infos)?;
    write::write_all(tensors, &writer, &progress)?;
    writer.finish()
}

/// The 16-bit type nearest to that of the base's embedding table: bf16 where it is in bf16.
fn sixteen_bits(plan: &MergePlan<'_>) -> Quantization {
    let table = plan.tensors().find(|tensor| canonical_name(&tensor.spec.name) == EMBEDDING);
    match table.map(|tensor| tensor.spec.dtype) {
        Some(Dtype::BF16) => Quantization::Bf16,
        _ => Quantization::F16,
    }
}
