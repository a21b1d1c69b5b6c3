//! A hub on a loopback port, which answers well or, on request, badly.
//!
//! It serves one repository through the hub's HTTP API: revision, paged tree, paths, `resolve` with ranges
//! and, for large files, a redirect to a second port that plays the content network. A [`Fault`] is
//! chosen for every request by a function of the test's own.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use common::hex;
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that every revision of the served repository names.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A file of the repository.
#[derive(Clone)]
pub struct HubFile {
    /// Name inside the repository.
    pub path: String,
    /// Its bytes.
    pub content: Arc<Vec<u8>>,
    /// Whether it is in large-file storage, and known by its sha256.
    pub is_large: bool,
    hash: Arc<OnceLock<String>>,
}

impl HubFile {
    /// A file with `length` bytes that look random and depend on `seed` only.
    pub fn new(path: &str, length: usize, seed: u64) -> Self {
        Self::with(path, noise(length, seed), length > 100_000)
    }

    /// A file with this content.
    pub fn with(path: &str, content: Vec<u8>, is_large: bool) -> Self {
        Self { path: path.into(), content: Arc::new(content), is_large, hash: Arc::default() }
    }

    /// The sha256 of a large file, the git object name of any other.
    fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            if self.is_large {
                return hex(Sha256::digest(self.content.as_slice()));
            }
            let blob = Sha1::new_with_prefix(format!("blob {}\0", self.content.len()));
            hex(blob.chain_update(self.content.as_slice()).finalize())
        })
    }
}

/// How the server behaves apart from faults.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// A revision comes with the names of its files only, although more is asked for.
    pub has_names_only: bool,
    /// Entries on a page of the tree; 0 for all of them.
    pub page: usize,
    /// The tree is not there.
    pub has_no_tree: bool,
    /// Nothing is said of large-file storage, and object names are those of pointers.
    pub hides_large_files: bool,
    /// Large files are redirected to the second port.
    pub redirects: bool,
    /// What the tree answers, instead of the truth; a revision that tells more than names tells the same.
    pub tree: Option<Value>,
    /// Bytes a second on each connection.
    pub bytes_per_second: Option<usize>,
    /// Time before each answer.
    pub latency: Duration,
    /// The `Authorization` without which nothing is answered.
    pub authorization: Option<String>,
    /// The `Authorization` that is refused wherever it is sent, as one that has expired.
    pub expired: Option<String>,
}

/// What goes wrong with one answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// Nothing.
    None,
    /// This status, with these headers and no body to speak of.
    Status(u16, Vec<(String, String)>),
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// The connection is closed after so many bytes of the body.
    Truncate(usize),
    /// Nothing comes after so many bytes of the body, for so long.
    Stall(usize, Duration),
    /// The body comes with so many bytes a second.
    Slow(usize),
    /// The byte at this place of the answer is changed.
    WrongByte(usize),
    /// `Content-Range` names bytes that were not asked for.
    WrongContentRange,
    /// The whole file is sent, whatever was asked for.
    IgnoreRange,
    /// `Content-Length` is this much longer than the truth.
    LyingLength(usize),
    /// No length is announced and the body does not end.
    Endless,
    /// No length is announced: the whole file comes, and the connection is closed behind it.
    NoLength,
    /// No length is announced: the whole file comes in HTTP's chunked encoding, or only so many
    /// bytes of it.
    Chunked(Option<usize>),
    /// The body claims to be gzip.
    Gzip,
    /// A redirect to this address.
    Redirect(String),
    /// A page for people, with status 200.
    Page,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// GET or HEAD.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The body of a form.
    pub form: String,
    /// It came to the second port.
    pub at_second_port: bool,
    /// Which of the connections made so far it came over.
    pub connection: usize,
    /// How many requests for file contents came before it.
    pub number: usize,
}

type Chooser = Box<dyn Fn(&Seen) -> Fault + Send + Sync>;

struct Shared {
    /// The commit, and the files of it.
    published: Mutex<(String, Vec<HubFile>)>,
    behaviour: Behaviour,
    chooser: Mutex<Option<Arc<Chooser>>>,
    api_chooser: Mutex<Option<Arc<Chooser>>>,
    log: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    sent: AtomicU64,
    second: String,
}

/// A running hub. It stops answering when the process ends.
pub struct Hub {
    address: String,
    shared: Arc<Shared>,
}

impl Hub {
    /// Serves `files` without faults.
    pub fn start(files: Vec<HubFile>) -> Self {
        Self::with(files, Behaviour::default())
    }

