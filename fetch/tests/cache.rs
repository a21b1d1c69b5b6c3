//! The hub's own cache, `--verify` and `--dry-run`.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use tests::hub::{COMMIT, Hub, HubFile};

fn files() -> Vec<HubFile> {
    vec![
        HubFile::new("config.json", 700, 1),
        HubFile::new("sub/model.safetensors", 2_500_000, 2),
        HubFile::new("empty.txt", 0, 3),
    ]
}

const ROOT: &str = "hf-home/hub/models--owner--name";

fn snapshot() -> String {
    format!("{ROOT}/snapshots/{COMMIT}")
}

#[test]
fn the_cache_has_the_layout_of_the_hubs_own_tools() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    let run = fetch.run(&hub, &["owner/name", "--cache"]);
    run.assert_code(0);
    let last = fetch.path(&snapshot());
    assert_eq!(run.lines().last().unwrap(), last.to_str().unwrap());
    assert_eq!(std::fs::read_to_string(fetch.path(&format!("{ROOT}/refs/main"))).unwrap(), COMMIT);
    for file in files() {
        let path = last.join(&file.path);
        assert!(std::fs::read(&path).unwrap() == *file.content);
        let entry = hub.tree().into_iter().find(|entry| entry["path"] == file.path.as_str()).unwrap();
        let hash = entry["lfs"]["oid"].as_str().or(entry["oid"].as_str()).unwrap().to_string();
        let up = "../".repeat(2 + file.path.matches('/').count());
        assert_eq!(std::fs::read_link(&path).unwrap().to_str().unwrap(), format!("{up}blobs/{hash}"));
    }
    let tag = std::fs::read_to_string(fetch.path("hf-home/hub/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
    assert_eq!(fetch.files_below(".").len(), 1 + 3 + 3 + 1 + 1, "tag, blobs, links, ref, record");
}

#[test]
fn a_cached_repository_is_not_fetched_again_even_for_another_revision() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["owner/name", "--cache"]).assert_code(0);
    let before = hub.log().len();
    // As another tool leaves it: blobs, links and a ref, but no record of ours.
    std::fs::remove_dir_all(fetch.path(&format!("{ROOT}/.fetched"))).unwrap();
    let run = fetch.run(&hub, &["owner/name", "--cache", "--revision", "refs/pr/1"]);
    run.assert_code(0);
    assert!(hub.log()[before..].iter().all(|seen| seen.target.starts_with("/api/")));
    assert_eq!(run.lines().len(), 4);
    assert_eq!(std::fs::read_to_string(fetch.path(&format!("{ROOT}/refs/refs/pr/1"))).unwrap(), COMMIT);
    fetch.run_at("http://127.0.0.1:1", &["owner/name", "--cache", "--revision", "refs/pr/1"]).assert_code(0);
}

#[test]
fn a_damaged_blob_is_noticed_and_replaced() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["owner/name", "--cache"]).assert_code(0);
    let path = fetch.path(&snapshot()).join("sub/model.safetensors");
    std::fs::write(std::fs::canonicalize(&path).unwrap(), vec![0; 2_500_000]).unwrap();
    let verify = fetch.run_at("", &["--verify", &snapshot()]);
    verify.assert_code(1);
    assert!(verify.stderr.contains("model.safetensors: expected sha256"), "{}", verify.stderr);
    fetch.run(&hub, &["owner/name", "--cache"]).assert_code(0);
    fetch.run_at("", &["--verify", &snapshot()]).assert_code(0);
}

#[test]
fn verify_tells_right_from_wrong_without_the_network() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    let run = fetch.run_at("", &["--verify", "name"]);
    run.assert_code(0);
    assert_eq!(run.stdout, "name\n");
    let damage: [fn(&mut Vec<u8>); 2] = [|bytes| bytes[3] ^= 1, |bytes| bytes.truncate(699)];
    for damage in damage {
        let mut bytes = files()[0].content.to_vec();
        damage(&mut bytes);
        std::fs::write(fetch.path("name/config.json"), bytes).unwrap();
        let run = fetch.run_at("", &["--verify", "name"]);
        run.assert_code(1);
        assert!(run.stderr.contains("1 of 3 files are wrong: name/config.json"), "{}", run.stderr);
        assert!(run.stderr.contains("hint: ") && run.stdout.is_empty());
    }
    std::fs::remove_file(fetch.path("name/config.json")).unwrap();
    fetch.run_at("", &["--verify", "name"]).assert_code(1);
    std::fs::remove_file(fetch.path("name/fetch.json")).unwrap();
    let run = fetch.run_at("", &["--verify", "name"]);
    run.assert_code(1);
    assert!(run.stderr.contains("neither a complete fetch"), "{}", run.stderr);
}

#[test]
fn a_dry_run_lists_and_fetches_nothing() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    let run = fetch.run(&hub, &["owner/name", "--dry-run"]);
    run.assert_code(0);
    let words: Vec<Vec<&str>> = run.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [["700", "config.json"], ["0", "empty.txt"], ["2500000", "sub/model.safetensors"]]);
    assert!(fetch.files_below(".").is_empty());
    assert!(hub.log().iter().all(|seen| seen.target.starts_with("/api/")));
}

#[test]
fn the_rate_is_limited() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    let begun = std::time::Instant::now();
    fetch.run(&hub, &["owner/name", "--max-rate", "2M"]).assert_code(0);
    assert!(begun.elapsed().as_secs_f64() > 2_500_000.0 / f64::from(2 << 20) * 0.9);
    fetch.run(&hub, &["owner/name", "--max-rate", "fast"]).assert_code(2);
    fetch.run(&hub, &["owner/name", "--cache", "-o", "x"]).assert_code(2);
}

#[test]
fn known_data_sets_and_data_set_repositories_are_asked_for_as_such() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["alpaca_gpt4_zh"]).assert_code(0);
    fetch.assert_holds("alpaca_gpt4_zh", &files());
    let log = hub.log();
    assert!(log[0].target.starts_with("/api/datasets/llamafactory/alpaca_gpt4_zh/revision/"));
    assert!(log.iter().any(|seen| seen.target.starts_with("/datasets/llamafactory/alpaca_gpt4_zh/resolve/")));
    let before = log.len();
    fetch.run(&hub, &["owner/name", "--repo-type", "dataset"]).assert_code(0);
    assert!(hub.log()[before].target.starts_with("/api/datasets/owner/name/"));
}
