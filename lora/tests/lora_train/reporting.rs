//! Evaluation, checkpoints and logs on the way.

use crate::place::Place;
use crate::training::RUN;

#[test]
fn checkpoints_beyond_the_limit_go() {
    let place = Place::new();
    place.train(&format!("{RUN} -o out --max-steps 6 --save-steps 2 --save-total-limit 2"));
    assert_eq!(place.checkpoints("out"), [4, 6]);
    place.train(&format!("{RUN} -o epochs --num-train-epochs 2 --save-strategy epoch"));
    assert_eq!(place.checkpoints("epochs"), [3, 6]);
    place.train(&format!("{RUN} -o none --max-steps 4 --save-strategy no --save-steps 1"));
    assert_eq!(place.checkpoints("none"), [4]);
    place.train(&format!("{RUN} -o share --max-steps 4 --save-steps 0.25"));
    assert_eq!(place.checkpoints("share"), [1, 2, 3, 4]);
}

/// A rate so high that the loss rises again behind the first steps.
const WORSENING: &str = "model --data data.json --val-size 4 --learning-rate 0.3 --logging-steps 1 \
    --gradient-accumulation-steps 4 --max-steps 8 --eval-steps 1 --save-steps 1 --lr-scheduler-type constant";

#[test]
fn the_best_checkpoint_is_named_kept_and_ended_with() {
    let place = Place::new();
    let (_, said) = place.run(&format!("{WORSENING} -o best --load-best-model-at-end --save-total-limit 1"));
    let losses = place.logged("best", "eval_loss");
    let (index, _) = losses.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    let best = index as u64 + 1;
    assert!(best < 8, "the test needs a run that worsens: {losses:?}");
    assert!(
        said.contains(&format!("the best checkpoint is best/checkpoint-{best} with eval_loss")),
        "{said}"
    );
    assert_eq!(place.checkpoints("best"), [best, 8]);
    assert_eq!(place.adapter("best"), place.adapter(&format!("best/checkpoint-{best}")));
    let state = place.json("best/trainer_state.json");
    assert_eq!(state["best_global_step"], best);
    assert_eq!(state["best_model_checkpoint"], format!("best/checkpoint-{best}"));
    let (_, said) = place.run(&format!("{WORSENING} -o last"));
    assert_eq!(place.adapter("last"), place.adapter("last/checkpoint-8"));
    assert!(said.contains(&format!("the best checkpoint is last/checkpoint-{best} ")), "{said}");
    place.train(&format!("{WORSENING} -o worst --load-best-model-at-end --greater-is-better true"));
    assert_ne!(place.adapter("worst"), place.adapter("best"));
}

#[test]
fn a_run_that_does_not_improve_stops_early() {
    let place = Place::new();
    let (_, said) = place.run(&format!("{WORSENING} -o out --early-stopping-steps 2"));
    let steps = place.json("out/trainer_state.json")["global_step"].as_u64().unwrap();
    assert!(
        steps < 8 && said.contains(&format!("step {steps}: the held-out loss has not improved")),
        "{said}"
    );
    assert_eq!(place.checkpoints("out").last(), Some(&steps));
}

