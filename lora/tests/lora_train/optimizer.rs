//! The optimizer and its schedule against PEFT and torch.

use common::device::{Device, Vector};
use common::kernels::adamw::{AdamW, Moments};
use common::model::{AdapterTensor, Adapters};
use lora::schedule::{Schedule, SchedulerParameters, SchedulerType};
use serde_json::Value;

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