    /// Serves `files` in a certain way.
    pub fn with(files: Vec<HubFile>, behaviour: Behaviour) -> Self {
        let first = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let second = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address =
            |listener: &TcpListener| format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Arc::new(Shared {
            published: Mutex::new((COMMIT.into(), files)),
            behaviour,
            chooser: Mutex::default(),
            api_chooser: Mutex::default(),
            log: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            second: address(&second),
        });
        let hub = Self { address: address(&first), shared: shared.clone() };
        for (listener, is_second) in [(first, false), (second, true)] {
            let shared = shared.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let shared = shared.clone();
                    // A connection that breaks is the client's affair.
                    std::thread::spawn(move || drop(serve(&shared, &stream, is_second)));
                }
            });
        }
        hub
    }

    /// Chooses the fault of every request for the content of a file.
    pub fn faults(&self, choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *lock(&self.shared.chooser) = Some(Arc::new(Box::new(choose)));
    }

    /// Chooses the fault of every other request.
    pub fn api_faults(&self, choose: impl Fn(&Seen) -> Fault + Send + Sync + 'static) {
        *lock(&self.shared.api_chooser) = Some(Arc::new(Box::new(choose)));
    }

    /// Serves other files from now on, as another commit.
    pub fn publish(&self, commit: &str, files: Vec<HubFile>) {
        *lock(&self.shared.published) = (commit.into(), files);
    }

    /// The endpoint.
    pub fn url(&self) -> &str {
        &self.address
    }

    /// The second port.
    pub fn second_url(&self) -> &str {
        &self.shared.second
    }

    /// All requests so far.
    pub fn log(&self) -> Vec<Seen> {
        lock(&self.shared.log).clone()
    }

    /// Bytes of file contents sent so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// The tree as the hub would list it.
    pub fn tree(&self) -> Vec<Value> {
        tree(&self.shared)
    }
}

/// `length` bytes that look random and depend on `seed` only (xorshift64*).
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn serve(shared: &Shared, stream: &TcpStream, at_second_port: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader, at_second_port)? {
        std::thread::sleep(shared.behaviour.latency);
        let (request, chooser) = {
            let mut log = lock(&shared.log);
            let number = log.iter().filter(|seen| is_content(&seen.target)).count();
            let request = Seen { connection, number, ..request };
            log.push(request.clone());
            let chooser = if is_content(&request.target) { &shared.chooser } else { &shared.api_chooser };
            (request, lock(chooser).clone())
        };
        let fault = chooser.map_or(Fault::None, |choose| choose(&request));
        if !answer(shared, &request, &fault, stream)? {
            return Ok(());
        }
    }
    Ok(())
}

fn is_content(target: &str) -> bool {
    target.contains("/resolve/") || target.starts_with("/content/")
}

fn read_request(reader: &mut impl BufRead, at_second_port: bool) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen {
        method,
        target,
        range: None,
        authorization: None,
        form: String::new(),
        at_second_port,
        connection: 0,
        number: 0,
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            reader.take(length).read_to_string(&mut seen.form)?;
            return Ok(Some(seen));
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.trim().into()),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "authorization" => seen.authorization = Some(value.trim().into()),
            _ => {}
        }
    }
}

/// Answers one request; returns whether the connection may be used again.
fn answer(shared: &Shared, request: &Seen, fault: &Fault, stream: &TcpStream) -> std::io::Result<bool> {
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let behaviour = &shared.behaviour;
    if !request.at_second_port
        && behaviour.authorization.is_some()
        && request.authorization != behaviour.authorization
    {
        return head(stream, 401, &[("X-Error-Code", "RepoNotFound")], Some(0));
    }
    if !request.at_second_port && behaviour.expired.is_some() && request.authorization == behaviour.expired {
        let message = "Invalid credentials in Authorization header";
        return head(stream, 401, &[("X-Error-Message", message)], Some(0));
    }
    match fault {
        Fault::Status(status, headers) => {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return head(stream, *status, &headers, Some(0));
        }
        Fault::Redirect(target) => return head(stream, 302, &[("Location", target)], Some(0)),
        Fault::Page => {
            let page = "<!DOCTYPE html><title>Please log in</title>";
            head(stream, 200, &[("Content-Type", "text/html; charset=utf-8")], Some(page.len()))?;
            if request.method != "HEAD" {
                (&*stream).write_all(page.as_bytes())?;
            }
            return Ok(true);
        }
        _ => {}
    }
    if let (Fault::Slow(rate), false) = (fault, is_content(path)) {
        head(stream, 200, &[], None)?;
        return send_at(shared, stream, &[b' '; 10_000], Some(*rate)).map(|()| false);
    }
    if let Some(rest) = path.strip_prefix("/api/") {
        return answer_api(shared, request, rest, query, stream);
    }
    let name = match path.split_once("/resolve/") {
        Some((_, rest)) => rest.split_once('/').map(|(_, name)| name),
        None => path.strip_prefix("/content/"),
    };
    let files = lock(&shared.published).1.clone();
    let Some(file) = name.and_then(|name| files.iter().find(|file| file.path == decode(name))) else {
        return head(stream, 404, &[("X-Error-Code", "EntryNotFound")], Some(0));
    };
    let etag = format!("\"{}\"", file.hash());
    if behaviour.redirects && file.is_large && path.contains("/resolve/") {
        let (target, size) =
            (format!("{}/content/{}", shared.second, file.path), file.content.len().to_string());
        let headers = [
            ("Location", target.as_str()),
            ("X-Repo-Commit", COMMIT),
            ("X-Linked-Etag", &etag),
            ("X-Linked-Size", &size),
        ];
        return head(stream, 302, &headers, Some(0));
    }
    send_file(shared, request, fault, file, &etag, stream)
}

