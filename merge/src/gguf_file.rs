//! Makes a GGUF file of a request: of a model with its adapters, with a Modelfile for Ollama beside it, or of an adapter
//! alone.

use std::path::PathBuf;

use common::adapter::Adapter;
use common::cli::{Destination, OutputFile};
use common::model::Config;
use common::{Context, Error, Result};

use crate::base::Base;
use crate::companions::{companions, write_texts};
use crate::gguf::{AdapterTensors, Architecture, ModelTensors, Quantization};
use crate::modelfile::modelfile;
use crate::plan::MergePlan;
use crate::quality::describe;
use crate::request::{Content, Request};

/// Writes the file, and returns its path.
pub(crate) fn export(request: &Request, content: Content) -> Result<PathBuf> {
    let base = Base::open(&request.base)?;
    let architecture =
        Architecture::of(&base.config).with_context(|| base.directory.display().to_string())?;
    request.warn_of_other_bases()?;
    let adapters = request.load_adapters()?;
    let destination = Destination::file(&request.output, &request.inputs())?;
    match content {
        Content::Model(quantization) => {
            write_model(request, &base, architecture, &adapters, quantization, &destination)?;
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

/// Writes the model, and beside it the Modelfile where the model has a chat template.
fn write_model(
    request: &Request,
    base: &Base,
    architecture: &Architecture,
    adapters: &[Adapter],
    quantization: Option<Quantization>,
    destination: &Destination,
) -> Result<()> {
    let plan = MergePlan::new(base, adapters, &request.weights, u64::MAX, false)?;
    let beside = companions(request, base, &plan)?;
    let modelfile_path = request.output.with_extension("Modelfile");
    let modelfile_destination = Destination::file(&modelfile_path, &request.inputs())?;
    // What is finished last begins first, so that a run after a kill finds what that has left.
    let mut modelfile_output = OutputFile::begin(&modelfile_destination, request.force, "merge")?;
    let mut output = OutputFile::begin(destination, request.force, "merge")?;
    let texts = output.folder()?;
    write_texts(request, base, &plan, &beside, &texts)?;
    let tensors = ModelTensors::new(base, &plan, architecture, quantization, &texts, &request.output)?;
    if !adapters.is_empty() {
        describe(request, base, &plan)?;
    }
    output.fill(|path| tensors.write(path))?;
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
