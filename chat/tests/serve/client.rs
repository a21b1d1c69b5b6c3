//! A server as a user starts it, and a client that sends bytes as they are.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A tiny model, an adapter of it, and a server of both.
pub(crate) struct Server {
    directory: TempDir,
    process: Child,
    address: SocketAddr,
}

/// What a server has answered.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("JSON expected: {self:?}"))
    }

    /// The message of an error.
    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"]
            .as_str()
            .unwrap_or_else(|| panic!("an error expected: {self:?}"))
            .to_owned()
    }

    /// The events of a stream but its last, which says that it is done.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> =
            self.body.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{self:?}");
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// The text of the first choice.
    pub(crate) fn text(&self) -> String {
        let choice = &self.json()["choices"][0];
        let text = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
        text.unwrap_or_else(|| panic!("an answer expected: {self:?}")).to_owned()
    }
}

/// Writes the model and its adapter.
pub(crate) fn models() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    tests::tiny_model::write(&path("model"), 7);
    tests::tiny_model::write_adapter(&path("model"), &path("adapter"), 1);
    directory
}

/// `chat` with these arguments, in the directory of the models.
pub(crate) fn chat(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("chat"));
    command.current_dir(directory).args(arguments).env_remove("QLORA_API_KEY");
    command
}

impl Server {
    /// Starts a server of the model, and of the adapter as `tuned`, and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_as(&[&["model", "--adapter", "tuned=adapter"], arguments].concat(), &[])
    }

    /// Starts a server of a model whose answers never end by themselves.
    pub(crate) fn start_endless(arguments: &[&str]) -> Self {
        let directory = models();
        let path = directory.path().join("model");
        let mut config: Value =
            serde_json::from_slice(&fs_err::read(path.join("config.json")).unwrap()).unwrap();
        config.as_object_mut().unwrap().remove("eos_token_id");
        let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
        for (name, value) in [
            ("config.json", config),
            ("generation_config.json", json!({})),
            ("tokenizer_config.json", json!({"chat_template": template})),
        ] {
            fs_err::write(path.join(name), value.to_string()).unwrap();
        }
        Self::start_in(directory, &[&["model"], arguments].concat(), &[])
    }

    /// Starts a server with exactly these arguments and variables.
    pub(crate) fn start_as(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_in(models(), arguments, variables)
    }

    fn start_in(directory: TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let arguments = [arguments, &["--serve", "127.0.0.1:0"]].concat();
        let mut command = chat(directory.path(), &arguments);
        command.envs(variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let mut said = String::new();
            process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("an address expected, found {line:?}: {said}");
        };
        Self { directory, process, address }
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.directory.path().to_path_buf()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a request and reads the response to its end.
    pub(crate) fn send(&self, request: &[u8]) -> Response {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        read(stream)
    }

    pub(crate) fn get(&self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Response {
        self.send(post(path, &body.to_string()).as_bytes())
    }

    /// The answer of the base to a message, with more fields of the request.
    pub(crate) fn ask(&self, message: &str, more: Value) -> Response {
        self.post("/v1/chat/completions", &question(message, more))
    }

    /// A number of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body;
        let value = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Sends a signal, waits for the end, and returns what was said on the way.
    pub(crate) fn end(mut self, signal: &str) -> (ExitStatus, String) {
        let sent = Command::new("kill").args([signal, &self.process.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap(), said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks again and again until something is so; fails where it does not come.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    assert!((0..100_000).any(|_| is_so()), "{what}");
}

/// The fields of a conversation of one message.
pub(crate) fn question(message: &str, more: Value) -> Value {
    let mut fields = json!({"messages": [{"role": "user", "content": message}], "max_tokens": 12});
    for (name, value) in more.as_object().unwrap() {
        fields[name] = value.clone();
    }
    fields
}

/// A request with a body of JSON.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads a response to its end.
pub(crate) fn read(mut stream: impl Read) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("a response expected: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let is_chunked = head.contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunked(body) } else { body.to_owned() };
    Response { status, head: head.to_owned(), body }
}

/// A body without the sizes of its chunks.
fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        whole.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    whole
}
