//! Runs of several ranks on the CPU: the same losses for every number, one voice, and one error for whatever
//! goes wrong.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use common::adapter::Adapter;
use serde_json::{Value, json};
use socket2::SockRef;
use tests::dir::Run;
use tests::ranks::{make_rank, master_port};

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

/// The tool as a rank of a launcher like torchrun.
fn rank(place: &Place, rank: usize, size: usize, port: u16, arguments: &str) -> Command {
    let mut command = std::ops::Deref::deref(place).command(env!("CARGO_BIN_EXE_lora-train"));
    command.args(arguments.split_whitespace()).env("XDG_CACHE_HOME", place.path("cache"));
    make_rank(&mut command, rank, size, port);
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
    let port = master_port();
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
            for line in [format!("Number of devices = {size}, "), "Total train batch size = 12\n".to_owned()]
            {
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
    let progress = |output: &str| place.json(&format!("{output}/checkpoint-4/progress.json"));
    assert_eq!((progress("a")["ranks"].as_u64(), progress("launched").get("ranks")), (Some(2), None));
}

#[test]
fn a_run_is_resumed_by_as_many_ranks_exactly_and_by_another_number_nearly() {
    let place = place();
    let run = |ranks: usize, output: &str| format!("{} {NOISE} --save-steps 2 -o {output}", run_of(ranks));
    train(&place, 2, &run(2, "whole"));
    let from = "--resume-from-checkpoint whole/checkpoint-2";
    let said = train(&place, 2, &format!("{} {from}", run(2, "same")));
    assert!(!said.contains("was trained by"), "{said}");
    assert_eq!(place.adapter("same"), place.adapter("whole"));
    assert_eq!(place.losses("same"), place.losses("whole"));
    let said = train(&place, 3, &format!("{} {from}", run(3, "more")));
    assert!(
        said.contains("it was trained by 2 devices, and now by 3 devices: the losses are the same"),
        "{said}"
    );
    place.train(&format!("{} {from}", run(1, "one")));
    for output in ["more", "one"] {
        assert_close(output, &place.losses(output), &place.losses("whole"));
        assert_same_adapter(&place, output, "whole");
    }
    // With another global batch it would be another run.
    let runs = ranks(&place, 3, &format!("{} {from}", run(2, "other")));
    assert!(runs[0].stderr.contains("effective_batch was 12, now 18"), "{}", runs[0].stderr);
}

#[test]
fn ranks_on_a_machine_without_data_and_checkpoints_get_those_of_rank_0() {
    let place = place();
    let run = run_of(2).replace("--val-size 5", "--eval-data held-out.json --save-steps 2");
    place.write("held-out.json", place.bytes("data.json"));
    train(&place, 2, &format!("{run} -o here"));
    // Nothing that rank 0 reads or writes can be read there but the model.
    let elsewhere = place.make("elsewhere");
    std::os::unix::fs::symlink(place.path("model"), elsewhere.join("model")).unwrap();
    let apart = |arguments: &str| {
        let port = master_port();
        let mut other = rank(&place, 1, 2, port, arguments);
        other.current_dir(&elsewhere).env("XDG_CACHE_HOME", elsewhere.join("cache"));
        let mut first = rank(&place, 0, 2, port, arguments);
        // Where the cache cannot be made, the tokens of rank 0 have no name.
        first.env("XDG_CACHE_HOME", place.path("data.json"));
        together([first, other]).iter().for_each(|run| run.assert_code(0));
    };
    apart(&format!("{run} -o there"));
    assert_eq!(place.adapter("there"), place.adapter("here"));
    apart(&format!("{run} -o resumed --resume-from-checkpoint there/checkpoint-2"));
    assert_eq!(place.adapter("resumed"), place.adapter("here"));
    let left: Vec<String> = place.names("elsewhere").into_iter().filter(|name| name != "cache").collect();
    assert_eq!(left, ["model"], "rank 0 alone writes");
}

/// Runs that fail: rank 0 says this, with a hint, and the others nothing; nothing is left.
fn assert_one_error(place: &Place, runs: &[Run], code: i32, error: &str) {
    for (index, run) in runs.iter().enumerate() {
        assert_eq!(run.code, Some(code), "rank {index}: {}", run.stderr);
        assert_eq!(run.stdout, "", "rank {index}");
    }
    let said = &runs[0].stderr;
    assert!(said.contains(error), "{error}: {said}");
    assert_eq!((said.matches("error:").count(), said.matches("hint:").count()), (1, 1), "{said}");
    assert!(runs[1..].iter().all(|run| run.stderr.is_empty()), "{runs:?}");
    assert!(!place.path("out").exists());
}

#[test]
fn ranks_that_differ_end_with_one_error_that_names_the_difference() {
    let place = place();
    tests::tiny_model::write(&place.path("other/model"), 8);
    place.write("other/data.json", place.bytes("data.json"));
    let run = format!("{} -o out", run_of(2));
    let port = master_port();
    let runs = together([
        rank(&place, 0, 2, port, &run),
        rank(&place, 1, 2, port, &run.replace("--max-steps 4", "--max-steps 5")),
    ]);
    assert_one_error(&place, &runs, 1, "ranks differ in max_steps: it is 4 on rank 0 and 5 on rank 1");
    let mut other = rank(&place, 1, 2, port, &run);
    other.current_dir(place.path("other"));
    let runs = together([rank(&place, 0, 2, port, &run), other]);
    assert_one_error(&place, &runs, 1, "ranks differ in the model: it is \"");
    let mut other = rank(&place, 1, 2, port, &run);
    other.env("WORLD_SIZE", "3");
    let runs = together([rank(&place, 0, 2, port, &run), other]);
    assert_one_error(&place, &runs, 1, "counts 3 ranks, and rank 0 counts 2");
}

#[test]
fn an_error_of_one_rank_or_of_all_is_said_once() {
    let place = place();
    let run = format!("{} -o out", run_of(2));
    let port = master_port();
    let mut other = rank(&place, 1, 2, port, &run);
    other.current_dir(place.make("empty"));
    let runs = together([rank(&place, 0, 2, port, &run), other]);
    assert_one_error(&place, &runs, 1, "rank 1 on ");
    assert!(runs[0].stderr.contains("model"), "{}", runs[0].stderr);
    let runs = ranks(&place, 3, &run.replace("--learning-rate 1e-2", "--learning-rate 0"));
    assert_one_error(&place, &runs, 2, "--learning-rate: a positive number expected");
    let runs = ranks(&place, 3, &run.replace("--data data.json", "--data none.json"));
    assert_one_error(&place, &runs, 1, "none.json");
    let runs =
        ranks(&place, 2, &run.replace("1e-2", "1e30 --max-grad-norm 0").replace("steps 4", "steps 40"));
    assert!(runs[0].stderr.contains("step ") && runs[0].stderr.contains("is NaN"), "{}", runs[0].stderr);
    assert_eq!((runs[0].code, runs[1].code, runs[1].stderr.as_str()), (Some(1), Some(1), ""));
}

#[test]
fn a_beginning_that_fails_says_who_is_missing() {
    let place = place();
    let run = format!("{} -o out", run_of(3));
    let soon = |mut command: Command| {
        command.env("QLORA_RENDEZVOUS_SECONDS", "1");
        command
    };
    let port = master_port();
    // Another program has the port.
    let listener = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let said = end(start(rank(&place, 0, 3, port, &run)));
    let expected = format!("port {}, at which rank 0 waits for the others, is in use", port + 1);
    assert_one_error(&place, &[said], 1, &expected);
    // It answers nothing to another rank, which gives up.
    let mut unanswered = soon(rank(&place, 1, 3, port, &run));
    unanswered.env("LOCAL_RANK", "0");
    let said = end(start(unanswered));
    assert_one_error(&place, &[said], 1, "rank 1 cannot reach rank 0 at 127.0.0.1:");
    drop(listener);
    let missing: Vec<Run> = together([0, 2].map(|index| soon(rank(&place, index, 3, port, &run))));
    assert_one_error(&place, &missing, 1, " of 3; here: 0 on ");
    let alone = end(start(soon(rank(&place, 1, 3, port, &run))));
    // One rank of each machine says that rank 0 is missing.
    assert_eq!((alone.code, alone.stderr.as_str()), (Some(1), ""));
    let mut first_of_its_machine = soon(rank(&place, 1, 3, port, &run));
    first_of_its_machine.env("LOCAL_RANK", "0");
    let alone = end(start(first_of_its_machine));
    assert_one_error(&place, &[alone], 1, "rank 1 cannot reach rank 0 at 127.0.0.1:");
}

#[test]
fn wrong_variables_are_wrong_usage() {
    let place = place();
    for (name, value, said) in [
        ("MASTER_ADDR", "", "WORLD_SIZE is set and MASTER_ADDR is not"),
        ("RANK", "2", "RANK: a number below 2 expected, found \"2\""),
        ("WORLD_SIZE", "two", "WORLD_SIZE: a number below 65537 expected, found \"two\""),
        ("MASTER_PORT", "99999", "MASTER_PORT"),
    ] {
        let mut command = rank(&place, 0, 2, 29500, &format!("{} -o out", run_of(2)));
        command.env(name, value);
        assert_one_error(&place, &[end(start(command))], 2, said);
    }
    let without_address = [0, 1].map(|index| {
        let mut command = rank(&place, index, 2, 29500, &format!("{} -o out", run_of(2)));
        command.env_remove("MASTER_ADDR");
        command
    });
    assert_one_error(&place, &together(without_address), 2, "WORLD_SIZE is set and MASTER_ADDR is not");
}

/// Starts a process, and returns what it says as well. A process that nobody listens to has to wait after a few
/// lines, so that it cannot come to its end before it is disturbed.
fn listen(mut command: Command) -> (Child, BufReader<UnixStream>) {
    let (reader, writer) = UnixStream::pair().unwrap();
    // The system takes the least size that it allows.
    SockRef::from(&writer).set_send_buffer_size(1).unwrap();
    command.stderr(OwnedFd::from(writer));
    (start(command), BufReader::with_capacity(1, reader))
}

/// Reads what a process says until a line has `text` in it.
fn wait_for(said: &mut impl BufRead, text: &str) {
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(said.read_line(&mut line).unwrap() > 0, "{text:?} was never said");
    }
}

