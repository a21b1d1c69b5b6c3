//! Questions in CSV and parquet files, with the columns of each data set.
//!
//! | data | columns |
//! |---|---|
//! | MMLU's CSV | question, four choices, letter; without a header |
//! | CMMLU's CSV | (number), Question, A, B, C, D, Answer |
//! | C-Eval's CSV and parquet | id, question, A, B, C, D, answer, explanation |
//! | the hub's parquet of MMLU | question, subject, choices (a list), answer (0 to 3) |

use std::ops::ControlFlow;
use std::path::Path;

use common::data::RowLimit;
use common::data::rows::RowOptions;
use common::{Context, Error, Result, bail, error};
use serde_json::{Map, Value};

use super::Question;
use crate::tasks::{TaskSpec, letter};

const QUESTION: &str = "question";
const ANSWER: &str = "answer";

/// A question, and its subject where the row names one.
pub(super) type Row = (Option<String>, Question);

/// Reads rows as Python's `csv` does: quoted fields may hold commas, newlines and doubled quotes.
pub(super) fn csv(bytes: &[u8], task: &TaskSpec) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut records = reader.records().peekable();
    let mut columns = columns_of(task);
    if let Some(Ok(first)) = records.peek() {
        let names: Vec<String> = first.iter().map(str::to_lowercase).collect();
        if columns[..columns.len() - 1].iter().all(|column| names.contains(column)) {
            columns = names;
            records.next();
        }
    }
    let mut rows = Vec::new();
    for record in records {
        let record = record.map_err(Error::malformed)?;
        let line = record.position().map_or(0, csv::Position::line);
        rows.push(
            fields(&columns, &record)
                .and_then(|row| question(&row, task))
                .with_context(|| format!("line {line}"))?,
        );
    }
    Ok(rows)
}

/// Returns the names of the columns of a CSV file without a header: question, choices, answer.
fn columns_of(task: &TaskSpec) -> Vec<String> {
    let choices = task.letters().map(|letter| letter.to_lowercase().to_string());
    std::iter::once(QUESTION.to_owned()).chain(choices).chain([ANSWER.to_owned()]).collect()
}

fn fields(columns: &[String], record: &csv::StringRecord) -> Result<Map<String, Value>> {
    if record.len() != columns.len() {
        bail!(
            Malformed,
            "{} fields expected ({}), found {}",
            columns.len(),
            columns.join(", "),
            record.len()
        );
    }
    Ok(columns.iter().cloned().zip(record.iter().map(Value::from)).collect())
}

