//! Tokens one by one: which of them go through the model next, and which one is chosen by its logits. What a prompt has in
//! common with the text before it is not computed again.

use super::engine::Limits;
use super::sampler::Sampler;
use super::settings::GenerationSettings;
use crate::{Result, bail};

/// Most tokens of a prompt that go through the model at once.
pub const PROMPT_PASS: usize = 512;

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

/// Tokens that go through the model before the next step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The tokens of the text before these, all others being forgotten.
    pub kept: usize,
    /// The tokens that are added to the text.
    pub tokens: Vec<u32>,
}

/// A text that grows by prompts and answers. It says which tokens go through the model, and chooses the next one by the
/// logits; its caller runs the model, for one text or for many at once.
pub struct Generator {
    sampler: Sampler,
    /// Tokens that have been through the model.
    text: Vec<u32>,
    answer: Option<Answer>,
}

/// An answer that has not ended.
struct Answer {
    settings: GenerationSettings,
    /// Tokens of the prompt that are not in the text yet, and how many are added at a time.
    prompt: Vec<u32>,
    prompt_pass: usize,
    /// Whether tokens of the prompt were added since the last step.
    has_read: bool,
    /// The last token, which is not in the text yet.
    last: Option<u32>,
    /// Number of tokens so far.
    tokens: usize,
}

impl Generator {
    /// Begins an empty text; `seed` decides what is sampled in all of its answers.
    pub fn new(seed: u64) -> Self {
        Self { sampler: Sampler::new(seed), text: Vec::new(), answer: None }
    }

    /// Draws the tokens of the next answers as `seed` decides.
    pub fn reseed(&mut self, seed: u64) {
        self.sampler = Sampler::new(seed);
    }

    /// Returns the tokens of the text so far.
    pub fn text(&self) -> &[u32] {
        &self.text
    }

    /// Returns how many tokens at the beginning of `prompt` are those of the text so far.
    pub fn known(&self, prompt: &[u32]) -> usize {
        self.text.iter().zip(prompt).take_while(|(a, b)| a == b).count()
    }

    /// Returns the tokens of the prompt that are not in the text yet.
    pub fn unread(&self) -> &[u32] {
        self.answer.as_ref().map_or(&[], |answer| &answer.prompt)
    }

    /// Makes the first `tokens` tokens of prompt and text together the text, because they are known from elsewhere. The
    /// last token of the prompt is still to be computed.
    pub fn skip_to(&mut self, tokens: usize) {
        if let Some(answer) = &mut self.answer {
            let skipped = tokens.saturating_sub(self.text.len()).min(answer.prompt.len().saturating_sub(1));
            self.text.extend(answer.prompt.drain(..skipped));
        }
    }

    /// Begins the answer to `prompt`, which takes the place of the text so far.
    pub fn begin(
        &mut self,
        mut prompt: Vec<u32>,
        settings: &GenerationSettings,
        limits: &dyn Limits,
    ) -> Result<()> {
        if prompt.is_empty() || prompt.len() >= limits.max_tokens() {
            bail!(
                TooLong,
                "a prompt of {} tokens leaves no room for an answer in the model's {}",
                prompt.len(),
                limits.bound()
            );
        }
        // The logits after the prompt are needed, so its last token is always computed.
        let mut known = self.known(&prompt).min(prompt.len() - 1);
        let mut prompt_pass = PROMPT_PASS;
        if limits.is_stretched(self.text.len().max(prompt.len())) {
            (known, prompt_pass) = (0, prompt.len());
        }
        self.text.truncate(known);
        prompt.drain(..known);
        let settings = settings.clone();
        self.answer = Some(Answer { settings, prompt, prompt_pass, has_read: false, last: None, tokens: 0 });
        Ok(())
    }

    /// Returns the tokens that go through the model before the next step; `None` where the step needs none.
    pub fn next_input(&self, limits: &dyn Limits) -> Option<Input> {
        let Answer { prompt, prompt_pass, last, .. } = self.answer.as_ref()?;
        if !prompt.is_empty() {
            let tokens = prompt[..(*prompt_pass).min(prompt.len())].to_vec();
            return Some(Input { kept: self.text.len(), tokens });
        }
        let last = last.filter(|_| self.text.len() + 1 < limits.max_tokens())?;
        let kept = if limits.switches_at(self.text.len() + 1) { 0 } else { self.text.len() };
        let tokens = self.text[kept..].iter().copied().chain([last]).collect();
        Some(Input { kept, tokens })
    }

    /// Adds the tokens of [`Generator::next_input`] to the text, after they have been through the model.
    pub fn add(&mut self, input: Input) {
        if let Some(answer) = &mut self.answer {
            answer.has_read = !answer.prompt.is_empty();
            match answer.has_read {
                true => drop(answer.prompt.drain(..input.tokens.len())),
                false => answer.last = None,
            }
        }
        self.text.truncate(input.kept);
        self.text.extend(input.tokens);
    }

    /// Takes one step, a part of the prompt or one token, by the logits `[V]` after the text. What
    /// [`Generator::next_input`] returns must have been added before. After the answer has ended, another must begin.
    pub fn next_step(&mut self, logits: &[f32]) -> Result<Step> {
        let Some(mut answer) = self.answer.take() else { bail!(Bug, "no answer has begun") };
        let step = self.step(&mut answer, logits)?;
        if !matches!(step, Step::Stop(_)) {
            self.answer = Some(answer);
        }
        Ok(step)
    }

    /// Ends the answer before it ends by itself.
    pub fn end(&mut self) {
        self.answer = None;
    }

