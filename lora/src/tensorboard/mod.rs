//! TensorBoard's event files: scalars over steps.
//!
//! A file is a sequence of `tensorflow.Event` messages, each framed as a TFRecord. A run that
//! continues begins a file of its own, whose first message tells TensorBoard to forget what earlier
//! files say of the steps that are taken again.
//!
//! | file | what it is |
//! |---|---|
//! | `event` | the messages, in protocol buffers' wire format |
//! | `record` | the frame around each |

mod event;
mod record;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Context, Result};
use serde_json::Value;

/// An event file that grows.
#[derive(Debug)]
pub struct EventFile {
    path: PathBuf,
    file: File,
}

impl EventFile {
    /// Begins a file in `directory`, which is created, for a run that has taken `first_step` steps.
    pub fn begin(directory: &Path, first_step: u64) -> Result<Self> {
        fs_err::create_dir_all(directory)?;
        let name = format!("events.out.tfevents.{}.lora-train.{}", now().as_secs(), std::process::id());
        let path = directory.join(name);
        let file = fs_err::File::create(&path)?.into_parts().0;
        let mut events = Self { path, file };
        events.write(&event::version(seconds()))?;
        if first_step > 0 {
            events.write(&event::restart(seconds(), first_step + 1))?;
        }
        Ok(events)
    }

    /// Writes the numbers of an entry of transformers' `log_history`, under transformers' tags.
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
