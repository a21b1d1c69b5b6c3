//! Where reports are written. A report that was given no name is called after the model and the task, so that
//! the reports of several models lie side by side.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use common::{Context, Result, error, files};
use serde_json::Value;

use super::{MOST_BYTES, Report};
use crate::outputs::Existing;
use crate::tasks::Task;

/// Most bytes of a model's name in the name of a report; file systems allow 255 for the whole.
const LONGEST: usize = 150;

/// Where reports are written.
pub enum ReportPlace {
    /// The one report is this file.
    File(PathBuf),
    /// The reports are in this directory, under names of their own.
    Folder(PathBuf),
}

impl ReportPlace {
    /// Decides where the reports of `models` go; `output` is what `-o` names.
    pub fn new(models: &[PathBuf], output: Option<&Path>) -> Self {
        match (output, models.len()) {
            (Some(file), 1) => Self::File(file.to_path_buf()),
            (output, _) => Self::Folder(output.unwrap_or(Path::new("reports")).to_path_buf()),
        }
    }

    /// Returns the path of the report of `model`, evaluated as `recipe` says; its folder is created.
    pub fn of(&self, model: &Path, task: Task, recipe: &Value) -> Result<PathBuf> {
        match self {
            Self::File(path) => Ok(path.clone()),
            Self::Folder(folder) => {
                fs_err::create_dir_all(folder).hint("-o names the directory of the reports")?;
                Ok(report_name(folder, model, task, recipe))
            }
        }
    }
}

/// Whether the reports of `models` have names of their own, so that they can be made at the same time.
pub fn have_own_names(models: &[PathBuf]) -> bool {
    let names: HashSet<String> = models.iter().map(|model| model_name(model)).collect();
    names.len() == models.len()
}

/// Reads the report at `path`, if it is of this recipe and `details` are not missing, and says what is there.
/// Fails where something else is there and `force` does not say to replace it.
pub fn made_before(
    path: &Path,
    recipe: &Value,
    details: Option<&Path>,
    force: bool,
) -> Result<(Option<Report>, Existing)> {
    if path.symlink_metadata().is_err() {
        return Ok((None, Existing::default()));
    }
    let report = files::read(path, MOST_BYTES).hint("-o names the file of a report")?;
    let report =
        serde_json::from_slice::<Value>(&report).ok().filter(|report| report.get("recipe").is_some());
    let Some(report) = report else {
        return match force {
            true => Ok((None, Existing::default())),
            false => {
                Err(error!("{} exists and is not a report", path.display())
                    .hint("choose another name with -o"))
            }
        };
    };
    let existing = Existing { is_report: true, is_same: report["recipe"] == *recipe };
    if force {
        return Ok((None, existing));
    }
    if !existing.is_same {
        return Err(error!("{} exists and is of another evaluation", path.display())
            .hint("--force replaces it, -o chooses another name"));
    }
    if details.is_some_and(|details| !details.exists()) {
        return Ok((None, existing));
    }
    Ok((Report::from_json(&report), existing))
}

/// Reads the report at `path`; `None` where there is none of this tool.
fn existing(path: &Path) -> Option<Value> {
    files::read_json::<Value>(path, MOST_BYTES).ok().filter(|report| report.get("recipe").is_some())
}

/// Returns `FOLDER/MODEL-TASK.json` for the evaluation that `recipe` describes. Where that is taken by another
/// evaluation or by a file that is no report, returns `FOLDER/MODEL-TASK-2.json` and so on.
fn report_name(folder: &Path, model: &Path, task: Task, recipe: &Value) -> PathBuf {
    let name = format!("{}-{}", model_name(model), task.name);
    let numbered = (2_usize..).map(|number| format!("{name}-{number}.json"));
    let is_free = |path: &PathBuf| {
        path.symlink_metadata().is_err() || existing(path).is_some_and(|report| report["recipe"] == *recipe)
    };
    let first = folder.join(format!("{name}.json"));
    std::iter::once(first.clone())
        .chain(numbered.map(|name| folder.join(name)))
        .find(is_free)
        .unwrap_or(first)
}

/// Returns the directories of a model's path, joined by dashes; of a long path the last ones.
fn model_name(model: &Path) -> String {
    let parts = model.components().filter_map(|part| match part {
        Component::Normal(part) => Some(part.to_string_lossy()),
        _ => None,
    });
    let name = parts.collect::<Vec<_>>().join("-");
    let mut start = name.len().saturating_sub(LONGEST);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    match &name[start..] {
        "" => "model".to_owned(),
        name => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tasks::TASKS;

    #[test]
    fn the_model_and_the_task_name_a_report() {
        for (model, expected) in [
            ("merged", "merged"),
            ("out/checkpoint-500", "out-checkpoint-500"),
            ("../models/Qwen2.5/", "models-Qwen2.5"),
            ("/", "model"),
            (".", "model"),
        ] {
            assert_eq!(model_name(Path::new(model)), expected);
        }
        assert_eq!(model_name(Path::new(&"é".repeat(300))).len(), LONGEST);
        let own = |models: [&str; 2]| have_own_names(&models.map(PathBuf::from));
        assert!(own(["out/1", "out/2"]) && !own(["out/1", "out-1"]) && !own(["m", "./m"]));
    }

    #[test]
    fn what_is_there_is_never_taken() {
        let folder = tempfile::tempdir().unwrap();
        let name = |limit: u32| {
            let path = report_name(folder.path(), Path::new("m"), TASKS[0], &json!({"limit": limit}));
            path.file_name().unwrap().to_str().unwrap().to_owned()
        };
        assert_eq!(name(1), "m-mmlu.json");
        let write = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).unwrap();
        write("m-mmlu.json", r#"{"recipe": {"limit": 1}}"#);
        assert_eq!((name(1).as_str(), name(2).as_str()), ("m-mmlu.json", "m-mmlu-2.json"));
        write("m-mmlu-2.json", "notes");
        assert_eq!(name(2), "m-mmlu-3.json");
    }
}
