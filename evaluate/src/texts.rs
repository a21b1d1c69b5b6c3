//! The prompts of a style as the tokens of a model.

use common::text::{ChatTemplate, Tokenizer};
use common::{Result, hex};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::questions::{Prompt, Style, Subject, Task};

/// The tokenizer of a model, its chat template where the style needs one, and what is asked with them.
pub struct Texts {
    /// Of the model.
    pub tokenizer: Tokenizer,
    /// Of the model, or one that takes its place.
    pub template: Option<ChatTemplate>,
    /// Whose prompts are used.
    pub style: Style,
    /// How many answered questions come first.
    pub shots: usize,
}

impl Texts {
    fn prompts<'a>(&'a self, subject: &'a Subject) -> impl ParallelIterator<Item = Prompt> + 'a {
        subject.questions.par_iter().map(|question| self.style.prompt(subject, self.shots, question))
    }

    /// SHA-256 of all prompts, to tell figures of different questions or wordings apart.
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

    /// The tokens of a subject's prompts, none longer than `most`, as the harness shortens them.
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

    /// The tokens whose logprobs stand for the four letters.
    pub fn answers(&self, task: Task) -> Result<[u32; 4]> {
        self.style.answer_tokens(task, &self.tokenizer)
    }
}
