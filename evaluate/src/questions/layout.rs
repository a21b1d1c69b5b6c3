//! Where the questions on a subject are. The folder they lie in does not matter, nor whether it is a
//! directory or an archive:
//!
//! | data | file |
//! |---|---|
//! | MMLU and C-Eval as their authors hand them out | `test/astronomy_test.csv` |
//! | CMMLU as its authors hand it out | `test/astronomy.csv` |
//! | the hub's data sets | `astronomy/test-00000-of-00001.parquet`, or all subjects in `all/` |

use std::collections::BTreeMap;
use std::path::Path;

use common::{Context, Error, Result, error};

use super::files::Files;
use super::rows::{self, Row};
use super::{Question, Selection, Subject};
use crate::tasks::Split;
use crate::tasks::{self, Task};

/// The files of a repository of questions that are of use, as patterns of their names.
pub const DOWNLOADED: [&str; 5] =
    ["*test-*.parquet", "*val-*.parquet", "*validation-*.parquet", "*dev-*.parquet", "*.zip"];

/// What to do about a row that cannot be read.
const MEND: &str = "mend the row, or download the data again";

/// Reads the subjects in `data`, a directory or an archive, in order of their names.
pub fn load(data: &Path, selection: &Selection) -> Result<Vec<Subject>> {
    let Selection { task, split, .. } = *selection;
    let set = DataSet::open(data, task)?;
    let mut asked = set.questions(split, &selection.subjects);
    if let (Some(hint), Split::Test) = (task.withheld_test, split) {
        asked = asked.hint(hint);
    }
    let asked = asked.hint(MEND)?;
    let mut shots = match selection.shots {
        0 => BTreeMap::new(),
        _ => set.questions(task.shown, &selection.subjects).hint(MEND)?,
    };
    for wanted in &selection.subjects {
        if !asked.contains_key(wanted) {
            return Err(Error::usage(format!("{}: no subject {wanted:?}", data.display()))
                .hint(format_args!("it has {}", names(&set.questions(split, &[])?))));
        }
    }
    if let Some((subject, of)) =
        asked.keys().find_map(|name| Some((name, task.with_subject_of_another(name)?)))
    {
        return Err(Error::usage(format!(
            "{}: {subject} is a subject of {of}, not of {task}",
            data.display()
        ))
        .hint(format_args!("add --task {}", of.name)));
    }
    let subject = |(name, mut questions): (String, Vec<Question>)| {
        let mut shots = shots.remove(&name).unwrap_or_default();
        if shots.len() < selection.shots {
            return Err(error!(
                "{}: {} {} questions on {name}, --shots {}",
                data.display(),
                shots.len(),
                task.shown.name(),
                selection.shots
            )
            .hint(format_args!("--shots {} asks with all of them", shots.len())));
        }
        shots.truncate(selection.shots);
        questions.truncate(selection.limit.unwrap_or(usize::MAX));
        let title = task.subjects.title(&name);
        let title = title.ok_or_else(|| error!(Missing, "{task} has no subject {name:?}"))?;
        Ok(Subject { task, name, title, shots, questions })
    };
    asked.into_iter().map(subject).collect()
}

