//! The answers to a conversation as events: pieces of text as they come, and why an answer stops.

use super::answers::{Answers, Event};
use super::engine::Engine;
use super::format::{ChatFormat, Prompt};
use super::settings::GenerationSettings;
use crate::Result;
use crate::text::Conversation;

/// Answers one prompt after the other with a model of its own. Between two events the caller may do anything: show
/// the text, leave the answer, or ask another session for its next event.
pub struct Session<'a, E> {
    format: &'a ChatFormat,
    answers: Answers<'a>,
    engine: E,
    /// Logits `[V]` after the text so far.
    logits: Vec<f32>,
}

impl<'a, E: Engine> Session<'a, E> {
    /// Begins without a text; `seed` decides what is sampled in all answers of the session.
    pub fn new(format: &'a ChatFormat, engine: E, seed: u64) -> Self {
        Self { format, answers: Answers::new(format, seed), engine, logits: Vec::new() }
    }

    /// Returns the most tokens that prompt and answer may have together.
    pub fn max_tokens(&self) -> usize {
        self.engine.limits().max_tokens()
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
        self.answers.begin(prompt, settings, self.engine.limits())
    }

    /// Computes up to the next event of the answer that has begun.
    pub fn next_event(&mut self) -> Result<Event> {
        if let Some(input) = self.answers.next_input(self.engine.limits()) {
            self.engine.truncate(input.kept);
            self.logits = self.engine.feed(&input.tokens)?;
            self.answers.add(input);
        }
        self.answers.next_event(&self.logits)
    }

    /// Returns the model's logits `[V]` that the last token was chosen by, for [`super::logprobs()`].
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Ends the answer, wherever it is, and returns the text that was held back.
    pub fn finish(&mut self) -> Result<String> {
        self.answers.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::Counting;
    use super::super::format::tests::format;
    use super::super::generator::StopReason;
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