    fn step(&mut self, answer: &mut Answer, logits: &[f32]) -> Result<Step> {
        if std::mem::take(&mut answer.has_read) {
            return Ok(Step::Prompt);
        }
        // The last token has not been added, because no other would have room after it.
        if answer.last.is_some() {
            return Ok(Step::Stop(StopReason::Context));
        }
        if answer.tokens == answer.settings.max_new_tokens {
            return Ok(Step::Stop(StopReason::Length));
        }
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            bail!(Malformed, "the model's logits are not finite");
        }
        let next = self.sampler.choose(logits, &self.text, &answer.settings);
        if answer.settings.stops.contains(&next) {
            return Ok(Step::Stop(StopReason::Stop));
        }
        answer.last = Some(next);
        answer.tokens += 1;
        Ok(Step::Token(next))
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::Engine;
    use super::super::engine::tests::Counting;
    use super::super::settings::tests::greedy;
    use super::*;

    /// Feeds the engine what the next step needs, and takes the step.
    fn step(generator: &mut Generator, engine: &mut Counting, logits: &mut Vec<f32>) -> Step {
        if let Some(input) = generator.next_input(engine) {
            engine.truncate(input.kept);
            *logits = engine.feed(&input.tokens).unwrap();
            generator.add(input);
        }
        generator.next_step(logits).unwrap()
    }

    fn answer(
        generator: &mut Generator,
        engine: &mut Counting,
        prompt: &[u32],
        settings: &GenerationSettings,
    ) -> (Vec<u32>, StopReason) {
        generator.begin(prompt.to_vec(), settings, engine).unwrap();
        let (mut tokens, mut logits) = (Vec::new(), Vec::new());
        loop {
            match step(generator, engine, &mut logits) {
                Step::Prompt => {}
                Step::Token(token) => tokens.push(token),
                Step::Stop(reason) => return (tokens, reason),
            }
        }
    }

    #[test]
    fn answers_end_at_stops_and_limits() {
        let mut engine = Counting { most: 12, ..Counting::default() };
        let mut generator = Generator::new(0);
        let mut of_three = |settings| answer(&mut generator, &mut engine, &[3], &settings);
        assert_eq!(of_three(greedy(100, &[7])), (vec![4, 5, 6], StopReason::Stop));
        assert_eq!(of_three(greedy(2, &[7])), (vec![4, 5], StopReason::Length));
        let (tokens, end) = of_three(greedy(100, &[]));
        assert_eq!((tokens.len(), end), (11, StopReason::Context));
        assert!(generator.begin(vec![0; 12], &greedy(1, &[]), &engine).is_err());
        assert!(generator.next_step(&[1.0]).is_err(), "nothing has begun");
    }

    #[test]
    fn generators_take_turns_and_an_answer_may_be_left_at_any_step() {
        let new = || (Generator::new(0), Counting { most: 2000, ..Counting::default() }, Vec::new());
        let mut both = [new(), new()];
        for ((generator, engine, _), first) in both.iter_mut().zip([1, 5]) {
            generator.begin(vec![first; 600], &greedy(100, &[9]), engine).unwrap();
        }
        for expected in
            [[Step::Prompt; 2], [Step::Prompt; 2], [2, 6].map(Step::Token), [3, 7].map(Step::Token)]
        {
            let found = both.each_mut().map(|(generator, engine, logits)| step(generator, engine, logits));
            assert_eq!(found, expected);
        }
        let [(mut left, mut engine, mut logits), _] = both;
        assert_eq!(logits[3], 1.0, "by which 3 was chosen");
        let settings = greedy(1, &[]);
        assert_eq!(answer(&mut left, &mut engine, &[1, 2, 3], &settings), (vec![4], StopReason::Length));
        left.begin(vec![1, 2, 3], &greedy(9, &[]), &engine).unwrap();
        step(&mut left, &mut engine, &mut logits);
        step(&mut left, &mut engine, &mut logits);
        let last = left.next_input(&engine).unwrap();
        left.add(last);
        left.end();
        assert_eq!(left.text, [1, 2, 3, 4], "the last token is known to the next prompt");
        assert_eq!(left.next_input(&engine), None);
    }

    #[test]
    fn a_stretched_text_serves_no_other() {
        let mut engine = Counting { most: 2000, unstretched: Some(600), ..Counting::default() };
        let fed = engine.fed.clone();
        let mut generator = Generator::new(0);
        let mut feed = |tokens: usize| {
            answer(&mut generator, &mut engine, &vec![1; tokens], &greedy(1, &[]));
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
        let mut engine = Counting { most: 50, unstretched: Some(4), ..Counting::default() };
        let fed = engine.fed.clone();
        answer(&mut Generator::new(0), &mut engine, &[1, 2, 3], &greedy(4, &[]));
        assert_eq!(fed.take(), [3, 1, 5, 1, 1]);
    }

    #[test]
    fn what_is_known_is_not_computed_again() {
        let mut engine = Counting { most: 50, ..Counting::default() };
        let fed = engine.fed.clone();
        let mut generator = Generator::new(0);
        let mut answer = |prompt: &[u32], settings| {
            answer(&mut generator, &mut engine, prompt, &settings);
            (fed.take(), engine.len)
        };
        assert_eq!(answer(&[1, 2, 3], greedy(100, &[6])).0, [3, 1, 1]);
        assert_eq!(answer(&[1, 2, 3, 4, 5, 8, 2], greedy(1, &[])).0, [2, 1], "the answer was known");
        let again = answer(&[1, 2, 3], greedy(1, &[])).0;
        assert_eq!(again, [1, 1], "the logits behind the prompt are computed anew");
        assert_eq!(answer(&[2], greedy(1, &[])), (vec![1, 1], 2));
    }
}
