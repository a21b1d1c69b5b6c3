//! `training_args.yaml`: the options that a run had, as a file that gives the same run again.

use std::path::Path;

use clap::{ArgMatches, Command};
use common::{Error, Result};
use serde_json::{Map, Value};

/// Options that say how the tool is called, not what the run is.
pub const OF_THE_CALL: [&str; 8] =
    ["output", "force", "quiet", "verbose", "resume", "dry-run", "help", "version"];

/// Every option of a run under its name with underscores, with its value, by default or not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options(Map<String, Value>);

impl Options {
    /// The options of a parsed command line.
    pub fn new(command: &Command, matches: &ArgMatches) -> Self {
        let options = command.get_arguments().filter_map(|argument| {
            let name = argument.get_long()?;
            let is_of_the_call = OF_THE_CALL.contains(&name) || name == "resume-from-checkpoint";
            let values = matches.try_get_raw(argument.get_id().as_str()).ok()??;
            let values: Vec<String> = values.map(|value| value.to_string_lossy().into_owned()).collect();
            let value = match argument.get_value_delimiter() {
                None if values.len() > 1 => values.into(),
                _ => value_of(values.join(",")),
            };
            (!is_of_the_call).then(|| (name.replace('-', "_"), value))
        });
        Self(options.collect())
    }

    /// The options that must be the same on all ranks of a run.
    pub fn shared(&self) -> Map<String, Value> {
        let mut shared = self.0.clone();
        shared.retain(|name, _| name != "device");
        shared
    }

    /// The text of the file, with the model and the output that the run had.
    pub fn text(&self, model: &Path, output: &Path) -> Result<String> {
        let mut keys = Map::new();
        keys.insert("model_name_or_path".into(), model.display().to_string().into());
        keys.insert("output_dir".into(), output.display().to_string().into());
        keys.extend(self.0.clone());
        serde_saphyr::to_string(&keys).map_err(Error::malformed)
    }
}

/// A value as YAML has it: a number or a boolean where the text is one, a string otherwise.
fn value_of(text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text),
    }
}
