//! What is sampled from a small model.

#![allow(clippy::unwrap_used)] // a test file as a whole

use common::device::Device;
use common::generate::{Engine, GenerationSettings, Generator, ModelEngine, Step};
use common::model::{Batch, Cache, Model};

/// The value that a chi-square of so many degrees of freedom exceeds once in 10,000 times, by Wilson
/// and Hilferty (1931).
fn chi_square_limit(freedom: usize) -> f64 {
    let k = freedom as f64;
    k * (1.0 - 2.0 / (9.0 * k) + 3.719 * (2.0 / (9.0 * k)).sqrt()).powi(3)
}

#[test]
fn answers_are_drawn_from_the_models_softmax() {
    let directory = tempfile::tempdir().unwrap();
    tests::tiny_model::write(directory.path(), 7);
    let model = Model::load(directory.path(), &Device::Cpu).unwrap();
    let prompt: Vec<u32> = (40..60).collect();
    let batch = Batch::prompt(&prompt, 0);
    let logits = model.logits(&batch, &batch.last_rows(), Cache::None).unwrap();
    let weights: Vec<f64> = logits.iter().map(|&logit| f64::from(logit).exp()).collect();
    let total: f64 = weights.iter().sum();
    let settings = GenerationSettings {
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        repetition_penalty: 1.0,
        max_new_tokens: 1,
        stops: Vec::new(),
    };
    const DRAWS: usize = 4000;
    let mut counts = vec![0; weights.len()];
    let (mut generator, mut engine) = (Generator::new(11), ModelEngine::new(&model, false));
    for _ in 0..DRAWS {
        generator.begin(prompt.clone(), &settings, engine.limits()).unwrap();
        let input = generator.next_input(engine.limits()).unwrap();
        engine.truncate(input.kept);
        let logits = engine.feed(&input.tokens).unwrap();
        generator.add(input);
        assert_eq!(generator.next_step(&logits).unwrap(), Step::Prompt);
        assert_eq!(generator.next_input(engine.limits()), None);
        let Step::Token(token) = generator.next_step(&logits).unwrap() else { panic!("a token expected") };
        counts[token as usize] += 1;
    }
    // Tokens that are expected less than five times are counted together.
    let (mut chi_square, mut bins, mut rest) = (0.0, 0, (0.0, 0));
    let mut add = |expected: f64, found: usize| {
        chi_square += (found as f64 - expected).powi(2) / expected;
        bins += 1;
    };
    for (weight, found) in weights.iter().zip(counts) {
        match weight / total * DRAWS as f64 {
            expected if expected >= 5.0 => add(expected, found),
            expected => rest = (rest.0 + expected, rest.1 + found),
        }
    }
    if rest.0 > 0.0 {
        add(rest.0, rest.1);
    }
    assert!(bins > 20, "{bins} bins say little");
    assert!(chi_square < chi_square_limit(bins - 1), "{chi_square} over {bins} bins");
}
