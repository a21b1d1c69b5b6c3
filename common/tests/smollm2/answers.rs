//! Logits after five prompts, and the greedy tokens that follow, through the key/value cache.

use common::model::{Batch, Cache, KeyValueCache, Model};
use serde::Deserialize;

use super::{Base, Budget, golden};

/// The end of a turn, which ends an answer.
const END: u32 = 2;
const LONGEST: usize = 40;

#[derive(Deserialize)]
struct Golden {
    columns: Vec<usize>,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    user: String,
    ids: Vec<u32>,
    dense: Answer,
    nf4: Answer,
    nf4_plain: Answer,
}

#[derive(Deserialize)]
struct Answer {
    top_ids: Vec<usize>,
    top_logits: Vec<f64>,
    column_logits: Vec<f64>,
    greedy: Vec<u32>,
    least_gap: f64,
}

/// Logits after the prompt, and up to [`LONGEST`] greedy tokens.
fn answer(model: &Model, prompt: &[u32]) -> (Vec<f32>, Vec<u32>) {
    let mut cache = KeyValueCache::new();
    let batch = Batch::prompt(prompt, 0);
    let first = model.logits(&batch, &batch.last_rows(), Cache::Extend(&mut cache)).unwrap();
    let mut greedy = vec![largest(&first)];
    while greedy.len() < LONGEST && greedy.last() != Some(&END) {
        let batch = Batch::prompt(&greedy[greedy.len() - 1..], cache.len());
        let logits = model.logits(&batch, &[0], Cache::Extend(&mut cache)).unwrap();
        greedy.push(largest(&logits));
    }
    (first, greedy)
}

/// The first of the largest logits.
fn largest(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, id| if logits[id] > logits[best] { id } else { best });
    best.unwrap() as u32
}

fn logits_and_greedy_tokens(base: Base) {
    let Some(model) = base.load() else { return };
    let golden: Golden = serde_json::from_slice(&std::fs::read(golden("smollm2.json")).unwrap()).unwrap();
    assert_eq!(golden.prompts.len(), 5);
    let mut budget = Budget::new(format!("{} logits", base.name()), 3e-4);
    for prompt in &golden.prompts {
        let expected = match base {
            Base::Dense => &prompt.dense,
            Base::Nf4 => &prompt.nf4,
            Base::Nf4Plain => &prompt.nf4_plain,
        };
        let (logits, greedy) = answer(&model, &prompt.ids);
        let columns = golden.columns.iter().zip(&expected.column_logits);
        for (&id, &logit) in expected.top_ids.iter().zip(&expected.top_logits).chain(columns) {
            budget.meet(f64::from(logits[id]), logit, 1.0, || format!("{:?} token {id}", prompt.user));
        }
        let place = greedy.iter().zip(&expected.greedy).position(|(found, expected)| found != expected);
        assert_eq!(
            greedy,
            expected.greedy,
            "{}: {:?} differs at {place:?}, where the best tokens are at least {} apart",
            base.name(),
            prompt.user,
            expected.least_gap
        );
    }
    budget.settle();
}

#[test]
fn dense_answers_are_transformers() {
    logits_and_greedy_tokens(Base::Dense);
}

#[test]
fn nf4_answers_are_those_of_bitsandbytes() {
    logits_and_greedy_tokens(Base::Nf4);
    logits_and_greedy_tokens(Base::Nf4Plain);
}
