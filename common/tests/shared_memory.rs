//! Memory that the ranks of a machine share: filled by all, also where one is lost or cannot open it.
//!
//! Each rank is a process of its own: this program again, as a launcher would start it.

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Output, Stdio};

use common::Result;
use common::device::DeviceChoice;
use common::world::{self, World, shared_bytes};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::ranks::{make_rank, master_port};

/// Says to a rank which fault it has.
const FAULT: &str = "SHARED_MEMORY_FAULT";

/// How the ranks of the test `name` end, of which one has this fault.
fn ranks(name: &str, size: usize, (faulty, fault): (usize, &str)) -> Vec<Output> {
    let port = master_port();
    let rank = |rank: usize| -> Child {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]);
        make_rank(&mut child, rank, size, port);
        if rank == faulty {
            child.env(FAULT, fault);
        }
        child.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let children: Vec<Child> = (0..size).map(rank).collect();
    children.into_iter().map(|child| child.wait_with_output().unwrap()).collect()
}

/// Runs `work` where this process is a rank; `None` where it is the test itself.
fn as_rank(work: impl FnOnce(&World) -> Result<()>) -> Option<Result<()>> {
    std::env::var_os("WORLD_SIZE").map(|_| world::run(DeviceChoice::Cpu, work))
}

fn fault() -> String {
    std::env::var(FAULT).unwrap_or_default()
}

fn assert_success(ends: &[Output]) {
    for (rank, end) in ends.iter().enumerate() {
        let said =
            [&end.stdout, &end.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat();
        assert!(end.status.success(), "rank {rank}: {}\n{said}", end.status);
    }
}

/// Bytes that differ from run to run and from place to place.
fn value(run: usize, place: usize) -> u8 {
    (run * 7 + place * 31 % 251) as u8
}

fn values(run: usize, len: usize) -> Vec<u8> {
    (0..len).map(|place| value(run, place)).collect()
}

/// Every rank writes a part, each byte is written once, and every rank reads what the others have written.
#[test]
fn ranks_fill_one_copy_together() {
    let work = |world: &World| {
        let lengths = [1, 64 << 10, 5 << 20, (3 << 20) + 77, 100];
        for _ in 0..2 {
            let bytes = lengths.map(|len| shared_bytes(len as u64)).iter().sum();
            let mut shared = world.share_memory(bytes)?.unwrap();
            let mut filled = Vec::new();
            for (run, len) in lengths.into_iter().enumerate() {
                let mut part = (0, 0);
                let bytes = shared.fill(len, |start, out| {
                    part = (start, out.len());
                    out.iter_mut().zip(start..).for_each(|(byte, place)| *byte = value(run, place));
                })?;
                assert!(bytes[..] == values(run, len), "{len} bytes");
                filled.push(bytes);
                let mut end = 0;
                for (start, count) in world.gather(part)? {
                    assert_eq!(start, end.min(len), "parts of {len} bytes without gaps");
                    end = start + count;
                }
                assert_eq!(end, len);
            }
            assert!(shared.fill(1, |_, _| ()).is_err(), "there is room for so many bytes");
            // What is filled stays, without that which filled it.
            drop(shared);
            for (run, bytes) in filled.iter().enumerate() {
                assert!(bytes[..] == values(run, lengths[run]), "{} bytes", lengths[run]);
            }
        }
        let both = world.lockable_memory(0)?;
        assert!(both.beside_inputs(0) >= 3 * (both.beside_weights(0) - 1), "weights are there once");
        assert_eq!(both.copies().unwrap(), "once for the 3 processes of a machine");
        Ok(())
    };
    match as_rank(work) {
        Some(outcome) => outcome.unwrap(),
        None => assert_success(&ranks("ranks_fill_one_copy_together", 3, (0, ""))),
    }
}

#[test]
fn a_rank_that_is_killed_while_it_fills_ends_the_run() {
    let work = |world: &World| {
        let mut shared = world.share_memory(10 * shared_bytes(1 << 20))?.unwrap();
        for run in 0..10 {
            shared.fill(1 << 20, |_, out| {
                out.fill(run);
                if run == 4 && fault() == "killed" {
                    std::process::abort();
                }
            })?;
            assert!(run < 4, "no rank has what rank 1 has not written");
        }
        Ok(())
    };
    match as_rank(work) {
        Some(outcome) => {
            let error = outcome.unwrap_err().to_string();
            let expected =
                if std::env::var("RANK").unwrap() == "0" { "was lost" } else { "has ended the run" };
            assert!(error.contains(expected), "{error}");
        }
        None => {
            let ends = ranks("a_rank_that_is_killed_while_it_fills_ends_the_run", 3, (1, "killed"));
            assert!(!ends[1].status.success());
            assert_success(&[&ends[..1], &ends[2..]].concat());
        }
    }
}

/// Lets this process open only `more` files more than it has.
fn limit_files(more: u64) {
    // The number of the file that is opened next is the least that is free.
    let next = File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(next + more), maximum }).unwrap();
}

#[test]
fn ranks_that_cannot_share_memory_keep_their_own() {
    let work = |world: &World| {
        match fault().as_str() {
            // Nor can it read what tells its machine from others.
            "no file" => limit_files(0),
            "not opened" => limit_files(1),
            _ => {}
        }
        let memory = world.lockable_memory(0);
        setrlimit(Resource::Nofile, Rlimit { current: Some(200), ..getrlimit(Resource::Nofile) }).unwrap();
        let memory = memory?;
        assert!(world.share_memory(1 << 20)?.is_none());
        assert_eq!(memory.beside_inputs(0), memory.beside_weights(0), "each rank has as much for weights");
        assert_eq!(memory.copies().unwrap(), "in each of the 2 processes of a machine");
        // The run goes on.
        assert_eq!(world.gather(world.rank())?, [0, 1]);
        Ok(())
    };
    if let Some(outcome) = as_rank(work) {
        return outcome.unwrap();
    }
    for (fault, reason) in
        [((0, "no file"), "rank 0 has no file in memory: "), ((1, "not opened"), "rank 1 cannot open /proc/")]
    {
        let ends = ranks("ranks_that_cannot_share_memory_keep_their_own", 2, fault);
        assert_success(&ends);
        let [first, other] =
            [0, 1].map(|rank: usize| String::from_utf8_lossy(&ends[rank].stderr).into_owned());
        let warning = format!("the ranks of a machine cannot share memory ({reason}");
        assert!(first.contains(&warning) && first.contains("each keeps a copy of the weights"), "{first}");
        assert!(!other.contains("cannot share"), "rank 0 alone speaks: {other}");
    }
}
