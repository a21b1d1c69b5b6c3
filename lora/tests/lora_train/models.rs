//! Model directories as people have them: heads, names, scalings and quantizations.

use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::model::{Config, EMBEDDING, HEAD};
use serde_json::{Value, json};

use crate::place::Place;
use crate::training::RUN;

impl Place {
    /// The model with other keys in its config.json and other tensors.
    fn change_model(&self, keys: &Value, tensors: impl Fn(Vec<Tensor>) -> Vec<Tensor>) {
        let mut config = self.json("model/config.json");
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        self.write("model/config.json", config.to_string());
        let all = Checkpoint::open(&self.path("model")).unwrap().tensors().collect();
        write_file(&self.path("model/model.safetensors"), &tensors(all)).unwrap();
    }

    /// The losses of two steps.
    fn two_steps(&self) -> Vec<f64> {
        self.train(&format!("{RUN} --max-steps 2 -o out --force"));
        self.losses("out")
    }
}

fn unchanged(all: Vec<Tensor>) -> Vec<Tensor> {
    all
}

/// With a head that is not the table.
fn with_own_head(mut all: Vec<Tensor>) -> Vec<Tensor> {
    let table = all.iter().find(|tensor| tensor.name == EMBEDDING).unwrap();
    let values: Vec<f32> = table.to_f32().unwrap().iter().rev().map(|value| value * 0.5).collect();
    all.push(Tensor::from_f32(HEAD, table.shape.clone(), &values));
    all
}

#[test]
fn a_stored_head_is_trained_over_though_config_says_tied() {
    let place = Place::new();
    let shared = place.two_steps();
    place.change_model(&json!({"tie_word_embeddings": true}), with_own_head);
    let stored = place.two_steps();
    place.change_model(&json!({"tie_word_embeddings": false}), unchanged);
    assert_eq!(stored, place.two_steps());
    assert_ne!(stored, shared);
}

#[test]
fn names_without_the_models_prefix_give_the_same_adapter() {
    let place = Place::new();
    let losses = place.two_steps();
    let adapter = place.adapter("out");
    let bare = |tensor: Tensor| Tensor { name: tensor.name.trim_start_matches("model.").into(), ..tensor };
    place.change_model(&json!({}), |all| all.into_iter().map(bare).collect());
    assert_eq!((place.two_steps(), place.adapter("out")), (losses, adapter));
}

#[test]
fn what_is_not_read_is_named() {
    for (keys, named) in [
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantized with gptq"),
        (
            json!({"rope_scaling": {"type": "proportional", "factor": 2.0}}),
            "\"proportional\" is not supported",
        ),
    ] {
        let place = Place::new();
        place.change_model(&keys, unchanged);
        let (code, said) = place.fail(&format!("{RUN} --max-steps 1 -o out"));
        assert!(code == 1 && said.contains(named) && said.contains("hint: "), "{said}");
    }
}

#[test]
fn scaled_angles_change_what_is_learnt() {
    let place = Place::new();
    let plain = place.two_steps();
    place.change_model(&json!({"rope_scaling": {"type": "yarn", "factor": 4.0}}), unchanged);
    assert_ne!(place.two_steps(), plain);
    // Dynamic scaling begins beyond the trained positions.
    place.change_model(&json!({"rope_scaling": {"type": "dynamic", "factor": 4.0}}), unchanged);
    assert_eq!(place.two_steps(), plain);
}

/// An answer of one token that stands first has no row that predicts it, and `evaluate --loss` leaves it out.
#[test]
fn an_example_of_which_only_the_first_token_is_trained_is_dropped() {
    let place = Place::new();
    let mut config = place.json("model/tokenizer_config.json");
    config["chat_template"] =
        json!("{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}");
    place.write("model/tokenizer_config.json", config.to_string());
    let rows = json!([{"instruction": "a", "output": "b"}, {"instruction": "a", "output": "bcd"}]);
    place.write("data.json", rows.to_string());
    let (_, said) = place.run("model --data data.json --max-steps 1 -o out");
    assert!(said.contains("1 examples have no answer"), "{said}");
}

#[test]
fn help_says_what_optimizers_do() {
    let help = Place::new().train("--help");
    assert!(help.contains("adamw_hf:          Another name of adamw_torch"), "{help}");
    assert!(help.contains("paged_adamw_8bit:  Moments in 8 bits, which move to the host"), "{help}");
}

impl Place {
    /// Makes the tiny model one of the family that `keys` of its config.json say, with weights of its own;
    /// returns what they describe.
    pub(crate) fn become_family(&self, keys: &Value) -> Config {
        let mut json = self.json("model/config.json");
        json.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        self.write("model/config.json", json.to_string());
        let config = Config::parse(&json).unwrap();
        let values = |len: usize, size: f32| -> Vec<f32> {
            (0..len as u32)
                .map(|i| ((i.wrapping_mul(2_654_435_761) >> 16) as f32 / 32_768.0 - 1.0) * size)
                .collect()
        };
        let mut tensors: Vec<Tensor> = config
            .norms()
            .map(|norm| Tensor::from_f32(&norm.name, vec![norm.len], &vec![1.0 - norm.offset; norm.len]))
            .collect();
        for module in config.modules() {
            let [n, k] = module.shape;
            tensors.push(Tensor::from_f32(module.weight(), vec![n, k], &values(n * k, 0.3)));
            tensors.extend(module.bias().map(|name| Tensor::from_f32(&name, vec![n], &values(n, 0.1))));
        }
        write_file(&self.path("model/model.safetensors"), &tensors).unwrap();
        config
    }
}

#[test]
fn every_family_is_trained_on_all_of_its_linear_layers() {
    for keys in [
        json!({"model_type": "qwen2"}),
        json!({"model_type": "qwen3", "head_dim": 16}),
        json!({"model_type": "mistral", "sliding_window": 8}),
        json!({"model_type": "phi3", "partial_rotary_factor": 0.5}),
        json!({"model_type": "glm4", "head_dim": 16}),
        json!({"model_type": "olmo2"}),
        json!({"model_type": "granite", "embedding_multiplier": 3.0, "logits_scaling": 2.0,
            "residual_multiplier": 0.5}),
        json!({"model_type": "gemma2", "head_dim": 16, "sliding_window": 8,
            "attn_logit_softcapping": 10.0, "final_logit_softcapping": 5.0}),
        json!({"model_type": "gemma3_text", "head_dim": 16, "sliding_window": 8}),
    ] {
        let place = Place::new();
        let config = place.become_family(&keys);
        place.train(&format!("{RUN} --max-steps 2 --quantization-bit 4 -o out"));
        assert_eq!(
            place.json("out/adapter_config.json")["target_modules"],
            json!(config.targets()),
            "{keys}"
        );
        let adapter = Checkpoint::open_file(&place.path("out/adapter_model.safetensors")).unwrap();
        assert_eq!(adapter.tensors().count(), 2 * config.projections().count(), "{keys}");
        assert!(place.losses("out").iter().all(|loss| (1.0..9.0).contains(loss)), "{keys}");
    }
}
