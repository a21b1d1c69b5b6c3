//! Runs multiple-choice questions through models: MMLU, CMMLU and C-Eval with the prompts of the
//! harness of a name. Computes losses on instruction data.

use std::process::ExitCode;

use common::cli::{self, Tool};
use common::error::Kind;
use common::{Error, Result, error, models};
use evaluate::accuracy::rank_by_accuracy;
use evaluate::arguments::Arguments;
use evaluate::compare::compare;
use evaluate::loss::rank_by_loss;
use evaluate::questions::Style;

/// Returns what to do about an error of a kind, in terms of this tool's options.
fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::TooLong => {
            Some("ask with fewer --shots, or keep fewer tokens of an example with --cutoff-len beside --loss")
        }
        _ => models::hint(kind),
    }
}

fn main() -> ExitCode {
    cli::run(Tool { name: "evaluate", hint }, run)
}

fn run(arguments: Arguments) -> Result<()> {
    if let [first, second] = &arguments.compare[..] {
        return cli::answer(compare(first, second)?);
    }
    let (task, style) = (arguments.task, arguments.style);
    if arguments.model.template.is_some() && style != Style::LlamaFactory && arguments.loss.is_none() {
        return Err(Error::usage(format!("--template: --style {} prompts without one", style.name()))
            .hint("add --style llamafactory"));
    }
    if style == Style::Hendrycks && task.hendrycks_header.is_none() {
        return Err(
            Error::usage(format!("--style hendrycks asks MMLU, not {task}")).hint("leave --style out")
        );
    }
    let directories = cli::inputs(&arguments.models)?.models()?;
    if directories.is_empty() {
        return Err(error!("no directory among the inputs").hint("name the directory of a model"));
    }
    if directories.len() > 1 && arguments.details.is_some() {
        return Err(Error::usage("--details: one model expected").hint("name the models one by one"));
    }
    match &arguments.loss {
        Some(file) => rank_by_loss(&directories, file, &arguments),
        None => rank_by_accuracy(&directories, &arguments),
    }
}
