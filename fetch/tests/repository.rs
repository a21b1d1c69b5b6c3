//! A repository becomes a directory.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use tests::hub::{Behaviour, COMMIT, Fault, Hub, HubFile};

fn files() -> Vec<HubFile> {
    vec![
        HubFile::new("model-00001-of-00002.safetensors", 5_000_000, 1),
        HubFile::new("model-00002-of-00002.safetensors", 3 << 20, 2),
        HubFile::new("config.json", 700, 3),
        HubFile::new("sub/vocab.txt", 0, 4),
        HubFile::new("sub/a name.txt", 10, 5),
        HubFile::new("pytorch_model.bin", 200_000, 6),
    ]
}

/// The names that a default selection takes.
fn wanted(files: &[HubFile]) -> Vec<HubFile> {
    files.iter().filter(|file| !file.path.ends_with(".bin")).cloned().collect()
}

#[test]
fn brings_every_file_and_says_where() {
    for behaviour in [
        Behaviour::default(),
        Behaviour { has_names_only: true, redirects: true, page: 2, ..Behaviour::default() },
        Behaviour { has_names_only: true, has_no_tree: true, redirects: true, ..Behaviour::default() },
        Behaviour { hides_large_files: true, ..Behaviour::default() },
        Behaviour { has_names_only: true, hides_large_files: true, ..Behaviour::default() },
    ] {
        let hub = Hub::with(files(), behaviour);
        let fetch = Fetch::new();
        let run = fetch.run(&hub, &["owner/name"]);
        run.assert_code(0);
        fetch.assert_holds("name", &wanted(&files()));
        let lines = run.lines();
        assert_eq!(lines.last().unwrap(), "name", "the directory comes last");
        let mut named: Vec<&str> = lines.iter().filter_map(|line| line.strip_prefix("name/")).collect();
        named.sort_unstable();
        let mut expected: Vec<String> = wanted(&files()).into_iter().map(|file| file.path).collect();
        expected.sort_unstable();
        assert_eq!(named, expected);
        assert!(!fetch.path("name/.qlora-tools-fetch").exists());
    }
}

#[test]
fn the_tree_is_asked_for_only_where_the_revision_leaves_something_open() {
    let mut many: Vec<HubFile> = (0..1000).map(|n| HubFile::new(&format!("{n}.txt"), 3, n)).collect();
    many.push(HubFile::with("large", vec![1; 10], true));
    let names_only = Behaviour { has_names_only: true, ..Behaviour::default() };
    for (files, behaviour, asked) in [
        (files(), Behaviour::default(), &["revision/main?blobs=true"][..]),
        (files(), names_only, &["revision/main?blobs=true", "tree/"]),
        // The hub leaves some out of so many.
        (many, Behaviour::default(), &["revision/main?blobs=true", "tree/"]),
    ] {
        let hub = Hub::with(files, behaviour);
        Fetch::new().run(&hub, &["owner/name", "--dry-run"]).assert_code(0);
        let log = hub.log();
        assert_eq!(log.len(), asked.len(), "{log:?}");
        assert!(log.iter().zip(asked).all(|(seen, part)| seen.target.contains(part)), "{log:?}");
    }
}

#[test]
fn config_and_small_files_come_first() {
    let hub = Hub::start(files());
    Fetch::new().run(&hub, &["owner/name", "-c", "1"]).assert_code(0);
    let mut asked: Vec<String> = hub
        .log()
        .iter()
        .filter_map(|seen| Some(seen.target.rsplit_once("/resolve/")?.1.to_string()))
        .collect();
    asked.dedup();
    let names = [
        "config.json",
        "sub/a%20name.txt",
        "model-00002-of-00002.safetensors",
        "model-00001-of-00002.safetensors",
    ];
    assert_eq!(asked, names.map(|name| format!("{COMMIT}/{name}")));
}

#[test]
fn the_record_names_commit_sizes_and_hashes() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name", "-o", "d"]).assert_code(0);
    let record: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(fetch.path("d/fetch.json")).unwrap()).unwrap();
    assert_eq!(record["repository"], "owner/name");
    assert_eq!(record["commit"], COMMIT);
    let listed = record["files"].as_array().unwrap();
    assert_eq!(listed.len(), 5);
    let large = listed.iter().find(|file| file["path"] == "model-00002-of-00002.safetensors").unwrap();
    assert_eq!(large["size"], 3 << 20);
    let lfs = hub.tree().into_iter().find(|entry| entry["path"] == large["path"]).unwrap();
    assert_eq!(large["sha256"], lfs["lfs"]["oid"]);
}

