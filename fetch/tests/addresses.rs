//! Addresses as browsers show them, and pages for people in the place of files.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use tests::hub::{Fault, Hub, HubFile};

fn files() -> Vec<HubFile> {
    vec![
        HubFile::new("config.json", 700, 1),
        HubFile::new("onnx/model.bin", 3000, 2),
        HubFile::new("model.safetensors", 400_000, 3),
    ]
}

#[test]
fn a_page_of_a_file_brings_the_file() {
    let hub = Hub::start(files());
    for page in ["blob/main", "raw/main", "resolve/main", "blame/main"] {
        for end in ["", "?download=true", "#L3"] {
            let fetch = Fetch::new();
            let run = fetch.run(&hub, &[&format!("{}/owner/name/{page}/config.json{end}", hub.url())]);
            run.assert_code(0);
            assert_eq!(run.stdout, "config.json\n");
            assert!(std::fs::read(fetch.path("config.json")).unwrap() == *files()[0].content);
        }
    }
    for kind in ["datasets", "spaces"] {
        let before = hub.log().len();
        let url = format!("{}/{kind}/owner/name/blob/v1/onnx/model.bin", hub.url());
        Fetch::new().run(&hub, &[&url]).assert_code(0);
        let expected = format!("/{kind}/owner/name/resolve/v1/onnx/model.bin");
        assert!(hub.log()[before..].iter().all(|seen| seen.target == expected), "{:?}", hub.log());
    }
}

#[test]
fn a_page_of_files_brings_the_repository() {
    let hub = Hub::start(files());
    for (page, revision) in
        [("", "main"), ("/tree/main", "main"), ("/tree/v2?x=1", "v2"), ("/commits/v3", "v3")]
    {
        let (fetch, before) = (Fetch::new(), hub.log().len());
        fetch.run(&hub, &[&format!("{}/owner/name{page}", hub.url())]).assert_code(0);
        assert!(fetch.path("name/config.json").exists());
        assert!(hub.log()[before].target.starts_with(&format!("/api/models/owner/name/revision/{revision}")));
    }
    let fetch = Fetch::new();
    let run = fetch.run(&hub, &["huggingface.co/datasets/owner/name/tree/main/onnx"]);
    run.assert_code(0);
    assert_eq!(fetch.files_below("name"), ["fetch.json", "onnx/model.bin"]);
    let run = fetch.run(&hub, &["https://hf.co/owner/name/unknown/main/x"]);
    run.assert_code(2);
    assert!(run.stderr.contains("hint: name the repository: fetch owner/name"), "{}", run.stderr);
}

#[test]
fn a_web_page_is_not_a_file() {
    let hub = Hub::start(files());
    hub.faults(|_| Fault::Page);
    let fetch = Fetch::new();
    let file = format!("{}/owner/name/resolve/main/config.json", hub.url());
    let elsewhere = format!("{}/content/config.json", hub.second_url());
    for arguments in [&[file.as_str()][..], &[&elsewhere], &["owner/name"]] {
        let run = fetch.run(&hub, arguments);
        run.assert_code(1);
        assert!(run.stderr.contains("text/html") && run.stderr.contains("hint: open"), "{}", run.stderr);
    }
    assert!(!fetch.path("config.json").exists() && !fetch.path("name/config.json").exists());

    hub.api_faults(|_| Fault::Page);
    let run = fetch.run(&hub, &["owner/name"]);
    run.assert_code(1);
    assert!(run.stderr.contains("a web page, not the hub's API"), "{}", run.stderr);
}
