//! Tokens one by one. What a prompt has in common with the text before it is not computed again.

use super::engine::Engine;
use super::sampler::Sampler;
use super::settings::GenerationSettings;
use crate::{Result, bail};

/// Most tokens of a prompt that go through the model in one step.
pub(crate) const PROMPT_PASS: usize = 512;

/// What one step of an answer has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A part of the prompt has gone through the model.
    Prompt,
    /// The answer has one more token.
    Token(u32),
    /// The answer has ended.
    Stop(StopReason),
}

/// Why an answer has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The model has written a token or a text that ends answers, which is no part of the answer.
    Stop,
    /// The answer has as many tokens as the settings allow.
    Length,
    /// Prompt and answer have as many tokens as the model takes.
    Context,
}

/// A text that grows by prompts and answers. Its caller decides after each step whether to take the next
/// one, so that any number of generators can take turns.
pub struct Generator<E> {
    engine: E,
    sampler: Sampler,
    /// Tokens that the engine was fed.
    text: Vec<u32>,
    answer: Option<Answer>,
}

/// An answer that has not ended.
struct Answer {
    settings: GenerationSettings,
    /// Tokens of the prompt that were not fed yet, and how many are fed at a time.
    prompt: Vec<u32>,
    prompt_pass: usize,
    /// Logits `[V]` after the text so far.
    logits: Vec<f32>,
    /// The last token, which was not fed yet.
    last: Option<u32>,
    /// Number of tokens so far.
    tokens: usize,
}

impl<E: Engine> Generator<E> {
    /// Begins an empty text; `seed` decides what is sampled in all of its answers.
    pub fn new(engine: E, seed: u64) -> Self {
        Self { engine, sampler: Sampler::new(seed), text: Vec::new(), answer: None }
    }

    /// Returns the most tokens that prompt and answer may have together.
    pub fn max_tokens(&self) -> usize {
        self.engine.max_tokens()
    }

    /// Draws the tokens of the next answers as `seed` decides.
    pub fn reseed(&mut self, seed: u64) {
        self.sampler = Sampler::new(seed);
    }

    /// Returns the number of tokens of the text so far.
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    /// Returns how many tokens at the beginning of `prompt` are those of the text so far.
    pub fn known(&self, prompt: &[u32]) -> usize {
        self.text.iter().zip(prompt).take_while(|(a, b)| a == b).count()
    }

    /// Begins the answer to `prompt`, which takes the place of the text so far.
    pub fn begin(&mut self, mut prompt: Vec<u32>, settings: &GenerationSettings) -> Result<()> {
        if prompt.is_empty() || prompt.len() >= self.engine.max_tokens() {
            bail!(
                TooLong,
                "a prompt of {} tokens leaves no room for an answer in the model's {}",
                prompt.len(),
                self.engine.bound()
            );
        }
        // The logits after the prompt are needed, so its last token is always computed.
        let mut known = self.known(&prompt).min(prompt.len() - 1);
        let mut prompt_pass = PROMPT_PASS;
        if self.engine.is_stretched(self.text.len().max(prompt.len())) {
            (known, prompt_pass) = (0, prompt.len());
        }
        self.engine.truncate(known);
        self.text.truncate(known);
        prompt.drain(..known);
        let settings = settings.clone();
        self.answer =
            Some(Answer { settings, prompt, prompt_pass, logits: Vec::new(), last: None, tokens: 0 });
        Ok(())
    }

    /// Takes one step: a part of the prompt, or one token. After the answer has ended, another must begin.
    pub fn next_step(&mut self) -> Result<Step> {
        let Some(mut answer) = self.answer.take() else { bail!(Bug, "no answer has begun") };
        let step = self.step(&mut answer)?;
        if !matches!(step, Step::Stop(_)) {
            self.answer = Some(answer);
        }
        Ok(step)
    }

    /// Returns the model's logits `[V]` that the last token was chosen by; none before the first token.
    pub fn logits(&self) -> &[f32] {
        self.answer.as_ref().map_or(&[], |answer| &answer.logits)
    }

    /// Ends the answer before it ends by itself. Its last token is fed all the same, because the next
    /// prompt of a conversation repeats it.
    pub fn end(&mut self) -> Result<()> {
        match self.answer.take() {
            Some(mut answer) => self.feed_last(&mut answer).map(drop),
            None => Ok(()),
        }
    }

    fn step(&mut self, answer: &mut Answer) -> Result<Step> {
        if !answer.prompt.is_empty() {
            let rest = answer.prompt.split_off(answer.prompt_pass.min(answer.prompt.len()));
            let tokens = std::mem::replace(&mut answer.prompt, rest);
            answer.logits = self.engine.feed(&tokens)?;
            self.text.extend(tokens);
            return Ok(Step::Prompt);
        }
        if !self.feed_last(answer)? {
            return Ok(Step::Stop(StopReason::Context));
        }
        if answer.tokens == answer.settings.max_new_tokens {
            return Ok(Step::Stop(StopReason::Length));
        }
        if answer.logits.iter().any(|logit| !logit.is_finite()) {
            bail!(Malformed, "the model's logits are not finite");
        }
        let next = self.sampler.choose(&answer.logits, &self.text, &answer.settings);
        if answer.settings.stops.contains(&next) {
            return Ok(Step::Stop(StopReason::Stop));
        }
        answer.last = Some(next);
        answer.tokens += 1;
        Ok(Step::Token(next))
    }

