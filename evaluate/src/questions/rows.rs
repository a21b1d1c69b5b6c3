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

use super::{LETTERS, Question};

/// Names of the columns of a CSV file without a header.
const COLUMNS: [&str; 6] = ["question", "a", "b", "c", "d", "answer"];

/// A question, and its subject where the row names it.
pub type Row = (Option<String>, Question);

/// Rows as Python's `csv` reads them: quoted fields may hold commas, newlines and doubled quotes.
pub fn csv(bytes: &[u8]) -> Result<Vec<Row>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut records = reader.records().peekable();
    let mut columns = COLUMNS.map(str::to_owned).to_vec();
    if let Some(Ok(first)) = records.peek() {
        let names: Vec<String> = first.iter().map(str::to_lowercase).collect();
        if COLUMNS[..5].iter().all(|column| names.iter().any(|name| name == column)) {
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
                .and_then(|row| question(&row))
                .with_context(|| format!("line {line}"))?,
        );
    }
    Ok(rows)
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

/// Rows of a parquet file.
pub fn parquet(path: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let options = RowOptions { column: &is_column, limit: RowLimit::default() };
    common::data::rows::read(path, options, &mut |row| {
        let number = row.place.row;
        let row = row.value.and_then(|value| match value {
            Value::Object(columns) => question(&columns),
            other => Err(error!(Malformed, "columns expected, found {other}")),
        });
        rows.push(row.with_context(|| format!("row {number}"))?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

/// Whether a column of the hub's files is read.
fn is_column(name: &str) -> bool {
    let name = name.to_lowercase();
    COLUMNS.contains(&name.as_str()) || matches!(name.as_str(), "subject" | "choices")
}

fn question(row: &Map<String, Value>) -> Result<Row> {
    // CMMLU writes its columns with capitals.
    let cell = |name: &str| {
        let found = row.iter().find(|(column, _)| column.to_lowercase() == name);
        found.map_or(&Value::Null, |(_, value)| value)
    };
    let text = |value: &Value, what: &str| match value {
        Value::String(text) => Ok(text.clone()),
        other => Err(error!(Malformed, "{what}: a text expected, found {other}")),
    };
    let choices = match cell("choices") {
        Value::Array(choices) if choices.len() == 4 => choices.iter().collect(),
        Value::Null => vec![cell("a"), cell("b"), cell("c"), cell("d")],
        other => bail!(Malformed, "four choices expected, found {other}"),
    };
    let mut texts = [const { String::new() }; 4];
    for ((place, choice), letter) in texts.iter_mut().zip(choices).zip(LETTERS) {
        *place = text(choice, letter)?;
    }
    let answer = match cell("answer") {
        Value::String(letter) => LETTERS.iter().position(|known| known == letter),
        number => (0..4).find(|&index| number.as_u64() == Some(index as u64)),
    };
    let answer = answer
        .ok_or_else(|| error!(Malformed, "the answer A, B, C or D expected, found {}", cell("answer")))?;
    let subject = row.get("subject").and_then(Value::as_str).map(str::to_owned);
    Ok((subject, Question { text: text(cell("question"), "question")?, choices: texts, answer }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_as_python_reads_it() {
        let rows = b"\"a, \"\"b\"\"\nc\",x,\"\",y \"q\",z,D\r\nplain,1,2,3,4,A";
        let questions = csv(rows).unwrap();
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
            let rows = csv(text.as_bytes()).unwrap();
            let (_, question) = &rows[0];
            assert_eq!((rows.len(), question.text.as_str(), question.answer), (1, expected, 1));
            assert_eq!(question.choices, ["1", "2", "3", "4"]);
        }
        let error = csv(b"id,question,A,B,C,D\n0,q,1,2,3,4\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: the answer A, B, C or D expected, found null");
        let error = csv(b"id,question,A,B,C,D,answer\n0,q,1,2,3,A\n").unwrap_err();
        assert!(error.to_string().starts_with("line 2: 7 fields expected (id, question, "), "{error}");
    }

    #[test]
    fn broken_rows_name_their_line() {
        let error = csv(b"q,1,2,3,4,A\nq,1,2,3,A\n").unwrap_err();
        assert_eq!(error.to_string(), "line 2: 6 fields expected (question, a, b, c, d, answer), found 5");
        let error = csv(b"\"two\nlines\",1,2,3,4,A\nq,1,2,3,4,E\n").unwrap_err();
        assert_eq!(error.to_string(), "line 3: the answer A, B, C or D expected, found \"E\"");
        assert_eq!(csv(b"").unwrap(), []);
    }
}
