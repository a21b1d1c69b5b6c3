//! LLaMA-Factory's train.yaml as a user brings it.

use serde_json::json;

use crate::place::Place;

const FILE: &str = "\
model_name_or_path: model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: q_proj,v_proj
dataset: words, more
dataset_dir: .
cutoff_len: 512
overwrite_cache: true
preprocessing_num_workers: 16
output_dir: out
logging_steps: 1
save_steps: 1000
plot_loss: true
overwrite_output_dir: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 4
learning_rate: 1.0e-2
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
fp16: true
ddp_timeout: 180000000
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
";

fn place(file: &str) -> Place {
    let place = Place::new();
    place.write("more.json", json!([{"instruction": "q", "output": "a"}]).to_string());
    let info = json!({"words": {"file_name": "data.json"}, "more": {"file_name": "more.json"}});
    place.write("dataset_info.json", info.to_string());
    place.write("train.yaml", file);
    place
}

#[test]
fn a_file_trains_and_what_it_came_to_trains_the_same() {
    let place = place(FILE);
    let (out, said) = place.run("train.yaml");
    assert_eq!(out, "out\n");
    for line in [
        "Num examples = 11\n",
        "Num Epochs = 2\n",
        "Total train batch size = 4\n",
        "Total optimization steps = 6\n",
        "Number of trainable parameters = 1792\n",
        "preprocessing_num_workers: no effect here: all cores are used",
        "ddp_timeout: no effect here: ranks wait for each other for as long as all are there",
    ] {
        assert!(said.contains(line), "{line} is missing from {said}");
    }
    assert_eq!(place.run("out/training_args.yaml -o again").0, "again\n");
    assert_eq!(place.adapter("out"), place.adapter("again"));
    assert_eq!(
        place.text("out/training_args.yaml").replace("output_dir: out", "output_dir: again"),
        place.text("again/training_args.yaml")
    );
}

/// What users of LLaMA-Factory bring along, to the letter.
const WHOLE_FILE: &str = "\
model_name_or_path: model # base model directory

### method
stage: sft
do_train: true
finetuning_type: lora
quantization_bit: 4
lora_rank: 8
lora_target: all

dataset: alpaca_gpt4_zh
template: qwen
cutoff_len: 1024
#max_samples: 1000
overwrite_cache: true
preprocessing_num_workers: 16

### output
output_dir: output
logging_steps: 10
save_steps: 1000
plot_loss: true
overwrite_output_dir: true

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 16
learning_rate: 1.0e-5
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
fp16: true
ddp_timeout: 180000000

### eval
val_size: 0.1
per_device_eval_batch_size: 1
eval_strategy: steps
eval_steps: 500
";

/// Figures by transformers' formulas: 36 of 40 examples are left to train on, in steps of 16; a step less than
/// whole is a step.
#[test]
fn a_whole_file_runs_to_its_end_and_leaves_all_files() {
    let place = Place::new();
    let row = |i: usize| json!({"instruction": format!("说 {i}"), "input": "", "output": "好 🌊"});
    place.write("zh.json", (0..40).map(row).collect::<serde_json::Value>().to_string());
    fs_err::create_dir(place.path("data")).unwrap();
    let info = json!({"alpaca_gpt4_zh": {"file_name": "../zh.json"}});
    place.write("data/dataset_info.json", info.to_string());
    place.write("train.yaml", WHOLE_FILE);
    let (out, said) = place.run("train.yaml");
    assert_eq!(out, "output\n");
    for line in [
        "Num examples = 36\n",
        "Num Epochs = 2\n",
        "Instantaneous batch size per device = 1\n",
        "Gradient Accumulation steps = 16\n",
        "Total train batch size = 16\n",
        "Total optimization steps = 6\n",
        "Number of trainable parameters = 16384\n",
    ] {
        assert!(said.contains(line), "{line} is missing from {said}");
    }
    assert!(!said.contains("busy"), "the CPU has no figure of a GPU: {said}");
    for file in [
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_log.jsonl",
        "trainer_state.json",
        "training_args.yaml",
        "train_results.json",
        "eval_results.json",
        "all_results.json",
        "training_loss.png",
        "training_eval_loss.png",
        "checkpoint-6/adapter_model.safetensors",
        "checkpoint-6/trainer_state.json",
    ] {
        assert!(place.path("output").join(file).exists(), "{file}");
    }
}

#[test]
fn the_command_line_goes_before_the_file() {
    let place = place(FILE);
    let (_, said) =
        place.run("train.yaml --max-steps 3 -o other --dataset words --gradient-accumulation-steps 2");
    assert!(said.contains("Total optimization steps = 3\n"), "{said}");
    assert!(said.contains("Num examples = 10\n"), "{said}");
    assert!(said.contains("Total train batch size = 2\n"), "{said}");
    assert!(!place.path("out").exists() && place.path("other/adapter_model.safetensors").exists());
    let without = place.run("train.yaml --plot-loss=false --force").1;
    assert!(!place.path("out/training_loss.png").exists(), "{without}");
}

