//! Merges adapters into a base, tensor by tensor, and writes the result as a model's directory.

use std::path::{Path, PathBuf};

use common::adapter::CONFIG;
use common::checkpoint::{ADAPTER, Companions, FileWriter, INDEX, Index};
use common::cli::{self, Begun, Destination, OutputDirectory, Progress, Unit};
use common::model::is_composite;
use common::{Context, Error, Result};
use serde_json::{Value, json};

use crate::base::Base;
use crate::companions::{companions, end_of_text, write_texts};
use crate::modelfile::modelfile;
use crate::plan::{MergePlan, Shard};
use crate::quality::{describe, is_quantized};
use crate::request::Request;
use crate::verify;

/// Merges the adapters, and returns the directory of the result.
pub(crate) fn merge(request: &Request) -> Result<PathBuf> {
    let base = Base::open(&request.base)?;
    request.warn_of_other_bases()?;
    if request.requantize && !is_quantized(&base) {
        return Err(Error::usage(format!("--requantize: {} is not quantized", base.directory.display()))
            .hint("merge without it; quantize makes an NF4 directory of the result"));
    }
    let adapters = request.load_adapters()?;
    let plan = MergePlan::new(&base, &adapters, &request.weights, request.shard_size, request.requantize)?;
    let beside = companions(request, &base, &plan)?;
    let destination = Destination::directory(&request.output, &request.inputs())?;
    let mut output = match OutputDirectory::begin(
        destination,
        request.force,
        "merge",
        recipe(request, &base, &beside)?,
    )? {
        Begun::New(output) => output,
        Begun::Done(path) => {
            cli::note(format_args!("{} is already made; --force makes it again", path.display()));
            if request.verify {
                verify(&plan, &path)?;
            }
            return Ok(path);
        }
    };
    if is_composite(&base.config) {
        cli::note("the adapter changes the text model; the weights that read images stay as they are");
    }
    let quality = describe(request, &base, &plan)?;
    output.record("base", quality);
    write_weights(&plan, beside.size()?, &mut output)?;
    write_rest(request, &base, &plan, &beside, &output.path())?;
    if request.verify {
        verify(&plan, &output.path())?;
    }
    output.commit()
}

/// The recipe of the result: everything that its bytes depend on.
fn recipe(request: &Request, base: &Base, beside: &Companions) -> Result<Value> {
    let mut files = serde_json::Map::new();
    let mut add = |path: &Path| -> Result<()> {
        files.insert(fs_err::canonicalize(path)?.display().to_string(), cli::file_version(path)?);
        Ok(())
    };
    add(&base.directory.join("config.json"))?;
    base.files().try_for_each(&mut add)?;
    beside.files.iter().try_for_each(|companion| add(&companion.path))?;
    for adapter in &request.adapters {
        add(&adapter.join(CONFIG))?;
        add(&adapter.join(ADAPTER))?;
    }
    if let Some(end) = end_of_text(request, base)? {
        files.insert("eos_token".into(), json!(end));
    }
    Ok(json!({
        "base": fs_err::canonicalize(&base.directory)?,
        "files": files,
        "weights": request.weights,
        "shard_size": request.shard_size,
        "requantize": request.requantize,
    }))
}

/// Writes the weight files; `beside` are the bytes of all other files.
fn write_weights(plan: &MergePlan<'_>, beside: u64, output: &mut OutputDirectory) -> Result<()> {
    let size = |file: &Shard<'_>| file.specs.iter().map(|spec| Ok(spec.size()? as u64)).sum::<Result<u64>>();
    let progress = Progress::new("merge", plan.size()?, Unit::Bytes);
    let mut needed = beside;
    for file in plan.files.iter().filter(|file| !output.has_part(&file.name, &Value::Null)) {
        needed += size(file)?;
    }
    output.check_space(needed)?;
    for file in &plan.files {
        if output.has_part(&file.name, &Value::Null) {
            cli::note(format_args!("{} is already merged", file.name));
            progress.add(size(file)?);
            continue;
        }
        progress.message(file.name.clone());
        let writer = FileWriter::create(&output.path().join(&file.name), file.specs.clone())?;
        for tensor in &file.tensors {
            cli::check_interrupted().hint("run the same command again; what is done is kept")?;
            tensor.write(&writer, &progress)?;
        }
        writer.finish()?;
        output.finish_part(&file.name, Value::Null)?;
    }
    Ok(())
}

/// Writes all files of the result except the weight files.
fn write_rest(
    request: &Request,
    base: &Base,
    plan: &MergePlan<'_>,
    beside: &Companions,
    directory: &Path,
) -> Result<()> {
    if plan.files.len() > 1 {
        let mut index = Index::default();
        for file in &plan.files {
            index.weight_map.extend(file.specs.iter().map(|spec| (spec.name.clone(), file.name.clone())));
        }
        index.metadata.total_size = Some(plan.size()?);
        cli::write_file(&directory.join(INDEX), &index.to_json()?)?;
    }
    write_texts(request, base, plan, beside, directory)?;
    beside.note_others();
    if let Some(text) = modelfile(directory, ".") {
        cli::write_file(&directory.join("Modelfile"), &text)?;
    }
    Ok(())
}

fn verify(plan: &MergePlan<'_>, directory: &Path) -> Result<()> {
    let rows = verify::rows(plan, directory).context("--verify")?;
    cli::note(format_args!("{rows} rows computed again and found equal"));
    Ok(())
}
