//! Models whose weights are streamed to the GPU against the same models with all weights on it: the same bits of
//! losses, gradients, parameters and logits, and the memory that is planned.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // what was planned and measured

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Vector};
use common::files::check_unchanged;
use common::kernels::adamw::{AdamW, Moments};
use common::model::{
    AdapterSettings, Batch, Cache, KeyValueCache, Model, ModelSpec, Place, Places, Sequence,
};
use common::nf4::Scheme;
use serde_json::{Value, json};
use tests::needs;
use tests::random_model::{randomize_adapters, write_model};

const STEPS: usize = 3;
/// Tokens of the tiny models' vocabulary, which every model has.
const TOKENS: u32 = 499;

/// Tests that run one at a time: they share the driver's pool of memory, of which one counts what is in use.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn gpu() -> Device {
    Device::Cuda(Gpu::open(0, Float16::Bf16).unwrap())
}

/// The model with adapters whose A and B are both random.
fn load(
    directory: &Path,
    scheme: Option<Scheme>,
    targets: &[&str],
    device: &Device,
    places: &Places,
) -> Model {
    let mut model = Model::load_to(directory, scheme, device, |_| Ok(places.clone())).unwrap();
    let targets = targets.iter().copied().map(String::from).collect();
    model.add_adapters(&AdapterSettings { targets, ..AdapterSettings::default() }).unwrap();
    randomize_adapters(&mut model, 0.02);
    model
}

fn batch(step: u32) -> Batch {
    let tokens: Vec<u32> = (0..600).map(|t| (t * 37 + step * 11) % TOKENS).collect();
    let sequences = [&tokens[..250], &tokens[250..261], &tokens[261..]];
    let sequences = sequences.iter().map(|tokens| Sequence { tokens, trained: &[true; 600][..tokens.len()] });
    Batch::pack(sequences, 0)
}

/// All that a model computes: the losses of steps of training, of which the second recomputes a part of the blocks and
/// the third all, and between them the losses of evaluation; then the parameters, and the logits of passes that a cache
/// grows by.
fn computed(mut model: Model) -> (Vec<f64>, Vec<f32>, Vec<f32>) {
    let count = model.adapters().values.len();
    let device = model.device().clone();
    let mut moments = Moments::new(count, &device).unwrap();
    let optimizer = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    let mut losses = Vec::new();
    for step in 0..STEPS {
        let mut gradients = Vector::zeros(count, &device).unwrap();
        let recomputed = [0, model.config().layers.len() / 2, usize::MAX][step];
        for pass in 0..2 {
            let batch = batch(2 * step as u32 + pass);
            losses.push(model.loss_and_gradients(&batch, 1e-3, recomputed, &mut gradients).unwrap().mean());
        }
        let step = |parameters: &mut Vector| optimizer.step(parameters, &gradients, 1.0, &mut moments, 1e-3);
        model.update_parameters(step).unwrap();
        losses.push(model.loss(&batch(100)).unwrap().mean());
    }
    let tokens: Vec<u32> = (0..60).map(|t| t * 37 % TOKENS).collect();
    let (mut cache, mut first, mut logits) = (KeyValueCache::new(), 0, Vec::new());
    // The path of few rows, that of many, and one token at a time.
    for piece in [30, 8, 12, 3, 1, 1, 1, 4] {
        let batch = Batch::prompt(&tokens[first..first + piece], cache.len());
        logits.extend(model.logits(&batch, &[piece as u32 - 1], Cache::Extend(&mut cache)).unwrap());
        first += piece;
    }
    assert!(losses.iter().all(|loss| loss.is_finite()) && logits.iter().all(|logit| logit.is_finite()));
    (losses, model.adapters().values.to_vec().unwrap(), logits)
}

/// Streamed blocks and slots of a model of `blocks` blocks.
fn ways(blocks: usize) -> [(usize, usize); 5] {
    [(blocks, 1), (blocks, 2), (blocks, 3), (blocks.div_ceil(2), 2), (1, 1)]
}

