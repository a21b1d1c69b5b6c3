//! `evaluate` by several ranks on the CPU: the numbers, the report and the answer of one.

#![allow(clippy::unwrap_used)] // a test file as a whole

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tests::dir::{Dir, Run};
use tests::ranks::{make_rank, master_port};

/// The options of an evaluation with many passes.
const ASK: &str = "model --data mmlu --style llamafactory --shots 1 --pass-tokens 300 --device cpu";
/// The options of a loss with many passes.
const LOSS: &str = "model --loss loss.json --pass-tokens 200 --device cpu";

/// A directory with a model, questions on three subjects, one of them with most, and data.
fn place() -> Dir {
    let place = Dir::new();
    tests::tiny_model::write(&place.path("model"), 7);
    let rows = |count: usize| -> String {
        let row = |i: usize| format!("what is {} {i},1,2,{i},4,{}\n", "so ".repeat(i % 9), ["A", "C"][i % 2]);
        (0..count).map(row).collect()
    };
    for (subject, count) in [("astronomy", 4), ("virology", 41), ("world_religions", 9)] {
        place.write(&format!("mmlu/dev/{subject}_dev.csv"), "one,1,2,3,4,A\n");
        place.write(&format!("mmlu/test/{subject}_test.csv"), rows(count));
    }
    let row = |i: usize| json!({"instruction": "word ".repeat(i * 5 % 17), "output": format!("{i} it is")});
    place.write("loss.json", (0..30).map(row).collect::<Value>().to_string());
    place
}

/// The tool alone, or as a rank of a launcher.
fn evaluate(place: &Dir, arguments: &str, rank: Option<(usize, usize, u16)>) -> Command {
    let mut command = place.command(env!("CARGO_BIN_EXE_evaluate"));
    command.args(arguments.split_whitespace()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some((rank, size, port)) = rank {
        make_rank(&mut command, rank, size, port);
    }
    command
}

/// Runs `size` ranks to their ends.
fn ranks(place: &Dir, size: usize, arguments: &str) -> Vec<Run> {
    let port = master_port();
    let start = |rank| evaluate(place, arguments, Some((rank, size, port))).spawn().unwrap();
    let children: Vec<Child> = (0..size).map(start).collect();
    children.into_iter().map(|child| Run::of_output(child.wait_with_output().unwrap())).collect()
}

/// What rank 0 of `size` prints; the others say nothing.
fn answer(place: &Dir, size: usize, arguments: &str) -> String {
    let runs = ranks(place, size, arguments);
    for run in &runs {
        run.assert_code(0);
    }
    for run in &runs[1..] {
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "rank 0 alone speaks");
    }
    runs[0].stdout.clone()
}

fn alone(place: &Dir, arguments: &str) -> String {
    let run = Run::of(&mut evaluate(place, arguments, None));
    run.assert_code(0);
    run.stdout
}

/// A report without the time it took.
fn report(place: &Dir, name: &str) -> Value {
    let mut report = place.json(name);
    report.as_object_mut().unwrap().remove("seconds");
    report
}

#[test]
fn any_number_of_ranks_makes_the_report_of_one() {
    let place = place();
    let table = alone(&place, &format!("{ASK} -o alone.json --details alone.jsonl"));
    for size in [2, 3, 5] {
        let name = format!("ranks-{size}");
        let found = answer(&place, size, &format!("{ASK} -o {name}.json --details {name}.jsonl"));
        assert_eq!(found, table);
        assert_eq!(report(&place, &format!("{name}.json")), report(&place, "alone.json"));
        assert_eq!(place.text(&format!("{name}.jsonl")), place.text("alone.jsonl"), "to the bit");
    }
    let again = ranks(&place, 2, &format!("{ASK} -o alone.json"));
    assert!(again[0].stderr.contains("alone.json is already made"), "{}", again[0].stderr);
    assert_eq!((again[0].stdout.as_str(), again[1].code), (table.as_str(), Some(0)));
    let left = place.names("").into_iter().filter(|name| name.contains("qlora-tools"));
    assert_eq!(left.count(), 0);
}

#[test]
fn any_number_of_ranks_finds_the_loss_of_one() {
    let place = place();
    let expected = alone(&place, &format!("{LOSS} -o alone.json --details alone.jsonl"));
    for size in [2, 4] {
        let name = format!("ranks-{size}");
        let found = answer(&place, size, &format!("{LOSS} -o {name}.json --details {name}.jsonl"));
        assert_eq!(found, expected);
        assert_eq!(place.json(&format!("{name}.json")), place.json("alone.json"));
        assert_eq!(place.text(&format!("{name}.jsonl")), place.text("alone.jsonl"));
        assert_eq!(answer(&place, size, LOSS), alone(&place, LOSS), "in longer passes");
    }
}

