//! Model directories as people have them: heads, names, scalings and quantizations.

use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::model::{EMBEDDING, HEAD};
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
