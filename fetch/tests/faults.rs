//! Whatever goes wrong on the way: the same bytes, or a clear error and nothing wrong left behind.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

mod run;

use std::sync::Mutex;
use std::time::Duration;

use run::Fetch;
use tests::hub::{Behaviour, Fault, Hub, HubFile};

/// Seeded schedules; each is a hub of its own whose answers go wrong in its own way.
const SCHEDULES: u64 = 200;

fn files() -> Vec<HubFile> {
    vec![
        HubFile::new("config.json", 700, 1),
        HubFile::new("empty.txt", 0, 2),
        HubFile::new("one-chunk.dat", 256 << 10, 3),
        HubFile::new("model.safetensors", 4_400_000, 4),
    ]
}

/// A sequence of numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

/// One fault of every kind, at a random place.
fn fault(random: &mut Random) -> Fault {
    let at = random.below(1_500_000);
    match random.below(14) {
        0 => Fault::Status(503, vec![]),
        1 => Fault::Status(429, vec![("Retry-After".into(), "0".into())]),
        2 => Fault::Status(416, vec![]),
        3 | 4 => Fault::Reset(at),
        5 | 6 => Fault::Truncate(at),
        7 => Fault::Stall(at, Duration::from_millis(500)),
        8 => Fault::WrongContentRange,
        9 => Fault::IgnoreRange,
        10 => Fault::LyingLength(at),
        11 => Fault::Gzip,
        12 => Fault::Endless,
        _ => Fault::Status(500, vec![]),
    }
}

/// Runs one schedule; returns the error where it ended in one.
fn run_schedule(seed: u64) -> Option<String> {
    let mut random = Random(seed);
    let behaviour = Behaviour {
        redirects: random.below(2) == 0,
        latency: Duration::from_millis(random.below(3) as u64),
        has_names_only: random.below(2) == 0,
        hides_large_files: random.below(4) == 0,
        ..Behaviour::default()
    };
    let hub = Hub::with(files(), behaviour);
    let one_in = 2 + random.below(6);
    let wrong_bytes_at = random.below(12);
    let ignores_ranges = random.below(8) == 0;
    let random = Mutex::new(random);
    hub.faults(move |seen| {
        let mut random = random.lock().unwrap();
        if seen.method == "GET" && seen.number == wrong_bytes_at {
            return Fault::WrongByte(random.below(1 << 20));
        }
        match random.below(one_in) {
            0 => fault(&mut random),
            _ if ignores_ranges => Fault::IgnoreRange,
            _ => Fault::None,
        }
    });
    let fetch = Fetch::new();
    let connections = (1 + seed % 6).to_string();
    let arguments = ["owner/name", "-c", &connections, "--timeout", "0.3", "--retries", "12"];
    let run = fetch.run(&hub, &arguments);
    if run.code == Some(0) {
        fetch.assert_holds("name", &files());
        return None;
    }
    run.assert_code(1);
    assert!(run.stderr.contains("fetch: error: "), "seed {seed}: {}", run.stderr);
    // Whatever has got its final name is right, and nothing claims to be complete.
    assert!(!fetch.path("name/fetch.json").exists(), "seed {seed}");
    for file in files() {
        if let Ok(found) = std::fs::read(fetch.path("name").join(&file.path)) {
            assert!(found == *file.content, "seed {seed}: {}", file.path);
        }
    }
    Some(format!("seed {seed}: {}", run.stderr.lines().find(|line| line.contains("error: ")).unwrap()))
}

#[test]
fn seeded_schedules_end_in_the_same_bytes_or_a_clear_error() {
    let next = Mutex::new(0);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                loop {
                    let seed = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    if seed >= SCHEDULES {
                        return;
                    }
                    errors.lock().unwrap().extend(run_schedule(seed));
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap();
    // Faults this frequent are survived; an error is the exception.
    assert!(errors.len() as u64 * 10 <= SCHEDULES, "{} of {SCHEDULES}:\n{}", errors.len(), errors.join("\n"));
}

#[test]
fn a_server_that_never_gets_better_is_given_up_with_its_reason() {
    let hopeless: [(Fault, &str); 6] = [
        (Fault::Status(503, vec![]), "503"),
        (Fault::Status(416, vec![]), "416"),
        (Fault::Reset(1000), "model.safetensors: "),
        (Fault::WrongContentRange, "bytes"),
        (Fault::LyingLength(5), "announces"),
        (Fault::Gzip, "gzip"),
    ];
    for (fault, reason) in hopeless {
        let hub = Hub::start(files());
        hub.faults(move |_| fault.clone());
        let fetch = Fetch::new();
        let run =
            fetch.run(&hub, &["owner/name", "--retries", "2", "-c", "2", "--include", "model.safetensors"]);
        run.assert_code(1);
        assert!(run.stderr.contains(reason) && run.stderr.contains("hint: "), "{reason}: {}", run.stderr);
        assert!(!fetch.path("name/fetch.json").exists());
    }
}

#[test]
fn a_server_that_asks_to_wait_is_obeyed() {
    let hub = Hub::start(files());
    let first = Mutex::new(true);
    hub.faults(move |_| match std::mem::replace(&mut *first.lock().unwrap(), false) {
        true => Fault::Status(429, vec![("Retry-After".into(), "2".into())]),
        false => Fault::None,
    });
    let fetch = Fetch::new();
    let begun = std::time::Instant::now();
    let run = fetch.run(&hub, &["owner/name", "-c", "1"]);
    run.assert_code(0);
    assert!(run.stderr.contains("waiting 2 s as the server asks"), "{}", run.stderr);
    assert!(begun.elapsed() >= Duration::from_secs(2));
    fetch.assert_holds("name", &files());
}

/// With a deadline beyond the test's patience, only the other connections can help.
#[test]
fn one_stalled_or_slow_connection_does_not_hold_up_the_end() {
    for fault in [Fault::Stall(100, Duration::from_secs(3600)), Fault::Slow(200)] {
        let files = [HubFile::new("model.safetensors", 8 << 20, 1)];
        let hub = Hub::start(files.to_vec());
        hub.faults(move |seen| if seen.number == 0 { fault.clone() } else { Fault::None });
        let fetch = Fetch::new();
        fetch.run(&hub, &["owner/name", "-c", "3", "--timeout", "3000"]).assert_code(0);
        fetch.assert_holds("name", &files);
    }
}
