//! Killed, interrupted, run twice at once: nothing is lost, nothing is harmed.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use std::collections::HashMap;
use std::ops::Range;
use std::process::{Child, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use run::{Fetch, Run};
use rustix::process::{Pid, Signal, kill_process};
use tests::hub::{Behaviour, Fault, Hub, HubFile, Seen};

const MOMENTS: u64 = 50;
const CONNECTIONS: u64 = 4;
/// The unit in which arrived bytes are kept.
const CHUNK: u64 = 256 << 10;

static FILES: LazyLock<Vec<HubFile>> = LazyLock::new(|| {
    vec![
        HubFile::new("config.json", 700, 1),
        HubFile::new("model-00001-of-00002.safetensors", 9_000_000, 2),
        HubFile::new("model-00002-of-00002.safetensors", 7 << 20, 3),
    ]
});

fn files() -> Vec<HubFile> {
    FILES.clone()
}

fn total() -> u64 {
    files().iter().map(|file| file.content.len() as u64).sum()
}

fn hub(bytes_per_second: usize) -> Hub {
    let behaviour =
        Behaviour { bytes_per_second: Some(bytes_per_second), redirects: true, ..Behaviour::default() };
    Hub::with(files(), behaviour)
}

/// A hub that takes a second for everything over four connections, or longer.
fn slow_hub() -> Hub {
    hub(4 << 20)
}

/// A hub that is still at it whenever a test has got round to what it wants to do.
fn very_slow_hub() -> Hub {
    hub(100 << 10)
}

fn spawn(fetch: &Fetch, hub: &Hub) -> Child {
    let mut command = fetch.command(hub.url(), &["owner/name", "-c", &CONNECTIONS.to_string()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until the hub has sent so many bytes of the files; `child` may end sooner.
fn wait_until_sent(hub: &Hub, bytes: u64, child: &mut Child) {
    while hub.sent() < bytes && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Which bytes of which files some requests were about.
#[derive(Default)]
struct Bytes(HashMap<String, Vec<bool>>);

impl Bytes {
    fn add(&mut self, path: String, range: Range<usize>, size: usize) {
        self.0.entry(path).or_insert_with(|| vec![false; size])[range].fill(true);
    }

    fn of(&self, path: &str) -> &[bool] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }

    fn count(&self) -> u64 {
        self.0.values().flatten().filter(|is_in| **is_in).count() as u64
    }

    fn in_common(&self, other: &Self) -> u64 {
        let in_both = |path: &String| {
            self.of(path).iter().zip(other.of(path)).filter(|(ours, theirs)| **ours && **theirs).count()
        };
        self.0.keys().map(in_both).sum::<usize>() as u64
    }
}

/// File and bytes that a request asks for, if it asks for contents and is answered with them.
fn asked_for(seen: &Seen) -> Option<(HubFile, Range<usize>)> {
    let file = files().into_iter().find(|file| seen.target.ends_with(&file.path))?;
    if file.is_large && !seen.at_second_port {
        return None;
    }
    let Some(range) = &seen.range else { return Some((file.clone(), 0..file.content.len())) };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    Some((file, first.parse().unwrap()..last.parse::<usize>().unwrap() + 1))
}

/// All bytes that were asked for, and those of them that had arrived for certain: a connection
/// asks for the next range only when it has the one before.
fn asked_and_arrived(log: &[Seen]) -> (Bytes, Bytes) {
    let (mut asked, mut arrived) = (Bytes::default(), Bytes::default());
    for (number, seen) in log.iter().enumerate() {
        let Some((file, range)) = asked_for(seen) else { continue };
        let size = file.content.len();
        asked.add(file.path.clone(), range.clone(), size);
        if log[number + 1..].iter().any(|later| later.connection == seen.connection) {
            arrived.add(file.path, range, size);
        }
    }
    (asked, arrived)
}

/// Kills a run when the hub has sent `sent` bytes, and runs it again; returns how many bytes had
/// arrived for certain.
fn kill_and_go_on(sent: u64) -> u64 {
    let (fetch, hub) = (Fetch::new(), slow_hub());
    let mut child = spawn(&fetch, &hub);
    wait_until_sent(&hub, sent, &mut child);
    kill(child);
    let first_log = hub.log();
    let finished: Vec<HubFile> =
        files().into_iter().filter(|file| fetch.path("name").join(&file.path).exists()).collect();

    let run = fetch.run(&hub, &["owner/name", "-c", &CONNECTIONS.to_string()]);
    run.assert_code(0);
    fetch.assert_holds("name", &files());
    let (_, arrived) = asked_and_arrived(&first_log);
    if arrived.count() > CONNECTIONS * CHUNK && finished.len() < files().len() {
        assert!(run.stderr.contains(" are there, "), "{}", run.stderr);
    }
    let (again, _) = asked_and_arrived(&hub.log()[first_log.len()..]);
    for file in &finished {
        assert!(again.of(&file.path).is_empty(), "{} was complete and is fetched again", file.path);
    }
    let lost = again.in_common(&arrived);
    // A connection may have been about to write the last chunk that it had received.
    assert!(
        lost <= CONNECTIONS * CHUNK,
        "of {} bytes that had arrived {lost} are asked for again, killed when {sent} were sent",
        arrived.count(),
    );
    arrived.count()
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was() {
    let (next, arrived) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let moment = next.fetch_add(1, Ordering::Relaxed);
                    if moment >= MOMENTS {
                        return;
                    }
                    // Spread over the whole run, the end included.
                    let bytes = kill_and_go_on(total() * moment / (MOMENTS - 1));
                    arrived.fetch_add(bytes, Ordering::Relaxed);
                }
            });
        }
    });
    // Otherwise there would have been nothing to lose.
    let mean = arrived.into_inner() / MOMENTS;
    assert!(mean > total() / 8, "killed runs had {mean} of {} bytes", total());
}

