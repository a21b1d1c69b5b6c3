//! `training_args.yaml`: the settings that a run had, as a file that gives the same run again.

use std::path::Path;

use clap::{ArgMatches, Command};
use common::{Error, Result};
use serde_json::{Map, Value};

use super::NOT_KEYS;

/// Keys and values of a run, those by default too.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(Map<String, Value>);

impl Settings {
    /// What a parsed command line comes to.
    pub(super) fn new(command: &Command, matches: &ArgMatches) -> Self {
        let options = command.get_arguments().filter_map(|argument| {
            let name = argument.get_long()?;
            let says_how = NOT_KEYS.contains(&name) || name == "resume-from-checkpoint";
            let values = matches.try_get_raw(argument.get_id().as_str()).ok()??;
            let values: Vec<String> = values.map(|value| value.to_string_lossy().into_owned()).collect();
            let value = match argument.get_value_delimiter() {
                None if values.len() > 1 => values.into(),
                _ => value_of(values.join(",")),
            };
            (!says_how).then(|| (name.replace('-', "_"), value))
        });
        Self(options.collect())
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

/// A value as YAML has it: a number or a truth where it is one, a text otherwise.
fn value_of(text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => Value::String(text),
    }
}
