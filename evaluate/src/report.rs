//! What came of an evaluation: per subject, per category and over all, as JSON, as a table and as a
//! chart.

use std::fmt::Write;

use common::chart::{Bar, BarChart, BarGroup};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::questions::{Category, LETTERS, Subject, Task};

/// Most bytes of a report; one of MMLU has 100 KB.
pub const MOST_BYTES: u64 = 64 << 20;

/// The scored questions of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The subject, as in the names of its files.
    pub subject: String,
    /// For each question the logprobs of A, B, C and D.
    pub logprobs: Vec<[f32; 4]>,
    /// For each question the right choice, 0 to 3.
    pub answers: Vec<usize>,
}

impl Scored {
    /// Whether these are scores of `subject`'s questions, as they are asked now.
    pub fn is_of(&self, subject: &Subject) -> bool {
        self.subject == subject.name
            && self.logprobs.len() == subject.questions.len()
            && self.logprobs.iter().flatten().all(|logprob| logprob.is_finite())
            && self.answers.iter().copied().eq(subject.questions.iter().map(|question| question.answer))
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            subject: self.subject.clone(),
            predictions: self.logprobs.iter().map(prediction).collect(),
            answers: self.answers.clone(),
        }
    }

    /// One line of JSON for each question.
    pub fn details(&self) -> String {
        let mut lines = String::new();
        for (index, (logprobs, &answer)) in self.logprobs.iter().zip(&self.answers).enumerate() {
            let line = json!({
                "subject": self.subject,
                "index": index,
                "logprobs": logprobs,
                "prediction": LETTERS[prediction(logprobs)],
                "answer": LETTERS[answer],
            });
            lines += &format!("{line}\n");
        }
        lines
    }
}

/// The choice of the highest logprob, the first of equals.
fn prediction(logprobs: &[f32; 4]) -> usize {
    (1..4).fold(0, |best, index| if logprobs[index] > logprobs[best] { index } else { best })
}

/// What was chosen and what was right, for each question of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The subject, as in the names of its files.
    pub subject: String,
    /// Chosen, 0 to 3.
    pub predictions: Vec<usize>,
    /// Right, 0 to 3.
    pub answers: Vec<usize>,
}

impl Outcome {
    /// For each question whether it was answered right.
    pub fn correct(&self) -> impl Iterator<Item = bool> {
        self.predictions.iter().zip(&self.answers).map(|(prediction, answer)| prediction == answer)
    }

    fn tally(&self) -> Tally {
        Tally::of_subject(self.answers.len(), self.correct().filter(|&correct| correct).count())
    }

    fn from_json(subject: &str, entry: &Value) -> Option<Self> {
        let choices = |key: &str| -> Option<Vec<usize>> {
            let letter = |c: char| LETTERS.iter().position(|letter| letter.starts_with(c));
            entry.get(key)?.as_str()?.chars().map(letter).collect()
        };
        let (predictions, answers) = (choices("predictions")?, choices("answers")?);
        (predictions.len() == answers.len()).then(|| Self {
            subject: subject.to_owned(),
            predictions,
            answers,
        })
    }
}

/// Questions, right answers, and how sure their share is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tally {
    /// Questions.
    pub n: usize,
    /// Right answers.
    pub correct: usize,
    /// Standard error of the accuracy; 0 where a single question gives none.
    pub error: f64,
}

impl Tally {
    /// Of one subject: the sample standard deviation over the square root of n.
    fn of_subject(n: usize, correct: usize) -> Self {
        let accuracy = correct as f64 / n.max(1) as f64;
        let error = if n > 1 { (accuracy * (1.0 - accuracy) / (n - 1) as f64).sqrt() } else { 0.0 };
        Self { n, correct, error }
    }

    /// Of several subjects, weighted by their questions, with the pooled standard error of
    /// lm-evaluation-harness (`pooled_sample_stderr`).
    fn of_group(subjects: &[Self]) -> Self {
        let n = subjects.iter().map(|subject| subject.n).sum();
        let correct = subjects.iter().map(|subject| subject.correct).sum();
        let squares: f64 = subjects
            .iter()
            .map(|subject| (subject.n as f64 - 1.0) * subject.error.powi(2) * subject.n as f64)
            .sum();
        let freedom = n as f64 - subjects.len() as f64;
        let error = if freedom > 0.0 { (squares / freedom / n as f64).sqrt() } else { 0.0 };
        Self { n, correct, error }
    }

    /// The share of right answers.
    pub fn accuracy(self) -> f64 {
        self.correct as f64 / self.n.max(1) as f64
    }

    fn json(self) -> Value {
        json!({"n": self.n, "correct": self.correct, "accuracy": self.accuracy(), "standard_error": self.error})
    }

    /// As lm-evaluation-harness names them.
    fn harness_json(self, alias: &str) -> Value {
        json!({"alias": alias, "acc,none": self.accuracy(), "acc_stderr,none": self.error, "sample_len": self.n})
    }
}

