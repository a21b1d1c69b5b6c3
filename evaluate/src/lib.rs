//! Scores models on multiple-choice questions, and computes their losses.
//!
//! | module | what it is |
//! |---|---|
//! | [`arguments`] | the command line |
//! | [`accuracy`] | models ranked by the questions they answer right |
//! | [`loss`] | models ranked by their loss on instruction data |
//! | [`tasks`] | MMLU, CMMLU and C-Eval: one file and one line in a table each |
//! | [`questions`] | the questions: files, rows, prompts |
//! | [`texts`] | the prompts of a model as tokens |
//! | [`passes`] | how the prompts of a subject go through a model; what they begin with alike is computed once |
//! | [`score`] | log-probabilities of the letters, pass by pass |
//! | [`scoring`] | models scored on all subjects, together with the other ranks |
//! | [`scored`] | the scores of a subject's questions |
//! | [`rounds`] | which models are scored at the same time |
//! | [`parts`] | which passes each rank scores |
//! | [`collector`] | the scores of all subjects, as ranks find them |
//! | [`report`] | accuracies as a table, as JSON and as a chart |
//! | [`ranking`] | several models in one table, best first |
//! | [`compare`] | two reports question by question |
//! | [`outputs`] | the report, its chart and the details, written whole |
//! | [`journal`] | what is scored so far, for a run that is stopped |
//! | [`identity`] | which model a figure belongs to |

pub mod accuracy;
pub mod arguments;
pub mod collector;
pub mod compare;
pub mod identity;
pub mod journal;
pub mod loss;
pub mod outputs;
pub mod parts;
pub mod passes;
pub mod questions;
pub mod ranking;
pub mod report;
pub mod rounds;
pub mod score;
pub mod scored;
pub mod scoring;
pub mod tasks;
pub mod texts;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Command, CommandFactory};
use common::cli::{self, Tool};
use common::error::Kind;
use common::world::{self, World};
use common::{Error, Result, error, models};

use crate::accuracy::rank_by_accuracy;
use crate::arguments::Arguments;
use crate::loss::rank_by_loss;
use crate::questions::Style;

/// Runs the tool on a command line, the first word of which is the program.
pub fn main(line: Vec<OsString>) -> ExitCode {
    cli::run(Tool { name: "evaluate", hint }, line, run)
}

/// Returns the tool's command line, from which help, man pages and completions are made.
pub fn command() -> Command {
    Arguments::command()
}

/// Returns what to do about an error of a kind, in terms of this tool's options.
fn hint(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::TooLong => {
            Some("ask with fewer --shots, or keep fewer tokens of an example with --cutoff-len beside --loss")
        }
        _ => models::hint(kind),
    }
}

fn run(arguments: Arguments) -> Result<()> {
    if let [first, second] = &arguments.compare[..] {
        return cli::answer(compare::compare(first, second)?);
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
    world::run(arguments.model.device, |world| rank_models(&arguments, world))
}

/// Prints the accuracies or the losses of models, which all ranks compute together.
fn rank_models(arguments: &Arguments, world: &World) -> Result<()> {
    let directories = world.inputs(&arguments.models)?.models()?;
    if directories.is_empty() {
        return Err(error!("no directory among the inputs").hint("name the directory of a model"));
    }
    if directories.len() > 1 && arguments.details.is_some() {
        return Err(Error::usage("--details: one model expected").hint("name the models one by one"));
    }
    match &arguments.loss {
        Some(file) => rank_by_loss(&directories, file, arguments, world),
        None => rank_by_accuracy(&directories, arguments, world),
    }
}
