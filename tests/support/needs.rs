//! What some tests need and not every machine has: a real model, NVIDIA's compiler, data of others.
//!
//! A test begins with `let Some(model) = needs::model() else { return };`. Where the thing is missing the
//! test is skipped, and says so on standard error, past the capture of cargo, and in the file that
//! `QLORA_TEST_SKIPPED` names, from which `make test` prints a summary. A thing that `QLORA_TEST_REQUIRE`
//! names (a list with commas, as in `.ci/run`) must be there: without it the test fails.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::device::cuda::Gpu;

/// The names that `QLORA_TEST_REQUIRE` may have.
const NAMES: [&str; 7] = ["model", "nvrtc", "templates", "shared", "fetch", "pip", "gpus"];

/// The directory of SmolLM2-135M-Instruct, which `make test` downloads.
pub fn model() -> Option<PathBuf> {
    let directory = place("QLORA_TEST_MODEL", "demo/model/SmolLM2-135M-Instruct");
    let files = ["model.safetensors.index.json", "model.safetensors"].map(|name| directory.join(name));
    let found = files.iter().find(|file| file.exists()).unwrap_or(&files[1]);
    existing("model", found, "`make model` brings it").map(|_| directory)
}

/// A file or directory of the data sets and tokenizers that lie in `shared` beside the checkout.
pub fn shared(name: &str) -> Option<PathBuf> {
    existing("shared", &place("QLORA_TEST_SHARED", "../shared").join(name), "it lies beside the checkout")
}

/// The file of a public chat template, which `make test` downloads.
pub fn template(name: &str) -> Option<PathBuf> {
    let path = place("QLORA_TEST_TEMPLATES", "target/templates").join(format!("{name}.jinja"));
    existing("templates", &path, "`make test` brings it")
}

/// The binary of `fetch`, beside the tool that is tested.
pub fn fetch() -> Option<PathBuf> {
    let test = std::env::current_exe().expect("the path of this test");
    let built = test.ancestors().nth(2).expect("a folder of binaries").join("fetch");
    existing("fetch", &built, "`cargo test --workspace` or `cargo build -p fetch` builds it")
}

/// The directory of pip, which the Python of an environment runs as a program: `python DIRECTORY install …`. So an
/// environment needs no pip of its own, which some systems cannot bring.
pub fn pip() -> Option<PathBuf> {
    let found = Command::new("python3").args(["-c", "import venv, pip; print(pip.__path__[0])"]).output();
    let found = found.ok().filter(|found| found.status.success());
    let path = found.and_then(|found| String::from_utf8(found.stdout).ok());
    if path.is_none() {
        skip("pip", "python3 has no venv or no pip; Debian's package python3-pip brings both");
    }
    path.map(|path| PathBuf::from(path.trim_end()))
}

/// At least `count` GPUs in this machine.
pub fn gpus(count: usize) -> Option<()> {
    match Gpu::count() {
        found if found >= count => Some(()),
        found => {
            skip("gpus", &format!("there are {found} GPUs, and it needs {count}"));
            None
        }
    }
}

/// NVIDIA's run-time compiler, from what was found when it was looked for.
pub fn nvrtc<T, E: Display>(found: Result<T, E>) -> Option<T> {
    found.map_err(|error| skip("nvrtc", &format!("{error}; `make test` brings it"))).ok()
}

/// The path that an environment variable names, or one below the root of the checkout.
fn place(variable: &str, otherwise: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    std::env::var_os(variable).map_or_else(|| root.join(otherwise), PathBuf::from)
}

fn existing(what: &str, path: &Path, how: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path.to_owned());
    }
    skip(what, &format!("there is no {}; {how}", path.display()));
    None
}

/// Says that the running test is skipped, or fails it where what it needs is required.
fn skip(what: &str, why: &str) {
    let required = std::env::var("QLORA_TEST_REQUIRE").unwrap_or_default();
    assert!(!is_required(&required, what), "QLORA_TEST_REQUIRE names {what}, but {why}");
    // The test's thread has its name.
    let thread = std::thread::current();
    let line = format!("skipped {} ({what}): {why}\n", thread.name().unwrap_or("a test"));
    // The macros that print are captured in a test that passes; a write to the stream is not.
    std::io::stderr().write_all(line.as_bytes()).expect("standard error");
    if let Some(file) = std::env::var_os("QLORA_TEST_SKIPPED") {
        let mut file =
            OpenOptions::new().create(true).append(true).open(file).expect("a file of skipped tests");
        file.write_all(line.as_bytes()).expect("a line of skipped tests");
    }
}

fn is_required(required: &str, what: &str) -> bool {
    let mut required = required.split(',').filter(|name| !name.is_empty());
    required.any(|name| {
        assert!(NAMES.contains(&name), "QLORA_TEST_REQUIRE: expected names of {NAMES:?}, found {name:?}");
        name == what
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_required_is_known_by_its_name() {
        assert!(is_required("model,nvrtc", "nvrtc") && is_required("model", "model"));
        assert!(!is_required("model,nvrtc", "fetch") && !is_required("", "model"));
    }

    #[test]
    #[should_panic(expected = "found \"modle\"")]
    fn a_misspelt_requirement_is_no_silence() {
        is_required("modle", "model");
    }
}
