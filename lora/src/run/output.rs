//! The output directory of a run, which grows while it trains: checkpoints and logs, and at the
//! end the adapter and the mark that it is complete.

use std::path::{Path, PathBuf};

use common::adapter::CONFIG;
use common::checkpoint::{ADAPTER, Companions};
use common::cli::{self, Destination, GrowingDirectory, note, recipe_of};
use common::{Error, Result, error};
use serde_json::Value;

use crate::config::recipe::TOOL;
use crate::config::{Begin, Config};
use crate::run::{checkpoint, resume};

/// The destination of a run. An output that is, holds or lies in an input is refused before any work is done,
/// and so is a directory with files that are not of a run of this tool.
pub fn destination(config: &Config) -> Result<Destination> {
    let mut inputs = vec![config.model.path.clone()];
    inputs.extend(Some(config.data.dataset_dir.join("dataset_info.json")).filter(|file| file.exists()));
    inputs.extend(
        config.data.data.iter().chain(&config.data.eval_data).chain(&config.earlier_adapter).cloned(),
    );
    if let Begin::ResumedFrom(checkpoint) = &config.begin
        && !lies_in(checkpoint, &config.output)
    {
        inputs.push(checkpoint.clone());
    }
    let destination = Destination::directory(&config.output, &inputs)?;
    if !config.dry_run {
        // A finished run may hold more; whether it is this run is known once the data has been read.
        cli::expect_ours(&destination, TOOL, true)?;
    }
    Ok(destination)
}

/// Whether a checkpoint lies in the output, so that the run continues in place.
fn lies_in(checkpoint: &Path, output: &Path) -> bool {
    let parent = fs_err::canonicalize(checkpoint).ok().and_then(|path| path.parent().map(PathBuf::from));
    parent.is_some() && parent == fs_err::canonicalize(output).ok()
}

/// Whether a file belongs to the adapter of an earlier run, which stays usable until the new one is whole.
fn is_of_adapter(name: &str) -> bool {
    [ADAPTER, CONFIG].contains(&name) || Companions::is_text(name)
}

fn continues(config: &Config) -> bool {
    matches!(config.begin, Begin::Resumed | Begin::ResumedFrom(_))
}

/// Whether the same run has been completed before; a run of other settings in the output is an error.
pub fn is_complete(config: &Config, destination: &Destination, recipe: &Value) -> Result<bool> {
    match (recipe_of(&config.output, TOOL), &config.begin) {
        (None, _) | (_, Begin::Forced) => Ok(false),
        (Some(made), _) if made == *recipe => {
            note(format_args!("{} is already trained; --force trains it again", config.output.display()));
            GrowingDirectory::discard(destination, TOOL);
            Ok(true)
        }
        (Some(_), Begin::Overwriting) => Ok(false),
        // Whether that run can be continued is decided with its checkpoint.
        (Some(_), Begin::Resumed) => Ok(false),
        (Some(_), Begin::ResumedFrom(checkpoint)) if lies_in(checkpoint, &config.output) => Ok(false),
        (Some(made), Begin::New | Begin::ResumedFrom(_)) => {
            Err(made_otherwise(&config.output, &made, recipe))
        }
    }
}

fn made_otherwise(output: &Path, made: &Value, recipe: &Value) -> Error {
    match resume::lengths(made, recipe) {
        Some((before, now)) => error!("{} holds a finished run of {before}, not of {now}", output.display())
            .hint("--resume continues it to a greater length, -o with another name trains anew beside it"),
        None => cli::made_otherwise(output),
    }
}

/// Opens the output directory for a run that begins or continues, and locks it.
pub fn open(config: &Config, destination: &Destination) -> Result<GrowingDirectory> {
    let is_finished = recipe_of(&config.output, TOOL).is_some();
    let directory = GrowingDirectory::open(destination, TOOL, continues(config))?;
    match (&config.begin, checkpoint::list(&config.output).last()) {
        (Begin::Overwriting, _) if is_finished => {}
        (Begin::New | Begin::Overwriting, Some((step, _))) => {
            return Err(error!("{} holds an unfinished run of {step} steps", config.output.display())
                .hint("--resume continues it, --force begins anew"));
        }
        _ => {}
    }
    Ok(directory)
}

/// Begins or continues the run in its directory. Called once nothing can fail before the first step.
pub fn begin(directory: &mut GrowingDirectory, config: &Config, recipe: &Value) -> Result<()> {
    match continues(config) {
        true => directory.resume(recipe.clone()),
        false => directory.begin(recipe.clone(), is_of_adapter),
    }
}