    /// Feeds the last token; returns whether the model takes one more after it.
    fn feed_last(&mut self, answer: &mut Answer) -> Result<bool> {
        if let Some(last) = answer.last.take() {
            if self.text.len() + 1 >= self.engine.max_tokens() {
                return Ok(false);
            }
            let known = if self.engine.switches_at(self.text.len() + 1) { 0 } else { self.text.len() };
            let mut tokens = self.text.split_off(known);
            tokens.push(last);
            self.engine.truncate(known);
            answer.logits = self.engine.feed(&tokens)?;
            self.text.extend(tokens);
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::tests::Counting;
    use super::super::settings::tests::greedy;
    use super::*;

    fn answer(
        generator: &mut Generator<Counting>,
        prompt: &[u32],
        settings: &GenerationSettings,
    ) -> (Vec<u32>, StopReason) {
        generator.begin(prompt.to_vec(), settings).unwrap();
        let mut tokens = Vec::new();
        loop {
            match generator.next_step().unwrap() {
                Step::Prompt => {}
                Step::Token(token) => tokens.push(token),
                Step::Stop(reason) => return (tokens, reason),
            }
        }
    }

    #[test]
    fn answers_end_at_stops_and_limits() {
        let engine = Counting { most: 12, ..Counting::default() };
        let mut generator = Generator::new(engine, 0);
        assert_eq!(answer(&mut generator, &[3], &greedy(100, &[7])), (vec![4, 5, 6], StopReason::Stop));
        assert_eq!(answer(&mut generator, &[3], &greedy(2, &[7])), (vec![4, 5], StopReason::Length));
        let (tokens, end) = answer(&mut generator, &[3], &greedy(100, &[]));
        assert_eq!((tokens.len(), end), (11, StopReason::Context));
        assert!(generator.begin(vec![0; 12], &greedy(1, &[])).is_err());
        assert!(generator.next_step().is_err(), "nothing has begun");
    }

    #[test]
    fn generators_take_turns_and_an_answer_may_be_left_at_any_step() {
        let engine = || Counting { most: 2000, ..Counting::default() };
        let mut both = [Generator::new(engine(), 0), Generator::new(engine(), 0)];
        for (generator, first) in both.iter_mut().zip([1, 5]) {
            generator.begin(vec![first; 600], &greedy(100, &[9])).unwrap();
        }
        for expected in
            [[Step::Prompt; 2], [Step::Prompt; 2], [2, 6].map(Step::Token), [3, 7].map(Step::Token)]
        {
            let [a, b] = &mut both;
            assert_eq!([a.next_step().unwrap(), b.next_step().unwrap()], expected);
        }
        let [mut left, _] = both;
        assert_eq!(left.logits()[3], 1.0, "by which 3 was chosen");
        assert_eq!(answer(&mut left, &[1, 2, 3], &greedy(1, &[])), (vec![4], StopReason::Length));
        left.begin(vec![1, 2, 3], &greedy(9, &[])).unwrap();
        left.next_step().unwrap();
        left.next_step().unwrap();
        left.end().unwrap();
        assert_eq!(left.text, [1, 2, 3, 4], "the last token is known to the next prompt");
    }

    #[test]
    fn a_stretched_text_serves_no_other() {
        let engine = Counting { most: 2000, unstretched: Some(600), ..Counting::default() };
        let fed = engine.fed.clone();
        let mut generator = Generator::new(engine, 0);
        let mut feed = |tokens: usize| {
            answer(&mut generator, &vec![1; tokens], &greedy(1, &[]));
            let mut fed = fed.take();
            fed.pop();
            fed
        };
        assert_eq!(feed(599), [512, 87]);
        assert_eq!(feed(700), [700]);
        assert_eq!(feed(700), [700]);
        assert_eq!(feed(100), [100]);
        assert_eq!(feed(110), [10], "a hundred are known");
    }

    #[test]
    fn an_answer_that_grows_beyond_the_switch_is_encoded_anew_once() {
        let engine = Counting { most: 50, unstretched: Some(4), ..Counting::default() };
        let fed = engine.fed.clone();
        let mut generator = Generator::new(engine, 0);
        answer(&mut generator, &[1, 2, 3], &greedy(4, &[]));
        assert_eq!(fed.take(), [3, 1, 5, 1, 1]);
    }

    #[test]
    fn what_is_known_is_not_computed_again() {
        let engine = Counting { most: 50, ..Counting::default() };
        let fed = engine.fed.clone();
        let mut generator = Generator::new(engine, 0);
        answer(&mut generator, &[1, 2, 3], &greedy(100, &[6]));
        assert_eq!(fed.take(), [3, 1, 1]);
        answer(&mut generator, &[1, 2, 3, 4, 5, 8, 2], &greedy(1, &[]));
        assert_eq!(fed.take(), [2, 1], "the answer was known");
        answer(&mut generator, &[1, 2, 3], &greedy(1, &[]));
        assert_eq!(fed.take(), [1, 1], "the logits behind the prompt are computed anew");
        answer(&mut generator, &[2], &greedy(1, &[]));
        assert_eq!((fed.take(), generator.engine.len), (vec![1, 1], 2));
    }
}