/// Reads the rows of a parquet file.
pub(super) fn parquet(path: &Path, task: &TaskSpec) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let options = RowOptions { column: &|name: &str| is_column(name, task), limit: RowLimit::default() };
    common::data::rows::read(path, options, &mut |row| {
        let number = row.place.row;
        let row = row.value.and_then(|value| match value {
            Value::Object(columns) => question(&columns, task),
            other => Err(error!(Malformed, "columns expected, found {other}")),
        });
        rows.push(row.with_context(|| format!("row {number}"))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

/// Returns whether a column of a parquet file is read.
fn is_column(name: &str, task: &TaskSpec) -> bool {
    let name = name.to_lowercase();
    [task.choices_column, task.subject_column].contains(&name.as_str()) || columns_of(task).contains(&name)
}

fn question(row: &Map<String, Value>, task: &TaskSpec) -> Result<Row> {
    // CMMLU writes its columns with capitals.
    let cell = |name: &str| {
        let found = row.iter().find(|(column, _)| column.to_lowercase() == name);
        found.map_or(&Value::Null, |(_, value)| value)
    };
    let text = |value: &Value, what: &str| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(error!(Malformed, "{what}: a text expected, found {other}")),
    };
    let choices: Vec<&Value> = match cell(task.choices_column) {
        Value::Array(choices) if task.choices.contains(&choices.len()) => choices.iter().collect(),
        Value::Null => task.letters().map(|letter| cell(&letter.to_lowercase().to_string())).collect(),
        other => {
            let (least, most) = (task.choices.start(), task.choices.end());
            let expected = if least == most { most.to_string() } else { format!("{least} to {most}") };
            bail!(Malformed, "{expected} choices expected, found {other}");
        }
    };
    let letters = || (0..choices.len()).map(letter);
    let answer = match cell(ANSWER) {
        Value::String(answer) => letters().position(|letter| answer.chars().eq([letter])),
        number => (0..choices.len()).find(|&index| number.as_u64() == Some(index as u64)),
    };
    let texts = letters().zip(&choices).map(|(letter, choice)| text(choice, &letter.to_string()));
    let texts = texts.collect::<Result<_>>()?;
    let answer = answer.ok_or_else(|| {
        error!(Malformed, "the answer {} expected, found {}", one_of(letters()), cell(ANSWER))
    })?;
    let subject = row.get(task.subject_column).and_then(Value::as_str).map(str::to_owned);
    Ok((subject, Question { text: text(cell(QUESTION), QUESTION)?, choices: texts, answer }))
}

/// Lists letters as in `A, B or C`.
fn one_of(letters: impl Iterator<Item = char>) -> String {
    let mut letters: Vec<String> = letters.map(String::from).collect();
    let last = letters.pop().unwrap_or_default();
    format!("{} or {last}", letters.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tasks::TASKS;
    use crate::tasks::tests::TEN_CHOICES;

    #[test]
    fn csv_as_python_reads_it() {
        let rows = b"\"a, \"\"b\"\"\nc\",x,\"\",y \"q\",z,D\r\nplain,1,2,3,4,A";
        let questions = csv(rows, &TASKS[0]).unwrap();
        let (subject, first) = &questions[0];
        assert_eq!((subject, first.text.as_str()), (&None, "a, \"b\"\nc"));
        assert_eq!(first.choices, ["x", "", "y \"q\"", "z"]);
        assert_eq!((first.answer, questions[1].1.answer, questions.len()), (3, 0, 2));
    }

    #[test]
    fn headers_name_the_columns_in_any_order() {
        let ceval = "id,question,A,B,C,D,answer,explanation\n0,甲____。,1,2,3,4,B,\"1. 甲\n2. 乙\"\n";
        let cmmlu = "\u{FEFF},Question,A,B,C,D,Answer\n0,甲,1,2,3,4,B\n";
        for (text, expected) in [(ceval, "甲____。"), (cmmlu, "甲")] {
            let rows = csv(text.as_bytes(), &TASKS[0]).unwrap();
            let (_, question) = &rows[0];
            assert_eq!((rows.len(), question.text.as_str(), question.answer), (1, expected, 1));
            assert_eq!(question.choices, ["1", "2", "3", "4"]);
        }
        let error = csv(b"id,question,A,B,C,D\n0,q,1,2,3,4\n", &TASKS[0]).unwrap_err();
        assert_eq!(error.to_string(), "line 2: the answer A, B, C or D expected, found null");
        let error = csv(b"id,question,A,B,C,D,answer\n0,q,1,2,3,A\n", &TASKS[0]).unwrap_err();
        assert!(error.to_string().starts_with("line 2: 7 fields expected (id, question, "), "{error}");
    }

    #[test]
    fn broken_rows_name_their_line() {
        let error = csv(b"q,1,2,3,4,A\nq,1,2,3,A\n", &TASKS[0]).unwrap_err();
        assert_eq!(error.to_string(), "line 2: 6 fields expected (question, a, b, c, d, answer), found 5");
        let error = csv(b"\"two\nlines\",1,2,3,4,A\nq,1,2,3,4,E\n", &TASKS[0]).unwrap_err();
        assert_eq!(error.to_string(), "line 3: the answer A, B, C or D expected, found \"E\"");
        assert_eq!(csv(b"", &TASKS[0]).unwrap(), []);
    }

    #[test]
    fn a_task_of_other_columns_and_more_choices_is_read() {
        let row = |value: Value| match value {
            Value::Object(row) => question(&row, &TEN_CHOICES),
            _ => unreachable!(),
        };
        let (subject, found) = row(json!({"question": "q", "options": ["1", "2", "3", "4", "5"],
            "answer": "E", "category": "physics"}))
        .unwrap();
        assert_eq!((subject.as_deref(), found.choices.len(), found.answer), (Some("physics"), 5, 4));
        let error = row(json!({"question": "q", "options": ["1", "2", "3"], "answer": "D"})).unwrap_err();
        assert_eq!(error.to_string(), "the answer A, B or C expected, found \"D\"");
        let error = row(json!({"question": "q", "options": ["1"], "answer": "A"})).unwrap_err();
        assert_eq!(error.to_string(), "3 to 10 choices expected, found [\"1\"]");
        let rows = csv(b"q,1,2,3,4,5,6,7,8,9,10,J\n", &TEN_CHOICES).unwrap();
        assert_eq!((rows[0].1.choices.len(), rows[0].1.answer), (10, 9));
    }
}
