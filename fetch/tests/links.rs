//! Links, FIFOs and other things that were put where `fetch` writes: nothing outside is touched, and
//! nothing is waited for.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use run::Fetch;
use rustix::fs::{CWD, Mode, mkfifoat};
use tests::hub::{COMMIT, Hub, HubFile};

const CACHE: &str = "hf-home/hub/models--owner--name";

fn files() -> Vec<HubFile> {
    vec![HubFile::new("config.json", 700, 1), HubFile::new("sub/model.safetensors", 700_000, 2)]
}

/// A directory of the user's with a file in it.
fn outside(fetch: &Fetch) -> std::path::PathBuf {
    let outside = fetch.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("thesis.tex"), "years of work").unwrap();
    outside
}

fn assert_untouched(outside: &Path, what: &str) {
    assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1, "{what}");
    assert_eq!(std::fs::read_to_string(outside.join("thesis.tex")).unwrap(), "years of work", "{what}");
}

fn plant(fetch: &Fetch, target: &Path, name: &str) {
    let link = fetch.path(name);
    std::fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(target, link).unwrap();
}

#[test]
fn planted_links_lead_nowhere() {
    let directories = [
        "name/.qlora-tools-fetch",
        "name/.qlora-tools-fetch/partial",
        "name/.qlora-tools-fetch/partial/sub",
        "name/.qlora-tools-fetch/map",
        "name/sub",
    ];
    let unwritten =
        ["", "/partial/config.json", "/map/sub/model.safetensors", "/begun.json", "/record", "/lock"];
    let unwritten = unwritten.map(|name| format!("name/.qlora-tools-fetch{name}"));
    for (hub_cache, prefix) in [(false, ""), (true, CACHE)] {
        let in_cache = ["", "/blobs", "/snapshots", "/refs", "/.fetched", "/.qlora-tools-fetch"];
        let names: Vec<String> = match hub_cache {
            false => directories.iter().map(ToString::to_string).chain(unwritten.iter().cloned()).collect(),
            true => in_cache
                .iter()
                .map(|name| format!("{prefix}{name}"))
                .chain([
                    format!("{CACHE}/snapshots/{COMMIT}"),
                    format!("{CACHE}/refs/main"),
                    format!("{CACHE}/.qlora-tools-fetch/ref"),
                    format!("{CACHE}/.qlora-tools-fetch/link"),
                    "hf-home/hub/CACHEDIR.TAG".to_string(),
                ])
                .collect(),
        };
        for name in names {
            for target in ["thesis.tex", "new", "."] {
                let (fetch, hub) = (Fetch::new(), Hub::start(files()));
                let outside = outside(&fetch);
                plant(&fetch, &outside.join(target), &name);
                let arguments: &[&str] = if hub_cache { &["owner/name", "--cache"] } else { &["owner/name"] };
                let run = fetch.run(&hub, arguments);
                let what = format!("{name} -> {target}: {}", run.stderr);
                assert_untouched(&outside, &what);
                assert!(run.code == Some(0) || run.stderr.contains("hint: "), "{what}");
                assert!([0, 1].contains(&run.code.unwrap()), "{what}");
            }
        }
    }
}

#[test]
fn a_second_name_of_a_file_is_not_written_to() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    let outside = outside(&fetch);
    let partial = fetch.path("name/.qlora-tools-fetch/partial");
    std::fs::create_dir_all(&partial).unwrap();
    std::fs::hard_link(outside.join("thesis.tex"), partial.join("config.json")).unwrap();
    std::fs::hard_link(outside.join("thesis.tex"), fetch.path("name/.qlora-tools-fetch/lock")).unwrap();
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    assert_untouched(&outside, "a hard link");
    fetch.assert_holds("name", &files());
}