#[test]
fn held_out_data_of_its_own_and_evaluation_results() {
    let place = Place::new();
    place.write("held.json", r#"[{"instruction": "Say the word 1", "output": "river"}]"#);
    let (_, said) = place.run(
        "model --data data.json -o out --max-steps 3 --eval-data held.json --eval-strategy steps \
         --eval-on-start --logging-first-step --logging-steps 3",
    );
    assert!(said.contains("Num examples = 12\n") && said.contains("over 1 examples"), "{said}");
    assert_eq!(place.logged("out", "eval_loss").len(), 2, "at the start and every logging_steps");
    assert_eq!(place.losses("out").len(), 2, "the first step and the third");
    let results = place.json("out/eval_results.json");
    assert!(results["eval_loss"].as_f64().unwrap() > 0.0 && results["eval_runtime"].is_number(), "{results}");
    place.write("dataset_info.json", r#"{"held": {"file_name": "held.json"}}"#);
    let (_, said) =
        place.run("model --data data.json -o named --max-steps 1 --eval-dataset held --dataset-dir .");
    assert!(said.contains("over 1 examples"), "{said}");
    let all = place.json("out/all_results.json");
    assert!(all["eval_loss"] == results["eval_loss"] && all["train_loss"].is_number(), "{all}");
    assert!(all["total_flos"].as_f64().unwrap() > 0.0);
}

#[test]
fn every_option_of_the_training_changes_it() {
    let place = Place::new();
    let run = "model --data data.json --learning-rate 1e-2 --max-steps 3 --gradient-accumulation-steps 4";
    let adapter = |options: &str, output: &str| {
        place.train(&format!("{run} -o {output} {options}"));
        place.adapter(output)
    };
    let plain = adapter("", "plain");
    for (index, options) in [
        "--use-rslora",
        "--init-lora-weights gaussian",
        "--loraplus-lr-ratio 16",
        "--adam-beta1 0.5",
        "--adam-beta2 0.9",
        "--adam-epsilon 1e-2",
        "--weight-decay 0.5",
        "--max-grad-norm 0.01",
        "--warmup-steps 2",
        "--warmup-ratio 0.5",
        "--lr-scheduler-type cosine",
        "--lr-scheduler-type cosine_with_restarts",
        "--lr-scheduler-type polynomial --lr-scheduler-kwargs {\"power\":2}",
        "--lr-scheduler-type constant",
        "--lr-scheduler-type constant_with_warmup --warmup-steps 1",
        "--seed 1",
        "--data-seed 1",
        "--disable-shuffling",
        "--quantization-bit 4",
        "--quantization-bit 4 --quantization-type fp4",
        "--quantization-bit 4 --double-quantization false",
        "--lora-alpha 4",
        "--lora-rank 4",
        "--lora-target q_proj",
    ]
    .into_iter()
    .enumerate()
    {
        assert_ne!(adapter(options, &format!("out-{index}")), plain, "{options} is ignored");
    }
    for (index, options) in
        ["--optim adamw_torch_fused", "--optim adamw_hf", "--init-lora-weights true"].into_iter().enumerate()
    {
        assert_eq!(adapter(options, &format!("same-{index}")), plain, "{options} is what is done anyway");
    }
    assert_eq!(place.json("out-0/adapter_config.json")["use_rslora"], true);
    assert_eq!(place.json("out-1/adapter_config.json")["init_lora_weights"], "gaussian");
}

#[test]
fn a_run_continues_from_any_of_its_checkpoints() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 5 --save-steps 2");
    place.train(&format!("{run} -o whole"));
    place.train(&format!("{run} -o from --resume-from-checkpoint whole/checkpoint-2"));
    assert_eq!(place.adapter("whole"), place.adapter("from"));
    assert_eq!(place.losses("whole"), place.losses("from"));
    let (code, said) =
        place.fail(&format!("{run} -o no --seed 1 --resume-from-checkpoint whole/checkpoint-2"));
    assert!(code == 1 && said.contains("seed was 42, now 1"), "{said}");
    let (_, said) =
        place.fail(&format!("{run} -o no --cutoff-len 30 --resume-from-checkpoint whole/checkpoint-2"));
    assert!(said.contains("the examples are others"), "{said}");
    let (code, said) = place.fail(&format!("{run} -o none --resume-from-checkpoint true"));
    assert!(code == 1 && said.contains("no checkpoint"), "{said}");
}

fn png_size(bytes: &[u8]) -> (u32, u32) {
    assert!(bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}

#[test]
fn losses_are_drawn_unless_they_are_not_wanted() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 3 --val-size 2 --eval-steps 1");
    place.train(&format!("{run} -o out"));
    let charts =
        ["training_loss.png", "training_eval_loss.png"].map(|file| place.bytes(&format!("out/{file}")));
    for chart in &charts {
        assert_eq!(png_size(chart), (1280, 800));
    }
    assert_ne!(charts[0], charts[1]);
    place.train(&format!("{run} -o without --plot-loss=false"));
    assert!(!place.path("without/training_loss.png").exists());
    let (code, _) =
        place.fail("model --data data.json -o bad --logging-steps 1 --learning-rate 1e30 --max-grad-norm 0");
    assert!(code == 1 && place.path("bad/training_loss.png").exists(), "what led to a failure is drawn");
}

/// The scalars of an event file: tag, step and value. Reads no more than such a file has.
fn scalars(bytes: &[u8]) -> Vec<(String, u64, f32)> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        let mut event = &rest[12..12 + length];
        rest = &rest[16 + length..];
        let mut step = 0;
        while let Some((field, data)) = field(&mut event) {
            match field {
                2 => step = varint(&mut &data[..]),
                5 => {
                    let mut summary = data;
                    while let Some((1, mut value)) = self::field(&mut summary) {
                        let (_, tag) = self::field(&mut value).unwrap();
                        let (_, number) = self::field(&mut value).unwrap();
                        let number = f32::from_le_bytes(number.try_into().unwrap());
                        found.push((String::from_utf8(tag.to_vec()).unwrap(), step, number));
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn field<'a>(message: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    if message.is_empty() {
        return None;
    }
    let key = varint(message);
    let before = *message;
    let length = match key & 7 {
        0 => {
            varint(message);
            before.len() - message.len()
        }
        1 => 8,
        5 => 4,
        _ => {
            let length = varint(message) as usize;
            let data = &message[..length];
            *message = &message[length..];
            return Some((key >> 3, data));
        }
    };
    *message = &before[length..];
    Some((key >> 3, &before[..length]))
}

#[test]
fn tensorboard_gets_what_the_logs_have() {
    let place = Place::new();
    let run =
        format!("{RUN} --max-steps 4 --val-size 2 --eval-steps 2 --report-to tensorboard --save-steps 2");
    place.train(&format!("{run} -o out"));
    let files = |folder: &str| -> Vec<Vec<u8>> {
        let entries = fs_err::read_dir(place.path(folder)).unwrap();
        entries.map(|entry| fs_err::read(entry.unwrap().path()).unwrap()).collect()
    };
    let [file] = &files("out/runs")[..] else { panic!("one file expected") };
    let found = scalars(file);
    let of = |tag: &str| -> Vec<(u64, f32)> {
        found.iter().filter(|(name, ..)| name == tag).map(|(_, step, value)| (*step, *value)).collect()
    };
    let losses: Vec<f32> = of("train/loss").iter().map(|(_, loss)| (loss * 1e4).round() / 1e4).collect();
    assert_eq!(losses, place.losses("out").iter().map(|&loss| loss as f32).collect::<Vec<_>>());
    assert_eq!(of("eval/loss").iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(of("train/train_loss").len(), 1);
    assert_eq!(of("train/grad_norm").len(), 4);
    place.train(&format!("{run} -o again --logging-dir board --resume-from-checkpoint out/checkpoint-2"));
    let resumed = scalars(&files("board")[0]);
    assert!(resumed.iter().all(|(_, step, _)| *step > 2), "{resumed:?}");
    place.train(&format!("{RUN} --max-steps 1 -o plain"));
    assert!(!place.path("plain/runs").exists());
}
