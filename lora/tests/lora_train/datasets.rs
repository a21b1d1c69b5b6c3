//! Which rows and columns of a data set are trained on.

use serde_json::{Value, json};

use crate::place::Place;

/// What a dry run on the dataset `name` says.
fn dry_run(place: &Place, name: &str, arguments: &str) -> String {
    place.run(&format!("model --dataset {name} --dataset-dir . -o out --dry-run {arguments}")).1
}

/// What is said where the dataset `name` cannot be used.
fn refused(place: &Place, name: &str) -> String {
    let (code, said) = place.fail(&format!("model --dataset {name} --dataset-dir . -o out --dry-run"));
    assert!(code == 1 && said.contains("hint: "), "{name}: {said}");
    said
}

/// The number of examples that a dry run says.
fn count(said: &str) -> usize {
    let line = said.lines().find_map(|line| line.split("Num examples = ").nth(1)).unwrap();
    line.trim().parse().unwrap()
}

/// Rows that ask `NAME 0`, `NAME 1` and so on.
fn rows(name: &str, count: usize) -> String {
    let row = |i| format!("{}\n", json!({"instruction": format!("{name} {i}"), "output": "a"}));
    (0..count).map(row).collect()
}

/// A place with a data set as it comes from a hub: `folder`, with the files of `splits`.
fn data_set(splits: &[(&str, usize)], readme: &str) -> Place {
    let place = Place::new();
    fs_err::create_dir_all(place.path("set/data")).unwrap();
    for (file, count) in splits {
        place.write(&format!("set/{file}"), rows(file.split(['/', '-', '.']).nth(1).unwrap(), *count));
    }
    place.write("set/README.md", readme);
    place
}

/// Writes a dataset_info.json with one entry for each.
fn describe(place: &Place, entries: impl IntoIterator<Item = (String, Value)>) {
    place.write("dataset_info.json", Value::Object(entries.into_iter().collect()).to_string());
}

#[test]
fn a_split_is_what_the_datasets_library_reads() {
    let files = [
        ("data/train_sft-00000-of-00002.jsonl", 3),
        ("data/train_sft-00001-of-00002.jsonl", 2),
        ("data/test_sft-00000-of-00001.jsonl", 4),
        ("data/train_gen-00000-of-00001.jsonl", 7),
    ];
    let readme = "---\nconfigs:\n- config_name: default\n  data_files:\n\
        \x20 - {split: train_sft, path: data/train_sft-*}\n  - {split: test_sft, path: data/test_sft-*}\n---\n";
    let place = data_set(&files, readme);
    let splits = [
        ("train_sft", 5),
        ("train_sft[:2]", 2),
        ("train_sft[3:]", 2),
        ("train_sft[-1:]", 1),
        ("train_sft[:50%]", 2),
        ("train_sft[20%:60%]", 2),
        ("train_sft + test_sft[:1]", 6),
        ("all", 9),
    ];
    let wrong = ["", "train_stf", "train_gen", "train_sft[5:]", "train_sft[2]", "train_sft[:200%]"];
    let all = splits.iter().map(|(split, _)| *split).chain(wrong).enumerate();
    describe(&place, all.map(|(i, split)| (format!("s{i}"), json!({"hf_hub_url": "set", "split": split}))));
    for (index, (split, expected)) in splits.into_iter().enumerate() {
        let said = dry_run(&place, &format!("s{index}"), "");
        assert_eq!(count(&said), expected, "{split}: {said}");
    }
    let mut refusals = (splits.len()..).map(|index| refused(&place, &format!("s{index}")));
    let mut next = || refusals.next().unwrap();
    let named = "hint: name one with `split`: train_sft, test_sft";
    for split in ["train", "train_stf", "train_gen"] {
        let said = next();
        assert!(said.contains(&format!("there is no split {split:?}")) && said.contains(named), "{said}");
    }
    for expected in
        ["train_sft[5:] has no rows", "split: a split and its rows expected", "percents from -100 to 100"]
    {
        let said = next();
        assert!(said.contains(expected), "{said}");
    }
    let said = dry_run(&place, "s2", "--show-examples 9");
    assert!(
        said.contains("train_sft 0<|im_end|>") && said.contains("train_sft 1<|im_end|>"),
        "of the second: {said}"
    );
}