fn answer_api(
    shared: &Shared,
    request: &Seen,
    rest: &str,
    query: &str,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    let parts: Vec<&str> = rest.split('/').collect();
    match parts[..] {
        [_, _, _, "revision", "missing"] => {
            head(stream, 404, &[("X-Error-Code", "RevisionNotFound")], Some(0))
        }
        [_, owner, name] | [_, owner, name, "revision", _] => {
            let is_asked_for_more = query.split('&').any(|one| one == "blobs=true");
            let siblings = if is_asked_for_more && !shared.behaviour.has_names_only {
                siblings(listed(shared))
            } else {
                lock(&shared.published).1.iter().map(|file| json!({ "rfilename": file.path })).collect()
            };
            let commit = lock(&shared.published).0.clone();
            let info = json!({ "id": format!("{owner}/{name}"), "sha": commit, "siblings": siblings });
            send_json(stream, &request.method, &info, &[])
        }
        [_, _, _, "paths-info", _] => {
            let is_asked_for = |path: &str| {
                request
                    .form
                    .split('&')
                    .any(|pair| pair.strip_prefix("paths=").is_some_and(|asked| decode(asked) == path))
            };
            let mut entries = tree(shared);
            entries.retain(|entry| entry["path"].as_str().is_some_and(is_asked_for));
            send_json(stream, &request.method, &Value::from(entries), &[])
        }
        [_, _, _, "tree", _] | [_, _, _, "tree", _, ""] if shared.behaviour.has_no_tree => {
            head(stream, 404, &[], Some(0))
        }
        [_, _, _, "tree", commit] | [_, _, _, "tree", commit, ""] => {
            let entries = match listed(shared) {
                Value::Array(entries) => entries,
                nonsense => return send_json(stream, &request.method, &nonsense, &[]),
            };
            let page = if shared.behaviour.page == 0 { entries.len().max(1) } else { shared.behaviour.page };
            let from =
                query.split('&').find_map(|one| one.strip_prefix("cursor=")?.parse().ok()).unwrap_or(0_usize);
            let to = entries.len().min(from + page);
            let link = format!(
                "</api/{}/{}/{}/tree/{commit}?cursor={to}>; rel=\"next\"",
                parts[0], parts[1], parts[2]
            );
            let headers = if to < entries.len() { vec![("Link", link.as_str())] } else { vec![] };
            send_json(stream, &request.method, &Value::from(entries[from..to].to_vec()), &headers)
        }
        _ => head(stream, 404, &[("X-Error-Code", "RepoNotFound")], Some(0)),
    }
}

/// What the tree answers.
fn listed(shared: &Shared) -> Value {
    shared.behaviour.tree.clone().unwrap_or_else(|| Value::from(tree(shared)))
}

/// The files of a tree as a revision lists them: the same in other words.
fn siblings(tree: Value) -> Value {
    let Value::Array(entries) = tree else { return tree };
    let sibling = |entry: &Value| {
        let mut sibling =
            json!({ "rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"] });
        if let Some(lfs) = entry.get("lfs") {
            sibling["lfs"] =
                json!({ "sha256": lfs["oid"], "size": lfs["size"], "pointerSize": lfs["pointerSize"] });
        }
        sibling
    };
    entries.iter().filter(|entry| entry["type"] == "file").map(sibling).collect()
}

fn tree(shared: &Shared) -> Vec<Value> {
    let entry = |file: &HubFile| {
        let size = file.content.len();
        match (file.is_large, shared.behaviour.hides_large_files) {
            (false, _) => json!({ "type": "file", "path": file.path, "size": size, "oid": file.hash() }),
            (true, true) => json!({ "type": "file", "path": file.path, "size": size, "oid": "f".repeat(40) }),
            (true, false) => json!({
                "type": "file", "path": file.path, "size": size, "oid": "f".repeat(40),
                "lfs": { "oid": file.hash(), "size": size, "pointerSize": 134 },
            }),
        }
    };
    let directory = json!({ "type": "directory", "path": "sub", "size": 0, "oid": "e".repeat(40) });
    lock(&shared.published).1.iter().map(entry).chain([directory]).collect()
}

