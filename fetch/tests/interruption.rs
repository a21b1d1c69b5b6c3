//! Killed, interrupted, run twice at once: nothing is lost, nothing is harmed.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use run::{Fetch, Run};
use tests::hub::{Behaviour, Hub, HubFile};

const MOMENTS: u64 = 50;

fn files() -> Vec<HubFile> {
    vec![
        HubFile::new("config.json", 700, 1),
        HubFile::new("model-00001-of-00002.safetensors", 9_000_000, 2),
        HubFile::new("model-00002-of-00002.safetensors", 7 << 20, 3),
    ]
}

/// A hub that takes about a second for everything over four connections.
fn slow_hub() -> Hub {
    Hub::with(files(), Behaviour { bytes_per_second: Some(4 << 20), redirects: true, ..Behaviour::default() })
}

fn spawn(fetch: &Fetch, hub: &Hub) -> Child {
    let mut command = fetch.command(hub.url(), &["owner/name", "-c", "4"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Bytes of file contents that were asked for.
fn bytes_asked_for(hub: &Hub) -> u64 {
    let sizes: std::collections::HashMap<String, u64> =
        files().into_iter().map(|file| (file.path, file.content.len() as u64)).collect();
    let of = |seen: tests::hub::Seen| {
        let Some(range) = seen.range.as_deref().and_then(|range| range.strip_prefix("bytes=")) else {
            return sizes.get(seen.target.rsplit('/').next().unwrap()).copied().unwrap();
        };
        let (first, last) = range.split_once('-').unwrap();
        last.parse::<u64>().unwrap() - first.parse::<u64>().unwrap() + 1
    };
    let sends = |seen: &tests::hub::Seen| {
        seen.target.starts_with("/content/") || seen.target.ends_with("config.json")
    };
    hub.log().into_iter().filter(sends).map(of).sum()
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was() {
    let total: u64 = files().iter().map(|file| file.content.len() as u64).sum();
    let next = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let moment = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if moment >= MOMENTS {
                        return;
                    }
                    let (fetch, hub) = (Fetch::new(), slow_hub());
                    let mut child = spawn(&fetch, &hub);
                    // Spread over the whole run, the end included.
                    std::thread::sleep(Duration::from_millis(30 + moment * 37 % 1300));
                    child.kill().unwrap();
                    child.wait().unwrap();
                    let run = fetch.run(&hub, &["owner/name", "-c", "4"]);
                    run.assert_code(0);
                    fetch.assert_holds("name", &files());
                    // Lost are at most the ranges in flight, one a connection.
                    let extra = bytes_asked_for(&hub).saturating_sub(total);
                    assert!(extra <= 4 * (4 << 20), "{extra} bytes were asked for again");
                }
            });
        }
    });
}

#[test]
fn an_interrupt_ends_with_130_and_says_how_to_go_on() {
    let (fetch, hub) = (Fetch::new(), slow_hub());
    let child = spawn(&fetch, &hub);
    std::thread::sleep(Duration::from_millis(400));
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run the same command again"));
    assert!(begun.elapsed() < Duration::from_secs(5));
    fetch.run(&hub, &["owner/name"]).assert_code(0);
    fetch.assert_holds("name", &files());
}

#[test]
fn two_fetches_of_one_directory_end_well_and_share_the_work() {
    let (fetch, hub) = (Fetch::new(), slow_hub());
    let total: u64 = files().iter().map(|file| file.content.len() as u64).sum();
    let children = [spawn(&fetch, &hub), spawn(&fetch, &hub)];
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(String::from_utf8(output.stdout).unwrap().ends_with("\nname\n"));
    }
    fetch.assert_holds("name", &files());
    assert!(bytes_asked_for(&hub) < total + total / 2);
}

#[test]
fn a_file_that_another_version_replaced_is_not_taken_up() {
    let (fetch, hub) = (Fetch::new(), slow_hub());
    let mut child = spawn(&fetch, &hub);
    std::thread::sleep(Duration::from_millis(500));
    child.kill().unwrap();
    child.wait().unwrap();
    let newer: Vec<HubFile> =
        files().iter().map(|file| HubFile::new(&file.path, file.content.len(), 99)).collect();
    let run: Run = fetch.run(&Hub::start(newer.clone()), &["owner/name", "--force"]);
    run.assert_code(0);
    fetch.assert_holds("name", &newer);
}
