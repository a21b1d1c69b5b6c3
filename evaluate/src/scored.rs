//! The scores of a subject's questions.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::questions::Subject;
use crate::report::outcome::Outcome;
use crate::tasks::letter;

/// The scored questions of a subject.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The subject as in the names of its files.
    pub subject: String,
    /// The log-probabilities of the choices of each question, from A on.
    pub logprobs: Vec<Vec<f32>>,
    /// The index of the right choice of each question.
    pub answers: Vec<usize>,
}

impl Scored {
    /// Returns whether these are the scores of the questions on `subject` that are asked now.
    pub fn is_of(&self, subject: &Subject) -> bool {
        self.subject == subject.name
            && self
                .logprobs
                .iter()
                .map(Vec::len)
                .eq(subject.questions.iter().map(|question| question.choices.len()))
            && self.logprobs.iter().flatten().all(|logprob| logprob.is_finite())
            && self.answers.iter().copied().eq(subject.questions.iter().map(|question| question.answer))
    }

    /// Returns what was chosen and what is right.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            subject: self.subject.clone(),
            predictions: self.logprobs.iter().map(|logprobs| prediction(logprobs)).collect(),
            answers: self.answers.clone(),
        }
    }

    /// Returns a line of JSON for each question.
    pub fn details(&self) -> String {
        let mut lines = String::new();
        for (index, (logprobs, &answer)) in self.logprobs.iter().zip(&self.answers).enumerate() {
            let line = json!({
                "subject": self.subject,
                "index": index,
                "logprobs": logprobs,
                "prediction": letter(prediction(logprobs)),
                "answer": letter(answer),
            });
            lines += &format!("{line}\n");
        }
        lines
    }
}

/// Returns the choice of the highest log-probability, the first of equals.
fn prediction(logprobs: &[f32]) -> usize {
    (1..logprobs.len()).fold(0, |best, index| if logprobs[index] > logprobs[best] { index } else { best })
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::Value;

    use super::*;
    use crate::questions::Question;
    use crate::tasks::TASKS;

    /// Scores of questions with four choices, of which `predictions` are the likeliest.
    pub(crate) fn scored(subject: &str, predictions: &str, answers: &str) -> Scored {
        let index = |c: char| "ABCD".find(c).unwrap();
        let logprobs = |c: char| {
            let mut row = vec![-2.0; 4];
            row[index(c)] = -0.5;
            row
        };
        Scored {
            subject: subject.into(),
            logprobs: predictions.chars().map(logprobs).collect(),
            answers: answers.chars().map(index).collect(),
        }
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

    #[test]
    fn scores_are_of_the_questions_that_are_asked() {
        let question = |choices: usize, answer| Question {
            text: "q".into(),
            choices: vec!["c".into(); choices],
            answer,
        };
        let (name, title, shots) = ("a".to_owned(), "a".to_owned(), Vec::new());
        let subject =
            Subject { task: TASKS[0], name, title, shots, questions: vec![question(4, 0), question(3, 1)] };
        let scores = |logprobs: Vec<Vec<f32>>, answers: &[usize]| {
            Scored { subject: "a".into(), logprobs, answers: answers.to_vec() }.is_of(&subject)
        };
        assert!(scores(vec![vec![-1.0; 4], vec![-1.0; 3]], &[0, 1]));
        assert!(!scores(vec![vec![-1.0; 4], vec![-1.0; 4]], &[0, 1]), "another number of choices");
        assert!(!scores(vec![vec![-1.0; 4], vec![f32::NAN; 3]], &[0, 1]));
        assert!(!scores(vec![vec![-1.0; 4], vec![-1.0; 3]], &[0, 0]), "another answer");
        assert!(!scores(vec![vec![-1.0; 4]], &[0]), "a question less");
    }
}
