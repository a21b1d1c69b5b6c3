//! A report as JSON, with keys of its own and those of lm-evaluation-harness.

use serde_json::{Map, Value, json};

use super::{Outcome, Report, Tally};
use crate::tasks::{Category, Task, letter};

impl Report {
    /// Returns the report as JSON; the entries of `header` come before the results.
    pub fn json(&self, header: Map<String, Value>) -> Value {
        let all = self.average();
        let mut categories = Map::new();
        let mut results = Map::new();
        let name = self.task.harness_name;
        results.insert(name.into(), harness_counts(all, name));
        for category in Category::ALL {
            if let Some(tally) = self.category_tally(category) {
                categories.insert(category.to_string(), counts(tally));
                if self.task.harness_groups {
                    results
                        .insert(format!("{name}_{}", category.key()), harness_counts(tally, category.key()));
                }
            }
        }
        let mut subjects = Map::new();
        let letters = |choices: &[usize]| choices.iter().map(|&choice| letter(choice)).collect::<String>();
        for (outcome, tally) in self.subjects.iter().zip(&self.tallies) {
            let mut entry = counts(*tally);
            entry["category"] = json!(self.category(&outcome.subject).to_string());
            entry["predictions"] = json!(letters(&outcome.predictions));
            entry["answers"] = json!(letters(&outcome.answers));
            subjects.insert(outcome.subject.clone(), entry);
            results.insert(format!("{name}_{}", outcome.subject), harness_counts(*tally, &outcome.subject));
        }
        let mut report = header;
        let mut average = counts(all);
        average["macro"] = json!(self.macro_average());
        report.insert("average".into(), average);
        report.insert("categories".into(), categories.into());
        report.insert("subjects".into(), subjects.into());
        report.insert("results".into(), results.into());
        report.into()
    }

    /// Reads what [`Report::json`] returned; `None` where that is of a task that is not known, or not whole.
    pub fn from_json(report: &Value) -> Option<Self> {
        let task = report["recipe"]["task"].as_str().and_then(Task::named)?;
        let subjects = report.get("subjects")?.as_object()?;
        Some(Self::of(
            task,
            subjects.iter().map(|(name, entry)| outcome(task, name, entry)).collect::<Option<_>>()?,
        ))
    }
}

/// Reads the predictions and answers of a subject.
fn outcome(task: Task, subject: &str, entry: &Value) -> Option<Outcome> {
    let choices = |key: &str| -> Option<Vec<usize>> {
        let index = |c: char| task.letters().position(|letter| letter == c);
        entry.get(key)?.as_str()?.chars().map(index).collect()
    };
    let (predictions, answers) = (choices("predictions")?, choices("answers")?);
    (predictions.len() == answers.len()).then(|| Outcome {
        subject: subject.to_owned(),
        predictions,
        answers,
    })
}

/// Returns a tally with the keys of this report.
fn counts(tally: Tally) -> Value {
    let Tally { n, correct, error } = tally;
    json!({"n": n, "correct": correct, "accuracy": tally.accuracy(), "standard_error": error})
}

/// Returns a tally with the keys of lm-evaluation-harness.
fn harness_counts(tally: Tally, alias: &str) -> Value {
    let Tally { n, error, .. } = tally;
    json!({"alias": alias, "acc,none": tally.accuracy(), "acc_stderr,none": error, "sample_len": n})
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;
    use crate::scored::tests::scored;
    use crate::tasks::TASKS;

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
        let report = Report::new(TASKS[2], &[scored("logic", "AB", "AB")]).json(Map::new());
        assert_eq!(report["results"]["ceval-valid_logic"]["acc,none"], 1.0);
        assert_eq!(report["results"].as_object().unwrap().len(), 2, "no groups in between");
        assert_eq!(report["subjects"]["logic"]["category"], "Humanities");
    }
}
