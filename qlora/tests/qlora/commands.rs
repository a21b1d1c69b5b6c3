//! Every tool is a command, and help shows both spellings.

use tests::dir::{Dir, Run};

use crate::{TOOLS, qlora, run};

#[test]
fn help_of_every_tool_shows_both_spellings() {
    let folder = Dir::new();
    for (program, command) in TOOLS {
        for help in [[command, "--help"], [program, "--help"], ["help", command]] {
            let text = run(&folder, qlora(), &help).stdout;
            let both = format!("Usage: qlora {command} [OPTIONS] ");
            assert!(
                text.contains(&both) && text.contains(&format!("\n       {program} [OPTIONS] ")),
                "{text}"
            );
        }
        assert_eq!(run(&folder, qlora(), &[command, "--version"]).stdout, format!("{program} 0.1.0\n"));
    }
}

#[test]
fn help_lists_the_tools() {
    let folder = Dir::new();
    let text = run(&folder, qlora(), &["--help"]).stdout;
    for (_, command) in TOOLS {
        assert!(text.contains(&format!("\n  {command} ")), "{command}: {text}");
    }
    assert_eq!(run(&folder, qlora(), &["--version"]).stdout, "qlora 0.1.0\n");
}

#[test]
fn a_command_that_is_none_is_wrong_usage() {
    let folder = Dir::new();
    let said = |arguments: &[&str]| {
        let run = Run::of(folder.command(env!("CARGO_BIN_EXE_qlora")).args(arguments));
        run.assert_code(2);
        assert_eq!(run.stdout, "");
        run.stderr
    };
    let misspelt = said(&["fetsh"]);
    assert!(misspelt.contains("a similar subcommand exists: 'fetch'"), "{misspelt}");
    assert!(misspelt.ends_with("hint: qlora --help lists the options and shows examples\n"), "{misspelt}");
    assert!(said(&[]).contains("Usage: qlora <COMMAND>"));
    assert!(said(&["quantize", "--no-such-option"]).contains("Usage: qlora quantize [OPTIONS] [MODEL]..."));
}

#[test]
fn a_tool_that_needs_fetch_finds_it_in_the_same_program() {
    let folder = Dir::new();
    tests::tiny_model::write(&folder.path("model"), 7);
    let row = r#"{"instruction": "Who are you?", "output": "Pipa."}"#;
    let hub = tests::hub::Hub::start(vec![tests::hub::HubFile::with(
        "train.jsonl",
        format!("{row}\n{row}\n").into_bytes(),
        false,
    )]);
    folder.write("dataset_info.json", r#"{"rows": {"hf_hub_url": "owner/rows"}}"#);
    let train = ["train", "model", "--dataset", "rows", "--dataset-dir", ".", "-o", "out", "--dry-run"];
    let mut command = folder.command(env!("CARGO_BIN_EXE_qlora"));
    // No other program of the tools can be found.
    command.args(train).env("PATH", folder.path("nothing")).env("XDG_CACHE_HOME", folder.path("cache"));
    let run = Run::of(command.env("HF_ENDPOINT", hub.url()));
    run.assert_code(0);
    assert!(run.stderr.contains("owner/rows is used as of commit"), "{}", run.stderr);
}
