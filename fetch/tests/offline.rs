//! Without the network, and where nothing can be written: what is there, or an error that says why.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use run::{Fetch, Run};
use tests::hub::{COMMIT, Hub, HubFile};

const VARIABLES: [&str; 3] = ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"];
const CACHE: &str = "hf-home/hub/models--owner--name";

fn files() -> Vec<HubFile> {
    vec![HubFile::new("config.json", 700, 1), HubFile::new("sub/model.safetensors", 700_000, 2)]
}

#[test]
fn nothing_is_asked_and_what_is_there_is_used() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    let url = format!("{}/content/config.json", hub.second_url());
    for variable in VARIABLES {
        for arguments in
            [&["owner/name"][..], &["owner/name", "--cache"], &[&url], &["owner/name", "--dry-run"]]
        {
            let run = fetch.run_with(&hub, arguments, &[(variable, "1")]);
            run.assert_code(1);
            assert!(run.stderr.contains(&format!("{variable} is set")), "{}", run.stderr);
            assert!(run.stderr.contains("hint: ") && run.stdout.is_empty(), "{}", run.stderr);
        }
    }
    assert!(hub.log().is_empty(), "{:?}", hub.log());
    fetch.run_with(&hub, &["owner/name"], &[("HF_HUB_OFFLINE", "0")]).assert_code(0);
    fetch.run(&hub, &["owner/name", "--cache"]).assert_code(0);
    fetch.run(&hub, &[&url]).assert_code(0);
    let before = hub.log().len();
    for arguments in [&["owner/name"][..], &["owner/name", "--cache"], &[&url]] {
        let run = fetch.run_with(&hub, arguments, &[("HF_HUB_OFFLINE", "TRUE")]);
        run.assert_code(0);
        assert!(run.stderr.contains("HF_HUB_OFFLINE is set; using"), "{}", run.stderr);
    }
    let run = fetch.run_with(&hub, &["owner/name", "-o", "new"], &[("HF_HUB_OFFLINE", "1")]);
    run.assert_code(1);
    assert!(run.stderr.contains("hint: fetch --cache owner/name uses the hub's cache"), "{}", run.stderr);
    assert_eq!(hub.log().len(), before);
}

#[test]
fn a_snapshot_of_another_tool_is_used_where_its_files_are_right() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["owner/name", "--cache"]).assert_code(0);
    std::fs::remove_dir_all(fetch.path(&format!("{CACHE}/.fetched"))).unwrap();
    let offline = [("HF_HUB_OFFLINE", "1")];
    let run = fetch.run_with(&hub, &["owner/name", "--cache"], &offline);
    run.assert_code(0);
    let snapshot = fetch.path(&format!("{CACHE}/snapshots/{COMMIT}"));
    let names = ["config.json", "sub/model.safetensors", ""].map(|name| snapshot.join(name));
    let printed: Vec<_> = run.lines().iter().map(|line| Path::new(line).to_path_buf()).collect();
    assert_eq!(printed, names);
    std::fs::write(std::fs::canonicalize(&names[0]).unwrap(), vec![0; 700]).unwrap();
    let run = fetch.run_with(&hub, &["owner/name", "--cache"], &offline);
    run.assert_code(1);
    assert!(run.stdout.is_empty() && run.stderr.contains("config.json: expected git sha1"), "{}", run.stderr);
}

/// Makes everything below a directory read-only, or writable again.
fn set_writable(path: &Path, writable: bool) {
    let change = || {
        let mode = match (path.is_dir(), writable) {
            (true, true) => 0o755,
            (true, false) => 0o555,
            (false, _) => 0o444,
        };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    change();
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap().map(Result::unwrap) {
            if !entry.file_type().unwrap().is_symlink() {
                set_writable(&entry.path(), writable);
            }
        }
    }
}

#[test]
fn a_complete_copy_that_cannot_be_written_is_enough() {
    let (fetch, hub) = (Fetch::new(), Hub::start(files()));
    fetch.run(&hub, &["owner/name", "--cache"]).assert_code(0);
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    // As another tool leaves it.
    std::fs::remove_dir_all(fetch.path(&format!("{CACHE}/.fetched"))).unwrap();
    let binary = fetch.path("fetch-binary");
    // By another process: a test that starts a program meanwhile would inherit a file open for writing, and
    // such a file cannot be run.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_fetch")).arg(&binary).status();
    assert!(copied.unwrap().success());
    set_writable(&fetch.path("."), false);
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o555)).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command.args(arguments).current_dir(fetch.path(".")).env_clear();
        command.env("HF_ENDPOINT", hub.url()).env("HF_HOME", fetch.path("hf-home"));
        if rustix::process::geteuid().is_root() {
            // Nothing is read-only to root.
            command.uid(65_534).gid(65_534);
        }
        Run::of(&mut command)
    };
    let before = hub.log().len();
    let (cache, directory) = (run(&["owner/name", "--cache"]), run(&["owner/name"]));
    let asked = hub.log().len() - before;
    hub.publish(&"f".repeat(40), vec![HubFile::new("config.json", 700, 9)]);
    let changed = run(&["owner/name", "--cache"]);
    set_writable(&fetch.path("."), true);
    cache.assert_code(0);
    assert!(cache.stderr.contains("nothing can be written"), "{}", cache.stderr);
    assert!(cache.stdout.ends_with(&format!("snapshots/{COMMIT}\n")), "{}", cache.stdout);
    directory.assert_code(0);
    assert_eq!(directory.lines().last().unwrap(), "name");
    assert_eq!(asked, 2, "only the listings are asked for");
    changed.assert_code(1);
    assert!(
        changed.stderr.contains("ermission denied") && changed.stderr.contains("hint: "),
        "{}",
        changed.stderr
    );
}

#[test]
fn a_repository_that_changed_brings_what_changed_and_loses_what_went() {
    let same = HubFile::new("same.safetensors", 300_000, 1);
    let gone = HubFile::new("train-00001-of-00002.json", 50, 4);
    let old =
        vec![same.clone(), HubFile::new("train.json", 500, 2), gone.clone(), HubFile::new("mine.json", 9, 5)];
    let new = vec![same, HubFile::new("train.json", 400, 3)];
    let (fetch, hub) = (Fetch::new(), Hub::start(old));
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    std::fs::write(fetch.path("name/mine.json"), "changed by me").unwrap();
    let commit = "f".repeat(40);
    hub.publish(&commit, new.clone());
    let before = hub.log().len();
    let run = fetch.run(&hub, &["owner/name"]);
    run.assert_code(0);
    assert!(run.stderr.contains(&commit), "{}", run.stderr);
    let asked: Vec<String> = hub.log()[before..].iter().map(|seen| seen.target.clone()).collect();
    assert!(asked[1..].iter().all(|target| target.ends_with("/train.json")), "{asked:?}");
    assert!(
        run.stderr.contains("no longer has: train-00001-of-00002.json")
            && run.stderr.contains("name/mine.json"),
        "{}",
        run.stderr
    );
    assert_eq!(std::fs::read_to_string(fetch.path("name/mine.json")).unwrap(), "changed by me");
    std::fs::remove_file(fetch.path("name/mine.json")).unwrap();
    fetch.assert_holds("name", &new);
    let (again, before) = (fetch.run(&hub, &["owner/name"]), hub.log().len());
    assert!(again.stderr.contains(&format!("already complete, at {commit}")), "{}", again.stderr);
    assert_eq!(hub.log().len(), before, "one request");
}
