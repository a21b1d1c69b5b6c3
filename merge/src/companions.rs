//! The files beside the weights of the result: those of the base, and those that an adapter was trained
//! with where they differ.

use std::collections::BTreeMap;
use std::path::Path;

use common::checkpoint::{Companion, Companions};
use common::text::files::{CHAT_TEMPLATE, TOKENIZER};
use common::text::{Tokenizer, ending};
use common::{Result, cli};
use serde_json::{Value, json};

use crate::base::Base;
use crate::plan::MergePlan;
use crate::request::Request;

/// The files that are copied beside the weights, and the names of those of the base that are not. Warns where the
/// tokenizer among them does not have the tokens that an adapter has added.
///
/// An adapter's chat template replaces all templates of the base, because the model must be prompted as it
/// was trained. From the adapter with a resized vocabulary all text files are copied, because
/// its tokenizer has the added tokens.
pub(crate) fn companions(request: &Request, base: &Base, plan: &MergePlan<'_>) -> Result<Companions> {
    let resized = plan.resized_by.map(|index| request.adapters[index].as_path());
    let Companions { files, others } = Companions::of(&base.directory)?;
    let mut files: BTreeMap<String, Companion> =
        files.into_iter().map(|file| (file.name.clone(), file)).collect();
    for adapter in &request.adapters {
        let own = Companions::of_text(adapter)?.files;
        if let Some(template) = own.iter().find(|file| file.name == CHAT_TEMPLATE)
            && !is_same(files.get(CHAT_TEMPLATE), template)?
        {
            files.retain(|name, _| !is_template(name));
            let templates = own.iter().filter(|file| is_template(&file.name));
            files.extend(templates.map(|file| (file.name.clone(), file.clone())));
        }
        if resized == Some(adapter) {
            files.extend(own.into_iter().map(|file| (file.name.clone(), file)));
        }
    }
    let beside = Companions { files: files.into_values().collect(), others };
    beside.expect_inside()?;
    warn_of_missing_tokenizer(plan, resized);
    Ok(beside)
}

fn is_template(name: &str) -> bool {
    name.ends_with(".jinja")
}

fn is_same(one: Option<&Companion>, other: &Companion) -> Result<bool> {
    Ok(match one {
        Some(one) => one.read()? == other.read()?,
        None => false,
    })
}

/// Warns where the adapter with a resized vocabulary, in the directory `resized`, has no tokenizer for it.
fn warn_of_missing_tokenizer(plan: &MergePlan<'_>, resized: Option<&Path>) {
    if let Some(adapter) = resized.filter(|adapter| !adapter.join(TOKENIZER).exists()) {
        cli::warn(format_args!(
            "{} has a vocabulary of {} and no {TOKENIZER}: the result's tokenizer is that of the base",
            adapter.display(),
            plan.vocabulary.unwrap_or_default()
        ));
    }
}

/// Writes config.json, the tokenizer, chat templates and settings of generation of the result.
pub(crate) fn write_texts(
    request: &Request,
    base: &Base,
    plan: &MergePlan<'_>,
    beside: &Companions,
    directory: &Path,
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
pub(crate) fn end_of_text(request: &Request, base: &Base) -> Result<Option<String>> {
    let of_base = ending::named_in_tokenizer(&base.directory)?;
    for adapter in request.adapters.iter().rev() {
        let end = ending::named_in_tokenizer(adapter)?;
        if end.is_some() && end != of_base {
            return Ok(end);
        }
    }
    Ok(None)
}