#[test]
fn files_of_the_users_stay_whatever_they_are_called() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    for name in
        ["name/.fetch/partial/x", "name/.fetch/lock", "name/notes.txt", "name/.qlora-tools-fetch/mine"]
    {
        std::fs::create_dir_all(fetch.path(name).parent().unwrap()).unwrap();
        std::fs::write(fetch.path(name), "mine").unwrap();
    }
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    for name in
        ["name/.fetch/partial/x", "name/.fetch/lock", "name/notes.txt", "name/.qlora-tools-fetch/mine"]
    {
        assert_eq!(std::fs::read_to_string(fetch.path(name)).unwrap(), "mine", "{name}");
    }
}

#[test]
fn force_replaces_what_fetch_wrote_and_nothing_else() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    std::fs::create_dir(fetch.path("name")).unwrap();
    std::fs::write(fetch.path("name/config.json"), "mine").unwrap();
    let run = fetch.run(&hub, &["owner/name", "--force"]);
    run.assert_code(1);
    assert!(run.stderr.contains("name/config.json exists") && run.stderr.contains("move it away"));
    assert_eq!(std::fs::read_to_string(fetch.path("name/config.json")).unwrap(), "mine");
}

#[test]
fn a_link_to_nowhere_as_output_is_an_error_at_once() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    symlink(fetch.path("nowhere"), fetch.path("link")).unwrap();
    let run = fetch.run(&hub, &["owner/name", "-o", "link"]);
    run.assert_code(1);
    assert!(run.stderr.contains("link is a link to a place that is not there"), "{}", run.stderr);
    let url = format!("{}/content/config.json", hub.second_url());
    let run = fetch.run(&hub, &[&url, "-o", "link"]);
    run.assert_code(1);
    assert!(run.stderr.contains("link exists") && !fetch.path("nowhere").exists(), "{}", run.stderr);
    fetch.run(&hub, &[&url, "-o", "link", "--force"]).assert_code(0);
    assert!(
        !fetch.path("nowhere").exists() && std::fs::read(fetch.path("link")).unwrap() == *files()[0].content
    );
}

#[test]
fn fifos_and_endless_files_are_not_waited_for() {
    let begun = Instant::now();
    let hub = Hub::start(files());
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    let fifo = fetch.path("fifo");
    mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    for token in [fifo.to_str().unwrap(), "/dev/zero"] {
        let run = fetch.run_with(&hub, &["owner/name", "-o", "x"], &[("HF_TOKEN_PATH", token)]);
        run.assert_code(1);
        assert!(run.stderr.contains("not a regular file") && run.stderr.contains("hint: "), "{}", run.stderr);
    }
    for (name, arguments) in [
        ("name/.qlora-tools-fetch/lock", &["owner/name", "--force"][..]),
        ("name/fetch.json", &["owner/name"]),
        ("name/fetch.json", &["--verify", "name"]),
        ("name/config.json", &["--verify", "name"]),
        ("one", &["--verify", "one"]),
    ] {
        let path = fetch.path(name);
        let _ = std::fs::remove_file(&path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        let run = fetch.run(&hub, arguments);
        run.assert_code(1);
        assert!(run.stderr.contains("hint: "), "{name}: {}", run.stderr);
        std::fs::remove_file(path).unwrap();
        std::fs::remove_dir_all(fetch.path("name")).unwrap();
        fetch.run(&hub, &["owner/name"]).assert_code(0);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "something was waited for");
}

#[test]
fn a_record_that_names_files_elsewhere_is_refused() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    let record = std::fs::read_to_string(fetch.path("name/fetch.json")).unwrap();
    std::fs::write(fetch.path("name/fetch.json"), record.replace("config.json", "../../etc/hosts")).unwrap();
    for run in [fetch.run_at("", &["--verify", "name"]), fetch.run_at("http://127.0.0.1:1", &["owner/name"])]
    {
        run.assert_code(1);
        assert!(run.stderr.contains("`..`") && run.stdout.is_empty(), "{}", run.stderr);
    }
}
