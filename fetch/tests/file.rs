//! A file by its address.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::Fetch;
use tests::hub::{Fault, Hub, HubFile};

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
    assert_eq!(fetch.names_in("."), ["data.json", "into/data.json", "sub/other.json"]);
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
fn a_length_must_be_known_and_a_missing_file_is_an_error() {
    let (hub, _) = hub();
    let fetch = Fetch::new();
    fetch.run(&hub, &[&format!("{}/content/other", hub.second_url())]).assert_code(1);
    hub.faults(|_| Fault::Endless);
    let endless = fetch.run(&hub, &[&format!("{}/content/data.json", hub.second_url())]);
    endless.assert_code(1);
    assert!(endless.stderr.contains("how long"), "{}", endless.stderr);
    assert!(fetch.names_in(".").is_empty());
}