#[test]
fn a_split_of_a_downloaded_data_set() {
    let Some(_) = tests::needs::fetch() else { return };
    let readme = "---\nconfigs:\n- config_name: a\n  data_files:\n  - {split: sft, path: x/*}\n\
        - config_name: b\n  data_files: y/*.jsonl\n---\n";
    let file = |name: &str, text: String| tests::hub::HubFile::with(name, text.into_bytes(), false);
    let hub = tests::hub::Hub::start(vec![
        file("README.md", readme.into()),
        file("x/1.jsonl", rows("x", 3)),
        file("y/1.jsonl", rows("y", 2)),
        file("z/train.jsonl", rows("z", 9)),
    ]);
    let place = Place::new();
    let entry =
        |subset: &str, split: &str| json!({"hf_hub_url": "org/model", "subset": subset, "split": split});
    describe(&place, [("sft".into(), entry("a", "sft[1:]")), ("train".into(), entry("b", ""))]);
    for (name, expected) in [("sft", 2), ("train", 2)] {
        let mut command = place.command(&format!("model --dataset {name} --dataset-dir . -o out --dry-run"));
        let run = command.env("HF_ENDPOINT", hub.url()).output().unwrap();
        let said = String::from_utf8(run.stderr).unwrap();
        assert_eq!(count(&said), expected, "{name}: {said}");
    }
}

#[test]
fn files_have_one_split_and_the_hub_goes_before_them() {
    let place = data_set(&[("data/train-1.jsonl", 3)], "");
    place.write("rows.jsonl", rows("q", 5));
    let entry = |split: &str| json!({"file_name": "rows.jsonl", "split": split});
    let both = json!({"file_name": "rows.jsonl", "hf_hub_url": "set", "ms_hub_url": "someone/set"});
    let script = json!({"file_name": "rows.jsonl", "script_url": "set"});
    let entries = [
        ("two", entry("train[:2]")),
        ("last", entry("train[90%:]")),
        ("test", entry("test")),
        ("both", both),
        ("script", script),
    ];
    describe(&place, entries.map(|(name, entry)| (name.to_owned(), entry)));
    for (name, expected) in [("two", 2), ("last", 1), ("both", 3), ("script", 3)] {
        assert_eq!(count(&dry_run(&place, name, "")), expected, "{name}");
    }
    assert!(refused(&place, "test").contains("hint: name one with `split`: train\n"));
}

#[test]
fn without_a_split_only_train_is_read_and_names_tell_which_that_is() {
    for (files, expected) in [
        (&[("x/train-00000-of-00001.jsonl", 3), ("x/test-00000-of-00001.jsonl", 2)][..], 3),
        (&[("data/train.jsonl", 4), ("data/dev.jsonl", 2)][..], 4),
        (&[("data/a.jsonl", 4), ("data/b.jsonl", 2)][..], 6),
    ] {
        let place = Place::new();
        for (file, count) in files {
            let path = place.path("set").join(file);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, rows("q", *count)).unwrap();
        }
        describe(&place, [("set".into(), json!({"hf_hub_url": "set"}))]);
        assert_eq!(count(&dry_run(&place, "set", "")), expected, "{files:?}");
    }
}

