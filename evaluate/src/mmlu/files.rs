//! The Hendrycks tree: `dev`, `val` and `test`, each with a CSV file per subject whose rows are a
//! question, four choices and the letter of the answer, without a header.

use std::path::{Path, PathBuf};

use common::{Context, Error, Result, bail, error};

use super::{LETTERS, Question, Subject};

/// Which questions are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Split {
    /// The questions that results are quoted on
    #[default]
    Test,
    /// The questions set apart for trying things out
    Val,
}

impl Split {
    /// The name of the folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Val => "val",
        }
    }
}

/// What is wanted of a data set.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Which questions are asked.
    pub split: Split,
    /// How many answered questions come first.
    pub shots: usize,
    /// Only these subjects; all where it is empty.
    pub subjects: Vec<String>,
    /// Only so many questions of each subject.
    pub limit: Option<usize>,
}

/// Reads the subjects in `data`, in order of their names. The tree may be `data` itself or its
/// folder `data`, as the archive unpacks.
pub fn load(data: &Path, selection: &Selection) -> Result<Vec<Subject>> {
    let split = selection.split.name();
    let root = [data.to_path_buf(), data.join("data")]
        .into_iter()
        .find(|root| root.join(split).is_dir())
        .ok_or_else(|| {
            error!("{}: no folder {split} in it", data.display())
                .hint("--data names the directory that holds MMLU's dev, val and test folders of CSV files")
        })?;
    let names = subjects_in(&root.join(split), split)?;
    for wanted in &selection.subjects {
        if !names.contains(wanted) {
            return Err(Error::usage(format!("{}: no subject {wanted:?}", root.display()))
                .hint(format_args!("it has {}", names.join(", "))));
        }
    }
    let wanted = |name: &String| selection.subjects.is_empty() || selection.subjects.contains(name);
    names.into_iter().filter(wanted).map(|name| subject(&root, name, selection)).collect()
}

fn subjects_in(folder: &Path, split: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let name = entry?.file_name();
        if let Some(subject) = name.to_str().and_then(|name| name.strip_suffix(&format!("_{split}.csv"))) {
            names.push(subject.to_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("{}: no files named SUBJECT_{split}.csv", folder.display());
    }
    Ok(names)
}

fn subject(root: &Path, name: String, selection: &Selection) -> Result<Subject> {
    let path = |split: &str| root.join(split).join(format!("{name}_{split}.csv"));
    let mut questions = read(&path(selection.split.name()))?;
    questions.truncate(selection.limit.unwrap_or(usize::MAX));
    let mut shots = Vec::new();
    if selection.shots > 0 {
        shots = read(&path("dev"))?;
        if shots.len() < selection.shots {
            return Err(error!(
                "{}: {} rows, --shots {}",
                path("dev").display(),
                shots.len(),
                selection.shots
            )
            .hint(format_args!("--shots {} asks with all of them", shots.len())));
        }
        shots.truncate(selection.shots);
    }
    Ok(Subject { name, shots, questions })
}

fn read(path: &Path) -> Result<Vec<Question>> {
    let bytes = fs_err::read(path)?;
    parse(&bytes).with_context(|| PathBuf::from(path).display().to_string())
}

/// Rows as Python's `csv` reads them: quoted fields may hold commas, newlines and doubled quotes.
fn parse(bytes: &[u8]) -> Result<Vec<Question>> {
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut questions = Vec::new();
    for record in reader.records() {
        let record = record.map_err(Error::new)?;
        let line = record.position().map_or(0, csv::Position::line);
        questions.push(question(&record).with_context(|| format!("line {line}"))?);
    }
    if questions.is_empty() {
        bail!("no questions in it");
    }
    Ok(questions)
}

fn question(record: &csv::StringRecord) -> Result<Question> {
    let fields: Vec<&str> = record.iter().collect();
    let [text, a, b, c, d, letter] = fields[..] else {
        bail!("a question, four choices and an answer expected, found {} fields", fields.len());
    };
    let answer = LETTERS.iter().position(|known| *known == letter);
    let answer = answer.ok_or_else(|| error!("the answer A, B, C or D expected, found {letter:?}"))?;
    Ok(Question { text: text.to_owned(), choices: [a, b, c, d].map(str::to_owned), answer })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(within: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (split, subject, rows) in [
            ("dev", "b", "Q1,1,2,3,4,A\nQ2,1,2,3,4,B\n"),
            ("test", "b", "Q3,1,2,3,4,C\nQ4,1,2,3,4,D\n"),
            ("dev", "a", "Q1,1,2,3,4,A\n"),
            ("test", "a", "Q5,1,2,3,4,A\n"),
        ] {
            let folder = directory.path().join(within).join(split);
            fs_err::create_dir_all(&folder).unwrap();
            fs_err::write(folder.join(format!("{subject}_{split}.csv")), rows).unwrap();
        }
        directory
    }

    #[test]
    fn csv_as_python_reads_it() {
        let rows = b"\"a, \"\"b\"\"\nc\",x,\"\",y \"q\",z,D\r\nplain,1,2,3,4,A";
        let questions = parse(rows).unwrap();
        assert_eq!(questions[0].text, "a, \"b\"\nc");
        assert_eq!(questions[0].choices, ["x", "", "y \"q\"", "z"]);
        assert_eq!((questions[0].answer, questions[1].answer, questions.len()), (3, 0, 2));
    }

    #[test]
    fn broken_rows_name_their_line() {
        let error = parse(b"q,1,2,3,4,A\nq,1,2,3,A\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 2: a question, four choices and an answer expected, found 5 fields"
        );
        let error = parse(b"q,1,2,3,4,E\n").unwrap_err();
        assert_eq!(error.to_string(), "line 1: the answer A, B, C or D expected, found \"E\"");
        assert!(parse(b"").is_err());
    }

    #[test]
    fn subjects_shots_and_limits() {
        for within in ["", "data"] {
            let tree = tree(within);
            let selection = Selection { shots: 1, limit: Some(1), ..Selection::default() };
            let subjects = load(tree.path(), &selection).unwrap();
            let found: Vec<_> = subjects
                .iter()
                .map(|s| (s.name.as_str(), s.shots.len(), s.questions[0].text.as_str(), s.questions.len()))
                .collect();
            assert_eq!(found, [("a", 1, "Q5", 1), ("b", 1, "Q3", 1)]);
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let tree = tree("");
        let select = |subject: &str, shots, split| {
            let subjects = vec![subject.to_owned()];
            load(tree.path(), &Selection { subjects, shots, split, limit: None })
        };
        let error = select("c", 0, Split::Test).unwrap_err();
        assert!(error.to_string().contains("no subject \"c\""), "{error}");
        assert_eq!(error.hint_text(), Some("it has a, b"));
        let error = select("a", 5, Split::Test).unwrap_err();
        assert!(error.to_string().contains("a_dev.csv: 1 rows, --shots 5"), "{error}");
        let error = select("a", 0, Split::Val).unwrap_err();
        assert!(error.to_string().contains("no folder val"), "{error}");
    }
}
