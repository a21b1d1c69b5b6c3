//! LLaMA-Factory's `train.yaml`.
//!
//! A file is turned into options and read by the parser of the command line, so that a key has the name, type
//! and checks of its option. An option on the command line has precedence over the key.
//!
//! | file | what it is |
//! |---|---|
//! | `keys` | the keys of LLaMA-Factory that are not options here: without effect, or refused |

mod keys;

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};
use common::{Context, Error, Result, cli, error, files};
use serde_json::{Map, Value};

use crate::arguments::Arguments;
use crate::config::options::{OF_THE_CALL, Options};

/// Whether an argument is a file of settings by its name. As in LLaMA-Factory it may also be JSON, which is
/// YAML too; a path that comes through a pipe may not, because a model's own files are JSON.
fn is_settings(path: &Path) -> bool {
    cli::is_yaml(path) || path.extension().is_some_and(|extension| extension == "json")
}

/// The arguments of `line`, the program's whole command line, completed by the file that it names, and all
/// options with their values.
pub fn complete(line: Vec<OsString>) -> Result<(Arguments, Options)> {
    let command = Arguments::command();
    let matches = parse(&command, line.clone())?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(Error::usage)?;
    let (files, models): (Vec<_>, Vec<_>) = arguments.model.iter().partition(|path| is_settings(path));
    if let Some(setting) = models.iter().find_map(|path| misplaced(&command, path)) {
        return Err(setting);
    }
    let [file] = files[..] else {
        return match files.get(1) {
            None => Ok((arguments, Options::new(&command, &matches))),
            Some(second) => Err(Error::usage(format!(
                "one file of settings expected, another found: {}",
                second.display()
            ))),
        };
    };
    let keys = read(file)?;
    let mut whole: Vec<OsString> = line.iter().take(1).cloned().collect();
    whole.extend(options(&command, &matches, &keys).with_context(|| file.display().to_string())?);
    if models.is_empty()
        && let Some(model) = keys.get("model_name_or_path").and_then(Value::as_str)
    {
        whole.push(model.into());
    }
    let is_file = |argument: &OsString| Path::new(argument) == file.as_path();
    whole.extend(line.iter().skip(1).filter(|argument| !is_file(argument)).cloned());
    let matches = parse(&command, whole).with_context(|| file.display().to_string())?;
    let arguments = Arguments::from_arg_matches(&matches).map_err(Error::usage)?;
    Ok((arguments, Options::new(&command, &matches)))
}

/// The error of a `key=value`, which LLaMA-Factory takes after its file; here that is an option.
fn misplaced(command: &Command, path: &Path) -> Option<Error> {
    let (key, value) = path.to_str()?.split_once('=')?;
    let option = key.replace('_', "-");
    let is_option = command.get_arguments().any(|argument| argument.get_long() == Some(&option));
    let error = Error::usage(format!("{key}={value} is neither a model nor an option"));
    (is_option && !path.exists()).then(|| error.hint(format_args!("--{option} {value}")))
}

fn parse(command: &Command, line: Vec<OsString>) -> Result<ArgMatches> {
    command.clone().try_get_matches_from(line).map_err(|problem| {
        // The first paragraph of clap's report says what is wrong; the others are for a terminal.
        let report = problem.to_string();
        let first = report.lines().take_while(|line| !line.trim().is_empty());
        let message = first.map(str::trim).collect::<Vec<_>>().join(" ");
        Error::usage(message.trim_start_matches("error: ")).hint("lora-train --help lists the options")
    })
}

fn read(file: &Path) -> Result<Map<String, Value>> {
    let text = files::read_text(file, files::CONFIG)?;
    serde_saphyr::from_str(&text)
        .map_err(|problem| error!(Usage, "{problem}"))
        .with_context(|| format!("{} is not a YAML file of keys and values", file.display()))
        .hint("a file of examples is named with --data")
}

/// The keys of the file as options, without those that the command line gives itself.
fn options(command: &Command, given: &ArgMatches, keys: &Map<String, Value>) -> Result<Vec<OsString>> {
    let mut options = Vec::new();
    for (key, value) in keys {
        let texts = texts_of(key, value);
        if key == "model_name_or_path" || texts.is_empty() {
            continue;
        }
        let text = texts.join(",");
        let key = keys::ALIASES.iter().find(|(alias, _)| alias == key).map_or(key.as_str(), |(_, key)| key);
        let name = key.replace('_', "-");
        let is_ours = key == "output_dir" || !OF_THE_CALL.contains(&name.as_str());
        let name = if key == "output_dir" { "output".to_owned() } else { name };
        let ours = command.get_arguments().find(|argument| argument.get_long() == Some(&name));
        let Some(option) = ours.filter(|_| is_ours && !key.contains('-')) else {
            match keys::check(key, &text)? {
                Some(why) => cli::note(format_args!("{key}: no effect here: {why}")),
                None if keys::is_known(key) => {}
                None => return Err(unknown(command, key)),
            }
            continue;
        };
        // --resume and --force say where to begin, too.
        let overruled = key == "resume_from_checkpoint"
            && (given.get_flag("resume") || given.get_flag("force") || text == "false");
        let on_line = given.value_source(option.get_id().as_str()) == Some(ValueSource::CommandLine);
        if !on_line && !overruled {
            let values = if option.get_value_delimiter().is_some() { vec![text] } else { texts };
            options.extend(values.iter().map(|value| format!("--{name}={value}").into()));
        }
    }
    Ok(options)
}

fn unknown(command: &Command, key: &str) -> Error {
    let ours = command.get_arguments().filter_map(|argument| argument.get_long());
    let ours = ours.filter(|name| !OF_THE_CALL.contains(name)).map(|name| name.replace('-', "_"));
    let own = ["model_name_or_path", "output_dir"].into_iter().chain(keys::known());
    let known: Vec<String> = ours.chain(own.map(String::from)).collect();
    Error::usage(format!("unknown key {key:?}")).hint(match keys::nearest(key, &known) {
        Some(meant) => format!("did you mean {meant}?"),
        None => "remove it; lora-train --help lists what there is, with _ for -".into(),
    })
}

/// The values of a key as the text of an option; none where the key is null.
fn texts_of(key: &str, value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match value {
        Value::Null => Vec::new(),
        // YAML 1.1 reads `no` as false.
        Value::Bool(false) if key.ends_with("_strategy") => vec!["no".into()],
        Value::Array(values) => values.iter().map(text).collect(),
        other => vec![text(other)],
    }
}

#[cfg(test)]
mod tests;