fn send_file(
    shared: &Shared,
    request: &Seen,
    fault: &Fault,
    file: &HubFile,
    etag: &str,
    stream: &TcpStream,
) -> std::io::Result<bool> {
    let size = file.content.len();
    let asked = request.range.as_deref().and_then(|range| parse_range(range, size));
    let mut headers = vec![("ETag", etag.to_string()), ("X-Repo-Commit", COMMIT.to_string())];
    let (status, range) = match asked {
        Some(range) if !matches!(fault, Fault::IgnoreRange | Fault::NoLength | Fault::Chunked(_)) => {
            let shift = if *fault == Fault::WrongContentRange { 1 } else { 0 };
            let text = format!("bytes {}-{}/{size}", range.start + shift, range.end - 1 + shift);
            headers.push(("Content-Range", text));
            (206, range)
        }
        _ => (200, 0..size),
    };
    let mut body = Cow::from(&file.content[range]);
    let mut length = Some(body.len());
    match fault {
        Fault::WrongByte(at) if !body.is_empty() => {
            let at = at % body.len();
            body.to_mut()[at] ^= 0x55;
        }
        Fault::LyingLength(more) => length = Some(body.len() + more),
        Fault::Endless | Fault::NoLength => length = None,
        Fault::Chunked(_) => {
            length = None;
            headers.push(("Transfer-Encoding", "chunked".into()));
        }
        Fault::Gzip => headers.push(("Content-Encoding", "gzip".into())),
        _ => {}
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let keeps = head(stream, status, &headers, length)?;
    if request.method == "HEAD" {
        return Ok(keeps);
    }
    match fault {
        Fault::Reset(after) => {
            send(shared, stream, &body[..body.len().min(*after)])?;
            socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?;
            Ok(false)
        }
        Fault::Truncate(after) => {
            send(shared, stream, &body[..body.len().min(*after)])?;
            Ok(false)
        }
        Fault::Stall(after, time) => {
            let (before, rest) = body.split_at(body.len().min(*after));
            send(shared, stream, before)?;
            std::thread::sleep(*time);
            send(shared, stream, rest)?;
            Ok(keeps)
        }
        Fault::Slow(rate) => {
            send_at(shared, stream, &body, Some(*rate))?;
            Ok(keeps)
        }
        Fault::LyingLength(_) => {
            send(shared, stream, &body)?;
            Ok(false)
        }
        Fault::Endless => loop {
            send(shared, stream, &body)?;
        },
        Fault::Chunked(cut) => {
            send(shared, stream, format!("{:x}\r\n", body.len()).as_bytes())?;
            send(shared, stream, &body[..cut.unwrap_or(body.len())])?;
            if cut.is_none() {
                send(shared, stream, b"\r\n0\r\n\r\n")?;
            }
            Ok(false)
        }
        _ => {
            send(shared, stream, &body)?;
            Ok(keeps)
        }
    }
}

/// Sends a body, no faster than the connection is allowed to.
fn send(shared: &Shared, stream: &TcpStream, body: &[u8]) -> std::io::Result<()> {
    send_at(shared, stream, body, shared.behaviour.bytes_per_second)
}

fn send_at(
    shared: &Shared,
    mut stream: &TcpStream,
    body: &[u8],
    bytes_per_second: Option<usize>,
) -> std::io::Result<()> {
    let (begun, mut sent) = (Instant::now(), 0);
    for piece in body.chunks(bytes_per_second.map_or(1 << 20, |rate| (rate / 50).max(1))) {
        stream.write_all(piece)?;
        sent += piece.len();
        shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if let Some(rate) = bytes_per_second {
            // Whatever the write took counts: the rate is that of the whole body.
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok(())
}

fn send_json(
    mut stream: &TcpStream,
    method: &str,
    value: &Value,
    headers: &[(&str, &str)],
) -> std::io::Result<bool> {
    let body = value.to_string();
    let keeps = head(stream, 200, headers, Some(body.len()))?;
    if method != "HEAD" {
        stream.write_all(body.as_bytes())?;
    }
    Ok(keeps)
}

/// Sends status and headers; without a length the connection ends with the body.
fn head(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    length: Option<usize>,
) -> std::io::Result<bool> {
    let mut text = format!("HTTP/1.1 {status} .\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    match length {
        Some(length) => text += &format!("Content-Length: {length}\r\n\r\n"),
        None => text += "Connection: close\r\n\r\n",
    }
    stream.write_all(text.as_bytes())?;
    Ok(length.is_some())
}

fn parse_range(text: &str, size: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let end = last.parse::<usize>().map_or(size, |last| last + 1).min(size);
    (first < end).then_some(first..end)
}

fn decode(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap_or(b'?'));
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
