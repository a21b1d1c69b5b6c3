//! Chooses one token by its logits, in the order of transformers' logits processors: repetition penalty,
//! temperature, top-k, top-p.

use std::borrow::Cow;

use super::settings::GenerationSettings;

/// Chooses tokens; the same seed and logits give the same choices.
pub struct Sampler {
    state: u64,
}

impl Sampler {
    /// Begins a sequence of choices that follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// Returns the next token by `logits` `[V]` and by the tokens `seen` before it.
    pub fn choose(&mut self, logits: &[f32], seen: &[u32], settings: &GenerationSettings) -> u32 {
        let logits = penalized(logits, seen, settings.repetition_penalty);
        if settings.temperature == 0.0 {
            return likeliest(&logits);
        }
        let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        if settings.top_k > 0 && settings.top_k < tokens.len() {
            tokens.select_nth_unstable_by(settings.top_k - 1, by_logit);
            tokens.truncate(settings.top_k);
        }
        tokens.sort_unstable_by(by_logit);
        let temperature = f64::from(settings.temperature);
        let largest = f64::from(logits[tokens[0] as usize]);
        let weight = |token: &u32| ((f64::from(logits[*token as usize]) - largest) / temperature).exp();
        let mut weights: Vec<f64> = tokens.iter().map(weight).collect();
        let total: f64 = weights.iter().sum();
        if settings.top_p < 1.0 {
            let mut share = 0.0;
            let enough = weights.iter().position(|weight| {
                share += weight / total;
                share >= f64::from(settings.top_p)
            });
            weights.truncate(enough.map_or(weights.len(), |last| last + 1));
        }
        let kept: f64 = weights.iter().sum();
        let mut left = self.uniform() * kept;
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        tokens[chosen.unwrap_or(weights.len() - 1)]
    }

    /// Returns a number in [0, 1) by SplitMix64 (Steele, Lea, Flood 2014).
    fn uniform(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The logits `[V]` with those of tokens that were seen, however often, divided by `penalty` where they are
/// positive and multiplied by it where they are negative (Keskar et al. 2019).
fn penalized<'a>(logits: &'a [f32], seen: &[u32], penalty: f32) -> Cow<'a, [f32]> {
    if penalty == 1.0 {
        return Cow::Borrowed(logits);
    }
    let mut logits = logits.to_vec();
    let mut seen = seen.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    Cow::Owned(logits)
}

/// The token of the highest logit, the first of equals.
fn likeliest(logits: &[f32]) -> u32 {
    let best = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (1..logits.len()).fold(0, best) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> GenerationSettings {
        GenerationSettings {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            repetition_penalty: 1.0,
            max_new_tokens: 1,
            stops: Vec::new(),
        }
    }

    const LOGITS: [f32; 5] = [1.0, 3.0, 0.5, 2.5, -1.0];

    /// How often each token is drawn.
    fn counts(settings: &GenerationSettings, draws: usize) -> [usize; 5] {
        let mut sampler = Sampler::new(7);
        let mut counts = [0; 5];
        for _ in 0..draws {
            counts[sampler.choose(&LOGITS, &[], settings) as usize] += 1;
        }
        counts
    }

    #[test]
    fn draws_follow_the_softmax() {
        for temperature in [1.0, 0.5, 2.0] {
            let draws = 20_000;
            let found = counts(&GenerationSettings { temperature, ..settings() }, draws);
            let weights = LOGITS.map(|logit| f64::from(logit / temperature).exp());
            let total: f64 = weights.iter().sum();
            let chi_square: f64 = weights
                .iter()
                .zip(found)
                .map(|(weight, found)| {
                    let expected = weight / total * draws as f64;
                    (found as f64 - expected).powi(2) / expected
                })
                .sum();
            // The 99.9th percentile for 4 degrees of freedom.
            assert!(chi_square < 18.47, "temperature {temperature}: {chi_square}, {found:?}");
        }
    }

    #[test]
    fn top_k_and_top_p_leave_out_the_tail() {
        let kept = |settings: GenerationSettings| counts(&settings, 2000).map(|count| count > 0);
        assert_eq!(kept(GenerationSettings { top_k: 2, ..settings() }), [false, true, false, true, false]);
        // Shares: 0.52, 0.32, 0.07, 0.04, 0.01.
        assert_eq!(kept(GenerationSettings { top_p: 0.5, ..settings() }), [false, true, false, false, false]);
        assert_eq!(kept(GenerationSettings { top_p: 0.8, ..settings() }), [false, true, false, true, false]);
        assert_eq!(kept(GenerationSettings { top_p: 0.9, ..settings() }), [true, true, false, true, false]);
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        let mut sampler = Sampler::new(0);
        let greedy = GenerationSettings { temperature: 0.0, ..settings() };
        assert_eq!(sampler.choose(&[1.0, 2.0, 2.0], &[], &greedy), 1);
    }

    #[test]
    fn a_repeated_token_is_penalized_once() {
        assert_eq!(*penalized(&[2.0, -2.0, 1.0], &[0, 0, 1], 2.0), [1.0, -4.0, 1.0]);
    }

    #[test]
    fn a_seed_repeats_its_choices() {
        assert_eq!(counts(&settings(), 50), counts(&settings(), 50));
    }
}
