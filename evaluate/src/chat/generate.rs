//! Tokens one by one, behind a key/value cache.

use common::model::{Batch, Cache, KeyValueCache, Model};
use common::{Result, bail};

use super::sampling::Sampler;
use super::settings::Settings;

/// Tokens of a prompt that go through the model at a time, between two looks at whether to stop.
const PROMPT_PASS: usize = 512;

/// A model as generation sees it: a text that grows, and the logits behind it.
pub trait Engine {
    /// Most tokens of a text.
    fn max_tokens(&self) -> usize;
    /// What bounds them, for people.
    fn bound(&self) -> String {
        format!("{} positions", self.max_tokens())
    }
    /// Forgets what is behind the first `len` tokens.
    fn keep(&mut self, len: usize);
    /// Whether what is known of a text of this many tokens serves no other, and the other way round.
    fn is_whole(&self, _tokens: usize) -> bool {
        false
    }
    /// Adds tokens, and returns the logits [V] behind the last.
    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>>;
}

/// A loaded model with the keys and values of the text so far.
pub struct ModelEngine<'a> {
    model: &'a Model,
    cache: KeyValueCache,
    /// Answer as the base does, without the adapters.
    without_adapters: bool,
}

impl<'a> ModelEngine<'a> {
    /// An empty text.
    pub fn new(model: &'a Model, without_adapters: bool) -> Self {
        Self { model, cache: KeyValueCache::new(), without_adapters }
    }
}

impl Engine for ModelEngine<'_> {
    fn max_tokens(&self) -> usize {
        self.model.config().max_positions
    }

    fn bound(&self) -> String {
        self.model.config().bound()
    }

    fn keep(&mut self, len: usize) {
        self.cache.truncate(len);
    }

    fn is_whole(&self, tokens: usize) -> bool {
        self.model.config().is_stretched(tokens)
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let batch = Batch::prompt(tokens, self.cache.len());
        let (rows, cache) = (batch.last_rows(), Cache::Extend(&mut self.cache));
        match self.without_adapters {
            true => self.model.base_logits(&batch, &rows, cache),
            false => self.model.logits(&batch, &rows, cache),
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a token that ends it.
    Stop,
    /// At the most tokens an answer may have.
    Length,
    /// At the most tokens the model takes.
    Context,
    /// Because the user wished so.
    Interrupted,
}

/// A text that grows by prompts and answers. What a prompt has in common with the text so far is
/// not computed again.
pub struct Generator<E> {
    engine: E,
    /// Tokens that the engine knows.
    text: Vec<u32>,
    sampler: Sampler,
}

impl<E: Engine> Generator<E> {
    /// An empty text; `seed` decides what is sampled.
    pub fn new(engine: E, seed: u64) -> Self {
        Self { engine, text: Vec::new(), sampler: Sampler::new(seed) }
    }

    /// Most tokens of prompt and answer.
    pub fn max_tokens(&self) -> usize {
        self.engine.max_tokens()
    }

    /// Answers `prompt`, telling `token` each new token but the one that ends the answer, until that
    /// token, a limit, or until `stopped` says so.
    pub fn answer(
        &mut self,
        prompt: &[u32],
        settings: &Settings,
        mut stopped: impl FnMut() -> bool,
        mut token: impl FnMut(u32) -> Result<()>,
    ) -> Result<End> {
        if prompt.is_empty() || prompt.len() >= self.engine.max_tokens() {
            bail!(
                TooLong,
                "a prompt of {} tokens leaves no room for an answer in the model's {}",
                prompt.len(),
                self.engine.bound()
            );
        }
        // The logits behind the prompt are needed, so its last token is always computed.
        let mut known =
            self.text.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        let mut at_a_time = PROMPT_PASS;
        if self.engine.is_whole(self.text.len().max(prompt.len())) {
            (known, at_a_time) = (0, prompt.len());
        }
        self.engine.keep(known);
        self.text.truncate(known);
        let mut logits = Vec::new();
        for tokens in prompt[known..].chunks(at_a_time) {
            if stopped() {
                return Ok(End::Interrupted);
            }
            logits = self.engine.feed(tokens)?;
            self.text.extend_from_slice(tokens);
        }
        for _ in 0..settings.max_new_tokens {
            if stopped() {
                return Ok(End::Interrupted);
            }
            if logits.iter().any(|logit| !logit.is_finite()) {
                bail!(Malformed, "the model's logits are not finite");
            }
            let next = self.sampler.choose(&mut logits, &self.text, settings);
            if settings.stops.contains(&next) {
                return Ok(End::Stop);
            }
            token(next)?;
            if self.text.len() + 1 >= self.engine.max_tokens() {
                return Ok(End::Context);
            }
            logits = self.engine.feed(&[next])?;
            self.text.push(next);
        }
        Ok(End::Length)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// Says the token after the last one, up to 9, and records how much it was fed at a time.
    #[derive(Clone, Default)]
    pub struct Counting {
        pub len: usize,
        pub most: usize,
        /// Texts of more tokens are whole.
        pub in_parts: Option<usize>,
        pub fed: Rc<RefCell<Vec<usize>>>,
    }

    impl Engine for Counting {
        fn max_tokens(&self) -> usize {
            self.most
        }

        fn keep(&mut self, len: usize) {
            self.len = len;
        }

        fn is_whole(&self, tokens: usize) -> bool {
            self.in_parts.is_some_and(|most| tokens > most)
        }

        fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
            self.len += tokens.len();
            self.fed.borrow_mut().push(tokens.len());
            let mut logits = vec![0.0; 10];
            logits[(tokens[tokens.len() - 1] as usize + 1) % 10] = 1.0;
            Ok(logits)
        }
    }

    pub fn greedy(max_new_tokens: usize, stops: &[u32]) -> Settings {
        Settings {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens,
            stops: stops.to_vec(),
        }
    }

    fn answer(generator: &mut Generator<Counting>, prompt: &[u32], settings: &Settings) -> (Vec<u32>, End) {
        let mut tokens = Vec::new();
        let push = |token| {
            tokens.push(token);
            Ok(())
        };
        let end = generator.answer(prompt, settings, || false, push).unwrap();
        (tokens, end)
    }

    #[test]
    fn answers_end_at_stops_and_limits() {
        let engine = Counting { most: 12, ..Counting::default() };
        let mut generator = Generator::new(engine, 0);
        assert_eq!(answer(&mut generator, &[3], &greedy(100, &[7])), (vec![4, 5, 6], End::Stop));
        assert_eq!(answer(&mut generator, &[3], &greedy(2, &[7])), (vec![4, 5], End::Length));
        let (tokens, end) = answer(&mut generator, &[3], &greedy(100, &[]));
        assert_eq!((tokens.len(), end), (11, End::Context));
        assert!(generator.answer(&[0; 12], &greedy(1, &[]), || false, |_| Ok(())).is_err());
        let stopped = generator.answer(&[3], &greedy(1, &[]), || true, |_| Ok(())).unwrap();
        assert_eq!(stopped, End::Interrupted);
    }

    #[test]
    fn what_is_known_of_a_whole_text_serves_no_other() {
        let engine = Counting { most: 2000, in_parts: Some(600), ..Counting::default() };
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
