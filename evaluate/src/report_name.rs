//! The name of a report that was given none: after the model and the task, so that the reports of
//! several models lie side by side.

use std::path::{Component, Path, PathBuf};

use common::files;
use serde_json::Value;

use crate::questions::Task;
use crate::report::MOST_BYTES;

/// Most bytes of a model's name in the name of a report; file systems allow 255 for the whole.
const LONGEST: usize = 150;

/// The report at `path`, if there is one of ours.
pub fn existing(path: &Path) -> Option<Value> {
    files::read_json::<Value>(path, MOST_BYTES).ok().filter(|report| report.get("recipe").is_some())
}

/// `FOLDER/MODEL-TASK.json` for the evaluation that `recipe` describes. Where that is taken by another
/// evaluation or by a file that is no report, `FOLDER/MODEL-TASK-2.json` and so on.
pub fn report_name(folder: &Path, model: &Path, task: Task, recipe: &Value) -> PathBuf {
    let name = format!("{}-{}", model_name(model), task.name());
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

/// The directories of a model's path, joined by dashes; of a long path the last.
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
    }

    #[test]
    fn what_is_there_is_never_taken() {
        let folder = tempfile::tempdir().unwrap();
        let name = |limit: u32| {
            let path = report_name(folder.path(), Path::new("m"), Task::Mmlu, &json!({"limit": limit}));
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
