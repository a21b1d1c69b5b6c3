use std::ffi::OsString;

use std::path::Path;

use common::world::World;

use super::*;

/// The configuration of a run on a model in `folder/model`.
fn config(folder: &Path, options: &str) -> Config {
    for name in ["model", "adapter"] {
        fs_err::create_dir_all(folder.join(name)).unwrap();
    }
    let mut line: Vec<OsString> = vec!["lora-train".into(), folder.join("model").into()];
    line.extend(options.split_whitespace().map(|option| match option {
        "ADAPTER" => folder.join("adapter").into(),
        option => option.into(),
    }));
    let (arguments, options) = crate::yaml::complete(line).unwrap();
    arguments.config(options, &World::alone()).unwrap()
}

/// The recipe as `made-by.json` has it, with FOLDER for the folder of the model.
fn recipe(options: &str, held_out: Option<&str>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let root = fs_err::canonicalize(folder.path()).unwrap();
    let recipe = config(&root, options).recipe("e1", held_out).unwrap();
    serde_json::to_string(&recipe).unwrap().replace(root.to_str().unwrap(), "FOLDER")
}

/// Checkpoints and finished runs are found again by this text: a change of it makes them strangers.
#[test]
fn the_recipe_of_a_run_of_defaults_keeps_its_bytes() {
    let expected = r#"{"model":"FOLDER/model","fp16":false,"quantization":null,"examples":"e1","val_size":0.0,"packing":false,"lora_rank":8,"lora_alpha":16.0,"lora_target":[],"use_rslora":false,"lora_dropout":null,"neftune_noise_alpha":0.0,"init_lora_weights":"true","adapter_name_or_path":null,"learning_rate":0.00005,"loraplus_lr_ratio":1.0,"num_train_epochs":3.0,"max_steps":null,"effective_batch":8,"lr_scheduler_type":"linear","lr_scheduler_kwargs":{"num_cycles":null,"power":null,"lr_end":null},"warmup_ratio":0.0,"warmup_steps":0.0,"max_grad_norm":1.0,"weight_decay":0.0,"moments":"32 bits","adam_beta1":0.9,"adam_beta2":0.999,"adam_epsilon":1e-8,"seed":42,"data_seed":42,"shuffle":true,"choice":null}"#;
    assert_eq!(recipe("--data d.json", None), expected);
}

#[test]
fn the_recipe_of_a_run_with_every_setting_keeps_its_bytes() {
    let options = "--data d.json --fp16 --quantization-bit 4 --quantization-type fp4 \
        --double-quantization false --val-size 0.25 --packing --lora-rank 4 --lora-alpha 6.5 \
        --lora-target q_proj,v_proj --use-rslora --lora-dropout 0.1 --neftune-noise-alpha 5 \
        --init-lora-weights gaussian --adapter-name-or-path ADAPTER --learning-rate 2e-4 \
        --loraplus-lr-ratio 16 --max-steps 40 --per-device-train-batch-size 2 \
        --gradient-accumulation-steps 3 --lr-scheduler-type cosine_with_restarts \
        --lr-scheduler-kwargs {\"num_cycles\":2} --warmup-ratio 0.1 --warmup-steps 3 \
        --max-grad-norm 0.5 --optim paged_adamw_8bit --weight-decay 0.01 --adam-beta1 0.8 \
        --adam-beta2 0.95 --adam-epsilon 1e-6 --seed 7 --data-seed 9 --disable-shuffling \
        --eval-strategy epoch --save-strategy epoch --load-best-model-at-end --greater-is-better true \
        --early-stopping-steps 2";
    let expected = r#"{"model":"FOLDER/model","fp16":true,"quantization":{"type":"fp4","double":false},"examples":"e1","val_size":0.25,"packing":true,"lora_rank":4,"lora_alpha":6.5,"lora_target":["q_proj","v_proj"],"use_rslora":true,"lora_dropout":0.1,"neftune_noise_alpha":5.0,"init_lora_weights":"gaussian","adapter_name_or_path":"FOLDER/adapter","learning_rate":0.0002,"loraplus_lr_ratio":16.0,"num_train_epochs":null,"max_steps":40,"effective_batch":6,"lr_scheduler_type":"cosine_with_restarts","lr_scheduler_kwargs":{"num_cycles":2.0,"power":null,"lr_end":null},"warmup_ratio":0.1,"warmup_steps":3.0,"max_grad_norm":0.5,"weight_decay":0.01,"moments":"8 bits","adam_beta1":0.8,"adam_beta2":0.95,"adam_epsilon":1e-6,"seed":7,"data_seed":9,"shuffle":false,"choice":{"examples":"e2","evaluation":"Epoch","saving":"Epoch","load_best_model_at_end":true,"greater_is_better":true,"early_stopping_steps":2}}"#;
    assert_eq!(recipe(options, Some("e2")), expected);
}

#[test]
fn evaluations_are_in_the_recipe_where_they_choose_the_result() {
    let choice = |options: &str| {
        let recipe = recipe(&format!("--data d.json --val-size 3 {options}"), Some("e2"));
        recipe.split_once(r#""choice":"#).unwrap().1.to_owned()
    };
    assert_eq!(choice("--eval-steps 5"), "null}");
    assert_eq!(
        choice("--eval-steps 5 --save-steps 0.5 --early-stopping-steps 3"),
        r#"{"examples":"e2","evaluation":{"Steps":5.0},"saving":{"Steps":0.5},"load_best_model_at_end":false,"greater_is_better":false,"early_stopping_steps":3}}"#
    );
}