#[test]
fn a_dry_run_shows_the_schedule_and_makes_nothing() {
    let place = place(FILE);
    let (out, said) = place.run("train.yaml --dry-run");
    assert_eq!(out, "");
    for line in [
        "Total optimization steps = 6\n",
        "Steps per epoch = 3\n",
        "Warm-up steps = 1\n",
        "Learning rate = 0.000e0 at step 1, 1.000e-2 at step 2,",
        "Evaluations = every 500 steps and at the end",
    ] {
        assert!(said.contains(line), "{line} is missing from {said}");
    }
    assert!(!place.path("out").exists());
}

#[test]
fn a_key_that_cannot_be_honoured_is_never_passed_over() {
    for (line, named, hint) in [
        ("learning_rat: 1", "unknown key \"learning_rat\"", "did you mean learning_rate?"),
        ("preprocesing_num_workers: 1", "unknown key", "did you mean preprocessing_num_workers?"),
        ("xyzzy: 1", "unknown key \"xyzzy\"", "remove it"),
        ("output: x", "unknown key \"output\"", "hint"),
        ("force: true", "unknown key \"force\"", "hint"),
        ("stage: dpo", "stage: dpo is not supported", "stage: sft"),
        ("finetuning_type: full", "finetuning_type: full", "finetuning_type: lora"),
        ("do_train: false", "do_train", "chat and evaluate"),
        ("deepspeed: ds.json", "deepspeed", "every GPU holds the whole model"),
        ("use_dora: true", "use_dora", "rsLoRA"),
        ("lora_dropout: 1", "--lora-dropout", "from 0 to below 1"),
        ("neftune_noise_alpha: -5", "--neftune-noise-alpha", "at least 0"),
        ("label_smoothing_factor: 0.1", "label_smoothing_factor: 0.1 is not supported", "set it to 0"),
        ("streaming: true", "--streaming without --max-steps", "--max-steps"),
        ("additional_target: lm_head", "additional_target", "remove it"),
        ("optim: sgd", "--optim", "adamw_torch"),
        ("quantization_bit: 8", "--quantization-bit", "4 bits"),
        ("report_to: wandb", "--report-to", "tensorboard"),
        ("metric_for_best_model: accuracy", "--metric-for-best-model", "only loss"),
        ("lr_scheduler_type: inverse_sqrt", "--lr-scheduler-type", "cosine_with_restarts"),
        ("learning_rate: fast", "--learning-rate", "fast"),
        ("lr_scheduler_kwargs: {gamma: 2}", "--lr-scheduler-kwargs", "gamma"),
        ("dataset: [words", "train.yaml is not a YAML file", "error"),
    ] {
        let key = line.split(':').next().unwrap();
        let others: String = FILE
            .lines()
            .filter(|other| !other.starts_with(&format!("{key}:")))
            .map(|l| format!("{l}\n"))
            .collect();
        let place = place(&format!("{others}{line}\n"));
        let (code, said) = place.fail("train.yaml");
        assert!(code > 0 && said.contains(named) && said.contains(hint), "{line}: {said}");
        assert!(!place.path("out").exists(), "{line}");
    }
}

#[test]
fn values_that_ask_for_what_is_so_anyway_pass_in_silence() {
    let more = "use_dora: false\nlora_dropout: 0.0\nneat_packing: false\nadditional_target: null\n\
        report_to: none\nresume_from_checkpoint: null\nmax_steps: -1\nsave_strategy: 'no'\n";
    let (_, said) = place(&format!("{FILE}{more}")).run("train.yaml --dry-run");
    for key in ["use_dora", "lora_dropout", "neat_packing", "additional_target"] {
        assert!(!said.contains(key), "{said}");
    }
    assert!(said.contains("Total optimization steps = 6\n"), "{said}");
    assert!(said.contains("Checkpoints = at the end"), "{said}");
}

#[test]
fn overwriting_spares_an_unfinished_run() {
    let place = place(FILE);
    place.train("train.yaml");
    place.train("train.yaml --max-steps 2");
    assert_eq!(place.checkpoints("out"), [2], "a finished run of other settings is replaced");
    fs_err::remove_file(place.path("out/made-by.json")).unwrap();
    let (_, said) = place.fail("train.yaml --max-steps 2");
    assert!(said.contains("unfinished run of 2 steps"), "{said}");
    place.train("train.yaml --max-steps 2 --resume");
}

#[test]
fn settings_may_be_json_and_examples_are_not_taken_for_them() {
    let place = Place::new();
    let settings = json!({"model_name_or_path": "model", "data": "data.json", "max_steps": 5});
    place.write("train.json", settings.to_string());
    let (_, said) = place.run("train.json --dry-run");
    assert!(said.contains("Total optimization steps = 5\n"), "{said}");
    let (_, said) = place.fail("model data.json -o out");
    assert!(said.contains("hint: a file of examples is named with --data"), "{said}");
}

#[test]
fn a_pipe_gives_the_model_to_a_file_without_one() {
    let place = place(FILE.trim_start_matches("model_name_or_path: model\n"));
    let run = place.command("train.yaml --max-steps 1").write_stdin("model\n").output().unwrap();
    assert_eq!(String::from_utf8(run.stdout).unwrap(), "out\n");
}
