//! Lines that alter bytes, break in the middle or trickle: the right file in the end, at little more
//! than the bytes it takes, or an error.

mod run;

use std::sync::atomic::{AtomicUsize, Ordering};

use run::Fetch;
use tests::hub::{Fault, Hub, HubFile, Seen, noise};

const MIB: usize = 1 << 20;

/// A number below `limit` that looks random and depends on `seed` only.
fn below(limit: u64, seed: usize) -> u64 {
    let bytes = noise(8, seed as u64 + 1);
    u64::from_le_bytes(bytes.try_into().unwrap_or_default()) % limit
}

/// How many bytes a request asks for, of a file of `size`.
fn asked(seen: &Seen, size: usize) -> usize {
    let parse = || {
        let (first, last) = seen.range.as_deref()?.strip_prefix("bytes=")?.split_once('-')?;
        Some(last.parse::<usize>().ok()? + 1 - first.parse::<usize>().ok()?)
    };
    parse().unwrap_or(size)
}

#[test]
fn a_file_whose_ranges_are_altered_on_the_way_ends_right() {
    let files = vec![HubFile::new("model.safetensors", 48 * MIB, 3), HubFile::new("config.json", 900, 4)];
    let last = format!("-{}", 48 * MIB - 1);
    // Of so many ranges in ten one byte is changed.
    for altered in [1, 4] {
        let hub = Hub::start(files.clone());
        // Of many, the first two tries differ at the beginning of the large file and agree at its end.
        let (last, before) = (last.clone(), AtomicUsize::new(0));
        hub.faults(move |seen| {
            let range = seen.range.as_deref().unwrap_or_default();
            if altered == 4 && seen.target.ends_with("model.safetensors") {
                let tries = before.fetch_add(asked(seen, 48 * MIB), Ordering::Relaxed) / (48 * MIB);
                if range.ends_with(&last) {
                    return Fault::None;
                }
                if range.starts_with("bytes=0-") && tries < 2 {
                    return Fault::WrongByte(1000 * tries);
                }
            }
            match below(10, seen.number) < altered {
                true => Fault::WrongByte(below(900, seen.number + 1000) as usize),
                false => Fault::None,
            }
        });
        let fetch = Fetch::new();
        let run = fetch.run(&hub, &["owner/name", "-c", "4"]);
        run.assert_code(0);
        fetch.assert_holds("name", &files);
        match altered {
            1 => assert!(hub.sent() <= 3 * 49 * MIB as u64, "{} bytes were sent", hub.sent()),
            _ => assert!(run.stderr.contains("chunks differ between two tries"), "{}", run.stderr),
        }
    }
}

#[test]
fn a_server_that_is_wrong_a_third_of_the_time_is_outvoted() {
    let files = vec![HubFile::new("model.safetensors", 3 * MIB, 5)];
    let hub = Hub::start(files.clone());
    // The beginning of the file, in however many ranges the rest comes.
    let sent = AtomicUsize::new(0);
    hub.faults(move |seen| match seen.range.as_deref().is_none_or(|range| range.starts_with("bytes=0-")) {
        true if sent.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) => Fault::WrongByte(17),
        _ => Fault::None,
    });
    let fetch = Fetch::new();
    let run = fetch.run(&hub, &["owner/name", "-c", "1"]);
    run.assert_code(0);
    assert!(run.stderr.contains("the content is wrong"), "{}", run.stderr);
    fetch.assert_holds("name", &files);
}

#[test]
fn connections_that_break_half_way_bring_the_file_all_the_same() {
    const SIZE: usize = 24 * MIB;
    let files = vec![HubFile::new("model.safetensors", SIZE, 7)];
    let hub = Hub::start(files.clone());
    hub.faults(|seen| match below(10, seen.number) {
        0 | 1 => Fault::None,
        _ => Fault::Reset(asked(seen, SIZE) / 2),
    });
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name", "-c", "2"]).assert_code(0);
    fetch.assert_holds("name", &files);
}

#[test]
fn a_server_that_trickles_is_left_and_in_the_end_given_up() {
    let files = vec![HubFile::new("model.safetensors", MIB, 9)];
    let hub = Hub::start(files.clone());
    hub.faults(|seen| if seen.number < 3 { Fault::Slow(40) } else { Fault::None });
    let fetch = Fetch::new();
    fetch.run(&hub, &["owner/name", "-c", "1", "--timeout", "0.4"]).assert_code(0);
    fetch.assert_holds("name", &files);

    hub.faults(|_| Fault::Slow(40));
    let run = fetch.run(&hub, &["owner/name", "-c", "2", "--timeout", "0.4", "--retries", "2", "-o", "slow"]);
    run.assert_code(1);
    assert!(run.stderr.contains("bytes in 0.") && run.stderr.contains("\nhint: "), "{}", run.stderr);
}
