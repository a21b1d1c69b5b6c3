//! A hub on a loopback port, which answers well or, on request, badly.
//!
//! It serves one repository through the hub's HTTP API: revision, paged tree, paths, `resolve` with ranges
//! and, for large files, a redirect to a second port that plays the content network. A [`Fault`] is
//! chosen for every request by a function of the test's own.
//!
//! | file | what it is |
//! |---|---|
//! | `server` | connections and requests |
//! | `answers` | what is answered: the API, redirects, files |
//! | `faults` | what can go wrong with the content of a file |

mod answers;
mod faults;
mod server;

use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use common::hex;
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub use faults::Fault;

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
                    std::thread::spawn(move || drop(server::serve(&shared, &stream, is_second)));
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
        answers::tree(&self.shared)
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

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