fn signal(id: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// A run that takes long enough to be disturbed.
fn long(ranks: usize, output: &str) -> String {
    let run = run_of(ranks).replace("--max-steps 4", "--max-steps 60");
    format!("{} -o {output}", run.replace("--eval-steps 2", "--eval-steps 60"))
}

/// Starts the ranks of a run, and waits until rank 0 says `text`. Returns the ranks, and what rank 0 says from then
/// on.
fn started(ranks: impl IntoIterator<Item = Command>, text: &str) -> (Vec<Child>, BufReader<UnixStream>) {
    let mut ranks = ranks.into_iter();
    let (first, mut said) = listen(ranks.next().unwrap());
    let children = std::iter::once(first).chain(ranks.map(start)).collect();
    wait_for(&mut said, text);
    (children, said)
}

/// What a process says until its end.
fn rest(mut said: impl BufRead) -> String {
    let mut text = String::new();
    said.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_rank_that_is_lost_ends_the_run_and_what_was_saved_resumes() {
    let place = place();
    train(&place, 4, &long(4, "whole"));
    for lost in [3, 0] {
        let output = format!("without-{lost}");
        let run = format!("{} --save-steps 5", long(4, &output));
        let port = master_port();
        // Two machines of two ranks each.
        let ranks = (0..4).map(|index| {
            let mut command = rank(&place, index, 4, port, &run);
            command.env("LOCAL_RANK", (index % 2).to_string());
            command
        });
        let (children, said) = started(ranks, "step 20/60");
        signal(children[lost].id(), "KILL");
        let text = rest(said);
        let mut runs: Vec<Run> = children.into_iter().map(end).collect();
        runs[0].stderr = text;
        // Where rank 0 is lost, one rank of each machine says it.
        let speakers = if lost == 0 { &[1, 2][..] } else { &[0] };
        for (index, run) in runs.iter().enumerate().filter(|(index, _)| *index != lost) {
            assert_eq!(run.code, Some(1), "rank {index}: {}", run.stderr);
            let error = format!("error: rank {lost} on ");
            assert_eq!(run.stderr.contains(&error), speakers.contains(&index), "rank {index}: {runs:?}");
        }
        let said = &runs[speakers[0]].stderr;
        assert!(said.contains("was lost: its connection has ended") && said.contains("hint:"), "{said}");
        // Rank 0 saves the last step that all have taken.
        assert_eq!(said.contains(" is saved"), lost != 0, "{said}");
        train(&place, 4, &format!("{run} --resume"));
        assert_eq!(place.adapter(&output), place.adapter("whole"));
        assert_eq!(place.losses(&output), place.losses("whole"));
    }
}

#[test]
fn a_signal_to_one_rank_stops_all_at_the_same_step() {
    let place = place();
    train(&place, 2, &long(2, "whole"));
    let port = master_port();
    let ranks = (0..2).map(|index| rank(&place, index, 2, port, &long(2, "stopped")));
    let (children, said) = started(ranks, "step 10/60");
    signal(children[1].id(), "TERM");
    let text = rest(said);
    let runs: Vec<Run> = children.into_iter().map(end).collect();
    assert_eq!(runs.iter().map(|run| run.code).collect::<Vec<_>>(), [Some(130), Some(130)], "{text}");
    assert!(text.contains("error: interrupted; stopped/checkpoint-"), "{text}");
    assert_eq!(runs[1].stderr, "");
    train(&place, 2, &format!("{} --resume", long(2, "stopped")));
    assert_eq!(place.adapter("stopped"), place.adapter("whole"));
}

/// The tool as one command that starts its own processes.
fn launcher(place: &Place, processes: usize, arguments: &str) -> Command {
    let mut command = std::ops::Deref::deref(place).command(env!("CARGO_BIN_EXE_lora-train"));
    command.args(arguments.split_whitespace()).env("XDG_CACHE_HOME", place.path("cache"));
    command.env("NPROC_PER_NODE", processes.to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn one_command_starts_a_process_for_each_device() {
    let place = place();
    train(&place, 2, &format!("{} -o ranks", run_of(2)));
    let run = end(start(launcher(&place, 2, &format!("{} -o out", run_of(2)))));
    run.assert_code(0);
    assert_eq!(run.stdout, "out\n");
    assert_eq!(run.stderr.matches("Running training").count(), 1, "one log: {}", run.stderr);
    assert_eq!(place.adapter("out"), place.adapter("ranks"));
    let run = end(start(launcher(&place, 2, &format!("{} -o none --lora-target z_proj", run_of(2)))));
    run.assert_code(2);
    assert_eq!(run.stderr.matches("error:").count(), 1, "{}", run.stderr);
}

#[test]
fn a_path_that_comes_through_a_pipe_is_read_by_rank_0_for_all() {
    let place = place();
    train(&place, 2, &format!("{} -o named", run_of(2)));
    place.write("paths", "model\n");
    let paths = || std::fs::File::open(place.path("paths")).unwrap();
    let piped = |output: &str| format!("{} -o {output}", run_of(2)).replacen("model ", "", 1);
    let mut own = launcher(&place, 2, &piped("own"));
    own.stdin(paths());
    end(start(own)).assert_code(0);
    assert_eq!(place.adapter("own"), place.adapter("named"));
    // As under mpirun, where standard input belongs to rank 0.
    let port = master_port();
    let mut first = rank(&place, 0, 2, port, &piped("launched"));
    first.stdin(paths());
    let runs = together([first, rank(&place, 1, 2, port, &piped("launched"))]);
    runs.iter().for_each(|run| run.assert_code(0));
    assert_eq!(place.adapter("launched"), place.adapter("named"));
    let runs = ranks(&place, 2, &piped("out"));
    assert_one_error(&place, &runs, 1, "nothing arrived on standard input");
}

#[test]
fn one_command_on_each_of_two_machines_is_one_run() {
    let place = place();
    train(&place, 4, &format!("{} -o ranks", run_of(4)));
    let node = |node: usize, port: u16, arguments: &str| {
        let mut command = launcher(&place, 2, arguments);
        command.env("NNODES", "2").env("NODE_RANK", node.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command
    };
    let both = |arguments: &str| {
        let port = master_port();
        together([node(0, port, arguments), node(1, port, arguments)])
    };
    let runs = both(&format!("{} -o out", run_of(4)));
    runs.iter().for_each(|run| run.assert_code(0));
    assert_eq!(place.adapter("out"), place.adapter("ranks"));
    assert!(runs[0].stderr.contains("Number of devices = 4"), "{}", runs[0].stderr);
    assert_eq!((runs[0].stdout.as_str(), runs[1].stdout.as_str()), ("out\n", ""));
    let runs = both(&format!("{} -o none --lora-target z_proj", run_of(4)));
    assert_eq!([runs[0].code, runs[1].code], [Some(2), Some(2)]);
    let errors = |run: &Run| run.stderr.matches("error:").count();
    assert_eq!([errors(&runs[0]), errors(&runs[1])], [1, 0], "{runs:?}");
}

#[test]
fn one_command_passes_signals_on_and_ends_all_processes_with_itself() {
    let place = place();
    train(&place, 2, &long(2, "whole"));
    for name in ["TERM", "KILL"] {
        let output = format!("stopped-{name}");
        let run = format!("{} --save-steps 5", long(2, &output));
        let (mut child, mut said) = listen(launcher(&place, 2, &run));
        wait_for(&mut said, "step 10/60");
        signal(child.id(), name);
        // It ends when the last process has.
        let text = rest(said);
        let code = child.wait().unwrap().code();
        assert_eq!(code, if name == "TERM" { Some(130) } else { None }, "{text}");
        assert!(text.contains(&format!("error: interrupted; {output}/checkpoint-")), "{text}");
        assert_eq!(text.matches("error:").count(), 1, "{text}");
        end(start(launcher(&place, 2, &format!("{} --save-steps 5 --resume", long(2, &output)))))
            .assert_code(0);
        assert_eq!(place.adapter(&output), place.adapter("whole"));
    }
}

#[test]
fn a_base_in_memory_maps_is_not_divided() {
    let place = place();
    train(&place, 2, &format!("{} -o plain", run_of(2)));
    let said = train(&place, 2, &format!("{} --shard-base -o sharded", run_of(2)));
    assert!(said.contains("--shard-base changes nothing on the CPU"), "{said}");
    assert!(!said.contains("Sharded ="), "{said}");
    assert!(place.adapter("plain") == place.adapter("sharded"));

    let (code, alone) = place.fail(&format!("{} --shard-base -o alone", run_of(1)));
    assert_eq!(code, 2);
    assert!(alone.contains("--shard-base: this run has one process"), "{alone}");
    assert!(alone.contains("hint: without --shard-base, blocks that have no room"), "{alone}");
}
