//! The Hendrycks tree: `dev`, `val` and `test`, each with a CSV file per subject whose rows are a
//! question, four choices and the letter of the answer, without a header. It may be a directory or
//! the zip archive it comes in.

use std::path::{Path, PathBuf};

use common::{Context, Error, Result, bail, error};

use super::archive::Archive;
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
/// folder `data`, as the archive unpacks, or the archive.
pub fn load(data: &Path, selection: &Selection) -> Result<Vec<Subject>> {
    let tree = Tree::open(data, selection.split)?;
    let names = tree.subjects(selection.split)?;
    for wanted in &selection.subjects {
        if !names.contains(wanted) {
            return Err(Error::usage(format!("{}: no subject {wanted:?}", data.display()))
                .hint(format_args!("it has {}", names.join(", "))));
        }
    }
    let wanted = |name: &String| selection.subjects.is_empty() || selection.subjects.contains(name);
    names.into_iter().filter(wanted).map(|name| subject(&tree, name, selection)).collect()
}

/// The folders of splits.
enum Tree {
    Directory(PathBuf),
    /// With the folder in it that holds them, empty or ending in `/`.
    Archive(Archive, String),
}

impl Tree {
    fn open(data: &Path, split: Split) -> Result<Self> {
        let split = split.name();
        let missing = || {
            error!("{}: no folder {split} in it", data.display())
                .hint("--data names what holds MMLU's dev, val and test folders of CSV files")
        };
        if data.is_file() {
            let archive = Archive::open(data)?;
            let holds =
                |root: &&str| archive.names().any(|name| name.starts_with(&format!("{root}{split}/")));
            let root = ["", "data/"].into_iter().find(holds).ok_or_else(missing)?;
            return Ok(Self::Archive(archive, root.to_owned()));
        }
        let roots = [data.to_path_buf(), data.join("data")];
        let root = roots.into_iter().find(|root| root.join(split).is_dir()).ok_or_else(missing)?;
        Ok(Self::Directory(root))
    }

    /// Names of the subjects of a split, in order.
    fn subjects(&self, split: Split) -> Result<Vec<String>> {
        let split = split.name();
        let files: Vec<String> = match self {
            Self::Directory(root) => fs_err::read_dir(root.join(split))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<Result<_>>()?,
            Self::Archive(archive, root) => {
                let folder = format!("{root}{split}/");
                archive.names().filter_map(|name| name.strip_prefix(&folder)).map(str::to_owned).collect()
            }
        };
        let ending = format!("_{split}.csv");
        let mut names: Vec<String> =
            files.iter().filter_map(|name| name.strip_suffix(&ending)).map(str::to_owned).collect();
        names.sort();
        if names.is_empty() {
            bail!("no files named SUBJECT_{split}.csv in the folder {split}");
        }
        Ok(names)
    }

    /// The questions of a subject in a split, and the name of their file.
    fn questions(&self, subject: &str, split: &str) -> Result<(Vec<Question>, String)> {
        let name = format!("{split}/{subject}_{split}.csv");
        let (bytes, name) = match self {
            Self::Directory(root) => {
                let path = root.join(name);
                (fs_err::read(&path)?, path.display().to_string())
            }
            Self::Archive(archive, root) => {
                let name = format!("{root}{name}");
                (archive.read(&name)?, name)
            }
        };
        Ok((parse(&bytes).with_context(|| name.clone())?, name))
    }
}

fn subject(tree: &Tree, name: String, selection: &Selection) -> Result<Subject> {
    let (mut questions, _) = tree.questions(&name, selection.split.name())?;
    questions.truncate(selection.limit.unwrap_or(usize::MAX));
    let mut shots = Vec::new();
    if selection.shots > 0 {
        let file;
        (shots, file) = tree.questions(&name, "dev")?;
        if shots.len() < selection.shots {
            return Err(error!("{file}: {} rows, --shots {}", shots.len(), selection.shots)
                .hint(format_args!("--shots {} asks with all of them", shots.len())));
        }
        shots.truncate(selection.shots);
    }
    Ok(Subject { name, shots, questions })
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
    fn the_archive_is_read_as_it_is() {
        let files: [(&str, &[u8]); 3] = [
            ("data/", b""),
            ("data/dev/b_dev.csv", b"Q1,1,2,3,4,A\n"),
            ("data/test/b_test.csv", b"Q3,1,2,3,4,C\n"),
        ];
        let file = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(file.path(), super::super::archive::tests::zip(&files)).unwrap();
        let subjects = load(file.path(), &Selection { shots: 1, ..Selection::default() }).unwrap();
        assert_eq!((subjects[0].name.as_str(), subjects[0].shots[0].text.as_str()), ("b", "Q1"));
        assert_eq!(subjects[0].questions[0].answer, 2);
        let error = load(file.path(), &Selection { split: Split::Val, ..Selection::default() }).unwrap_err();
        assert!(error.to_string().contains("no folder val"), "{error}");
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