/// Streams the model in several ways, each of which must compute what the resident model does.
fn expect_same(directory: &Path, scheme: Option<Scheme>, targets: &[&str], ways: &[(usize, usize)]) {
    let device = gpu();
    let blocks = ModelSpec::read(directory, scheme).unwrap().config().layers.len();
    let resident = computed(load(directory, scheme, targets, &device, &Places::resident(blocks)));
    for place in [Place::PageLocked, Place::File] {
        for &(streamed, slots) in ways {
            let places = Places::streaming(blocks, streamed, slots, place);
            let found = computed(load(directory, scheme, targets, &device, &places));
            let name =
                format!("{streamed} of {blocks} blocks through {slots} slots from {place:?}, {scheme:?}");
            assert_eq!(resident.0, found.0, "losses: {name}");
            assert!(resident.1 == found.1, "parameters: {name}");
            assert!(resident.2 == found.2, "logits: {name}");
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_streamed_model_computes_the_bits_of_a_resident_one() {
    let Some(directory) = needs::model() else { return };
    let _alone = alone();
    let plain = Scheme { double_quant: false, ..Scheme::default() };
    for scheme in [Some(Scheme::default()), Some(plain), None] {
        expect_same(&directory, scheme, &["all"], &ways(30));
    }
}

/// Blocks that pass through the buffers of files in many pieces.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn large_blocks_compute_the_same_bits_too() {
    let _alone = alone();
    let json = json!({"model_type": "llama", "vocab_size": 500, "hidden_size": 4096, "num_hidden_layers": 4,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 11008,
        "max_position_embeddings": 4096, "tie_word_embeddings": false});
    let directory = tempfile::tempdir().unwrap();
    write_model(&json, directory.path());
    for scheme in [Some(Scheme::default()), None] {
        expect_same(directory.path(), scheme, &["all"], &[(4, 1), (4, 2), (4, 3)]);
    }
}

fn mixtures() -> [Value; 2] {
    let with = |keys: Value| {
        let mut all = json!({"vocab_size": 500, "hidden_size": 256, "num_hidden_layers": 5,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "intermediate_size": 192,
            "max_position_embeddings": 4096, "num_experts": 12, "num_experts_per_tok": 3,
            "moe_intermediate_size": 96, "shared_expert_intermediate_size": 160});
        all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        all
    };
    [
        with(json!({"model_type": "qwen3_moe", "norm_topk_prob": true, "mlp_only_layers": [1]})),
        with(json!({"model_type": "qwen2_moe"})),
    ]
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn streamed_experts_compute_the_bits_of_resident_ones() {
    let _alone = alone();
    for json in mixtures() {
        let directory = tempfile::tempdir().unwrap();
        write_model(&json, directory.path());
        for scheme in [Some(Scheme::default()), None] {
            expect_same(directory.path(), scheme, &["all", "experts"], &ways(5));
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_streamed_model_takes_the_memory_that_is_planned() {
    let Some(directory) = needs::model() else { return };
    let _alone = alone();
    let gpu = Gpu::open(0, Float16::Bf16).unwrap();
    let device = Device::Cuda(gpu.clone());
    for scheme in [Some(Scheme::default()), None] {
        let spec = ModelSpec::read(&directory, scheme).unwrap();
        let bytes = spec.block_bytes();
        let used = |places: &Places| {
            let model = Model::load_to(&directory, scheme, &device, |_| Ok(places.clone())).unwrap();
            gpu.synchronize().unwrap();
            let used = gpu.memory().unwrap().used;
            drop(model);
            gpu.synchronize().unwrap();
            used - gpu.memory().unwrap().used
        };
        let resident = Places::resident(bytes.len());
        // Scratch stays when the model goes.
        used(&resident);
        let all = bytes.iter().sum::<u64>();
        let chosen = [0, all / 4, all / 2, all].map(|on_gpu| Places::fit(&bytes, on_gpu, 1 << 40));
        for places in chosen {
            let (planned, used) = (spec.gpu_bytes_at(&places), used(&places));
            eprintln!("{} blocks streamed: planned {planned}, used {used}", places.streamed());
            assert!((used..used + (1 << 20)).contains(&planned));
        }
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn copies_have_a_rate() {
    let _alone = alone();
    let rate = Gpu::open(0, Float16::Bf16).unwrap().copy_rate().unwrap();
    eprintln!("{:.1} GB/s", rate / 1e9);
    assert!((1e8..1e13).contains(&rate), "{rate}");
}

/// A file that is cut short while weights are read from it gives wrong results, which are noticed, and nothing worse.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_file_that_shrinks_is_noticed() {
    let Some(original) = needs::model() else { return };
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(original.join(name), directory.path().join(name)).unwrap();
    }
    let blocks = ModelSpec::read(directory.path(), None).unwrap().config().layers.len();
    let places = Places::streaming(blocks, blocks, 2, Place::File);
    let model = load(directory.path(), None, &["all"], &gpu(), &places);
    let before = model.loss(&batch(0)).unwrap().mean();
    check_unchanged().unwrap();
    let file = std::fs::File::options().write(true).open(directory.path().join("model.safetensors")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let after = model.loss(&batch(0)).map(|loss| loss.mean());
    assert_ne!(after.ok(), Some(before));
    assert!(check_unchanged().is_err());
}
