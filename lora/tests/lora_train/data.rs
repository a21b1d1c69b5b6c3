//! What `lora-train` trains on, as a user says it.

use serde_json::json;

use crate::place::Place;

/// A place with a dataset called `words` in a dataset_info.json.
fn place() -> Place {
    let place = Place::new();
    let row = |i: usize| json!({"ask": format!("q{i}"), "say": format!("a{i}"), "before": [["h", "i"]]});
    let columns = json!({"prompt": "ask", "response": "say", "history": "before"});
    let info = json!({"words": {"file_name": "words.json", "columns": columns}});
    place.write("words.json", (0..6).map(row).collect::<serde_json::Value>().to_string());
    place.write("dataset_info.json", info.to_string());
    place
}

/// Trains for a step on the named dataset, and returns what is said.
fn train(place: &Place, arguments: &str) -> String {
    place.run(&format!("model --dataset words --dataset-dir . --max-steps 1 -o out --force {arguments}")).1
}

#[test]
fn datasets_by_name_and_examples_to_look_at() {
    let place = place();
    let said = train(&place, "--max-samples 4 --show-examples 1");
    assert!(said.contains("Num examples = 4\n"), "{said}");
    let shown = "<|im_start|>user\nh<|im_end|>\n<|im_start|>assistant\n«i<|im_end|>\n»\
        <|im_start|>user\nq0<|im_end|>\n<|im_start|>assistant\n«a0<|im_end|>\n»";
    assert!(said.contains(shown), "{said}");
    assert!(!said.contains("q1"), "one was asked for");
    assert!(!place.path("out/chat_template.jinja").exists(), "the model's own is with the tokenizer");
}

#[test]
fn what_is_trained_can_be_chosen() {
    let place = place();
    let said = train(&place, "--show-examples 1 --mask-history");
    assert!(said.contains("assistant\ni<|im_end|>\n") && said.contains("«a0<|im_end|>\n»"), "{said}");
    let said = train(&place, "--show-examples 1 --train-on-prompt");
    assert!(said.contains("«<|im_start|>user\nh"), "{said}");
}

#[test]
fn a_template_by_name_goes_with_the_adapter() {
    let place = place();
    let said = train(&place, "--template default --show-examples 1");
    assert!(said.contains("Human: h<|im_end|>\nAssistant:«i<|im_end|>\n»Human: q0<|im_end|>\n"), "{said}");
    let kept = fs_err::read_to_string(place.path("out/chat_template.jinja")).unwrap();
    assert!(kept.contains("Human: "), "{kept}");
    let checkpoint = fs_err::read_to_string(place.path("out/checkpoint-1/chat_template.jinja"));
    assert_eq!(checkpoint.unwrap(), kept);
}

#[test]
fn a_model_that_is_not_to_think_is_given_an_empty_thought() {
    let place = place();
    let row = json!({"ask": "q", "say": "<think>\nhm\n</think>\n\na", "before": [["h", "i"]]});
    place.write("words.json", json!([row]).to_string());
    let said = train(&place, "--template qwen3 --show-examples 1");
    let thought = "assistant\n«<think>\n\n</think>\n\ni<|im_end|>\n»<|im_start|>user\nq<|im_end|>\n\
        <|im_start|>assistant\n«<think>\nhm\n</think>\n\na<|im_end|>\n»";
    assert!(said.contains(thought), "{said}");
    let thoughtless = "assistant\n<think>\n\n</think>\n\n«i<|im_end|>\n»<|im_start|>user\nq<|im_end|>\n\
        <|im_start|>assistant\n<think>\n\n</think>\n\n«a<|im_end|>\n»";
    let said = train(&place, "--template qwen3 --show-examples 1 --enable-thinking false");
    assert!(said.contains(thoughtless) && !said.contains("enable_thinking: the chat template"), "{said}");
    let said = train(&place, "--template qwen3 --show-examples 1 --mask-history");
    assert!(said.contains("assistant\ni<|im_end|>\n") && said.contains("«<think>\nhm\n"), "{said}");
    place.write(
        "train.yaml",
        "model_name_or_path: model\ndataset: words\ndataset_dir: .\nenable_thinking: false\nmax_steps: 1\n",
    );
    let (_, said) = place.run("train.yaml -o of-yaml --show-examples 1");
    assert!(
        said.contains("«a<|im_end|>\n»") && said.contains("enable_thinking: the chat template"),
        "{said}"
    );
}

