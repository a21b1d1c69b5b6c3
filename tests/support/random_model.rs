//! Models of random weights in shapes that a GPU computes, which those of `golden/models` are too small for.

use std::path::Path;

use common::checkpoint::{Tensor, write_file};
use common::device::Vector;
use common::model::{Config, Model, Role};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

/// Writes a model of random weights in the shape of a config.json. Its routers are decided, so that few tokens go to
/// other experts where they are rounded.
pub fn write_model(json: &Value, directory: &Path) {
    let config = Config::parse(json).expect("the shape of a model");
    let mut state = 7;
    let mut values = |len: usize, bound: f32| -> Vec<f32> {
        (0..len).map(|_| to_bf16(bound * next(&mut state))).collect()
    };
    let norm = |name: &str, len: usize| Tensor::from_f32(name, vec![len], &vec![1.0; len]);
    let mut tensors: Vec<Tensor> = config.norms().map(|weight| norm(&weight.name, weight.len)).collect();
    for module in config.modules() {
        let [n, k] = module.shape;
        let bound = if module.role == Role::Router { 8.0 } else { 1.7 } / (k as f32).sqrt();
        tensors.push(Tensor::from_f32(module.weight(), vec![n, k], &values(n * k, bound)));
        tensors.extend(module.bias().map(|name| Tensor::from_f32(&name, vec![n], &values(n, 0.1))));
    }
    write_file(&directory.join("model.safetensors"), &tensors).expect("weights");
    std::fs::write(directory.join("config.json"), json.to_string()).expect("config.json");
}

/// Gives the model's adapters, A and B both, random values from -`bound` to `bound`.
pub fn randomize_adapters(model: &mut Model, bound: f32) {
    let mut random = ChaCha8Rng::seed_from_u64(4);
    let count = model.adapters().values.len();
    let values = (0..count).map(|_| random.random_range(-bound..bound)).collect();
    let values = Vector::from_vec(values, model.device()).expect("memory for adapters");
    let replace = |parameters: &mut Vector| {
        *parameters = values;
        Ok(())
    };
    model.update_parameters(replace).expect("adapters of this length");
}

/// The next number of a linear congruential generator (Knuth's MMIX), from -1 to 1.
fn next(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 40) as f32 - 8_388_607.5) / 8_388_607.5
}

/// The number without the bits that a bf16 lacks, so that weights are the same in 16 bits.
fn to_bf16(value: f32) -> f32 {
    f32::from_bits(value.to_bits() & 0xffff_0000)
}