#[test]
fn subsets_are_those_of_the_readme() {
    let readme = "---\nconfigs:\n- config_name: en\n  data_files: data/en-*.jsonl\n\
        - config_name: de\n  data_files:\n  - split: train\n    path: [data/de-1.jsonl, data/de-2.jsonl]\n---\n";
    let place = data_set(&[("data/en-1.jsonl", 3), ("data/de-1.jsonl", 4), ("data/de-2.jsonl", 1)], readme);
    let entry = |subset: Option<&str>| json!({"hf_hub_url": "set", "subset": subset});
    describe(
        &place,
        [("en", Some("en")), ("de", Some("de")), ("fr", Some("fr")), ("none", None)]
            .map(|(name, subset)| (name.into(), entry(subset))),
    );
    assert_eq!(count(&dry_run(&place, "en", "")), 3);
    assert_eq!(count(&dry_run(&place, "de", "")), 5);
    for name in ["fr", "none"] {
        let said = refused(&place, name);
        assert!(said.contains("hint: name one with `subset`: en, de"), "{said}");
    }
}

#[test]
fn a_column_that_is_not_named_is_not_read() {
    let place = Place::new();
    let row = json!({"question": "Q", "answer": "A", "input": "META", "system": "NOTE",
        "history": [["h1", "h2"]], "tools": "[]", "label": true});
    place.write("rows.json", json!([row]).to_string());
    place.write(
        "usual.json",
        json!([{"instruction": "Q", "input": "META", "output": "A", "system": "NOTE",
        "history": [["h1", "h2"]]}])
        .to_string(),
    );
    let entry = |columns: Value| json!({"file_name": "rows.json", "columns": columns});
    let two = json!({"prompt": "question", "response": "answer"});
    let with = |more: Value| {
        let mut columns = two.clone();
        columns.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        entry(columns)
    };
    let off =
        |value: Value| with(json!({"query": value, "system": value, "history": value, "images": value}));
    let mut extra = entry(two.clone());
    extra["max_token"] = json!(4096);
    let entries = [
        ("two", entry(two.clone())),
        ("empty", off(json!(""))),
        ("null", off(Value::Null)),
        ("extra", extra),
        ("all", with(json!({"query": "input", "system": "system", "history": "history", "tools": "tools"}))),
        ("usual", json!({"file_name": "usual.json"})),
        ("missing", with(json!({"system": "sys_prompt"}))),
        ("answers", entry(json!({"prompt": "question"}))),
        ("kto", with(json!({"kto_tag": "label"}))),
        ("misspelt", with(json!({"sytem": "system"}))),
        ("number", with(json!({"system": 3}))),
    ];
    describe(&place, entries.map(|(name, entry)| (name.to_owned(), entry)));
    let shown = |name: &str| dry_run(&place, name, "--show-examples 1");
    let turn = |role: &str, text: &str| format!("<|im_start|>{role}\n{text}<|im_end|>\n");
    let answer = "<|im_start|>assistant\n«A<|im_end|>\n»";
    for name in ["two", "empty", "null", "extra"] {
        let said = shown(name);
        assert!(said.contains(&format!(":\n{}{answer}", turn("user", "Q"))), "{name}: {said}");
    }
    assert!(shown("extra").contains("no keys of dataset_info.json, and ignored: max_token"));
    let said = shown("all");
    let before = format!("{}{}<|im_start|>assistant\n«h2", turn("system", "NOTE"), turn("user", "h1"));
    assert!(said.contains(&before) && said.contains(&turn("user", "Q\nMETA")), "{said}");
    let said = shown("usual");
    assert!(said.contains("usual.json: not read: history, system; `columns`"), "{said}");
    assert!(
        said.contains(&format!(":\n{}{answer}", turn("user", "Q\nMETA"))),
        "as LLaMA-Factory reads it: {said}"
    );
    for (name, expected, hint) in [
        (
            "missing",
            "no row has the column \"sys_prompt\", which `columns` names for system",
            "question, answer, input",
        ),
        ("answers", "response is left out", "\"response\""),
        ("kto", "kto_tag names preferences", ""),
        ("misspelt", "unknown key \"sytem\"", "system and tools"),
        ("number", "system: the name of a column expected, found 3", ""),
    ] {
        let said = refused(&place, name);
        assert!(said.contains(expected) && said.contains(hint), "{name}: {said}");
    }
}

