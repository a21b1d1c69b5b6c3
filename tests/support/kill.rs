//! Kills a tool that makes a directory, at any moment, and runs it again: what has its final name
//! is whole, and the same command gives the bytes of a run that was never disturbed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::checkpoint::Checkpoint;

/// Moments at which runs are killed.
const KILLS: usize = 30;

/// `command` makes the directory it is given, a name below `parent`.
///
/// # Panics
///
/// Where a run fails that was left alone, or one that was killed has left something wrong.
pub fn kill_and_run_again(parent: &Path, command: impl Fn(&str) -> Command) {
    let start = |name: &str| command(name).stdout(Stdio::null()).spawn().expect("a process");
    let finish = |name: &str| assert!(start(name).wait().expect("an end").success(), "not disturbed");
    let begun = Instant::now();
    finish("undisturbed");
    let whole = begun.elapsed();
    let expected = contents(&parent.join("undisturbed"));

    let (output, partial) = (parent.join("killed"), parent.join(".killed.qlora-tools/new"));
    let beside = names(parent);
    let mut killed = 0;
    for kill in 0..KILLS {
        let mut run = start("killed");
        // Over the whole run and a little beyond, in no order.
        let moment = whole.mul_f64((kill * 17 % KILLS) as f64 / KILLS as f64 * 1.1);
        std::thread::sleep(moment.max(Duration::from_micros(500)));
        run.kill().expect("a process to kill");
        killed += usize::from(!run.wait().expect("an end").success());
        if output.exists() {
            assert!(contents(&output) == expected, "the final name stands for the whole");
            std::fs::remove_dir_all(&output).expect("a directory to remove");
        } else if partial.exists() {
            assert_weights_are_whole(&partial);
        }
        // Every third is finished, the others are killed again where they are.
        if kill % 3 == 2 {
            finish("killed");
            assert!(contents(&output) == expected, "after kill {kill}");
            let left: Vec<String> = names(parent).into_iter().filter(|name| !beside.contains(name)).collect();
            assert_eq!(left, ["killed"], "nothing is left beside it");
            std::fs::remove_dir_all(&output).expect("a directory to remove");
        }
    }
    assert!(killed > 0, "no run was killed before its end");
}

/// Inside an unfinished directory, too, a file has its name only when it is whole.
fn assert_weights_are_whole(directory: &Path) {
    for (name, _) in contents(directory).iter().filter(|(name, _)| name.ends_with(".safetensors")) {
        assert!(Checkpoint::open_file(&directory.join(name)).is_ok(), "{name} is half");
    }
}

/// Names of the entries of a directory.
fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

/// Names and bytes of the files in a directory, sorted.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(directory)
        .expect("a directory")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| {
            let bytes = std::fs::read(entry.path()).expect("a file");
            (entry.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    files.sort();
    files
}