/// A finished evaluation.
#[derive(Debug, PartialEq)]
pub struct Report {
    task: Task,
    subjects: Vec<Outcome>,
    tallies: Vec<Tally>,
}

impl Report {
    /// Of scored subjects, in their order.
    pub fn new(task: Task, subjects: &[Scored]) -> Self {
        Self::of(task, subjects.iter().map(Scored::outcome).collect())
    }

    fn of(task: Task, subjects: Vec<Outcome>) -> Self {
        let tallies = subjects.iter().map(Outcome::tally).collect();
        Self { task, subjects, tallies }
    }

    /// From what [`Report::json`] wrote.
    pub fn from_json(report: &Value) -> Option<Self> {
        let task = report["recipe"]["task"].as_str().and_then(Task::named)?;
        let subjects = report.get("subjects")?.as_object()?;
        Some(Self::of(
            task,
            subjects.iter().map(|(name, entry)| Outcome::from_json(name, entry)).collect::<Option<_>>()?,
        ))
    }

    /// Its subjects.
    pub fn subjects(&self) -> &[Outcome] {
        &self.subjects
    }

    /// Of all questions.
    pub fn average(&self) -> Tally {
        Tally::of_group(&self.tallies)
    }

    fn of_category(&self, category: Category) -> Vec<(&Outcome, Tally)> {
        let pairs = self.subjects.iter().zip(self.tallies.iter().copied());
        pairs.filter(|(subject, _)| Category::of(self.task, &subject.subject) == category).collect()
    }

    /// Of the questions of a category, if there are any.
    pub fn category_tally(&self, category: Category) -> Option<Tally> {
        let tallies: Vec<Tally> = self.of_category(category).into_iter().map(|(_, tally)| tally).collect();
        (!tallies.is_empty()).then(|| Tally::of_group(&tallies))
    }

    /// The mean of the subjects' accuracies.
    pub fn macro_average(&self) -> f64 {
        self.tallies.iter().map(|tally| tally.accuracy()).sum::<f64>() / self.tallies.len().max(1) as f64
    }

    /// Accuracies in percent, by subject and by category, then the lines that LLaMA-Factory's
    /// evaluator prints.
    pub fn table(&self) -> String {
        let names = self.subjects.iter().map(|subject| subject.subject.len());
        let width = names.max().unwrap_or(0).max("subject".len()) + 2;
        let mut table = format!("{:width$} {:>6} {:>9} {:>7}\n", "subject", "n", "accuracy", "± error");
        let mut summary = String::new();
        for category in Category::ALL {
            let subjects = self.of_category(category);
            let Some(group) = self.category_tally(category) else { continue };
            let _ = writeln!(table, "{category}");
            for (subject, tally) in subjects {
                let (name, accuracy, error) =
                    (&subject.subject, tally.accuracy() * 100.0, tally.error * 100.0);
                let _ =
                    writeln!(table, "  {name:<0$} {1:>6} {accuracy:>9.2} {error:>7.2}", width - 2, tally.n);
            }
            let _ = writeln!(summary, "{category:>15}: {:.2}", group.accuracy() * 100.0);
        }
        let all = self.average();
        let _ = writeln!(table, "\n{:>15}: {:.2}", "Average", all.accuracy() * 100.0);
        table += &summary;
        let _ = writeln!(table, "{:>15}: {:.2}", "Macro average", self.macro_average() * 100.0);
        table
    }

    /// Accuracies as a chart of the model called `name`.
    pub fn chart(&self, name: &str) -> BarChart {
        let bar = |(subject, tally): (&Outcome, Tally)| Bar {
            label: subject.subject.replace('_', " "),
            value: tally.accuracy() * 100.0,
            error: tally.error * 100.0,
        };
        let group = |category: Category| {
            let accuracy = self.category_tally(category)?.accuracy() * 100.0;
            let bars = self.of_category(category).into_iter().map(bar).collect();
            Some(BarGroup { label: format!("{category} {accuracy:.1}"), bars })
        };
        let all = self.average();
        BarChart {
            title: format!(
                "{name}: {} {:.1} ± {:.1}, {} questions",
                self.task,
                all.accuracy() * 100.0,
                all.error * 100.0,
                all.n
            ),
            x_label: "accuracy in percent".into(),
            range: 0.0..100.0,
            reference: Some(("chance".into(), 25.0)),
            groups: Category::ALL.into_iter().filter_map(group).collect(),
        }
    }