#[test]
fn a_column_that_only_later_rows_have_is_there() {
    let place = Place::new();
    place.write(
        "rows.jsonl",
        format!("{}{}\n", rows("q", 3), json!({"instruction": "q", "output": "a", "s": "S"})),
    );
    let columns = json!({"prompt": "instruction", "response": "output", "system": "s"});
    describe(&place, [("set".into(), json!({"file_name": "rows.jsonl", "columns": columns}))]);
    assert_eq!(count(&dry_run(&place, "set", "--max-samples 1")), 1);
    assert_eq!(count(&dry_run(&place, "set", "")), 4);
}

#[test]
fn tools_of_alpaca_rows_are_trained_with() {
    let place = Place::new();
    let tool =
        json!([{"name": "weather", "description": "d", "parameters": {"type": "object", "properties": {}}}]);
    let row = json!({"instruction": "q", "input": "", "output": "a", "tools": tool.to_string()});
    place.write("rows.json", json!([row]).to_string());
    let columns = json!({"prompt": "instruction", "query": "input", "response": "output", "tools": "tools"});
    describe(&place, [("set".into(), json!({"file_name": "rows.json", "columns": columns}))]);
    let said = dry_run(&place, "set", "--template qwen --show-examples 1");
    assert!(said.contains("# Tools") && said.contains("\"name\": \"weather\""), "{said}");
}

#[test]
fn rows_are_drawn_by_the_seed() {
    let place = Place::new();
    place.write("rows.jsonl", rows("q", 10));
    let sizes = [25, 10, 3];
    let bad = [json!(0), json!(-1), json!("10"), json!(1e300)];
    let entries = sizes.iter().map(|size| json!(size)).chain(bad.iter().cloned()).enumerate();
    describe(
        &place,
        entries.map(|(i, n)| (format!("d{i}"), json!({"file_name": "rows.jsonl", "num_samples": n}))),
    );
    let drawn = |name: &str, arguments: &str| -> Vec<String> {
        let said = dry_run(&place, name, &format!("--show-examples 99 {arguments}"));
        let asked =
            said.split("<|im_start|>user\n").skip(1).map(|text| text.split('<').next().unwrap().to_owned());
        asked.collect()
    };
    let many = drawn("d0", "");
    let all: std::collections::BTreeSet<&String> = many.iter().collect();
    assert_eq!((many.len(), all.len()), (25, 10), "each at least once: {many:?}");
    assert_eq!(drawn("d0", ""), many, "by the seed");
    assert_eq!(drawn("d0", "--overwrite-cache"), many, "by the seed");
    assert_ne!(drawn("d0", "--seed 7"), many);
    assert_eq!(drawn("d1", "").len(), 10);
    let few: Vec<Vec<String>> = [1, 2, 3].map(|seed| drawn("d2", &format!("--seed {seed}"))).into();
    assert!(few.iter().all(|few| few.len() == 3), "{few:?}");
    assert!(few.iter().any(|few| *few != ["q 0", "q 1", "q 2"]) && few[0] != few[1], "{few:?}");
    assert_eq!(drawn("d0", "--max-samples 4").len(), 4);
    for index in 0..bad.len() {
        let said = refused(&place, &format!("d{}", sizes.len() + index));
        assert!(said.contains("num_samples: a number of rows from 1 to"), "{said}");
    }
}

#[test]
fn the_name_of_a_file_is_told_from_a_datasets() {
    let place = Place::new();
    let said = refused(&place, "data.json");
    assert!(said.contains("hint: a file is named with --data data.json"), "{said}");
    place.write("dataset_info.json", "{}");
    place.write(
        "train.yaml",
        "model_name_or_path: model\ndataset: data/x.json\ndataset_dir: .\noutput_dir: out\n",
    );
    let (code, said) = place.fail("train.yaml --dry-run");
    assert!(code == 1 && said.contains("hint: a file is named with --data data/x.json"), "{said}");
}
