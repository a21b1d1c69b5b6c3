//! Runs of several ranks on the CPU: the same losses for every number, one voice, and one error for whatever
//! goes wrong.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::adapter::Adapter;
use serde_json::{Value, json};
use tests::dir::Run;

use crate::place::Place;

/// The options of a run whose step has twelve examples on any number of ranks.
const RUN: &str = "model --data data.json --learning-rate 1e-2 --logging-steps 1 --max-steps 4 --val-size 5 \
    --eval-steps 2 --per-device-train-batch-size 1 --device cpu";
/// Random values, which follow from the places of tokens in a step.
const NOISE: &str = "--lora-dropout 0.2 --neftune-noise-alpha 5";

/// A folder with a model and examples of many lengths.
fn place() -> Place {
    let place = Place::new();
    let word = |i: usize| ["salt", "river", "lantern"][i % 3];
    let row =
        |i: usize| json!({"instruction": format!("Say {}", "it ".repeat(i * 7 % 23)), "output": word(i)});
    place.write("data.json", (0..41).map(row).collect::<Value>().to_string());
    place
}

/// The options of [`RUN`] for a number of ranks.
fn run_of(ranks: usize) -> String {
    format!("{RUN} --gradient-accumulation-steps {}", 12 / ranks)
}

/// A port of this machine that nothing uses, and the one before it, which launchers name.
fn free_port() -> (TcpListener, u16) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port - 1)
}

/// The tool as a rank of a launcher like torchrun.
fn rank(place: &Place, rank: usize, size: usize, port: u16, arguments: &str) -> Command {
    let mut command = std::ops::Deref::deref(place).command(env!("CARGO_BIN_EXE_lora-train"));
    command.args(arguments.split_whitespace()).env("XDG_CACHE_HOME", place.path("cache"));
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command.env("LOCAL_RANK", rank.to_string()).env("LOCAL_WORLD_SIZE", size.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("OMP_NUM_THREADS", "1").env("QLORA_RENDEZVOUS_SECONDS", "60");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(mut command: Command) -> Child {
    command.spawn().unwrap()
}

fn end(child: Child) -> Run {
    Run::of_output(child.wait_with_output().unwrap())
}

/// Runs the commands at the same time, to their ends.
fn together(commands: impl IntoIterator<Item = Command>) -> Vec<Run> {
    let children: Vec<Child> = commands.into_iter().map(start).collect();
    children.into_iter().map(end).collect()
}

/// Runs `size` ranks to their ends.
fn ranks(place: &Place, size: usize, arguments: &str) -> Vec<Run> {
    let (listener, port) = free_port();
    drop(listener);
    together((0..size).map(|index| rank(place, index, size, port, arguments)))
}

/// Trains on `size` ranks, and returns what rank 0 says.
fn train(place: &Place, size: usize, arguments: &str) -> String {
    let runs = ranks(place, size, arguments);
    for run in &runs {
        run.assert_code(0);
    }
    for run in &runs[1..] {
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "rank 0 alone speaks");
    }
    runs[0].stderr.clone()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (found, expected) in found.iter().zip(expected) {
        // Logs have four digits after the point.
        assert!((found - expected).abs() < 1.1e-4, "{what}: {found}, not {expected}");
    }
}

/// Fails unless all values of two adapters are nearly the same.
fn assert_same_adapter(place: &Place, found: &str, expected: &str) {
    let [found, expected] = [found, expected].map(|name| Adapter::load(&place.path(name)).unwrap());
    for (name, module) in &expected.modules {
        let other = &found.modules[name];
        for (a, b) in module.a.iter().chain(&module.b).zip(other.a.iter().chain(&other.b)) {
            assert!((a - b).abs() < 2e-3, "{name}: {a} and {b}");
        }
    }
}

#[test]
fn every_number_of_ranks_has_the_same_losses() {
    let place = place();
    for (name, options) in [("plain", ""), ("noisy", NOISE), ("packed", "--packing --cutoff-len 150")] {
        let output = |ranks: usize| format!("{name}-{ranks}");
        place.train(&format!("{} {options} -o {}", run_of(1), output(1)));
        for size in [2, 3, 4] {
            let said = train(&place, size, &format!("{} {options} -o {}", run_of(size), output(size)));
            for line in [format!("Number of devices = {size}, "), "Total train batch size = 12\n".to_owned()] {
                assert!(said.contains(&line), "{line}: {said}");
            }
            for field in ["loss", "eval_loss", "lr", "total_tokens"] {
                let logged = |ranks: usize| place.logged(&output(ranks), field);
                assert_close(&format!("{name} {field} of {size} ranks"), &logged(size), &logged(1));
            }
            assert_same_adapter(&place, &output(size), &output(1));
            assert_eq!(
                place.json(&format!("{}/made-by.json", output(size)))["recipe"],
                place.json(&format!("{}/made-by.json", output(1)))["recipe"]
            );
        }
    }
    assert_ne!(place.losses("plain-1"), place.losses("noisy-1"));
}

#[test]
fn a_number_of_ranks_gives_the_same_bytes_every_time_and_one_rank_those_without_a_launcher() {
    let place = place();
    for output in ["a", "b"] {
        train(&place, 2, &format!("{} -o {output}", run_of(2)));
    }
    assert_eq!(place.adapter("a"), place.adapter("b"));
    train(&place, 1, &format!("{} -o launched", run_of(1)));
    place.train(&format!("{} -o alone", run_of(1)));
    assert_eq!(place.adapter("launched"), place.adapter("alone"));
    assert_eq!(
        place.bytes("launched/checkpoint-4/progress.json").len(),
        place.bytes("alone/checkpoint-4/progress.json").len()
    );
}
