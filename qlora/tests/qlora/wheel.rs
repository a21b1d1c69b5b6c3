//! The wheel, in a fresh environment of Python.
//!
//! It is packed from the program of this test, so its tag names the glibc of the machine that built it;
//! `make wheel` packs one that was linked for an older glibc, by the same script with the same checks.

use std::path::PathBuf;
use std::process::Command;

use tests::dir::{Dir, Run};
use tests::needs;

use crate::{TOOLS, checkout, qlora, run};

fn pack(folder: &Dir, options: &[&str]) -> Run {
    let mut command = folder.command("python3");
    Run::of(command.arg(checkout("scripts/wheel.py")).arg(qlora()).args(["-o", "dist"]).args(options))
}

/// A program of Python that compares the record of a wheel with its files.
const CHECK_RECORD: &str = "
import base64, csv, hashlib, io, sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
[name] = [name for name in wheel.namelist() if name.endswith('.dist-info/RECORD')]
record = {row[0]: row[1] for row in csv.reader(io.StringIO(wheel.read(name).decode()))}
assert record.pop(name) == '' and sorted([*record, name]) == sorted(wheel.namelist())
for name, recorded in record.items():
    digest = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(name)).digest()).decode().rstrip('=')
    assert recorded == 'sha256=' + digest, name
";

/// The newest version of glibc among a program's symbols, as `objdump -T` lists them.
fn newest_glibc(program: &PathBuf) -> (u32, u32) {
    let symbols = Run::of(Command::new("objdump").arg("-T").arg(program));
    symbols.assert_code(0);
    let versions = symbols.stdout.split("GLIBC_").skip(1).filter_map(|rest| {
        let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let mut numbers = version.split('.').map(|number| number.parse().expect("a number"));
        Some((numbers.next()?, numbers.next()?))
    });
    versions.max().expect("symbols of glibc")
}

#[test]
fn a_fresh_environment_has_all_tools() {
    let Some(pip) = needs::pip() else { return };
    let folder = Dir::new();
    let packed = pack(&folder, &[]);
    packed.assert_code(0);
    let wheel = packed.stdout.trim_end();
    run(&folder, "python3", &["-c", CHECK_RECORD, wheel]);
    run(&folder, "python3", &["-m", "venv", "--without-pip", "environment"]);
    let bin = folder.path("environment/bin");
    let pip = |arguments: &[&str]| {
        run(&folder, bin.join("python"), &[&[pip.to_str().expect("a plain path")], arguments].concat())
    };
    pip(&["install", "--no-index", "--quiet", "--ignore-installed", wheel]);

    for (program, command) in TOOLS {
        let help = run(&folder, bin.join(program), &["--help"]).stdout;
        assert!(help.contains(&format!("\n       {program} [OPTIONS] ")), "{help}");
        run(&folder, bin.join("qlora"), &[command, "--help"]);
    }
    assert!(folder.names("environment/share/man/man1").contains(&"lora-train.1".into()));
    // The demo's first step.
    tests::tiny_model::write(&folder.path("model"), 7);
    assert_eq!(run(&folder, bin.join("quantize"), &["model", "-o", "nf4"]).stdout, "nf4\n");
    assert!(folder.json("nf4/config.json")["quantization_config"]["load_in_4bit"].as_bool().unwrap());

    let (major, minor) = newest_glibc(&bin.join("qlora"));
    let tag = format!("-py3-none-manylinux_{major}_{minor}_x86_64.whl");
    assert!(wheel.ends_with(&tag), "{wheel}, but the newest symbol is of {major}.{minor}");

    pip(&["uninstall", "--yes", "--quiet", "qlora-tools"]);
    assert_eq!(folder.names("environment/share/man/man1"), [""; 0], "nothing is left");
}

#[test]
fn a_program_that_needs_a_newer_glibc_is_refused() {
    let Some(_) = needs::pip() else { return };
    let folder = Dir::new();
    let refused = pack(&folder, &["--glibc", "2.3"]);
    refused.assert_code(1);
    assert!(refused.stderr.contains(" needs glibc 2.") && refused.stderr.contains(", more than 2.3\n"));
    assert_eq!(folder.files_below(""), [""; 0]);
}
