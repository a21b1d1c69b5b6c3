//! What passes take of a GPU's memory against what is planned for them: short, long, and longer than 65,535
//! tokens, with all blocks kept, and with as little kept as can be.
//!
//! The model's weights are the zeros of a file with a hole: memory does not depend on values. Each pass has a
//! process of its own, because the driver counts the peak from the beginning of the process.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // says what was planned and measured

use std::path::Path;
use std::process::Command;

use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Vector};
use common::host_memory::lockable_memory;
use common::kernels::adamw::MomentsSpec;
use common::model::{AdapterSettings, Batch, Model, ModelSpec, PassRequest, Sequence};
use serde_json::json;
use tests::hollow_model;

/// Passes: whether the model is a mixture of experts, sequences, their tokens, and whether memory is as short as can be.
const PASSES: [(bool, usize, usize, bool); 11] = [
    (false, 16, 155, false),
    (false, 1, 4096, false),
    (false, 8, 4096, false),
    (false, 1, 70_000, false),
    (false, 16, 155, true),
    (false, 8, 4096, true),
    (false, 1, 70_000, true),
    (true, 16, 155, false),
    (true, 8, 1024, false),
    (true, 16, 155, true),
    (true, 8, 1024, true),
];
/// Names the pass of a child process, as its place in the list.
const PASS: &str = "QLORA_TEST_PASS";
/// What kernels, angles and lists of tasks take besides.
const SMALL: u64 = 64 << 20;

/// Writes a model of 6 layers whose weights are zeros.
fn write_model(is_mixture: bool, directory: &Path) {
    let config = json!({"model_type": if is_mixture { "qwen3_moe" } else { "llama" },
        "moe_intermediate_size": 768, "num_experts": 32, "num_experts_per_tok": 8, "vocab_size": 32_000, "hidden_size": 2048,
        "num_hidden_layers": 6, "num_attention_heads": 16, "num_key_value_heads": 4,
        "intermediate_size": 8192, "max_position_embeddings": 131_072, "tie_word_embeddings": false});
    hollow_model::write_model(&config, None, directory);
}

/// One pass, planned and measured.
fn run(is_mixture: bool, count: usize, tokens: usize, is_short: bool) {
    let directory = tempfile::tempdir().unwrap();
    write_model(is_mixture, directory.path());
    let gpu = Gpu::open(0, Float16::Bf16).unwrap();
    let device = Device::Cuda(gpu.clone());
    let spec = ModelSpec::read(directory.path(), None).unwrap();
    let options = AdapterSettings::default();
    let layout = spec.new_adapters(&options).unwrap();
    let mut model = Model::load(directory.path(), &device).unwrap();
    model.add_adapters(&options).unwrap();
    let mut gradients = Vector::zeros(layout.len, &device).unwrap();
    gpu.synchronize().unwrap();

    let held = spec.resident_on_gpu(&layout, &MomentsSpec::exact(layout.len));
    let resident = held.total() - held.moments;
    let memory = gpu.memory().unwrap();
    assert!(memory.used <= resident, "{} resident, {resident} planned", memory.used);
    let request =
        PassRequest { longest: tokens, tokens: count * tokens, ranks: layout.ranks(), dropout: false };
    let config = spec.config();
    let on_host = if is_short { lockable_memory() } else { 0 };
    let all_recomputed = config.plan_on_gpu_and_host(&request, 0, on_host).least_of(count * tokens);
    let budget = if is_short { all_recomputed } else { memory.free };
    let needed = config.plan_on_gpu(&request, if is_short { budget } else { u64::MAX / 2 }).activations();
    if needed > memory.free {
        eprintln!("skipped {count} x {tokens}: this GPU has no {} MiB free", needed >> 20);
        return;
    }
    let plan = config.plan_on_gpu_and_host(&request, budget, on_host);
    assert_eq!(plan.tokens, count * tokens, "in one pass");
    let tape = plan.tape(plan.tokens);
    assert_eq!(tape.recomputed, if is_short { 5 } else { 0 });
    let is_long = is_short && count == 1 && tokens > 8192;
    assert_eq!((tape.slice.is_some(), tape.offloaded), (is_long, if is_long { 4 } else { 0 }));

    let sequence = (vec![1; tokens], vec![true; tokens]);
    let batch = Batch::pack((0..count).map(|_| Sequence { tokens: &sequence.0, trained: &sequence.1 }), 0);
    let loss = model.loss_and_gradients(&batch, 1e-3, tape, &mut gradients).unwrap();
    assert!((loss.mean() - 32_000f64.ln()).abs() < 1e-3, "{}", loss.mean());

    let (measured, planned) = (gpu.memory().unwrap(), memory.used + plan.activations());
    let in_mib = |bytes: u64| bytes >> 20;
    eprintln!(
        "{count} x {tokens}, {tape:?}: planned {} MiB, in use {} MiB, set aside {} MiB",
        in_mib(planned),
        in_mib(measured.peak),
        in_mib(measured.reserved_peak)
    );
    assert!(measured.peak <= planned + SMALL, "{} in use, {planned} planned", measured.peak);
    assert!(
        measured.reserved_peak <= planned + SMALL,
        "{} set aside, {planned} planned",
        measured.reserved_peak
    );
    // Not so much more than needed that passes become shorter than they could be: a tenth, and one more buffer
    // of gate and up.
    let activations = (measured.peak - memory.used) as f64;
    // Gate and up of 8,192 each, or 8 slots of 2,048.
    let widest = 2 * 8192;
    // What a plan with experts keeps free besides.
    let of_experts = if is_mixture { 128 << 20 } else { 0 };
    let most = 1.1 * activations + (2 * widest * count * tokens) as f64 + (SMALL + of_experts) as f64;
    assert!(plan.activations() as f64 <= most, "{activations} of {}", plan.activations());
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn passes_take_what_is_planned() {
    if let Some(pass) = std::env::var_os(PASS) {
        let (is_mixture, count, tokens, is_short) = PASSES[pass.to_str().unwrap().parse::<usize>().unwrap()];
        return run(is_mixture, count, tokens, is_short);
    }
    let mut failed = Vec::new();
    for (index, pass) in PASSES.iter().enumerate() {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "passes_take_what_is_planned", "--ignored", "--nocapture"]);
        if !child.env(PASS, index.to_string()).status().unwrap().success() {
            failed.push(pass);
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
