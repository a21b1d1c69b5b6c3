//! JSON and JSON lines as rows with their place in the file.

use std::path::Path;
use std::sync::Arc;

use common::{Context, Result, bail, error};
use serde_json::Value;

use super::{Place, kind_of};

/// The rows of a file, each with its place, or with what is wrong with it.
pub type Rows = Vec<(Place, Result<Value>)>;

/// Reads a JSON list of rows, or JSON lines, whichever the file holds.
pub fn read(path: &Path) -> Result<Rows> {
    let bytes = fs_err::read(path).hint("--data names a JSON or JSON lines file of examples")?;
    let text = std::str::from_utf8(&bytes).map_err(|problem| {
        error!("{}: byte {} is not UTF-8", path.display(), problem.valid_up_to())
            .hint("save the file as UTF-8")
    })?;
    let text = text.trim_start_matches('\u{FEFF}');
    match text.trim_start().chars().next() {
        None => bail!("{} is empty", path.display()),
        Some('[') => list(path, text),
        Some('{') => Ok(lines(path, text)),
        Some(found) => bail!(
            "{}: a JSON list of rows or one JSON object per line expected, found {found:?}",
            path.display()
        ),
    }
}

fn list(path: &Path, text: &str) -> Result<Rows> {
    let rows: Vec<Value> =
        serde_json::from_str(text).with_context(|| format!("{} is not valid JSON", path.display()))?;
    let file = Arc::new(path.to_path_buf());
    let place = |index: usize| Place { file: file.clone(), row: index + 1, is_line: false };
    Ok(rows.into_iter().enumerate().map(|(index, row)| (place(index), object(row))).collect())
}

fn lines(path: &Path, text: &str) -> Rows {
    let file = Arc::new(path.to_path_buf());
    let place = |index: usize| Place { file: file.clone(), row: index + 1, is_line: true };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let row = serde_json::from_str(line).context("not valid JSON").and_then(object);
            (place(index), row)
        })
        .collect()
}

fn object(row: Value) -> Result<Value> {
    if row.is_object() { Ok(row) } else { Err(error!("an object expected, found {}", kind_of(&row))) }
}
