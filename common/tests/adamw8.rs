//! AdamW with 8-bit moments against bitsandbytes' AdamW8bit. The golden is written by
//! scripts/golden/adamw8.py.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::Path;

use common::checkpoint::Checkpoint;
use common::device::{Device, Vector};
use common::kernels::adamw::{AdamW, LEAST_IN_8_BITS, Moments, MomentsSpec};

const STEPS: u64 = 3;
/// With a short last block.
const LARGE: usize = LEAST_IN_8_BITS + 77;
const SMALL: usize = 40;

#[test]
fn steps_are_those_of_bitsandbytes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/adamw8.safetensors");
    let golden = Checkpoint::open_file(&file).unwrap();
    let floats = |name: &str| golden.tensor(name).unwrap().to_f32().unwrap();
    let settings = floats("settings");
    let [rate, beta1, beta2, epsilon, weight_decay] = settings[..] else { panic!("{settings:?}") };
    let optimizer = AdamW { beta1, beta2, epsilon, weight_decay };
    let mut moments =
        Moments::of(&MomentsSpec::in_8_bits([0..LARGE, LARGE..LARGE + SMALL]), &Device::Cpu).unwrap();
    let mut parameters = Vector::Cpu(floats("0/parameters"));
    for step in 0..STEPS {
        let gradients = Vector::Cpu(floats(&format!("{step}/gradients")));
        optimizer.step(&mut parameters, &gradients, 1.0, &mut moments, rate).unwrap();
        let step = step + 1;
        let close = |name: &str, found: &[f32], relative: f32, absolute: f32| {
            let name = format!("{step}/{name}");
            let expected = floats(&name);
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= relative * expected.abs() + absolute,
                    "{name}: {found}, not {expected}"
                );
            }
        };
        close("parameters", parameters.host().unwrap(), 1e-6, 1e-6);
        let tensors = moments.to_tensors().unwrap();
        assert_eq!(tensors.len(), 6, "codes and absmax of the larger tensor, values of the smaller one");
        for tensor in tensors {
            if tensor.name.ends_with(".codes") {
                let expected = golden.tensor(&format!("{step}/{}", tensor.name)).unwrap();
                assert!(*tensor.bytes == *expected.bytes, "{step}/{}", tensor.name);
            } else {
                // bitsandbytes' CPU code takes 1 - beta from f64, its CUDA kernel and we from f32.
                close(&tensor.name, &tensor.to_f32().unwrap(), 5e-6, 1e-9);
            }
        }
    }
}
