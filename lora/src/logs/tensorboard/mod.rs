//! TensorBoard's event files: scalars over steps.
//!
//! A file is a sequence of `tensorflow.Event` messages, each framed as a TFRecord. A run that is resumed or
//! begins again writes a new file, which tells TensorBoard to forget what earlier files say about the steps
//! that are taken again.
//!
//! | file | what it is |
//! |---|---|
//! | `event` | the messages, in protocol buffers' wire format |
//! | `record` | the frame around each message |

mod event;
mod record;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use common::cli::{self, GrowingDirectory};
use common::{Context, Result};
use serde_json::Value;

/// An event file, which grows with every entry of the logs.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in `folder`, which is created where it is missing, for a run in `output` that has taken
    /// `first_step` steps.
    pub fn begin(output: &mut GrowingDirectory, folder: &Path, first_step: u64) -> Result<Self> {
        let name = format!("events.out.tfevents.{}.lora-train.{}", now().as_secs(), std::process::id());
        let path = match output.within(folder) {
            Some(within) => output.announce(&format!("{within}/{name}"))?,
            None => folder.join(name),
        };
        Self::at(path, first_step)
    }

    fn at(path: PathBuf, first_step: u64) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs_err::create_dir_all(folder)?;
        let is_events = |name: std::ffi::OsString| name.to_string_lossy().contains("tfevents");
        let has_others =
            fs_err::read_dir(folder)?.any(|entry| entry.is_ok_and(|entry| is_events(entry.file_name())));
        let file = cli::create_new(&path)?;
        let mut events = Self { path, file };
        events.write(&event::version(seconds()))?;
        if first_step > 0 || has_others {
            events.write(&event::restart(seconds(), first_step + 1))?;
        }
        Ok(events)
    }

    /// Writes the numbers of an entry of transformers' `log_history` under the tags that transformers gives
    /// them.
    pub fn scalars(&mut self, entry: &Value) -> Result<()> {
        let Some(fields) = entry.as_object() else { return Ok(()) };
        let step = entry["step"].as_u64().unwrap_or_default();
        let numbers = fields.iter().filter(|(name, _)| *name != "step");
        let tagged: Vec<(String, f32)> = numbers
            .filter_map(|(name, value)| {
                let tag = match name.strip_prefix("eval_") {
                    Some(name) => format!("eval/{name}"),
                    None => format!("train/{name}"),
                };
                Some((tag, value.as_f64()? as f32))
            })
            .collect();
        self.write(&event::summary(seconds(), step, &tagged))
    }

    fn write(&mut self, message: &[u8]) -> Result<()> {
        let record = record::framed(message);
        self.file.write_all(&record).with_context(|| self.path.display().to_string())
    }
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn seconds() -> f64 {
    now().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_file_voids_the_steps_it_takes_again() {
        let folder = tempfile::tempdir().unwrap();
        let size = |name: &str, first_step: u64| {
            let events = EventFile::at(folder.path().join(format!("events.out.tfevents.{name}")), first_step);
            fs_err::metadata(&events.unwrap().path).unwrap().len()
        };
        let (alone, again, continued) = (size("1", 0), size("2", 0), size("3", 7));
        let record = |message: &[u8]| record::framed(message).len() as u64;
        assert_eq!(alone, record(&event::version(0.0)));
        assert_eq!(again, alone + record(&event::restart(0.0, 1)));
        assert_eq!(continued, again);
    }
}
