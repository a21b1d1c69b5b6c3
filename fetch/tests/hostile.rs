//! Servers that mean harm get an error, and write nothing outside the directory.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use serde_json::{Value, json};
use tests::hub::{Behaviour, Fault, Hub, HubFile};

fn files() -> Vec<HubFile> {
    vec![HubFile::new("config.json", 700, 1), HubFile::new("model.safetensors", 2_500_000, 2)]
}

fn entry(path: &str) -> Value {
    json!({ "type": "file", "path": path, "size": 3, "oid": "f".repeat(40) })
}

/// Hubs that list this: one with the revision, one in the tree only.
fn hubs_listing(tree: Value) -> [Hub; 2] {
    [false, true].map(|has_names_only| {
        Hub::with(files(), Behaviour { has_names_only, tree: Some(tree.clone()), ..Behaviour::default() })
    })
}

#[test]
fn names_that_leave_the_directory_or_collide_are_refused() {
    for (tree, reason) in [
        (json!([entry("../outside")]), "`..`"),
        (json!([entry("a/../../outside")]), "`..`"),
        (json!([entry("/tmp/outside")]), "absolute"),
        (json!([entry("a\nb")]), "control character"),
        (json!([entry("a\u{1b}[2Jb")]), "control character"),
        (json!([entry("C:\\outside")]), "backslash"),
        (json!([entry("a"), entry("a")]), "twice"),
        (json!([entry("a"), entry("a/b")]), "both as a file and as a directory"),
        (json!([entry("fetch.json")]), "keeps for itself"),
        (json!([entry(".qlora-tools-fetch/lock")]), "programs may obey"),
    ] {
        for hub in hubs_listing(tree) {
            let fetch = Fetch::new();
            let run = fetch.run(&hub, &["owner/name", "-o", "inner/d"]);
            run.assert_code(1);
            assert!(run.stderr.contains(reason), "{reason}: {}", run.stderr);
            assert!(fetch.files_below(".").is_empty(), "{:?}", fetch.files_below("."));
        }
    }
}

#[test]
fn what_programs_obey_is_not_fetched() {
    let obeyed = [
        ".git/config",
        ".git/hooks/post-checkout",
        ".bashrc",
        ".ssh/authorized_keys",
        ".envrc",
        "sub/.vscode/settings.json",
        ".husky/pre-commit",
    ];
    let harmless = [".gitattributes", "sub/.gitignore", "config.json"];
    let file = |name: &&str| HubFile::with(name, b"text".to_vec(), false);
    let hub = Hub::start(obeyed.iter().chain(&harmless).map(file).collect());
    for arguments in [&["owner/name"][..], &["owner/name", "--include", "*"]] {
        let fetch = Fetch::new();
        let run = fetch.run(&hub, arguments);
        run.assert_code(0);
        assert!(run.stderr.contains("programs may obey such files: .git/config, "), "{}", run.stderr);
        let expected: Vec<HubFile> = harmless.iter().map(file).collect();
        fetch.assert_holds("name", &expected);
    }
    let run = Fetch::new().run(&hub, &["owner/name", "--include", ".git/*"]);
    run.assert_code(1);
    let run = Fetch::new().run(&hub, &[&format!("{}/content/.bashrc", hub.second_url())]);
    run.assert_code(2);
}

#[test]
fn a_listing_that_trickles_is_given_up() {
    let hub = Hub::start(files());
    hub.api_faults(|_| Fault::Slow(50));
    let run = Fetch::new().run(&hub, &["owner/name", "--timeout", "0.5"]);
    run.assert_code(1);
    assert!(run.stderr.contains("bytes in 0."), "{}", run.stderr);
}

#[test]
fn nonsense_instead_of_a_listing_is_an_error() {
    for tree in [
        json!({}),
        json!("text"),
        json!([{ "path": 3 }]),
        json!([{ "type": "file", "path": "a", "size": -1 }]),
    ] {
        for hub in hubs_listing(tree) {
            let run = Fetch::new().run(&hub, &["owner/name"]);
            run.assert_code(1);
            assert!(run.stderr.contains("not the hub's API"), "{}", run.stderr);
        }
    }
    for hub in hubs_listing(json!([])) {
        Fetch::new().run(&hub, &["owner/name"]).assert_code(1);
    }
}

#[test]
fn absurd_sizes_are_refused_before_the_first_byte() {
    let huge = |size: u64| {
        let digest = "a".repeat(64);
        json!({ "type": "file", "path": "x.dat", "size": size, "oid": "f", "lfs": { "oid": digest, "size": size } })
    };
    for size in [1 << 55, u64::MAX] {
        for hub in hubs_listing(json!([huge(size), entry("b")])) {
            let run = Fetch::new().run(&hub, &["owner/name"]);
            run.assert_code(1);
            assert!(run.stderr.contains("absurd") || run.stderr.contains("free"), "{}", run.stderr);
            assert!(hub.log().iter().all(|seen| seen.target.starts_with("/api/")));
        }
    }
}

#[test]
fn sizes_that_do_not_fit_the_content_are_errors() {
    for lie in [-1_i64, 1, 5_000_000] {
        let hub = Hub::start(files());
        let mut tree = hub.tree();
        let size = 2_500_000 + lie;
        for entry in tree.iter_mut().filter(|entry| entry["path"] == "model.safetensors") {
            entry["size"] = json!(size);
            entry["lfs"]["size"] = json!(size);
        }
        for hub in hubs_listing(Value::from(tree)) {
            let fetch = Fetch::new();
            let run = fetch.run(&hub, &["owner/name", "--retries", "1"]);
            run.assert_code(1);
            assert!(!fetch.path("name/model.safetensors").exists());
        }
    }
}

#[test]
fn bodies_that_do_not_end_are_left() {
    let hub = Hub::start(files());
    hub.faults(|_| Fault::Endless);
    let fetch = Fetch::new();
    let run = fetch.run(&hub, &["owner/name", "--retries", "1"]);
    assert!(fetch.path("name/.qlora-tools-fetch/partial").exists() || run.code == Some(0));
    for (name, size) in [("config.json", 700), ("model.safetensors", 2_500_000)] {
        for path in [fetch.path("name").join(name), fetch.path("name/.qlora-tools-fetch/partial").join(name)]
        {
            assert!(std::fs::metadata(path).map_or(0, |found| found.len()) <= size, "{name} has grown");
        }
    }
}

#[test]
fn redirects_to_nowhere_good_are_refused() {
    for (target, reason) in [
        ("file:///etc/passwd".to_string(), "not http or https"),
        ("/owner/name/resolve/main/config.json".to_string(), "redirects"),
        ("http://".to_string(), "redirected"),
    ] {
        let hub = Hub::start(files());
        hub.faults(move |_| Fault::Redirect(target.clone()));
        let run = Fetch::new().run(&hub, &["owner/name", "--retries", "1"]);
        run.assert_code(1);
        assert!(run.stderr.contains(reason), "{reason}: {}", run.stderr);
    }
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_left() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let run = Fetch::new().run_at(&endpoint, &["owner/name", "--timeout", "0.2"]);
    run.assert_code(1);
    assert!(run.stderr.contains("no answer for 0.2 s") && run.stderr.contains("hint: "), "{}", run.stderr);
}