#[test]
fn a_second_run_fetches_nothing() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    let first = fetch.run(&hub, &["owner/name"]);
    let before = hub.log().len();
    let second = fetch.run(&hub, &["owner/name"]);
    second.assert_code(0);
    assert!(second.stderr.contains("already complete"), "{}", second.stderr);
    assert!(hub.log()[before..].iter().all(|seen| seen.target.starts_with("/api/")));
    let sorted = |run: &run::Run| {
        let mut lines = run.lines();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&first), sorted(&second));

    // As a run leaves it that is killed before its last step.
    std::fs::create_dir(fetch.path("name/.qlora-tools-fetch")).unwrap();
    std::fs::write(fetch.path("name/.qlora-tools-fetch/lock"), "").unwrap();
    let third = fetch.run(&hub, &["owner/name"]);
    assert!(third.stderr.contains("already complete"), "{}", third.stderr);
    assert!(!fetch.path("name/.qlora-tools-fetch").exists());
}

#[test]
fn a_complete_copy_serves_when_the_hub_is_gone_and_nothing_else_does() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    let again = fetch.run_at("http://127.0.0.1:1", &["owner/name"]);
    again.assert_code(0);
    assert!(again.stderr.contains("using the complete copy"), "{}", again.stderr);
    let other = fetch.run_at("http://127.0.0.1:1", &["owner/other"]);
    other.assert_code(1);
    assert!(other.stderr.contains("cannot reach") && other.stderr.contains("hint: "), "{}", other.stderr);
}

#[test]
fn damage_is_mended_only_where_it_is_ours() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    let path = fetch.path("name/config.json");
    std::fs::remove_file(&path).unwrap();
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    fetch.assert_holds("name", &wanted(&files()));

    std::fs::write(&path, "my own notes").unwrap();
    let refused = fetch.run(&hub, &["owner/name"]);
    refused.assert_code(1);
    assert!(refused.stderr.contains("config.json exists and is not"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "my own notes");
    fetch.run(&hub, &["owner/name", "--force"]).assert_code(0);
    fetch.assert_holds("name", &wanted(&files()));
}

#[test]
fn another_repository_does_not_mix_in() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name", "-o", "d"]).assert_code(0);
    let other = fetch.run(&hub, &["owner/other", "-o", "d"]);
    other.assert_code(1);
    assert!(other.stderr.contains("d holds owner/name"), "{}", other.stderr);
}

#[test]
fn globs_choose() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch
        .run(&hub, &["owner/name", "--include", "*.json", "--include", "sub/*", "--exclude", "*.txt"])
        .assert_code(0);
    let lines = fetch.run(&hub, &["owner/name", "--include", "*.json"]).lines();
    assert_eq!(lines, ["name/config.json", "name"]);
}

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let secret = Some("Bearer hf_secret".to_string());
    let behaviour = Behaviour { redirects: true, authorization: secret.clone(), ..Behaviour::default() };
    let hub = Hub::with(files(), behaviour);
    let fetch = Fetch::new();
    let without = fetch.run(&hub, &["owner/name"]);
    without.assert_code(1);
    assert!(without.stderr.contains("HF_TOKEN"), "{}", without.stderr);
    fetch.run_with(&hub, &["owner/name"], &[("HF_TOKEN", "hf_secret")]).assert_code(0);
    let log = hub.log();
    assert!(log.iter().any(|seen| seen.at_second_port));
    assert!(log.iter().filter(|seen| seen.at_second_port).all(|seen| seen.authorization.is_none()));

    std::fs::write(fetch.path("token"), "hf_secret\n").unwrap();
    let token = fetch.path("token");
    let from_file = [("HF_TOKEN_PATH", token.to_str().unwrap())];
    fetch.run_with(&hub, &["owner/name", "-o", "again"], &from_file).assert_code(0);
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    let revision = fetch.run(&hub, &["owner/name", "--revision", "missing"]);
    revision.assert_code(1);
    assert!(revision.stderr.contains("no such revision") && revision.stderr.contains("--revision"));
    let usage = fetch.run(&hub, &["not a repository"]);
    usage.assert_code(2);
    fetch.run(&hub, &[]).assert_code(2);
}

#[test]
fn a_content_that_is_wrong_once_is_fetched_again_and_twice_is_an_error() {
    let hub = Hub::start(files());
    hub.faults(|seen| if seen.number == 0 { Fault::WrongByte(17) } else { Fault::None });
    let fetch = Fetch::new();
    let run = fetch.run(&hub, &["owner/name", "--include", "*2.safetensors", "-c", "1"]);
    run.assert_code(0);
    assert!(run.stderr.contains("content is wrong"), "{}", run.stderr);

    hub.faults(|_| Fault::WrongByte(17));
    let run = fetch.run(&hub, &["owner/name", "--include", "config.json", "-o", "twice"]);
    run.assert_code(1);
    assert!(
        run.stderr.contains("config.json") && run.stderr.contains("wrong content twice"),
        "{}",
        run.stderr
    );
    assert!(!fetch.path("twice/config.json").exists() && !fetch.path("twice/fetch.json").exists());
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch.run_into_closed_pipe(&hub, &["owner/name"]).assert_code(0);
}
