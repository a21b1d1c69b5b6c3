//! `make install` and `make uninstall`.

use tests::dir::{Dir, Run};

use crate::{TOOLS, install, make, run};

#[test]
fn what_is_installed_runs_and_is_removed_again() {
    let folder = Dir::new();
    let bin = install(&folder);
    for (program, command) in TOOLS {
        let help = run(&folder, bin.join(program), &["--help"]).stdout;
        assert!(help.contains(&format!("Usage: qlora {command} ")), "{help}");
        assert_eq!(help, run(&folder, bin.join("qlora"), &[command, "--help"]).stdout);
    }
    // As pipx does: a link to a program, in a directory without the others.
    std::os::unix::fs::symlink(bin.join("fetch"), folder.path("fetch")).unwrap();
    assert_eq!(run(&folder, folder.path("fetch"), &["--version"]).stdout, "fetch 0.1.0\n");
    assert!(folder.names("stage/opt/qlora/share/man/man1").contains(&"lora-train.1".into()));

    // What others have put beside it stays.
    folder.write("stage/opt/qlora/share/man/man1/other.1", "of another program");
    folder.write("stage/opt/qlora/bin/other", "of another program");
    install(&folder);
    Run::of(&mut make(&folder, "uninstall")).assert_code(0);
    assert_eq!(folder.files_below("stage"), ["opt/qlora/bin/other", "opt/qlora/share/man/man1/other.1"]);
}

#[test]
fn a_program_of_the_same_name_is_kept() {
    let folder = Dir::new();
    folder.write("stage/opt/qlora/bin/merge", "of RCS");
    let refused = Run::of(&mut make(&folder, "install"));
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("bin/merge is of another program; choose another PREFIX"),
        "{}",
        refused.stderr
    );
    Run::of(&mut make(&folder, "uninstall")).assert_code(0);
    assert_eq!(folder.files_below("stage"), ["opt/qlora/bin/merge"]);
}
