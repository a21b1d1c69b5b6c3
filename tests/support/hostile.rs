//! What a tool does with files that are not what they should be: it says so and ends, at once, with
//! little memory, and without a panic.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, mkfifoat};

/// How long a tool may take to refuse something: generous, for a busy machine.
const MOST: Duration = Duration::from_secs(60);

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub stderr: String,
}

/// Runs a command without input to its end.
///
/// # Panics
///
/// Where it does not end, or panics.
pub fn run(command: &mut Command) -> Ended {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    end(command.spawn().expect("a process"))
}

/// Waits for the end of a process whose stderr is piped.
///
/// # Panics
///
/// Where it does not end, or panics.
pub fn end(mut child: Child) -> Ended {
    let mut said = child.stderr.take().expect("a piped stderr");
    let said = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        said.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let code = wait(&mut child);
    let stderr = said.join().expect("a thread").expect("what it said");
    assert!(!stderr.contains("panicked"), "{stderr}");
    Ended { code, stderr }
}

/// Waits for the end of a process and returns its exit code, or none where a signal ended it.
///
/// # Panics
///
/// Where it does not end.
pub fn wait(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a process") {
            return status.code();
        }
        if begun.elapsed() > MOST {
            child.kill().expect("a process to kill");
            panic!("{child:?} does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a command that has to refuse something: one error that names it, with a hint.
///
/// # Panics
///
/// Where it does anything else.
pub fn refuses(command: &mut Command, named: &str) {
    let Ended { code, stderr } = run(command);
    let error = stderr.lines().find(|line| line.contains("error: ")).unwrap_or_default();
    assert!(matches!(code, Some(1 | 2)), "{named}: exit code {code:?}, {stderr}");
    assert!(error.contains(named), "{named} is not named: {stderr}");
    assert!(stderr.lines().any(|line| line.starts_with("hint: ")), "{named}: no hint in {stderr}");
}

/// Puts a FIFO, a device, an endless file and a directory in the place of `file`, one after the other,
/// and calls `check` with each there.
///
/// # Panics
///
/// Where they cannot be made.
pub fn with_impostors(file: &Path, mut check: impl FnMut(&str)) {
    let original = file.with_file_name("the-original");
    std::fs::rename(file, &original).expect("a file");
    mkfifoat(CWD, file, Mode::RUSR | Mode::WUSR).expect("a FIFO");
    check("a FIFO");
    std::fs::remove_file(file).expect("a FIFO");
    symlink("/dev/zero", file).expect("a link");
    check("a device");
    std::fs::remove_file(file).expect("a link");
    File::create(file).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    check("an endless file");
    std::fs::remove_file(file).expect("a file");
    std::fs::create_dir(file).expect("a directory");
    check("a directory");
    std::fs::remove_dir(file).expect("a directory");
    std::fs::rename(&original, file).expect("the original");
}

/// Changes a key of a JSON file, calls `check`, and puts the file back.
///
/// # Panics
///
/// Where the file is no JSON object.
pub fn with_key(file: &Path, key: &str, value: &serde_json::Value, check: impl FnOnce()) {
    let original = std::fs::read(file).expect("a file");
    let mut json: serde_json::Value = serde_json::from_slice(&original).expect("JSON");
    json[key] = value.clone();
    std::fs::write(file, json.to_string()).expect("a file");
    check();
    std::fs::write(file, original).expect("a file");
}

/// Values of config.json's keys that no model has, each with its key.
pub fn senseless_configs() -> Vec<(&'static str, serde_json::Value)> {
    use serde_json::json;
    vec![
        ("head_dim", json!(2_147_483_646)),
        ("num_hidden_layers", json!(1_000_000_000_000_u64)),
        ("vocab_size", json!(1_u64 << 40)),
        ("num_attention_heads", json!("four")),
        ("tie_word_embeddings", json!("yes")),
        ("rms_norm_eps", json!("1e-5")),
        ("rope_theta", json!(0)),
        ("rope_scaling", json!(["linear"])),
        ("quantization_config", json!(4)),
        ("model_type", json!(["llama"])),
    ]
}

/// Waits until a process has mapped a file.
///
/// # Panics
///
/// Where it ends before.
pub fn wait_until_mapped(child: &mut Child, file: &Path) {
    let file = file.canonicalize().expect("a file");
    let maps = format!("/proc/{}/maps", child.id());
    while !std::fs::read_to_string(&maps).unwrap_or_default().contains(file.to_str().expect("a plain name")) {
        assert!(child.try_wait().expect("a process").is_none(), "it ended before it mapped the file");
    }
}

/// Cuts a file to its first half while a process that reads it is stopped.
///
/// # Panics
///
/// Where that cannot be done.
pub fn cut(child: &Child, file: &Path) {
    while_stopped(child, || {
        let file = File::options().write(true).open(file).expect("a file");
        let half = file.metadata().expect("a file").len() / 2;
        file.set_len(half).expect("a shorter file");
    });
}

/// Does something while a process stands still.
///
/// # Panics
///
/// Where the process cannot be signalled.
pub fn while_stopped(child: &Child, work: impl FnOnce()) {
    signal(child, "STOP");
    work();
    signal(child, "CONT");
}

/// Sends a signal by its name.
///
/// # Panics
///
/// Where the process cannot be signalled.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(sent.expect("kill").success());
}

/// Runs a command with a stderr that is closed, full or read by nobody, and returns how each run ended,
/// and what it put on stdout.
///
/// # Panics
///
/// Where it cannot be run.
pub fn without_stderr(command: impl Fn() -> Command) -> Vec<(&'static str, Option<i32>, String)> {
    let run = |command: &mut Command| {
        let run = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a process");
        let run = run.wait_with_output().expect("an end");
        (run.status.code(), String::from_utf8_lossy(&run.stdout).into_owned())
    };
    let full = File::options().write(true).open("/dev/full").expect("a full device");
    let (reader, unread) = std::io::pipe().expect("a pipe");
    drop(reader);
    // A shell closes it.
    let plain = command();
    let mut closed = Command::new("sh");
    closed.args(["-c", "exec \"$0\" \"$@\" 2>&-"]).arg(plain.get_program()).args(plain.get_args());
    closed.current_dir(plain.get_current_dir().unwrap_or(Path::new(".")));
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => closed.env(name, value),
            None => closed.env_remove(name),
        };
    }
    [
        ("full", run(command().stderr(full))),
        ("unread", run(command().stderr(unread))),
        ("closed", run(&mut closed)),
    ]
    .map(|(what, (code, stdout))| (what, code, stdout))
    .into()
}
