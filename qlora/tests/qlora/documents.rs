//! Man pages and completions.

use tests::dir::{Dir, Run};

use crate::{TOOLS, qlora, run};

#[test]
fn pages_and_completions_of_every_command() {
    let folder = Dir::new();
    assert_eq!(run(&folder, qlora(), &["documents", "-o", "share"]).stdout, "share\n");
    for program in TOOLS.iter().map(|(program, _)| *program).chain(["qlora"]) {
        let page = folder.text(&format!("share/man/man1/{program}.1"));
        let name = program.replace('-', "\\-");
        assert!(page.contains(&format!("\n.SH NAME\n{name} \\- ")), "{page}");
        assert!(page.contains("\n.SH EXAMPLES\n.nf\n\\&  ") && page.contains("\\fB\\-\\-help\\fR"), "{page}");
        for script in [
            format!("bash-completion/completions/{program}"),
            format!("zsh/site-functions/_{program}"),
            format!("fish/vendor_completions.d/{program}.fish"),
        ] {
            let script = folder.text(&format!("share/{script}"));
            assert!(script.contains(program) && script.contains("version"), "{script}");
        }
    }
    let commands = folder.text("share/man/man1/qlora.1");
    assert!(commands.contains("qlora\\-train(1)") && !commands.contains("help(1)"), "{commands}");
    // `man qlora train` opens the page of this name.
    assert!(folder.text("share/man/man1/qlora-train.1").starts_with(".so man1/lora-train.1\n"));
}

#[test]
fn bash_completes_options() {
    let folder = Dir::new();
    run(&folder, qlora(), &["documents", "-o", "share"]);
    let complete = |program: &str, words: &str| {
        let script = format!(
            "source share/bash-completion/completions/{program}
            function=$(complete -p {program}); function=${{function##*-F }}; function=${{function% *}}
            COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
            $function {program} \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"
            echo \"${{COMPREPLY[@]}}\""
        );
        run(&folder, "bash", &["-c", &script]).stdout
    };
    assert_eq!(complete("qlora", "qlora qua"), "quantize\n");
    assert_eq!(complete("qlora", "qlora train --lora-rank"), "--lora-rank\n");
    assert_eq!(complete("quantize", "quantize --quant-type ''"), "nf4 fp4\n");
    assert_eq!(complete("lora-train", "lora-train --lora-rank"), "--lora-rank\n");
}

#[test]
fn a_file_of_another_program_is_kept() {
    let folder = Dir::new();
    folder.write("share/man/man1/merge.1", "of RCS");
    let documents = |options: &[&str]| {
        Run::of(folder.command(env!("CARGO_BIN_EXE_qlora")).args(["documents", "-o", "share"]).args(options))
    };
    let refused = documents(&[]);
    refused.assert_code(1);
    assert!(
        refused.stderr.contains("share/man/man1/merge.1 is of another program\nhint: "),
        "{}",
        refused.stderr
    );
    assert_eq!(folder.files_below(""), ["share/man/man1/merge.1"], "nothing is written");
    documents(&["--force"]).assert_code(0);
    folder.write("share/man/man1/fetch.1", ".\\\" made by qlora-tools 0.0.9");
    documents(&[]).assert_code(0);
    assert!(
        folder.text("share/man/man1/fetch.1").contains("made by qlora-tools 0.1.0"),
        "an older page is replaced"
    );

    let nowhere = Run::of(folder.command(env!("CARGO_BIN_EXE_qlora")).arg("documents"));
    nowhere.assert_code(2);
    assert!(nowhere.stderr.ends_with("hint: -o ~/.local/share\n"), "{}", nowhere.stderr);
}