fn names(subjects: &BTreeMap<String, Vec<Question>>) -> String {
    subjects.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The files of a data set, by what they hold.
struct DataSet {
    task: Task,
    files: Files,
    /// The files with questions on one subject; several where a parquet file is in parts.
    subjects: BTreeMap<(Split, String), Vec<String>>,
    /// The files with questions on all subjects.
    together: BTreeMap<Split, Vec<String>>,
}

impl DataSet {
    fn open(data: &Path, task: Task) -> Result<Self> {
        let files = Files::open(data)?;
        let (mut subjects, mut together) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for name in files.names() {
            match content(&name) {
                Some((split, Some(subject))) => subjects.entry((split, subject)).or_default().push(name),
                Some((split, None)) => together.entry(split).or_default().push(name),
                None => {}
            }
        }
        for names in subjects.values().chain(together.values()) {
            let folder = |name: &str| name.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            let of_a_kind = |name: &String| name.ends_with(".parquet") && folder(name) == folder(&names[0]);
            if names.len() > 1 && !names.iter().all(of_a_kind) {
                return Err(error!(
                    "{} and {} hold the same questions",
                    files.place(&names[0]),
                    files.place(&names[1])
                )
                .hint("name the folder of one of them with --data"));
            }
        }
        let set = Self { task, files, subjects, together };
        match set.subjects.is_empty() && set.together.is_empty() {
            false => Ok(set),
            true => match set.files.archive()? {
                Some(archive) => Self::open(&archive, task),
                None => Err(error!("{}: no questions in it", data.display()).hint(format_args!(
                    "--data names {} as downloaded: a folder or an archive of dev, val and test files",
                    tasks::titles()
                ))),
            },
        }
    }

    /// Reads the questions of a split by their subjects, only those on `wanted` subjects unless that list is
    /// empty.
    fn questions(&self, split: Split, wanted: &[String]) -> Result<BTreeMap<String, Vec<Question>>> {
        let is_wanted = |subject: &String| wanted.is_empty() || wanted.contains(subject);
        let mut found: BTreeMap<String, Vec<Question>> = BTreeMap::new();
        for ((_, subject), names) in self.subjects.iter().filter(|((of, _), _)| *of == split) {
            if is_wanted(subject) {
                for name in names {
                    let questions = self.read(name)?.into_iter().map(|(_, question)| question);
                    found.entry(subject.clone()).or_default().extend(questions);
                }
            }
        }
        let is_apart = self.subjects.keys().any(|(of, _)| *of == split);
        for name in self.together.get(&split).filter(|_| !is_apart).into_iter().flatten() {
            for (subject, question) in self.read(name)? {
                let subject = subject.ok_or_else(|| {
                    let column = self.task.subject_column;
                    error!(Malformed, "{}: no column {column:?}", self.files.place(name))
                })?;
                if is_wanted(&subject) {
                    found.entry(subject).or_default().push(question);
                }
            }
        }
        if !is_apart && !self.together.contains_key(&split) {
            let splits = self.subjects.keys().map(|(split, _)| split).chain(self.together.keys());
            let mut splits: Vec<&str> = splits.map(|split| split.name()).collect();
            splits.sort_unstable();
            splits.dedup();
            return Err(error!("{}: no {} questions in it", self.files.data().display(), split.name())
                .hint(format_args!("it has {}; --split and --shots choose", splits.join(", "))));
        }
        Ok(found)
    }

    fn read(&self, name: &str) -> Result<Vec<Row>> {
        let place = || self.files.place(name);
        let rows = match name.ends_with(".parquet") {
            true => self.files.with_path(name, |path| rows::parquet(path, &self.task)).with_context(place)?,
            false => rows::csv(&self.files.read(name)?, &self.task).with_context(place)?,
        };
        match rows.is_empty() {
            true => Err(error!(Malformed, "{}: no questions in it", place())),
            false => Ok(rows),
        }
    }
}

/// Returns which split a file holds, and the subject where the file is on one subject.
fn content(name: &str) -> Option<(Split, Option<String>)> {
    let (folders, file) = name.rsplit_once('/').unwrap_or(("", name));
    // macOS adds hidden files to what it packs.
    if file.starts_with('.') {
        return None;
    }
    let folder = folders.rsplit('/').next().unwrap_or_default();
    if let Some(stem) = file.strip_suffix(".csv") {
        let split = Split::named(folder)?;
        let subject = stem.strip_suffix(folder).and_then(|stem| stem.strip_suffix('_')).unwrap_or(stem);
        return Some((split, Some(subject.to_owned())));
    }
    let split = Split::named(file.strip_suffix(".parquet")?.split('-').next()?)?;
    Some((split, (!matches!(folder, "" | "." | "all" | "data")).then(|| folder.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::{gzip, tar, zip};
    use super::*;
    use crate::tasks::TASKS;
    use crate::tasks::tests::TEN_CHOICES;

    const ROWS: &str = "Q1,1,2,3,4,A\nQ2,1,2,3,4,B\n";

    fn selection(task: Task, shots: usize) -> Selection {
        Selection { task, split: task.asked, shots, subjects: Vec::new(), limit: None }
    }

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs_err::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs_err::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    /// Name, shots, first question and number of questions of every subject.
    fn found(data: &Path, selection: &Selection) -> Vec<(String, usize, String, usize)> {
        let subjects = load(data, selection).unwrap().into_iter();
        subjects.map(|s| (s.name, s.shots.len(), s.questions[0].text.clone(), s.questions.len())).collect()
    }

    #[test]
    fn subjects_shots_and_limits() {
        let files = |root: &str| {
            ["dev/b_dev.csv", "test/b_test.csv", "dev/a_dev.csv", "test/a_test.csv", "val/c_val.csv"]
                .map(|name| (format!("{root}{name}"), ROWS))
        };
        for root in ["", "data/", "x/y/"] {
            let files = files(root);
            let tree = tree(&files.each_ref().map(|(name, text)| (name.as_str(), *text)));
            let all = found(tree.path(), &selection(TASKS[0], 2));
            assert_eq!(all, [("a".into(), 2, "Q1".into(), 2), ("b".into(), 2, "Q1".into(), 2)]);
            let one = Selection { subjects: vec!["b".into()], limit: Some(1), ..selection(TASKS[0], 1) };
            assert_eq!(found(tree.path(), &one), [("b".into(), 1, "Q1".into(), 1)]);
        }
    }

    #[test]
    fn archives_are_read_as_they_are() {
        let files: [(&str, &[u8]); 4] = [
            ("data/dev/b_dev.csv", ROWS.as_bytes()),
            ("data/test/b_test.csv", ROWS.as_bytes()),
            ("__MACOSX/data/test/._b_test.csv", b"\0"),
            ("data/README.txt", b"read me"),
        ];
        for (name, bytes) in [("a.zip", zip(&files)), ("b.tar", tar(&files)), ("c.tgz", gzip(&tar(&files)))] {
            let folder = tempfile::tempdir().unwrap();
            let archive = folder.path().join(name);
            fs_err::write(&archive, bytes).unwrap();
            // By its own name, or as all there is in its folder.
            for data in [&archive, folder.path()] {
                let all = found(data, &selection(TASKS[0], 1));
                assert_eq!(all, [("b".into(), 1, "Q1".into(), 2)], "{name}");
            }
            let val = Selection { split: Split::Val, ..selection(TASKS[0], 0) };
            let error = load(&archive, &val).unwrap_err();
            assert!(error.to_string().ends_with("no val questions in it"), "{error}");
            assert_eq!(error.hint_text(), Some("it has dev, test; --split and --shots choose"));
        }
    }

    #[test]
    fn chinese_sets_have_layouts_and_titles_of_their_own() {
        let cmmlu = ",Question,A,B,C,D,Answer\n0,甲,1,2,3,4,B\n";
        let data = tree(&[("dev/agronomy.csv", cmmlu), ("test/agronomy.csv", cmmlu)]);
        let subjects = load(data.path(), &selection(TASKS[1], 1)).unwrap();
        assert_eq!((subjects[0].title.as_str(), subjects[0].shots[0].answer), ("农学", 1));
        let error = load(data.path(), &selection(TASKS[0], 1)).unwrap_err();
        assert!(error.to_string().ends_with("agronomy is a subject of CMMLU, not of MMLU"), "{error}");

        let ceval = "id,question,A,B,C,D,answer,explanation\n0,甲,1,2,3,4,B,乙\n";
        let asked = "id,question,A,B,C,D\n0,甲,1,2,3,4\n";
        let data = tree(&[
            ("dev/logic_dev.csv", ceval),
            ("val/logic_val.csv", ceval),
            ("test/logic_test.csv", asked),
        ]);
        let subjects = load(data.path(), &selection(TASKS[2], 1)).unwrap();
        assert_eq!((subjects[0].title.as_str(), subjects[0].questions[0].answer), ("逻辑学", 1));
        let test = Selection { split: Split::Test, ..selection(TASKS[2], 0) };
        let error = load(data.path(), &test).unwrap_err();
        assert!(error.hint_text().unwrap().starts_with("C-Eval keeps the answers"), "{error}");
    }

    #[test]
    fn the_hubs_parquet_apart_or_together() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/rows/questions.parquet");
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            fs_err::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            fs_err::copy(&golden, folder.path().join(name)).unwrap();
        };
        put("all/test-00000-of-00001.parquet");
        put("all/dev-00000-of-00001.parquet");
        put("auxiliary_train/train-00000-of-00001.parquet");
        let all = found(folder.path(), &selection(TASKS[0], 1));
        assert_eq!(
            all,
            [("astronomy".into(), 1, "Q1, \"x\"\ny".into(), 2), ("virology".into(), 1, "Q3".into(), 1)]
        );
        put("astronomy/test-00000-of-00002.parquet");
        put("astronomy/test-00001-of-00002.parquet");
        let apart = found(folder.path(), &selection(TASKS[0], 0));
        assert_eq!(apart, [("astronomy".into(), 0, "Q1, \"x\"\ny".into(), 6)]);
        assert_eq!(content("test/a_test.parquet"), None, "a split's name comes first");
        assert_eq!(content("data/test-0.parquet"), Some((Split::Test, None)));
        let packed = fs_err::read(&golden).unwrap();
        let archive = folder.path().join("x.tar");
        fs_err::write(&archive, tar(&[("virology/test-0.parquet", &packed)])).unwrap();
        assert_eq!(found(&archive, &selection(TASKS[0], 0))[0].0, "virology");
    }

    #[test]
    fn what_is_not_there_or_there_twice_is_named() {
        let data =
            tree(&[("dev/a_dev.csv", ROWS), ("test/a_test.csv", ROWS), ("test/bad_test.csv", "q,1\n")]);
        let select = |subject: &str, shots, split| {
            let subjects = vec![subject.to_owned()];
            load(data.path(), &Selection { subjects, shots, split, ..selection(TASKS[0], 0) }).unwrap_err()
        };
        let error = select("a", 5, Split::Test);
        assert!(error.to_string().ends_with("2 dev questions on a, --shots 5"), "{error}");
        assert!(select("a", 0, Split::Val).to_string().ends_with("no val questions in it"));
        let error = select("bad", 0, Split::Test);
        assert!(error.to_string().contains("test/bad_test.csv: line 1: 6 fields expected"), "{error}");
        fs_err::remove_file(data.path().join("test/bad_test.csv")).unwrap();
        let error = select("c", 0, Split::Test);
        assert!(error.to_string().contains("no subject \"c\""), "{error}");
        assert_eq!(error.hint_text(), Some("it has a"));
        fs_err::create_dir_all(data.path().join("copy/test")).unwrap();
        fs_err::write(data.path().join("copy/test/a_test.csv"), ROWS).unwrap();
        assert!(select("a", 0, Split::Test).to_string().ends_with("hold the same questions"));
        let error = load(tree(&[("a.txt", "")]).path(), &selection(TASKS[0], 0)).unwrap_err();
        assert!(error.to_string().ends_with("no questions in it"), "{error}");
    }

    #[test]
    fn a_task_may_show_another_part_and_call_its_subjects_otherwise() {
        let task = Task::from(&TEN_CHOICES);
        let row = |question: &str| format!("{question},1,2,3,4,5,6,7,8,9,10,J\n");
        let data = tree(&[("val/physics_val.csv", &row("shown")), ("test/physics_test.csv", &row("asked"))]);
        let subjects = load(data.path(), &selection(task, 1)).unwrap();
        let [subject] = &subjects[..] else { panic!("one subject expected: {subjects:?}") };
        assert_eq!((subject.shots[0].text.as_str(), subject.questions[0].answer), ("shown", 9));
        let error = load(data.path(), &selection(task, 2)).unwrap_err();
        assert!(error.to_string().ends_with("1 val questions on physics, --shots 2"), "{error}");
    }
}