#[test]
fn tokens_are_kept_until_something_changes() {
    let place = place();
    let tokenized_before =
        |arguments: &str| train(&place, arguments).contains("6 examples, tokenized before");
    assert!(!tokenized_before(""));
    assert!(tokenized_before(""));
    assert!(tokenized_before("--learning-rate 1e-3"), "tokens do not depend on it");
    assert!(!tokenized_before("--overwrite-cache"));
    for change in [
        "--cutoff-len 20",
        "--train-on-prompt",
        "--mask-history",
        "--template default",
        "--enable-thinking false",
        "--max-samples 6",
    ] {
        assert!(!tokenized_before(change), "{change}");
        assert!(tokenized_before(change), "{change}");
    }
    let short = ["--cutoff-len 20"; 2].map(|change| train(&place, change));
    for said in short {
        assert!(said.contains("answers are shortened"), "warnings are kept too: {said}");
    }
    let words = place.text("words.json").replace("a5", "b5");
    place.write("words.json", words);
    assert!(!tokenized_before(""));
    let tokenizer = place.text("model/tokenizer_config.json").replace("assistant", "helper");
    place.write("model/tokenizer_config.json", tokenizer);
    assert!(!tokenized_before(""));
    for file in fs_err::read_dir(place.path("cache/qlora-tools/tokens")).unwrap() {
        fs_err::write(file.unwrap().path(), "damaged").unwrap();
    }
    assert!(!tokenized_before(""), "what is damaged is made again");
}

#[test]
fn csv_and_parquet_train() {
    let place = Place::new();
    place.write("rows.csv", "instruction,output\nq,a\nq2,a2\n");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/rows/messages.parquet");
    let (_, said) =
        place.run(&format!("model --data rows.csv --data {golden} --max-steps 1 -o out --show-examples 5"));
    assert!(said.contains("Num examples = 5\n") && said.contains("q2<|im_end|>"), "{said}");
}

#[test]
fn malformed_rows_are_counted_and_strict_stops() {
    let place = Place::new();
    place.write("bad.jsonl", "{\"instruction\": \"q\", \"output\": \"a\"}\n{\"instruction\": 3\n{}\n");
    let (_, said) = place.run("model --data bad.jsonl --max-steps 1 -o out");
    assert!(
        said.contains("2 rows are malformed and skipped; the first: bad.jsonl, line 2: not valid JSON"),
        "{said}"
    );
    let (code, said) = place.fail("model --data bad.jsonl --max-steps 1 -o strict --strict");
    assert!(code == 1 && said.contains("bad.jsonl, line 2") && said.contains("hint: mend the row"), "{said}");
}

