//! The answers to a conversation as events: pieces of text as they come, and why an answer stops.

use super::engine::Engine;
use super::format::{ChatFormat, Prompt};
use super::generator::{Generator, Step, StopReason};
use super::settings::GenerationSettings;
use super::stop_text::StopText;
use crate::Result;
use crate::text::{Conversation, StreamDecoder};

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

/// Answers one prompt after the other. Between two events the caller may do what it likes: show the text,
/// leave the answer, or ask another session for its next event.
pub struct Session<'a, E> {
    format: &'a ChatFormat,
    generator: Generator<E>,
    decoder: StreamDecoder<'a>,
    stop_text: StopText,
}

impl<'a, E: Engine> Session<'a, E> {
    /// Begins without a text; `seed` decides what is sampled in all answers of the session.
    pub fn new(format: &'a ChatFormat, engine: E, seed: u64) -> Self {
        Self {
            format,
            generator: Generator::new(engine, seed),
            decoder: StreamDecoder::new(format.tokenizer()),
            stop_text: StopText::default(),
        }
    }

    /// Returns the most tokens that prompt and answer may have together.
    pub fn max_tokens(&self) -> usize {
        self.generator.max_tokens()
    }

    /// Encodes the prompt for the next answer in `conversation`, from which the oldest turns are dropped
    /// until some room for that answer is left.
    pub fn prompt(&self, conversation: &mut Conversation, settings: &GenerationSettings) -> Result<Prompt> {
        let window = self.max_tokens();
        self.format.prompt(conversation, window - settings.max_new_tokens.min(window / 4).max(1))
    }

    /// Begins the answer to a prompt. Where the prompt begins like the text of the session so far, that part
    /// is not computed again.
    pub fn begin(&mut self, prompt: Vec<u32>, settings: &GenerationSettings) -> Result<()> {
        self.generator.begin(prompt, settings)?;
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

    /// Returns the number of tokens of the text so far, whose keys and values are kept.
    pub fn text_len(&self) -> usize {
        self.generator.text_len()
    }

    /// Returns how many tokens of `prompt` would not be computed again, because the text of the session so far
    /// begins with them.
    pub fn known(&self, prompt: &[u32]) -> usize {
        self.generator.known(prompt)
    }

    /// Computes up to the next event of the answer that has begun.
    pub fn next_event(&mut self) -> Result<Event> {
        if self.stop_text.is_found() {
            self.generator.end()?;
            return Ok(Event::Stop(StopReason::Stop));
        }
        Ok(match self.generator.next_step()? {
            Step::Prompt => Event::Prompt,
            Step::Token(id) => Event::Token { id, text: self.stop_text.push(&self.decoder.push(id)?) },
            Step::Stop(reason) => Event::Stop(reason),
        })
    }

    /// Returns the model's logits `[V]` that the last token was chosen by, for [`super::logprobs()`].
    pub fn logits(&self) -> &[f32] {
        self.generator.logits()
    }

    /// Ends the answer, wherever it is, and returns the text that was held back.
    pub fn finish(&mut self) -> Result<String> {
        let decoder = std::mem::replace(&mut self.decoder, StreamDecoder::new(self.format.tokenizer()));
        let last = self.stop_text.push(&decoder.finish()?);
        Ok(last + &std::mem::take(&mut self.stop_text).finish())
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::Counting;
    use super::super::format::tests::format;
    use super::super::logprobs;
    use super::super::settings::tests::greedy;
    use super::*;
    use crate::text::Message;

    fn conversation(text: &str) -> Conversation {
        Conversation { messages: vec![Message::new("user", text)], tools: Vec::new() }
    }

    /// The events of an answer to `!`, token 1 of the tokenizer: tokens 2, 3, 4 and so on are `"#$`.
    fn events(format: &ChatFormat, settings: &GenerationSettings) -> (Vec<Event>, String) {
        let engine = Counting { most: 50, ..Counting::default() };
        let mut session = Session::new(format, engine, 0);
        let prompt = session.prompt(&mut conversation("!"), settings).unwrap();
        assert_eq!((&prompt.tokens[..], prompt.dropped), (&[1][..], 0));
        session.begin(prompt.tokens, settings).unwrap();
        let mut events = Vec::new();
        while !matches!(events.last(), Some(Event::Stop(_))) {
            events.push(session.next_event().unwrap());
        }
        let rest = session.finish().unwrap();
        (events, rest)
    }

    fn token(id: u32, text: &str) -> Event {
        Event::Token { id, text: text.into() }
    }

    #[test]
    fn an_answer_is_a_prompt_tokens_and_a_reason() {
        let (found, rest) = events(&format(""), &greedy(3, &[]));
        let tokens = [token(2, "\""), token(3, "#"), token(4, "$")];
        let expected = [&[Event::Prompt][..], &tokens, &[Event::Stop(StopReason::Length)]].concat();
        assert_eq!((found, rest.as_str()), (expected, ""));
    }

    #[test]
    fn an_answer_stops_at_the_text_that_ends_it_and_shows_nothing_of_it() {
        let (found, rest) = events(&format("#$"), &greedy(9, &[]));
        let tokens = [token(2, "\""), token(3, ""), token(4, "")];
        let expected = [&[Event::Prompt][..], &tokens, &[Event::Stop(StopReason::Stop)]].concat();
        assert_eq!((found, rest.as_str()), (expected, ""));
        // What only looked like the beginning of it comes last.
        let (found, rest) = events(&format("#$"), &greedy(2, &[]));
        assert_eq!(found[1..], [token(2, "\""), token(3, ""), Event::Stop(StopReason::Length)]);
        assert_eq!(rest, "#");
    }

    #[test]
    fn tokens_have_logprobs() {
        let format = format("");
        let mut session = Session::new(&format, Counting { most: 50, ..Counting::default() }, 0);
        session.begin(vec![1], &greedy(9, &[])).unwrap();
        assert_eq!(session.next_event().unwrap(), Event::Prompt);
        let Event::Token { id, .. } = session.next_event().unwrap() else { panic!("a token expected") };
        let found = logprobs(session.logits(), &[id]).unwrap()[0];
        assert!((found - (1.0 - (std::f32::consts::E + 9.0).ln())).abs() < 1e-6, "{found}");
    }
}
