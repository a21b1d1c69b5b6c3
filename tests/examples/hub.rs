//! Serves the files of a directory as the repository `bench/name` of a hub, on a bad line.
//!
//! `cargo run --release -p tests --example hub -- DIR [LATENCY_MS] [RESETS_PER_100] [BYTES_PER_SECOND]`
//! prints the endpoint and serves until it is killed.

#![allow(clippy::print_stdout)] // the endpoint, for the script that starts it

use std::time::Duration;

use tests::hub::{Behaviour, Fault, Hub, HubFile};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().unwrap_or_else(|| ".".into());
    let mut number = || arguments.next().and_then(|text| text.parse::<usize>().ok());
    let (latency, resets, rate) =
        (number().unwrap_or(0), number().unwrap_or(0), number().filter(|rate| *rate > 0));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let content = std::fs::read(entry.path())?;
        files.push(HubFile::with(&entry.file_name().to_string_lossy(), content, true));
    }
    let behaviour = Behaviour {
        latency: Duration::from_millis(latency as u64),
        bytes_per_second: rate,
        ..Behaviour::default()
    };
    let hub = Hub::with(files, behaviour);
    // Spread evenly: regularly an answer is cut off somewhere in its first 4 MB.
    hub.faults(move |seen| match resets > 0 && seen.number % (100 / resets.clamp(1, 100)) == 7 {
        true => Fault::Reset(seen.number.wrapping_mul(999_983) % 4_000_000),
        false => Fault::None,
    });
    println!("{}", hub.url());
    loop {
        std::thread::park();
    }
}