#[test]
fn an_interrupt_ends_with_130_and_says_how_to_go_on() {
    let (fetch, hub) = (Fetch::new(), very_slow_hub());
    let mut child = spawn(&fetch, &hub);
    wait_until_sent(&hub, 1, &mut child);
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8_lossy(&output.stderr).contains("run the same command again"));
    fetch.run(&slow_hub(), &["owner/name"]).assert_code(0);
    fetch.assert_holds("name", &files());
}

#[test]
fn two_fetches_of_one_directory_end_well_and_share_the_work() {
    let (fetch, hub) = (Fetch::new(), slow_hub());
    let children = [spawn(&fetch, &hub), spawn(&fetch, &hub)];
    let mut found_it_complete = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert!(String::from_utf8(output.stdout).unwrap().ends_with("\nname\n"));
        found_it_complete += usize::from(stderr.contains("name is already complete"));
    }
    fetch.assert_holds("name", &files());
    assert_eq!(found_it_complete, 1, "one fetches all of it, the other nothing");
}

/// A signal ends a run at once, whatever it waits for: a listing, its retry, the content of a file.
#[test]
fn a_signal_ends_every_wait() {
    let wait = || Fault::Status(503, vec![("Retry-After".into(), "600".into())]);
    let stall = || Fault::Stall(0, Duration::from_secs(600));
    let cases: [(Option<Fault>, Option<Fault>); 4] =
        [(Some(wait()), None), (Some(Fault::Slow(3000)), None), (None, Some(wait())), (None, Some(stall()))];
    for (of_api, of_content) in cases {
        for signal in [Signal::INT, Signal::TERM] {
            let (fetch, hub) = (Fetch::new(), Hub::start(files()));
            let (of_api, of_content) = (of_api.clone(), of_content.clone());
            hub.api_faults(move |_| of_api.clone().unwrap_or(Fault::None));
            hub.faults(move |_| of_content.clone().unwrap_or(Fault::None));
            let mut command = fetch.command(hub.url(), &["owner/name", "--timeout", "3000"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
            while hub.log().is_empty() {
                assert!(child.try_wait().unwrap().is_none());
                std::thread::sleep(Duration::from_millis(1));
            }
            let begun = Instant::now();
            kill_process(Pid::from_child(&child), signal).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(begun.elapsed() < Duration::from_secs(20), "it waited on");
        }
    }
}

#[test]
fn a_file_that_another_version_replaced_is_not_taken_up() {
    let (fetch, hub) = (Fetch::new(), slow_hub());
    let mut child = spawn(&fetch, &hub);
    wait_until_sent(&hub, total() / 2, &mut child);
    kill(child);
    let newer: Vec<HubFile> =
        files().iter().map(|file| HubFile::new(&file.path, file.content.len(), 99)).collect();
    let run: Run = fetch.run(&Hub::start(newer.clone()), &["owner/name", "--force"]);
    run.assert_code(0);
    fetch.assert_holds("name", &newer);
}
