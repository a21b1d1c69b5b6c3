//! The optimizer and its schedule against PEFT and torch.

use common::device::{Device, Vector};
use common::kernels::adamw::{AdamW, Moments};
use common::model::{AdapterTensor, Adapters};
use lora::schedule::{Schedule, SchedulerParameters, SchedulerType};
use serde_json::Value;

use crate::place::Place;
use crate::training::RUN;

fn numbers(value: &Value) -> Vec<f32> {
    let both = ["a", "b"].into_iter().flat_map(|name| value[name].as_array().unwrap());
    both.map(|number| number.as_f64().unwrap() as f32).collect()
}

/// `scripts/golden/optimizer.py` takes the steps with PEFT's `create_loraplus_optimizer`.
#[test]
fn loraplus_steps_are_pefts() {
    let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/optimizer.json")).unwrap();
    let setting = |name: &str| golden["settings"][name].as_f64().unwrap();
    let optimizer = AdamW {
        beta1: setting("beta1") as f32,
        beta2: setting("beta2") as f32,
        epsilon: setting("epsilon") as f32,
        weight_decay: setting("weight_decay") as f32,
    };
    let schedule = Schedule {
        kind: SchedulerType::Linear,
        parameters: SchedulerParameters::default(),
        peak: setting("learning_rate"),
        warmup: setting("warmup") as u64,
        total: setting("steps") as u64,
    };
    let tensor = |name: &str, shape, range| AdapterTensor { name: format!("0.{name}.weight"), shape, range };
    let tensors = vec![tensor("lora_A", [2, 3], 0..6), tensor("lora_B", [4, 2], 6..14)];
    let mut adapters = Adapters { values: Vector::Cpu(numbers(&golden["start"])), tensors };
    let mut moments = Moments::new(adapters.values.len(), &Device::Cpu).unwrap();
    let steps = golden["steps"].as_array().unwrap();
    for (index, step) in steps.iter().enumerate() {
        let rates = adapters.learning_rates(schedule.rate(index as u64) as f32, setting("ratio") as f32);
        let gradients = Vector::Cpu(numbers(&step["gradients"]));
        optimizer.step_at_rates(&mut adapters.values, &gradients, 1.0, &mut moments, &rates).unwrap();
        for (found, expected) in adapters.values.host().unwrap().iter().zip(numbers(&step["after"])) {
            assert!((found - expected).abs() < 2e-6, "step {index}: {found}, not {expected}");
        }
    }
    assert_eq!(steps.len(), 6);
}

/// At rank 64 some tensors of the tiny model have the 4096 values from which moments are in 8 bits,
/// and some have fewer.
const LARGE: &str = "--lora-rank 64 --learning-rate 1e-3";

#[test]
fn moments_in_8_bits_train_as_those_in_f32_do() {
    let place = Place::new();
    let run = RUN.replace("--learning-rate 1e-2", LARGE) + " --max-steps 50";
    place.train(&format!("{run} -o exact"));
    place.train(&format!("{run} -o quantized --optim adamw_8bit"));
    let (exact, quantized) = (place.losses("exact"), place.losses("quantized"));
    assert_eq!(exact[..2], quantized[..2], "the first step uses the moments before they are narrowed");
    assert_ne!(exact, quantized, "adamw_8bit is ignored");
    let mean = |losses: &[f64]| losses[45..].iter().sum::<f64>() / 5.0;
    let (first, exact, quantized) = (exact[0], mean(&exact), mean(&quantized));
    assert!(exact < 0.5 * first, "{exact} of {first}");
    assert!((exact - quantized).abs() < 0.02 * first, "{quantized}, not {exact} of {first}");
    let bytes = |run: &str| place.bytes(&format!("{run}/checkpoint-50/optimizer.safetensors")).len();
    assert!(3 * bytes("quantized") < bytes("exact"), "moments take a third of the space or less");
}

#[test]
fn a_run_in_8_bits_that_is_resumed_is_one_never_stopped() {
    let place = Place::new();
    let run = RUN.replace("--learning-rate 1e-2", LARGE) + " --max-steps 7 --save-steps 3";
    place.train(&format!("{run} -o whole --optim adamw_8bit"));
    let resume = format!("{run} --resume-from-checkpoint whole/checkpoint-3");
    place.train(&format!("{resume} -o from --optim adamw_8bit"));
    assert_eq!(place.losses("whole"), place.losses("from"));
    for file in ["adapter_model.safetensors", "checkpoint-7/optimizer.safetensors"] {
        let [whole, from] = ["whole", "from"].map(|run| place.bytes(&format!("{run}/{file}")));
        assert!(whole == from, "{file}");
    }
    let (code, said) = place.fail(&format!("{resume} -o other"));
    assert!(code == 1 && said.contains("moments was \"8 bits\", now \"32 bits\""), "{said}");
}

#[test]
fn optimizers_of_pages_are_taken_as_those_without() {
    let place = Place::new();
    let run = RUN.replace("--learning-rate 1e-2", LARGE) + " --max-steps 3";
    for (index, (paged, plain)) in [
        ("paged_adamw_32bit", "adamw_torch"),
        ("paged_adamw", "adamw_torch_fused"),
        ("paged_adamw_8bit", "adamw_bnb_8bit"),
    ]
    .into_iter()
    .enumerate()
    {
        let (_, said) = place.run(&format!("{run} -o paged-{index} --optim {paged}"));
        assert!(said.contains("Nothing is paged"), "{said}");
        let (_, said) = place.run(&format!("{run} -o plain-{index} --optim {plain}"));
        assert!(!said.contains("paged"), "{said}");
        assert_eq!(place.adapter(&format!("paged-{index}")), place.adapter(&format!("plain-{index}")));
    }
}