#[test]
fn a_dataset_of_the_hub_is_fetched_once_and_again_when_it_has_changed() {
    let Some(_) = tests::needs::fetch() else { return };
    let file = |name: &str, rows: usize| {
        let rows: serde_json::Value =
            (0..rows).map(|i| json!({"instruction": format!("q{i}"), "output": "a"})).collect();
        tests::hub::HubFile::with(name, rows.to_string().into_bytes(), false)
    };
    let hub = tests::hub::Hub::start(vec![file("train.json", 5), file("test.json", 2), file("notes.txt", 1)]);
    let place = Place::new();
    let info =
        json!({"mine": {"hf_hub_url": "org/model"}, "other": {"hf_hub_url": "org/model", "split": "test"}});
    place.write("dataset_info.json", info.to_string());
    let run = |arguments: &str| {
        let mut command = place.command(&format!("model --max-steps 1 --force -o out {arguments}"));
        let run = command.env("HF_ENDPOINT", hub.url()).output().unwrap();
        String::from_utf8(run.stderr).unwrap()
    };
    let said = run("--dataset mine --dataset-dir .");
    assert!(said.contains("downloading org/model") && said.contains("Num examples = 5\n"), "{said}");
    let said = run("--dataset alpaca_gpt4_zh --dataset-dir nowhere");
    assert!(
        said.contains("downloading llamafactory/alpaca_gpt4_zh") && said.contains("Num examples = 5\n"),
        "{said}"
    );
    let requests = hub.log().len();
    let said = run("--dataset other --dataset-dir .");
    assert!(said.contains("Num examples = 2\n") && !said.contains("downloading"), "{said}");
    assert!(said.contains(&format!("org/model is used as of commit {}", tests::hub::COMMIT)), "{said}");
    assert_eq!(hub.log().len(), requests + 1, "one request for the commit");

    let newer = "f".repeat(40);
    hub.publish(&newer, vec![file("train.json", 7), file("test.json", 2)]);
    let requests = hub.log().len();
    let said = run("--dataset mine --dataset-dir . --overwrite-cache");
    assert!(said.contains("Num examples = 7\n") && said.contains(&newer), "{said}");
    let asked: Vec<String> = hub.log()[requests..].iter().map(|seen| seen.target.clone()).collect();
    assert!(asked.iter().any(|target| target.ends_with("/train.json")), "{asked:?}");

    let mut command = place.command("model --max-steps 1 --force -o out --dataset mine --dataset-dir .");
    let requests = hub.log().len();
    let run = command.env("HF_ENDPOINT", hub.url()).env("HF_DATASETS_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(said.contains("HF_DATASETS_OFFLINE is set") && said.contains("Num examples = 7\n"), "{said}");
    assert_eq!(hub.log().len(), requests, "no request");
}

/// The examples have 39, 40 and 42 tokens, four of each. Packs of up to 123 begin with 42 + 42 + 39, those
/// of 122 with 42 + 42; the last place of --cutoff-len stays free.
#[test]
fn packs_count_as_one_and_their_examples_do_not_see_each_other() {
    let place = Place::new();
    let run = "model --data data.json --learning-rate 1e-2 --logging-steps 1";
    let (_, said) = place.run(&format!(
        "{run} -o packed --packing --cutoff-len 124 --gradient-accumulation-steps 4 --num-train-epochs 2"
    ));
    for line in ["Num examples = 4\n", "of 12 examples in all", "Total optimization steps = 2\n"] {
        assert!(said.contains(line), "{line} is missing from {said}");
    }
    place.train(&format!("{run} -o plain --gradient-accumulation-steps 12 --num-train-epochs 2"));
    for (packed, plain) in place.losses("packed").iter().zip(place.losses("plain")) {
        assert!((packed - plain).abs() < 2e-4, "{packed}, not {plain}");
    }
    let neat =
        format!("{run} -o neat --neat-packing --cutoff-len 124 --gradient-accumulation-steps 1 --dry-run");
    let (_, said) = place.run(&neat);
    assert!(said.contains("Steps per epoch = 4\n"), "{said}");
    let (_, said) = place.run(&neat.replace("--cutoff-len 124", "--cutoff-len 123"));
    assert!(said.contains("Steps per epoch = 5\n"), "{said}");
}

#[test]
fn streaming_reads_no_more_than_the_steps_can_see() {
    let place = Place::new();
    let row = |i: usize| match i {
        // Nine rows: two steps of four examples, and one to choose from.
        0..9 => json!({"instruction": format!("{i}"), "output": "x"}).to_string(),
        _ => "not a row".to_owned(),
    };
    place.write("rows.jsonl", (0..12).map(row).collect::<Vec<_>>().join("\n"));
    let run = "model --data rows.jsonl --strict --gradient-accumulation-steps 4 --max-steps 2 -o out";
    let (_, said) = place.run(&format!("{run} --streaming --buffer-size 1"));
    assert!(said.contains("Num examples = 9\n"), "{said}");
    let (_, said) = place.fail(&format!("{run} --streaming --buffer-size 2 --force"));
    assert!(said.contains("line 10"), "{said}");
    let (_, said) = place.fail(&format!("{run} --streaming --packing --force"));
    assert!(said.contains("exclude each other"), "{said}");
}

#[test]
fn a_model_in_the_hubs_cache_is_trained_by_its_name() {
    let place = Place::new();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = place.path("hub/models--owner--tiny");
    fs_err::create_dir_all(repository.join("snapshots")).unwrap();
    fs_err::create_dir(repository.join("refs")).unwrap();
    fs_err::write(repository.join("refs/main"), commit).unwrap();
    fs_err::rename(place.path("model"), repository.join("snapshots").join(commit)).unwrap();
    let mut command = place.command("owner/tiny --data data.json --max-steps 1");
    let run = command.env("HF_HUB_CACHE", place.path("hub")).output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.stdout, b"tiny-lora\n", "{said}");
    assert!(place.path("tiny-lora/adapter_model.safetensors").exists(), "{said}");
}
