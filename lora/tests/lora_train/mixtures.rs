//! Mixtures of experts: adapters beside the experts and on them, and both layouts of a checkpoint.

use common::checkpoint::{Checkpoint, Tensor, write_file};
use serde_json::{Value, json};
use tests::experts::fuse_experts;

use crate::place::Place;
use crate::training::RUN;

const TWO_STEPS: &str = "--max-steps 2 --quantization-bit 4 --force -o out";

fn families() -> [Value; 4] {
    let experts = json!({"moe_intermediate_size": 64, "num_experts": 5, "num_experts_per_tok": 2});
    let with = |keys: Value| {
        let mut all = experts.clone();
        all.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        all
    };
    [
        with(
            json!({"model_type": "qwen3_moe", "head_dim": 16, "norm_topk_prob": true, "mlp_only_layers": [0]}),
        ),
        with(json!({"model_type": "qwen2_moe", "shared_expert_intermediate_size": 32})),
        json!({"model_type": "mixtral", "num_local_experts": 4}),
        json!({"model_type": "olmoe", "num_experts": 6, "num_experts_per_tok": 3}),
    ]
}

/// `all` is what LLaMA-Factory finds in transformers 5: every linear layer, and no parameter of experts.
#[test]
fn all_leaves_experts_out_and_experts_names_them() {
    for keys in families() {
        let place = Place::new();
        let config = place.become_family(&keys);
        place.train(&format!("{RUN} {TWO_STEPS}"));
        let adapter = place.json("out/adapter_config.json");
        assert_eq!(adapter["target_modules"], json!(config.targets()), "{keys}");
        assert!(adapter.get("target_parameters").is_none(), "{adapter}");

        place.train(&format!("{RUN} {TWO_STEPS} --lora-target all,experts"));
        let adapter = place.json("out/adapter_config.json");
        assert_eq!(adapter["target_modules"], json!(config.targets()), "{keys}");
        assert_eq!(
            adapter["target_parameters"],
            json!(["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
            "{keys}"
        );
        let names: Vec<String> =
            Checkpoint::open(&place.path("out")).unwrap().names().map(String::from).collect();
        for name in ["experts.lora_A", "experts.lora_B", "experts.base_layer.lora_A"] {
            let name = format!("base_model.model.model.layers.1.mlp.{name}.weight");
            assert!(names.contains(&name), "{name} is not in {names:?}");
        }
        assert!(place.losses("out").iter().all(|loss| (1.0..9.0).contains(loss)), "{keys}");
    }
}

#[test]
fn both_layouts_of_experts_give_the_same_adapter() {
    for keys in families() {
        let place = Place::new();
        for quantized in ["--quantization-bit 4", ""] {
            let run = format!("{RUN} --max-steps 2 --force -o out --lora-target experts,o_proj {quantized}");
            place.become_family(&keys);
            place.train(&run);
            let (losses, adapter) = (place.losses("out"), place.adapter("out"));
            fuse_experts(&place.path("model"));
            place.train(&run);
            assert_eq!((place.losses("out"), place.adapter("out")), (losses, adapter), "{keys} {quantized}");
        }
    }
}

#[test]
fn a_run_over_experts_is_resumed_to_the_same_bytes() {
    let place = Place::new();
    place.become_family(&families()[1]);
    let run = format!("{RUN} --lora-target all,experts --save-steps 1 --max-steps 3");
    place.train(&format!("{run} -o whole"));
    place.train(&format!("{run} -o out --resume-from-checkpoint whole/checkpoint-1"));
    assert_eq!(place.adapter("whole"), place.adapter("out"));
    // Another run can begin with the adapter.
    place.train(&format!("{RUN} --adapter-name-or-path whole --max-steps 1 -o next"));
    assert_eq!(
        place.json("next/adapter_config.json")["target_parameters"],
        place.json("whole/adapter_config.json")["target_parameters"]
    );
}

#[test]
fn what_does_not_fit_experts_is_refused() {
    let place = Place::new();
    place.become_family(&families()[3]);
    let says = |arguments: &str, named: &str| {
        let (_, said) = place.fail(&format!("{RUN} {TWO_STEPS} {arguments}"));
        assert!(said.contains(named) && said.contains("hint: "), "{said}");
    };
    says("--lora-target experts --lora-dropout 0.1", "no dropout for adapters of experts");
    says("--lora-target up_proj", "targets are q_proj, k_proj, v_proj, o_proj and experts");
    let change = |keys: Value| {
        let mut config = place.json("model/config.json");
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        place.write("model/config.json", config.to_string());
    };
    says("--moe-aux-loss-coef=-1", "a number that is not negative expected");
    change(json!({"num_experts_per_tok": 7}));
    says("", "num_experts_per_tok: at most the 6 experts of num_experts expected, found 7");
    change(json!({"num_experts_per_tok": 2, "num_experts": 7}));
    says("", "model.layers.0.mlp.experts.6.gate_proj.weight");
    change(json!({"num_experts": 6, "clip_qkv": 8.0}));
    says("", "clip_qkv");
    change(json!({"clip_qkv": null}));
    let checkpoint = Checkpoint::open(&place.path("model")).unwrap();
    let damaged = |tensor: Tensor| match tensor.name.ends_with("layers.1.mlp.gate.weight") {
        true => {
            let mut values = tensor.to_f32().unwrap();
            values[70] = f32::NAN;
            Tensor::from_f32(tensor.name, tensor.shape, &values)
        }
        false => tensor,
    };
    let tensors: Vec<Tensor> = checkpoint.tensors().map(damaged).collect();
    write_file(&place.path("model/model.safetensors"), &tensors).unwrap();
    says("", "model.layers.1.mlp.gate.weight: NaN at [1, 6], a finite weight of the router expected");
}

/// The loss of the experts' balance is that of config.json, or LLaMA-Factory's key.
#[test]
fn the_balance_of_experts_counts_where_it_is_asked_for() {
    let place = Place::new();
    place.become_family(&families()[0]);
    let losses = |arguments: &str| {
        place.train(&format!("{RUN} {TWO_STEPS} {arguments}"));
        place.losses("out")
    };
    let (plain, counted) = (losses(""), losses("--moe-aux-loss-coef 0.5"));
    // The balance of experts that are used evenly is the number of experts of a token, 2.
    assert!((0.9..1.6).contains(&(counted[0] - plain[0])), "{plain:?} {counted:?}");
    let mut config = place.json("model/config.json");
    config["output_router_logits"] = json!(true);
    config["router_aux_loss_coef"] = json!(0.5);
    place.write("model/config.json", config.to_string());
    assert_eq!(losses(""), counted);
    let dense = Place::new();
    let (_, said) = dense.fail(&format!("{RUN} {TWO_STEPS} --moe-aux-loss-coef 0.1"));
    assert!(said.contains("has no experts") && said.contains("hint: "), "{said}");
}