    /// The report; `header` is put before the results.
    pub fn json(&self, header: Map<String, Value>) -> Value {
        let all = self.average();
        let mut categories = Map::new();
        let mut results = Map::new();
        let name = self.task.harness_name();
        results.insert(name.into(), all.harness_json(name));
        for category in Category::ALL {
            if let Some(tally) = self.category_tally(category) {
                categories.insert(category.to_string(), tally.json());
                // The harness groups the subjects of MMLU only.
                if self.task == Task::Mmlu {
                    results.insert(format!("{name}_{}", category.key()), tally.harness_json(category.key()));
                }
            }
        }
        let mut subjects = Map::new();
        let letters = |choices: &[usize]| choices.iter().map(|&choice| LETTERS[choice]).collect::<String>();
        for (outcome, tally) in self.subjects.iter().zip(&self.tallies) {
            let mut entry = tally.json();
            entry["category"] = json!(Category::of(self.task, &outcome.subject).to_string());
            entry["predictions"] = json!(letters(&outcome.predictions));
            entry["answers"] = json!(letters(&outcome.answers));
            subjects.insert(outcome.subject.clone(), entry);
            results.insert(format!("{name}_{}", outcome.subject), tally.harness_json(&outcome.subject));
        }
        let mut report = header;
        let mut average = all.json();
        average["macro"] = json!(self.macro_average());
        report.insert("average".into(), average);
        report.insert("categories".into(), categories.into());
        report.insert("subjects".into(), subjects.into());
        report.insert("results".into(), results.into());
        report.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(subject: &str, predictions: &str, answers: &str) -> Scored {
        let index = |c: char| "ABCD".find(c).unwrap();
        let logprobs = |c: char| {
            let mut row = [-2.0; 4];
            row[index(c)] = -0.5;
            row
        };
        Scored {
            subject: subject.into(),
            logprobs: predictions.chars().map(logprobs).collect(),
            answers: answers.chars().map(index).collect(),
        }
    }

    fn report() -> Report {
        let subjects = [
            scored("astronomy", "ABCD", "ABCA"),
            scored("tern_island", "AA", "AB"),
            scored("virology", "DDDDDD", "AAAAAD"),
        ];
        Report::new(Task::Mmlu, &subjects)
    }

    #[test]
    fn the_table_is_grouped_and_ends_with_llama_factorys_lines() {
        assert_eq!(
            report().table(),
            "\
subject            n  accuracy ± error
STEM
  astronomy        4     75.00   25.00
Other
  tern_island      2     50.00   50.00
  virology         6     16.67   16.67

        Average: 41.67
           STEM: 75.00
          Other: 25.00
  Macro average: 47.22
"
        );
    }

    #[test]
    fn the_report_has_the_keys_of_lm_eval() {
        let header = Map::from_iter([("recipe".to_owned(), json!({"task": "mmlu"}))]);
        let json = report().json(header);
        assert_eq!(json["results"]["mmlu_astronomy"]["acc,none"], 0.75);
        assert_eq!(json["results"]["mmlu_stem"]["acc_stderr,none"], 0.25);
        assert_eq!(json["results"]["mmlu_other"]["acc,none"], 0.25);
        // sqrt(((2-1)*0.5^2*2 + (6-1)*(1/6)^2*6) / (8-2) / 8)
        let pooled = json["results"]["mmlu_other"]["acc_stderr,none"].as_f64().unwrap();
        assert!((pooled - (0.5f64 + 30.0 / 36.0).sqrt() / 48f64.sqrt()).abs() < 1e-12, "{pooled}");
        assert_eq!(json["average"]["correct"], 5);
        assert_eq!(json["subjects"]["tern_island"]["predictions"], "AA");
        assert_eq!(json["subjects"]["tern_island"]["answers"], "AB");
        assert_eq!(Report::from_json(&json), Some(report()));
    }

    #[test]
    fn other_tasks_have_their_own_keys_and_categories() {
        let report = Report::new(Task::CEval, &[scored("logic", "AB", "AB")]).json(Map::new());
        assert_eq!(report["results"]["ceval-valid_logic"]["acc,none"], 1.0);
        assert_eq!(report["results"].as_object().unwrap().len(), 2, "no groups in between");
        assert_eq!(report["subjects"]["logic"]["category"], "Humanities");
    }

    #[test]
    fn the_chart_has_a_bar_for_each_subject() {
        let chart = report().chart("m");
        let group = |index: usize| {
            let group = &chart.groups[index];
            (group.label.as_str(), group.bars.iter().map(|bar| bar.value.round()).collect::<Vec<_>>())
        };
        assert_eq!(group(0), ("STEM 75.0", vec![75.0]));
        assert_eq!(group(1), ("Other 25.0", vec![50.0, 17.0]));
        assert!(chart.title.starts_with("m: MMLU 41.7"), "{}", chart.title);
    }

    #[test]
    fn details_have_a_line_for_each_question() {
        let details = scored("astronomy", "AB", "AC").details();
        let lines: Vec<Value> = details.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = json!({"subject": "astronomy", "index": 1, "logprobs": [-2.0, -0.5, -2.0, -2.0],
                              "prediction": "B", "answer": "C"});
        assert_eq!(lines[1], expected);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn the_first_of_equal_logprobs_is_the_prediction() {
        assert_eq!(prediction(&[-1.0, -1.0, -1.0, -1.0]), 0);
        assert_eq!(prediction(&[-2.0, -1.0, -1.0, -3.0]), 1);
    }
}
