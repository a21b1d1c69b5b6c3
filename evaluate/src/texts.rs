//! The prompts of a style, as the tokens of a model.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use common::text::{ChatTemplate, Tokenizer};
use common::{Result, cli, error, hex};
use rayon::ThreadPoolBuilder;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::questions::{Prompt, Style, Subject};
use crate::tasks::Task;

/// The tokenizer of a model, its chat template where the style needs one, and what is asked with them.
pub struct Texts {
    /// The tokenizer of the model.
    pub tokenizer: Tokenizer,
    /// The chat template of the model, or the one that takes its place.
    pub template: Option<ChatTemplate>,
    /// The style of the prompts.
    pub style: Style,
    /// Number of questions that are shown with their answers first.
    pub shots: usize,
}

impl Texts {
    fn prompts<'a>(&'a self, subject: &'a Subject) -> impl ParallelIterator<Item = Prompt> + 'a {
        subject.questions.par_iter().map(|question| self.style.prompt(subject, self.shots, question))
    }

    /// Returns the SHA-256 of all prompts, which tells figures of different questions or wordings apart.
    pub fn hash(&self, subjects: &[Subject]) -> Result<String> {
        let mut hash = Sha256::new();
        for subject in subjects {
            let texts: Result<Vec<String>> =
                self.prompts(subject).map(|prompt| prompt.text(self.template.as_ref())).collect();
            for text in texts? {
                hash.update(text);
                hash.update([0]);
            }
        }
        Ok(hex(hash.finalize()))
    }

    /// Returns the tokens of a subject's prompts, none longer than `most`, shortened as the harness does.
    pub fn encode(&self, subject: &Subject, most: usize) -> Result<Vec<Vec<u32>>> {
        let encode = |shots: usize, index: usize| {
            let prompt = self.style.prompt(subject, shots, &subject.questions[index]);
            prompt.encode(&self.tokenizer, self.template.as_ref())
        };
        (0..subject.questions.len())
            .into_par_iter()
            .map(|index| {
                let mut tokens = encode(self.shots, index)?;
                let mut shots = self.shots;
                while self.style == Style::Hendrycks && tokens.len() > most && shots > 0 {
                    shots -= 1;
                    tokens = encode(shots, index)?;
                }
                if self.style == Style::LmEval && tokens.len() > most {
                    tokens.drain(..tokens.len() - most);
                }
                Ok(tokens)
            })
            .collect()
    }

    /// Does `work` while `threads` other threads encode the prompts of `subjects`. Returns what `work` returns, and the
    /// tokens of each subject's prompts as [`Texts::encode`] does. Where `work` fails, no more subjects are encoded.
    pub fn encode_beside<T>(
        &self,
        subjects: &[&Subject],
        most: usize,
        threads: usize,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Vec<Vec<Vec<u32>>>)> {
        // Threads of their own, so that nothing that `work` does in parallel waits for them.
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|problem| error!(System, "{threads} threads: {problem}"))?;
        thread::scope(|scope| {
            let (sender, encoded) = mpsc::channel();
            let encode = move || {
                let prompts = subjects.iter().map(|subject| self.encode(subject, most));
                // The receiver is gone once it waits for no more.
                prompts.map(|prompts| sender.send(prompts)).take_while(|sent| sent.is_ok()).count()
            };
            scope.spawn(move || pool.install(encode));
            let done = work()?;
            let begun = Instant::now();
            let prompts = encoded.iter().collect::<Result<_>>()?;
            cli::verbose(format_args!("waited {:.1} s for the last prompts", begun.elapsed().as_secs_f64()));
            Ok((done, prompts))
        })
    }

    /// Returns the tokens whose log-probabilities stand for the letters of the choices.
    pub fn answers(&self, task: Task) -> Result<Vec<u32>> {
        self.style.answer_tokens(task, &self.tokenizer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::questions::Question;
    use crate::tasks::TASKS;

    fn subject(questions: usize) -> Subject {
        let question = |index: usize| Question {
            text: format!("{} of {questions}", "so ".repeat(index)),
            choices: ["1", "2", "3", "4"].map(str::to_owned).into(),
            answer: 0,
        };
        let (shots, questions) = (vec![question(1)], (0..questions).map(question).collect());
        Subject { task: TASKS[0], name: "s".into(), title: "s".into(), shots, questions }
    }

    #[test]
    fn prompts_that_are_encoded_beside_something_else_are_those_of_each_subject() {
        let json = ::tests::tiny_model::byte_tokenizer(&[]).to_string();
        let tokenizer = Tokenizer::from_bytes(json.as_bytes(), Map::new()).unwrap();
        let texts = Texts { tokenizer, template: None, style: Style::LmEval, shots: 1 };
        let subjects: Vec<Subject> = [3, 1, 40].map(subject).into();
        let asked: Vec<&Subject> = subjects.iter().collect();
        let (done, prompts) = texts.encode_beside(&asked, 150, 2, || Ok("loaded")).unwrap();
        assert_eq!(done, "loaded");
        let expected = asked.iter().map(|subject| texts.encode(subject, 150).unwrap());
        assert_eq!(prompts, expected.collect::<Vec<_>>());
        let failed = texts.encode_beside::<()>(&asked, 150, 2, || common::bail!(Row, "no memory"));
        assert_eq!(failed.unwrap_err().to_string(), "no memory");
        // A question that cannot be encoded is an error too.
        let without_template = Texts { style: Style::LlamaFactory, ..texts };
        let error = without_template.encode_beside(&asked, 150, 2, || Ok(())).unwrap_err();
        assert!(error.to_string().contains("needs a model with a chat template"), "{error}");
    }
}
