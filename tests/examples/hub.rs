//! Serves the files of a directory as the repository `bench/name` of a hub, on a line as bad as asked for.
//!
//! `cargo run --release -p tests --example hub -- DIR [NAME=NUMBER]...` prints the endpoint and serves
//! until it is killed. The numbers, all 0 where not given:
//!
//! | name | what it is |
//! |---|---|
//! | `latency` | milliseconds before every answer |
//! | `rate` | bytes a second on each connection |
//! | `resets` | of 100 answers so many are reset somewhere in their first 4 MB |
//! | `stalls` | of 100 answers so many stop somewhere in their first 4 MB, and do not go on |
//! | `slow` | of 100 answers so many come with 100 KB a second |

#![allow(clippy::print_stdout)] // the endpoint, for the script that starts it

use std::collections::HashMap;
use std::time::Duration;

use tests::hub::{Behaviour, Fault, Hub, HubFile};

const SLOW: usize = 100_000;
const FOREVER: Duration = Duration::from_secs(24 * 3600);

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".into());
    let mut numbers = HashMap::new();
    for argument in arguments {
        let number =
            argument.split_once('=').and_then(|(name, value)| Some((name.into(), value.parse().ok()?)));
        let (name, value): (String, usize) = number
            .ok_or_else(|| std::io::Error::other(format!("expected NAME=NUMBER, found {argument:?}")))?;
        numbers.insert(name, value);
    }
    let number = |name: &str| numbers.get(name).copied().unwrap_or(0);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let content = std::fs::read(entry.path())?;
        let is_large = content.len() > 100_000;
        files.push(HubFile::with(&entry.file_name().to_string_lossy(), content, is_large));
    }
    let behaviour = Behaviour {
        latency: Duration::from_millis(number("latency") as u64),
        bytes_per_second: Some(number("rate")).filter(|rate| *rate > 0),
        ..Behaviour::default()
    };
    let hub = Hub::with(files, behaviour);
    let (resets, stalls, slow) = (number("resets"), number("stalls"), number("slow"));
    hub.faults(move |seen| {
        let place = seen.number.wrapping_mul(999_983) % 4_000_000;
        // Spread evenly, each kind beginning elsewhere.
        let is_turn = |count: usize, offset: usize| (seen.number + offset) * count % 100 < count;
        match seen.method.as_str() {
            "GET" if is_turn(resets, 93) => Fault::Reset(place),
            "GET" if is_turn(stalls, 97) => Fault::Stall(place, FOREVER),
            "GET" if is_turn(slow, 95) => Fault::Slow(SLOW),
            _ => Fault::None,
        }
    });
    println!("{}", hub.url());
    loop {
        std::thread::park();
    }
}
