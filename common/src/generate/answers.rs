//! The answers to one prompt after the other as events, for callers that run the model themselves.

use super::engine::Limits;
use super::format::ChatFormat;
use super::generator::{Generator, Input, Step, StopReason};
use super::settings::GenerationSettings;
use super::stop_text::StopText;
use crate::Result;
use crate::text::StreamDecoder;

/// What has happened to an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A part of the prompt has gone through the model.
    Prompt,
    /// The answer has one more token.
    Token {
        /// The id of the token.
        id: u32,
        /// The text that can be shown now: empty while a character, or the text that may end the answer, is
        /// not complete.
        text: String,
    },
    /// The answer has ended.
    Stop(StopReason),
}

/// Answers one prompt after the other. Before each event the caller runs the model on what [`Answers::next_input`] asks
/// for, together with as many other texts as it likes.
pub struct Answers<'a> {
    format: &'a ChatFormat,
    generator: Generator,
    decoder: StreamDecoder<'a>,
    stop_text: StopText,
}

impl<'a> Answers<'a> {
    /// Begins without a text; `seed` decides what is sampled in all answers.
    pub fn new(format: &'a ChatFormat, seed: u64) -> Self {
        Self {
            format,
            generator: Generator::new(seed),
            decoder: StreamDecoder::new(format.tokenizer()),
            stop_text: StopText::default(),
        }
    }

    /// Begins the answer to a prompt. Where the prompt begins like the text so far, that part is not computed again.
    pub fn begin(
        &mut self,
        prompt: Vec<u32>,
        settings: &GenerationSettings,
        limits: &dyn Limits,
    ) -> Result<()> {
        self.generator.begin(prompt, settings, limits)?;
        self.decoder = StreamDecoder::new(self.format.tokenizer());
        self.stop_text = StopText::new(self.format.stop_text().map(str::to_owned).into_iter().collect());
        Ok(())
    }

    /// Draws the tokens of the next answers as `seed` decides.
    pub fn reseed(&mut self, seed: u64) {
        self.generator.reseed(seed);
    }

    /// Ends the answer that has begun at these texts too, which are no part of it.
    pub fn stop_at(&mut self, texts: &[String]) {
        let own = self.format.stop_text().map(str::to_owned);
        self.stop_text = StopText::new(own.into_iter().chain(texts.iter().cloned()).collect());
    }

    /// Returns the tokens of the text so far, whose keys and values are kept.
    pub fn text(&self) -> &[u32] {
        self.generator.text()
    }

    /// Returns how many tokens of `prompt` would not be computed again, because the text so far begins with them.
    pub fn known(&self, prompt: &[u32]) -> usize {
        self.generator.known(prompt)
    }

    /// Returns the tokens of the prompt that are not in the text yet.
    pub fn unread(&self) -> &[u32] {
        self.generator.unread()
    }

    /// Makes the first `tokens` tokens of prompt and text together the text, because they are known from elsewhere.
    pub fn skip_to(&mut self, tokens: usize) {
        self.generator.skip_to(tokens);
    }

    /// Returns the tokens that go through the model before the next event; `None` where the event needs none.
    pub fn next_input(&self, limits: &dyn Limits) -> Option<Input> {
        self.generator.next_input(limits)
    }

    /// Adds the tokens of [`Answers::next_input`] to the text, after they have been through the model.
    pub fn add(&mut self, input: Input) {
        self.generator.add(input);
    }

    /// Returns the next event of the answer that has begun, by the logits `[V]` after the text. What
    /// [`Answers::next_input`] returns must have been added before.
    pub fn next_event(&mut self, logits: &[f32]) -> Result<Event> {
        if self.stop_text.is_found() {
            self.generator.end();
            return Ok(Event::Stop(StopReason::Stop));
        }
        Ok(match self.generator.next_step(logits)? {
            Step::Prompt => Event::Prompt,
            Step::Token(id) => Event::Token { id, text: self.stop_text.push(&self.decoder.push(id)?) },
            Step::Stop(reason) => Event::Stop(reason),
        })
    }

    /// Ends the answer, wherever it is, and returns the text that was held back.
    pub fn finish(&mut self) -> Result<String> {
        let decoder = std::mem::replace(&mut self.decoder, StreamDecoder::new(self.format.tokenizer()));
        let last = self.stop_text.push(&decoder.finish()?);
        Ok(last + &std::mem::take(&mut self.stop_text).finish())
    }
}
