//! Tokens and passwords: shown to nobody, and an expired one is no dead end.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use run::{Fetch, Run};
use tests::hub::{Behaviour, Fault, Hub, HubFile};

const TOKEN: &str = "hf_AbCdEf123456+/x";

fn files() -> Vec<HubFile> {
    vec![HubFile::new("config.json", 700, 1)]
}

fn assert_hides(run: &Run, secrets: &[&str]) {
    let said = format!("{}{}", run.stdout, run.stderr).to_ascii_lowercase();
    for secret in secrets {
        assert!(!said.contains(&secret.to_ascii_lowercase()), "{secret} in {said}");
    }
}

#[test]
fn a_token_that_a_server_sends_back_is_not_shown() {
    let encoded = "hf%5fAbCdEf123456%2b%2Fx";
    let base64 = "aGZfQWJDZEVmMTIzNDU2Ky94";
    let echoes: Vec<Fault> = [TOKEN, encoded, base64]
        .iter()
        .flat_map(|form| {
            [
                Fault::Status(403, vec![("X-Error-Message".into(), format!("bad token {form}!"))]),
                Fault::Status(400, vec![("X-Error-Code".into(), form.to_string())]),
                Fault::Redirect(format!("ftp://{form}.example/{form}?t={form}")),
                Fault::Redirect(format!("http://127.0.0.1:1/{form}")),
            ]
        })
        .collect();
    for fault in echoes {
        let hub = Hub::start(files());
        let again = fault.clone();
        hub.api_faults(move |_| again.clone());
        let fetch = Fetch::new();
        let run = fetch.run_with(&hub, &["owner/name", "-v"], &[("HF_TOKEN", TOKEN)]);
        run.assert_code(1);
        assert_hides(&run, &[TOKEN, encoded, base64]);
        hub.api_faults(|_| Fault::None);
        hub.faults(move |_| fault.clone());
        let run = fetch.run_with(&hub, &["owner/name", "-v", "--retries", "1"], &[("HF_TOKEN", TOKEN)]);
        run.assert_code(1);
        assert_hides(&run, &[TOKEN, encoded, base64]);
    }
}

#[test]
fn a_file_named_after_the_token_is_refused() {
    let hub = Hub::start(vec![HubFile::new("hf_plaintoken.json", 10, 1)]);
    let run = Fetch::new().run_with(&hub, &["owner/name"], &[("HF_TOKEN", "hf_plaintoken")]);
    run.assert_code(1);
    assert_hides(&run, &["hf_plaintoken"]);
}

#[test]
fn a_password_in_an_address_goes_to_its_server_and_nowhere_else() {
    let authorization = Some("Basic dXNlcjpzM2NyM3Q=".to_string());
    let behaviour = Behaviour { authorization, redirects: true, ..Behaviour::default() };
    let hub = Hub::with(vec![HubFile::new("model.safetensors", 300_000, 1)], behaviour);
    let endpoint = hub.url().replace("http://", "http://user:s3cr3t@");
    let fetch = Fetch::new();
    let run = fetch.run_at(&endpoint, &["owner/name", "-v"]);
    run.assert_code(0);
    assert_hides(&run, &["s3cr3t", "dXNlcjpzM2NyM3Q"]);
    let record = std::fs::read_to_string(fetch.path("name/fetch.json")).unwrap();
    assert!(!record.contains("s3cr3t") && record.contains(hub.url()), "{record}");
    assert!(hub.log().iter().filter(|seen| seen.at_second_port).all(|seen| seen.authorization.is_none()));
    let url = format!("{endpoint}/owner/name/resolve/main/model.safetensors");
    fetch.run_at("http://127.0.0.1:1", &[&url]).assert_code(0);
    fetch.run(&hub, &[&format!("{endpoint}/owner/name/tree/main"), "-o", "of-a-page"]).assert_code(0);

    for endpoint in [
        "http://user:s3cr3t@127.0.0.1:1",
        "http://us:s3/cr3t@x",
        "ftp://user:s3cr3t@x",
        "http://u:s3cr3t@x?q",
    ] {
        let run = fetch.run_at(endpoint, &["owner/other"]);
        assert!([1, 2].contains(&run.code.unwrap()));
        assert_hides(&run, &["s3cr3t", "cr3t"]);
        let run = fetch.run(&hub, &[&format!("{endpoint}/x.json")]);
        assert!([1, 2].contains(&run.code.unwrap()));
        assert_hides(&run, &["s3cr3t"]);
    }
}

#[test]
fn an_expired_token_does_not_hide_a_public_repository() {
    let expired = Some("Bearer hf_expired".to_string());
    let hub = Hub::with(files(), Behaviour { expired: expired.clone(), ..Behaviour::default() });
    let fetch = Fetch::new();
    let run = fetch.run_with(&hub, &["owner/name"], &[("HF_TOKEN", "hf_expired")]);
    run.assert_code(0);
    assert!(run.stderr.contains("warning: the server refuses HF_TOKEN"), "{}", run.stderr);
    fetch.assert_holds("name", &files());
    let url = format!("{}/owner/name/resolve/main/config.json", hub.url());
    let run = fetch.run_with(&hub, &[&url], &[("HF_TOKEN", "hf_expired")]);
    run.assert_code(0);
    assert!(run.stderr.contains("going on without it"), "{}", run.stderr);

    let authorization = Some("Bearer hf_good".to_string());
    let hub = Hub::with(files(), Behaviour { expired, authorization, ..Behaviour::default() });
    let run = fetch.run_with(&hub, &["owner/name", "-o", "private"], &[("HF_TOKEN", "hf_expired")]);
    run.assert_code(1);
    assert!(run.stderr.contains("the server refuses HF_TOKEN"), "{}", run.stderr);
    assert!(
        run.stderr.contains("hint: make a new token") && !run.stderr.contains("spelling"),
        "{}",
        run.stderr
    );
}
