//! Dropout and NEFTune's noise: in training, the same in every run, and nowhere else.

use common::adapter::{Adapter, AdapterConfig};

use crate::place::Place;
use crate::training::RUN;

/// Options that draw at random, and what the header says of them.
const NOISES: [(&str, &str); 2] = [
    ("--lora-dropout 0.3", "LoRA dropout = 0.3\n"),
    ("--neftune-noise-alpha 5", "NEFTune noise alpha = 5\n"),
];

#[test]
fn noise_changes_training_and_the_seed_decides_it() {
    let place = Place::new();
    let run = format!("{RUN} --max-steps 4");
    place.train(&format!("{run} -o plain"));
    for (index, (noise, header)) in NOISES.into_iter().enumerate() {
        let (_, said) = place.run(&format!("{run} -o {index} {noise}"));
        assert!(said.contains(header), "{said}");
        place.train(&format!("{run} -o again-{index} {noise}"));
        let name = index.to_string();
        assert_ne!(place.adapter("plain"), place.adapter(&name), "{noise} is ignored");
        assert_eq!(place.adapter(&name), place.adapter(&format!("again-{index}")), "{noise}");
        // B begins at zero, so that the first loss is the base's whatever adapters see of their input.
        let is_same = place.losses("plain")[0] == place.losses(&name)[0];
        assert_eq!(is_same, noise.contains("dropout"), "{noise}");
    }
    let config = AdapterConfig::read(&place.path("0")).unwrap();
    assert_eq!(config.lora_dropout, 0.3, "as PEFT writes it");
}

#[test]
fn a_run_with_noise_that_is_resumed_is_one_never_stopped() {
    let place = Place::new();
    let noise = NOISES.map(|(noise, _)| noise).join(" ");
    let run = format!("{RUN} --max-steps 5 --save-steps 2 {noise}");
    place.train(&format!("{run} -o whole"));
    place.train(&format!("{run} -o from --resume-from-checkpoint whole/checkpoint-2"));
    assert_eq!(place.losses("whole"), place.losses("from"));
    assert_eq!(place.adapter("whole"), place.adapter("from"));
    let other = run.replace("--lora-dropout 0.3", "--lora-dropout 0.2");
    let (_, said) = place.fail(&format!("{other} -o other --resume-from-checkpoint whole/checkpoint-2"));
    assert!(said.contains("lora_dropout was 0.3, now 0.2"), "{said}");
}

#[test]
fn evaluations_see_no_noise() {
    let place = Place::new();
    // A rate of nearly nothing: the adapter stays the one it was, with a B that is not zero.
    place.train(&format!("{RUN} -o first --max-steps 4"));
    let run = RUN.replace("--learning-rate 1e-2", "--learning-rate 1e-30");
    let run = format!("{run} --max-steps 2 --val-size 4 --eval-steps 1 --adapter-name-or-path first");
    place.train(&format!("{run} -o plain"));
    place.train(&format!("{run} -o noisy --lora-dropout 0.5 --neftune-noise-alpha 9"));
    assert_ne!(place.losses("plain"), place.losses("noisy"));
    assert_eq!(place.logged("plain", "eval_loss"), place.logged("noisy", "eval_loss"));
}

#[test]
fn an_adapter_that_is_continued_keeps_its_dropout_unless_told_otherwise() {
    let place = Place::new();
    place.train(&format!("{RUN} -o first --max-steps 2 --lora-dropout 0.25"));
    for (option, expected) in [("", 0.25), ("--lora-dropout 0", 0.0)] {
        let output = format!("then-{expected}");
        let (_, said) =
            place.run(&format!("{RUN} -o {output} --max-steps 1 --adapter-name-or-path first {option}"));
        assert_eq!(said.contains("LoRA dropout"), expected > 0.0, "{said}");
        assert_eq!(Adapter::load(&place.path(&output)).unwrap().config.lora_dropout, expected);
    }
}
