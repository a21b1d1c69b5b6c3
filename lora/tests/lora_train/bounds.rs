//! What cannot work is said before the first step, in one sentence.

use serde_json::json;

use crate::place::Place;

/// What is said of an impossible setting; the exit code is that of wrong usage.
fn refused(place: &Place, arguments: &str) -> String {
    let (code, said) = place.fail(&format!("model --data data.json -o out --dry-run {arguments}"));
    assert!(code == 2 && said.contains("hint: "), "{arguments}: exit code {code}, {said}");
    said
}

#[test]
fn numbers_have_bounds() {
    let place = Place::new();
    for (arguments, expected) in [
        (
            "--max-steps 9000000000000000000",
            "a run of at most 1000000000 steps expected, found 9000000000000000000",
        ),
        ("--num-train-epochs 1e300", "--num-train-epochs: a number below 3.4028235e38"),
        ("--num-train-epochs 1e30", "a run of at most 1000000000 steps expected"),
        ("--num-train-epochs nan", "--num-train-epochs: a positive number expected"),
        ("--max-steps 0", "--max-steps: at least 1 expected, or -1, found 0"),
        ("--lora-rank 65536", "at most 64 expected, the smaller side of the largest layer"),
        ("--lora-rank 65", "at most 64 expected"),
        ("--lora-rank 33 --lora-target k_proj", "at most 32 expected"),
        ("--lora-rank 9223372036854775808", "expected, found 9223372036854775808"),
        ("--lora-alpha inf", "--lora-alpha: a number below"),
        ("--lora-alpha 1e39", "--lora-alpha: a number below 3.4028235e38"),
        ("--learning-rate inf", "--learning-rate: a number below"),
        ("--learning-rate nan", "--learning-rate: a positive number expected, found NaN"),
        ("--learning-rate=-1", "--learning-rate: a positive number expected, found -1"),
        ("--warmup-ratio 1.5", "--warmup-ratio: a share from 0 to 1 expected, found 1.5"),
        ("--warmup-steps nan", "--warmup-steps: a number of at least 0 expected"),
        ("--cutoff-len 0", "0 is not in 1..=4294967295"),
        ("--cutoff-len 9223372036854775808", "is not in 1..=4294967295"),
        (
            "--per-device-train-batch-size 4294967296 --gradient-accumulation-steps 4294967296",
            "at most 1000000000 examples",
        ),
        ("--gradient-accumulation-steps 1000000001", "at most 1000000000 examples"),
        ("--save-steps 0", "--save-steps: a positive number expected, found 0"),
        ("--logging-steps inf", "--logging-steps: a number below"),
        ("--save-total-limit 0", "--save-total-limit: at least 1 expected, found 0"),
        ("--adam-epsilon 1e39", "--adam-epsilon: a number below"),
        ("--weight-decay inf", "--weight-decay: a number below"),
        ("--max-grad-norm 1e300", "--max-grad-norm: a number below"),
    ] {
        let said = refused(&place, arguments);
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    place.run("model --data data.json -o out --dry-run --lora-rank 64 --max-steps 1000000000");
}

#[test]
fn something_is_left_to_train_on() {
    let place = Place::new();
    for size in ["12", "13", "1e30", "0.99"] {
        let said = refused(&place, &format!("--val-size {size}"));
        assert!(said.contains("holds out all of 12 examples"), "{size}: {said}");
    }
    place.run("model --data data.json -o out --dry-run --val-size 11");
}

#[test]
fn an_example_beyond_the_models_positions_is_said_before_the_first_step() {
    let place = Place::new();
    let config = place.text("model/config.json").replace("4096", "64");
    place.write("model/config.json", config);
    let row = |length: usize| json!({"instruction": "q", "output": "x".repeat(length)});
    place.write("long.json", json!([row(1), row(100), row(3)]).to_string());
    for dry in ["", "--dry-run"] {
        let (code, said) = place.fail(&format!("model --data long.json -o out {dry}"));
        assert!(code == 1 && !place.path("out").exists(), "{said}");
        assert!(
            said.contains("long.json, row 2: the example has")
                && said.contains("exceeds the model's 64 positions"),
            "{said}"
        );
        assert!(said.contains("hint: --cutoff-len 64 "), "{said}");
    }
    let (_, said) = place.fail("model --data data.json --eval-data long.json -o out --dry-run");
    assert!(said.contains("long.json, row 2"), "held-out examples too: {said}");
    place.run("model --data long.json -o out --dry-run --cutoff-len 64");
}

#[test]
fn a_token_beyond_the_embeddings_is_said_before_the_first_step() {
    let place = Place::new();
    let mut tokenizer = place.json("model/tokenizer.json");
    let mut added = tokenizer["added_tokens"][0].clone();
    (added["id"], added["content"], added["special"]) = (json!(300), json!("lantern"), json!(false));
    tokenizer["model"]["vocab"]["lantern"] = json!(300);
    tokenizer["added_tokens"].as_array_mut().unwrap().push(added);
    place.write("model/tokenizer.json", tokenizer.to_string());
    let (code, said) = place.fail("model --data data.json -o out --dry-run");
    assert!(code == 1 && said.contains("data.json, row 3: ") && said.contains("token 300"), "{said}");
    assert!(said.contains("embeddings of 260 tokens only") && said.contains("hint: "), "{said}");
}

#[test]
fn what_stands_beside_all_has_to_be_meant_by_it() {
    let place = Place::new();
    for other in ["lm_head", "nonsense", "embed_tokens"] {
        let said = refused(&place, &format!("--lora-target all,{other}"));
        assert!(said.contains(&format!("{other:?} beside all")), "{said}");
    }
    let place = Place::new();
    let parameters = |target: &str| {
        let (_, said) = place.run(&format!("model --data data.json -o out --dry-run --lora-target {target}"));
        said.lines().find(|line| line.contains("trainable parameters")).unwrap().to_owned()
    };
    assert_eq!(parameters("all,q_proj"), parameters("all"));
}

#[test]
fn one_adapter_is_trained_on() {
    let place = Place::new();
    let said = refused(&place, "--adapter-name-or-path a,b");
    assert!(said.contains("one adapter expected, found 2: a, b"), "{said}");
    assert!(said.contains("hint: fold the others into the model first: merge a "), "{said}");
    place.write(
        "train.yaml",
        "model_name_or_path: model\ndata: data.json\noutput_dir: out\nadapter_name_or_path: [a, b]\n",
    );
    let (code, said) = place.fail("train.yaml --dry-run");
    assert!(code == 2 && said.contains("one adapter expected, found 2: a, b"), "{said}");
}
