//! Ranks models by their loss on instruction data, as lora-train reports it for what is held out: summed over
//! the answers' tokens and divided by their number.

mod examples;
pub mod file_loss;

use std::path::{Path, PathBuf};

use common::checkpoint::check_unchanged;
use common::cli::{self, Destination, OutputFile, Progress, Unit};
use common::data::passes;
use common::model::{Loss, Model};
use common::models::Models;
use common::text::{Example, Tokenizer};
use common::{Context, Result, bail};
use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::identity::identity;
use crate::ranking;

pub use examples::Examples;
use file_loss::FileLoss;

/// Prints the losses of all models, best first, and writes them where -o says.
pub fn rank_by_loss(directories: &[PathBuf], file: &Path, arguments: &Arguments) -> Result<()> {
    directories.iter().try_for_each(|directory| arguments.model.expect_supported(directory))?;
    let (mut output, mut details) = loss_files(directories, file, arguments)?;
    let mut models = Models::new(&arguments.model)?.for_scoring();
    // The details have a line for each example, so each example has a pass of its own.
    let tokens = if arguments.details.is_some() { 1 } else { arguments.pass_tokens(models.device()) };
    let (mut found, mut entries) = (Vec::new(), Vec::new());
    for directory in directories {
        let files = arguments.model.text_files(directory)?;
        let tokenizer = Tokenizer::of(&files)?;
        let template = arguments.model.chat_template(&files, &tokenizer)?;
        let examples = Examples::read(file, arguments.limit(), arguments.cutoff_len, &tokenizer, &template)?;
        // The identity is that of the files as they are read, before they may be changed.
        let identity = match &output {
            Some(_) => identity(directory, arguments.model.base_of(directory)?.as_deref())?,
            None => Value::Null,
        };
        let passes = losses(models.load(directory)?, &examples.examples, tokens)
            .with_context(|| directory.display().to_string())?;
        if let Some(details) = &mut details {
            details.fill(|path| Ok(fs_err::write(path, examples.details(&passes))?))?;
        }
        let mut loss = Loss { sum: 0.0, tokens: 0 };
        passes.into_iter().for_each(|pass| loss += pass);
        let loss = FileLoss { loss, examples: examples.examples.len() };
        entries.push(json!({
            "model": identity,
            "loss": loss.loss.mean(),
            "perplexity": loss.perplexity(),
            "tokens": loss.loss.tokens,
            "examples": loss.examples,
        }));
        found.push((directory.as_path(), loss));
    }
    if let Some(output) = &mut output {
        let report = json!({"data": file.display().to_string(), "cutoff_len": arguments.cutoff_len, "models": entries});
        output.fill(|path| Ok(fs_err::write(path, serde_json::to_string_pretty(&report)? + "\n")?))?;
    }
    output.iter_mut().chain(&mut details).try_for_each(OutputFile::place)?;
    output.into_iter().chain(details).for_each(OutputFile::finish);
    cli::answer(ranking::by_loss(found))
}

/// Begins the files that losses are written to, before anything is computed: the report and the details.
fn loss_files(
    directories: &[PathBuf],
    file: &Path,
    arguments: &Arguments,
) -> Result<(Option<OutputFile>, Option<OutputFile>)> {
    let mut inputs = vec![file.to_path_buf()];
    for directory in directories {
        inputs.extend(arguments.inputs_of(directory)?);
    }
    let begin = |path: &PathBuf, inputs: &[PathBuf]| {
        OutputFile::begin(&Destination::file(path, inputs)?, arguments.common.force, "evaluate")
    };
    let output = arguments.common.output.as_ref();
    // What is placed last begins first, so that a run after a kill finds it.
    let details = arguments.details.as_ref().map(|details| begin(details, &inputs)).transpose()?;
    inputs.extend(arguments.details.clone());
    Ok((output.map(|output| begin(output, &inputs)).transpose()?, details))
}

/// Computes the losses of `model` on `examples`, one for each pass of at most `pass_tokens` tokens; an example
/// that is longer has a pass of its own.
fn losses(model: &Model, examples: &[Example], pass_tokens: usize) -> Result<Vec<Loss>> {
    let progress = Progress::new("computing the loss", examples.len() as u64, Unit::Items("examples"));
    let mut losses = Vec::new();
    passes::losses(model, examples, pass_tokens, |count, loss| {
        check_unchanged()?;
        if !loss.sum.is_finite() {
            bail!(
                Malformed,
                "the model's loss is {}: its weights hold numbers that are not finite, or overflow",
                loss.sum
            );
        }
        losses.push(loss);
        progress.add(count as u64);
        cli::check_interrupted()
    })?;
    Ok(losses)
}
