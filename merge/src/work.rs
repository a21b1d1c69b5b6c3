//! Merges adapters into a base, tensor by tensor, and writes the directory of the result.

use std::path::{Path, PathBuf};

use common::adapter::{Adapter, CONFIG};
use common::checkpoint::{ADAPTER, Companions, FileWriter, INDEX, Index};
use common::cli::{self, Begun, Destination, OutputDirectory, Progress, Unit};
use common::model::is_composite;
use common::text::files::TOKENIZER;
use common::text::{Tokenizer, ending};
use common::{Context, Error, Result};
use serde_json::{Value, json};

use crate::base::Base;
use crate::companions::companions;
use crate::modelfile::modelfile;
use crate::plan::{MergePlan, Shard};
use crate::quality::{self, counterpart, is_quantized};
use crate::request::{Request, warn_of_other_bases};
use crate::verify;

/// Merges the adapters, and returns the directory of the result.
pub(crate) fn merge(request: &Request) -> Result<PathBuf> {
    let base = Base::open(&request.base)?;
    warn_of_other_bases(request)?;
    if request.requantize && !is_quantized(&base) {
        return Err(Error::usage(format!("--requantize: {} is not quantized", base.directory.display()))
            .hint("merge without it; quantize makes an NF4 directory of the result"));
    }
    let adapters: Vec<Adapter> =
        request.adapters.iter().map(|path| Adapter::load(path)).collect::<Result<_>>()?;
    let plan = MergePlan::new(&base, &adapters, &request.weights, request.shard_size, request.requantize)?;
    let resized = plan.resized_by.map(|index| request.adapters[index].as_path());
    let beside = companions(&base.directory, &request.adapters, resized)?;
    beside.expect_inside()?;
    warn_of_missing_tokenizer(&plan, resized);
    let inputs: Vec<PathBuf> =
        request.adapters.iter().chain(&request.file).cloned().chain([base.directory.clone()]).collect();
    let destination = Destination::directory(&request.output, &inputs)?;
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
    let quality = describe(request, &base, &plan)?;
    output.record("base", quality);
    write_weights(&plan, beside.size()?, &mut output)?;
    write_rest(&base, &plan, &beside, &output.path(), request)?;
    if request.verify {
        verify(&plan, &output.path())?;
    }
    output.commit()
}

/// Warns where the adapter with a resized vocabulary, in the directory `resized`, has no tokenizer for it.
pub(crate) fn warn_of_missing_tokenizer(plan: &MergePlan<'_>, resized: Option<&Path>) {
    if let Some(adapter) = resized.filter(|adapter| !adapter.join(TOKENIZER).exists()) {
        cli::warn(format_args!(
            "{} has a vocabulary of {} and no {TOKENIZER}: the result's tokenizer is that of the base",
            adapter.display(),
            plan.vocabulary.unwrap_or_default()
        ));
    }
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

/// Prints which base is used and how it differs from its counterpart, and returns that for the record.
pub(crate) fn describe(request: &Request, base: &Base, plan: &MergePlan<'_>) -> Result<Value> {
    let kind = if is_quantized(base) { "dequantized" } else { "original" };
    cli::note(format_args!("base: {} ({kind} weights)", base.directory.display()));
    if is_composite(&base.config) {
        cli::note("the adapter changes the text model; the weights that read images stay as they are");
    }
    let mut quality = json!({ "directory": base.directory, "weights": kind });
    let other = counterpart(base, &request.adapters[0]);
    let sums = match &other {
        Some(other) => Some(quality::compare_bases(plan, other)?),
        None if is_quantized(base) => None,
        None => Some(quality::compare_quantized(plan)?),
    };
    if let Some(ratio) = sums.and_then(|sums| sums.ratio()) {
        let against = match &other {
            Some(other) => format!("against {}", other.directory.display()),
            None => "should the adapter have been trained over NF4 weights".into(),
        };
        cli::note(format_args!("‖W − dequantized‖ / ‖ΔW‖ = {ratio:.2}, {against}"));
        if other.is_some() && !is_quantized(base) {
            cli::note(
                "the adapter was trained on the quantized weights; without --base it is folded into those",
            );
        }
        quality["quantization_error_over_update"] = json!(ratio);
    }
    if request.requantize
        && let Some(ratio) = quality::compare_requantized(plan)?.ratio()
    {
        cli::warn(format_args!(
            "--requantize rounds the merged weights to 4 bits again: \
             the error is {ratio:.2} times as large as what the adapter adds"
        ));
        quality["requantization_error_over_update"] = json!(ratio);
    }
    Ok(quality)
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
    base: &Base,
    plan: &MergePlan<'_>,
    beside: &Companions,
    directory: &Path,
    request: &Request,
) -> Result<()> {
    if plan.files.len() > 1 {
        let mut index = Index::default();
        for file in &plan.files {
            index.weight_map.extend(file.specs.iter().map(|spec| (spec.name.clone(), file.name.clone())));
        }
        index.metadata.total_size = Some(plan.size()?);
        cli::write_file(&directory.join(INDEX), &index.to_json()?)?;
    }
    write_texts(base, plan, beside, directory, request)?;
    beside.note_others();
    if let Some(text) = modelfile(directory, ".") {
        cli::write_file(&directory.join("Modelfile"), &text)?;
    }
    Ok(())
}

/// Writes config.json, the tokenizer, chat templates and settings of generation of the result.
pub(crate) fn write_texts(
    base: &Base,
    plan: &MergePlan<'_>,
    beside: &Companions,
    directory: &Path,
    request: &Request,
) -> Result<()> {
    let mut config = base.config.clone();
    if let Some(config) = config.as_object_mut() {
        if !request.requantize {
            config.shift_remove("quantization_config");
        }
        if plan.untied {
            config.insert("tie_word_embeddings".into(), json!(false));
        }
        if let Some(rows) = plan.vocabulary {
            let text = match config.get_mut("text_config") {
                Some(Value::Object(text)) => text,
                _ => config,
            };
            text.insert("vocab_size".into(), json!(rows));
        }
    }
    beside.files.iter().try_for_each(|companion| companion.copy(directory))?;
    if let (Some(end), Some(config)) = (end_of_text(request, base)?, config.as_object_mut()) {
        ending::name_in_tokenizer(directory, &end)?;
        if let Some(id) = Tokenizer::load(directory)?.token_id(&end) {
            ending::name_in_generation(&base.directory, directory, id)?;
            ending::name_in_config(config, id);
        }
    }
    cli::write_file(&directory.join("config.json"), &(serde_json::to_string_pretty(&config)? + "\n"))
}

/// The end-of-text token of the adapters, where it is another than that of the base.
fn end_of_text(request: &Request, base: &Base) -> Result<Option<String>> {
    let of_base = ending::named_in_tokenizer(&base.directory)?;
    for adapter in request.adapters.iter().rev() {
        let end = ending::named_in_tokenizer(adapter)?;
        if end.is_some() && end != of_base {
            return Ok(end);
        }
    }
    Ok(None)
}

fn verify(plan: &MergePlan<'_>, directory: &Path) -> Result<()> {
    let rows = verify::rows(plan, directory).context("--verify")?;
    cli::note(format_args!("{rows} rows computed again and found equal"));
    Ok(())
}
