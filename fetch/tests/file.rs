//! A file by its address.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use tests::hub::{Behaviour, Fault, Hub, HubFile};

fn hub() -> (Hub, HubFile) {
    let file = HubFile::new("data.json", 3_500_000, 1);
    (Hub::start(vec![file.clone()]), file)
}

#[test]
fn is_brought_under_its_own_or_a_given_name() {
    let (hub, file) = hub();
    let fetch = Fetch::new();
    let url = format!("{}/content/data.json?signature=x", hub.second_url());
    let run = fetch.run(&hub, &[&url]);
    run.assert_code(0);
    assert_eq!(run.stdout, "data.json\n");
    assert!(std::fs::read(fetch.path("data.json")).unwrap() == *file.content);

    let again = fetch.run(&hub, &[&url]);
    again.assert_code(0);
    assert!(again.stderr.contains("already complete"), "{}", again.stderr);

    fetch.run(&hub, &[&url, "-o", "sub/other.json"]).assert_code(0);
    std::fs::create_dir(fetch.path("into")).unwrap();
    assert_eq!(fetch.run(&hub, &[&url, "-o", "into"]).stdout, "into/data.json\n");
    assert_eq!(fetch.files_below("."), ["data.json", "into/data.json", "sub/other.json"]);
}

#[test]
fn what_is_there_already_is_not_overwritten() {
    let (hub, file) = hub();
    let fetch = Fetch::new();
    let url = format!("{}/content/data.json", hub.second_url());
    std::fs::write(fetch.path("data.json"), "mine").unwrap();
    let refused = fetch.run(&hub, &[&url]);
    refused.assert_code(1);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    fetch.run(&hub, &[&url, "--force"]).assert_code(0);
    assert!(std::fs::read(fetch.path("data.json")).unwrap() == *file.content);
}

#[test]
fn without_a_length_it_comes_in_one_stream() {
    for fault in [Fault::Chunked(None), Fault::NoLength] {
        let (hub, file) = hub();
        let fetch = Fetch::new();
        let url = format!("{}/content/data.json", hub.second_url());
        hub.faults(move |_| fault.clone());
        let dry = fetch.run(&hub, &[&url, "--dry-run"]);
        assert_eq!(dry.stdout.split_whitespace().collect::<Vec<_>>(), ["?", "data.json"]);
        let run = fetch.run(&hub, &[&url]);
        run.assert_code(0);
        assert_eq!(run.stdout, "data.json\n");
        assert!(run.stderr.contains("does not say how long"), "{}", run.stderr);
        assert!(std::fs::read(fetch.path("data.json")).unwrap() == *file.content);
        assert_eq!(fetch.files_below("."), ["data.json"]);
        // Nothing tells whether it is still the same.
        fetch.run(&hub, &[&url]).assert_code(1);
        fetch.run(&hub, &[&url, "--force"]).assert_code(0);
    }
}

#[test]
fn a_stream_that_trickles_is_given_up() {
    let behaviour = Behaviour { bytes_per_second: Some(200), ..Behaviour::default() };
    let hub = Hub::with(vec![HubFile::new("data.json", 5000, 1)], behaviour);
    hub.faults(|_| Fault::NoLength);
    let fetch = Fetch::new();
    let url = format!("{}/content/data.json", hub.second_url());
    let run = fetch.run(&hub, &[&url, "--timeout", "0.5", "--retries", "1"]);
    run.assert_code(1);
    assert!(run.stderr.contains("bytes in 0.") && run.stderr.contains("hint: "), "{}", run.stderr);
    assert!(!fetch.path("data.json").exists());
}

#[test]
fn a_stream_that_breaks_off_is_not_the_file() {
    let (hub, file) = hub();
    let fetch = Fetch::new();
    let url = format!("{}/content/data.json", hub.second_url());
    hub.faults(|_| Fault::Chunked(Some(1_000_000)));
    let broken = fetch.run(&hub, &[&url, "--retries", "1"]);
    broken.assert_code(1);
    assert!(broken.stderr.contains("hint: "), "{}", broken.stderr);
    assert!(
        fetch.files_below(".").iter().all(|name| name.ends_with("/lock")),
        "{:?}",
        fetch.files_below(".")
    );

    let before = hub.log().len();
    hub.faults(move |seen| Fault::Chunked((seen.number < before + 4).then_some(1_000_000)));
    fetch.run(&hub, &[&url]).assert_code(0);
    assert!(std::fs::read(fetch.path("data.json")).unwrap() == *file.content);
}

#[test]
fn a_missing_file_is_an_error() {
    let (hub, _) = hub();
    let fetch = Fetch::new();
    fetch.run(&hub, &[&format!("{}/content/other", hub.second_url())]).assert_code(1);
    assert!(fetch.files_below(".").is_empty());
}