/// Three models on two ranks: one on each, then one on both. On three ranks, one on each; on four, all on all.
#[test]
fn several_models_are_spread_over_ranks_and_ranked() {
    let place = place();
    let names = ["model", "other", "third"];
    tests::tiny_model::write(&place.path("other"), 8);
    tests::tiny_model::write(&place.path("third"), 9);
    let reports = || names.map(|name| report(&place, &format!("reports/{name}-mmlu.json")));
    let ask = ASK.replacen("model ", "model other third ", 1);
    let table = alone(&place, &ask);
    let expected = reports();
    let losses = format!("{} -o losses.json", LOSS.replacen("model ", "model other third ", 1));
    let losses_alone = (alone(&place, &losses), place.json("losses.json"));
    for size in [2, 3, 4] {
        let runs = ranks(&place, size, &format!("{ask} --force -v"));
        runs.iter().for_each(|run| run.assert_code(0));
        assert_eq!(runs[0].stdout, table, "{size} ranks");
        assert_eq!(reports(), expected, "{size} ranks");
        let loaded = runs[0].stderr.lines().filter(|line| line.contains(": loaded ")).count();
        assert_eq!(loaded, [0, 3, 2, 1, 3][size], "models that rank 0 of {size} loads: {}", runs[0].stderr);
        let found = answer(&place, size, &format!("{losses} --force"));
        assert_eq!((found, place.json("losses.json")), losses_alone, "{size} ranks");
    }
    // What was made before is not made again: one model is left, for both ranks.
    std::fs::remove_file(place.path("reports/other-mmlu.json")).unwrap();
    std::fs::remove_file(place.path("reports/other-mmlu.png")).unwrap();
    let again = ranks(&place, 2, &ask);
    assert_eq!(again[0].stdout, table);
    assert!(again[0].stderr.contains("third-mmlu.json is already made"), "{}", again[0].stderr);
    assert_eq!(reports(), expected);
    // Models whose reports would have the same name are scored one after the other.
    let twice = format!("{} -o twice", ASK.replacen("model ", "model ./model ", 1));
    assert_eq!(answer(&place, 2, &format!("{twice}-by-ranks")), alone(&place, &twice));
}

#[test]
fn what_ranks_have_scored_is_continued_by_one_and_by_others() {
    let place = place();
    let details = |name: &str| place.text(name);
    alone(&place, &format!("{ASK} -o whole.json --details whole.jsonl"));
    // A name that is taken stops the run when all is scored: the journal stays.
    let port = master_port();
    let mut children: Vec<Child> = (0..2)
        .map(|rank| {
            let run = format!("{ASK} -o out.json --details out.jsonl");
            evaluate(&place, &run, Some((rank, 2, port))).spawn().unwrap()
        })
        .collect();
    // Killed as soon as a subject is in the journal, or when it has ended.
    let journal = |directory: &Path| {
        let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
        below.filter(|entry| entry.file_name().to_string_lossy().contains("qlora-tools")).any(|scratch| {
            let files = std::fs::read_dir(scratch.path()).into_iter().flatten().flatten();
            files
                .map(|file| std::fs::read_to_string(file.path()).unwrap_or_default())
                .any(|text| text.lines().count() > 1)
        })
    };
    while children[0].try_wait().unwrap().is_none() && !journal(&place.path("")) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    children[0].kill().unwrap();
    let runs: Vec<Run> =
        children.into_iter().map(|child| Run::of_output(child.wait_with_output().unwrap())).collect();
    let was_killed = runs[0].code.is_none();
    // Rank 1 may have done its part before.
    if was_killed && runs[1].code != Some(0) {
        assert_eq!(runs[1].code, Some(1));
        assert!(runs[1].stderr.contains("error: rank 0 on "), "{}", runs[1].stderr);
    }
    // It may have written its report before it was killed.
    let is_partial = was_killed && !place.path("out.json").exists();
    let said = ranks(&place, 3, &format!("{ASK} -o out.json --details out.jsonl"))[0].stderr.clone();
    assert!(!is_partial || said.contains("of 3 subjects are scored already"), "{said}");
    assert_eq!(details("out.jsonl"), details("whole.jsonl"));
}

#[test]
fn other_questions_on_another_machine_are_named() {
    let place = place();
    place.write("there/mmlu/dev/virology_dev.csv", "one,1,2,3,4,A\n");
    place.write("there/mmlu/test/virology_test.csv", "two,1,2,3,4,A\n");
    std::os::unix::fs::symlink(place.path("model"), place.path("there/model")).unwrap();
    let port = master_port();
    let first = evaluate(&place, ASK, Some((0, 2, port))).spawn().unwrap();
    let mut other = evaluate(&place, ASK, Some((1, 2, port)));
    let other = other.current_dir(place.path("there")).spawn().unwrap();
    let runs = [first, other].map(|child| Run::of_output(child.wait_with_output().unwrap()));
    runs[0].assert_code(1);
    assert!(runs[0].stderr.contains("ranks differ in prompt_sha256: it is \""), "{}", runs[0].stderr);
    assert_eq!((runs[1].code, runs[1].stderr.as_str()), (Some(1), ""));
}

#[test]
fn one_command_starts_a_process_for_each_device() {
    let place = place();
    let table = alone(&place, &format!("{ASK} -o alone.json"));
    let mut command = evaluate(&place, &format!("{ASK} -o out.json"), None);
    let run = Run::of(command.env("NPROC_PER_NODE", "2"));
    run.assert_code(0);
    assert_eq!(run.stdout, table);
    assert_eq!(report(&place, "out.json"), report(&place, "alone.json"));
}
