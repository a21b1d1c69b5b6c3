//! `chat --serve`: answers OpenAI's API over HTTP, and shows a page to talk on.
//!
//! Requests are read and answers are sent by a few threads of tokio. One thread computes: it owns the weights, and in each
//! turn all answers of a model go through it together, a token of each.
//!
//! | file | what it is |
//! |---|---|
//! | `arguments` | the options, and where to listen |
//! | `connections` | accepts connections, within bounds |
//! | `guard` | who may ask |
//! | `server` | what answers at each address |
//! | `body` | the bodies of requests, within bounds |
//! | `openai/` | OpenAI's API in JSON |
//! | `catalog` | the models that clients choose from by name |
//! | `queue` | the way from a request to the thread that computes |
//! | `scheduler` | the thread that computes |
//! | `places` | where answers are written: texts with their keys and values |
//! | `turn` | one pass of all answers through their model, and a step of each |
//! | `weights` | the base and its adapters, which take turns on it |
//! | `reply` | the way back: whole answers, and server-sent events |
//! | `metrics` | what the server has done so far |
//! | `page` | the page at `/` |

pub(crate) mod arguments;
mod body;
mod catalog;
mod connections;
mod guard;
mod metrics;
mod openai;
mod page;
mod places;
mod queue;
mod reply;
mod scheduler;
mod server;
mod turn;
mod weights;

use std::collections::{HashMap, hash_map};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use common::generate::{GenerationSettings, Overrides};
use common::model::is_adapter;
use common::models::ModelArguments;
use common::{Context, Error, Result, bail, cli};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::arguments::{Arguments, check};
use crate::format;
use arguments::NamedAdapter;
use catalog::{Catalog, Entry};
use guard::Guard;
use metrics::Metrics;
use queue::Queue;
use scheduler::Scheduler;
use server::Server;
use weights::Weights;

/// Threads that read requests and send answers, and threads that encode prompts.
const NETWORK_THREADS: usize = 2;
const ENCODING_THREADS: usize = 2;

/// A model to serve, before anything is loaded.
struct Named {
    id: String,
    directory: PathBuf,
    adapter: Option<usize>,
}

/// Serves the model or the adapter in `directory`, and the adapters of the command line, at `address`, until a signal
/// asks to stop. `overrides` say how tokens are chosen where requests do not.
pub(crate) fn serve(
    address: &str,
    directory: &Path,
    overrides: &Overrides,
    arguments: &Arguments,
) -> Result<()> {
    let options = &arguments.serve;
    let key = options.key();
    // Before the model is loaded, because an address that is taken is found at once.
    let listener = arguments::listen(address, key.is_some())?;
    let base = arguments.model.base_of(directory)?.unwrap_or_else(|| directory.to_path_buf());
    arguments.model.expect_supported(&base)?;
    let models = models(directory, &base, &options.adapters)?;
    let of_base = ModelArguments { base: Some(base.clone()), ..arguments.model.clone() };
    let entries = entries(&models, &of_base, overrides, arguments.enable_thinking)?;
    let mut adapters: Vec<&Named> = models.iter().filter(|named| named.adapter.is_some()).collect();
    adapters.sort_by_key(|named| named.adapter);
    let adapters: Vec<&Path> = adapters.iter().map(|named| named.directory.as_path()).collect();
    let weights = Weights::load(&base, &adapters, &arguments.model.device.open()?, &of_base)?;

    let catalog = Arc::new(Catalog {
        entries,
        system: arguments.system.clone(),
        max_tokens: weights.max_tokens(),
        vocabulary: weights.vocabulary(),
        created: server::now(),
    });
    let sessions = usize::from(options.max_sessions);
    let (queue, jobs) = Queue::new(sessions + usize::from(options.max_waiting));
    let metrics = Arc::new(Metrics::default());
    let server = Server {
        catalog: catalog.clone(),
        queue,
        metrics: metrics.clone(),
        guard: Guard::new(key),
        seed: arguments.seed(),
        requests: AtomicU64::new(0),
    };
    let mut scheduler = Scheduler::new(&catalog, weights, jobs, sessions, metrics);
    let address = listener.local_addr().context("the address of the server")?;
    let (stop, stopped) = oneshot::channel();
    let runtime = runtime().context("the threads of the server")?;
    let accepting = runtime.spawn(accept(listener, server, stopped));
    let names: Vec<&str> = catalog.entries.iter().map(|entry| entry.id.as_str()).collect();
    cli::note(format_args!("{} can be asked until Ctrl-C", names.join(", ")));
    cli::answer(format_args!("http://{address}\n"))?;
    let ended = scheduler.run();
    // Clients whose answers have not ended learn that the server stops.
    drop((scheduler, stop));
    let accepted = runtime.block_on(accepting);
    accepted.unwrap_or_else(|_| bail!(Bug, "the server has stopped")).and(ended)
}

/// Returns the models to serve, the default first: the base and the adapters of the command line, or an adapter, its
/// base and the others.
fn models(directory: &Path, base: &Path, adapters: &[NamedAdapter]) -> Result<Vec<Named>> {
    let named =
        |id: String, directory: &Path, adapter| Named { id, directory: directory.to_path_buf(), adapter };
    let mut models = vec![named(name_of(base), base, None)];
    if is_adapter(directory) {
        models.insert(0, named(name_of(directory), directory, Some(0)));
    }
    for NamedAdapter { name, directory } in adapters {
        if !is_adapter(directory) {
            return Err(Error::usage(format!("--adapter {name}: {} is not an adapter", directory.display()))
                .hint("name the directory that lora-train wrote"));
        }
        models.push(named(name.clone(), directory, Some(models.len() - 1)));
    }
    for (index, Named { id, .. }) in models.iter().enumerate() {
        if models[..index].iter().any(|other| other.id == *id) {
            return Err(Error::usage(format!("two models have the name {id}"))
                .hint("give each --adapter a name of its own, as in tuned=out"));
        }
    }
    Ok(models)
}

/// Returns the name of a model by its directory: the name of the directory, or that on the hub where the directory
/// lies in the hub's cache.
fn name_of(directory: &Path) -> String {
    let directory = fs_err::canonicalize(directory).unwrap_or_else(|_| directory.to_path_buf());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let in_cache = directory.ancestors().nth(2).and_then(name);
    let on_hub = in_cache.as_deref().and_then(|name| name.strip_prefix("models--"));
    match on_hub {
        Some(on_hub) => on_hub.replacen("--", "/", 1),
        None => name(&directory).unwrap_or_else(|| "model".to_owned()),
    }
}

/// Reads how each model writes conversations, and how its tokens are chosen. Models with the same files share what was
/// read of them, because a tokenizer takes much memory.
fn entries(
    models: &[Named],
    model: &ModelArguments,
    overrides: &Overrides,
    enable_thinking: Option<bool>,
) -> Result<Vec<Entry>> {
    check(overrides)?;
    let sampled = Overrides { do_sample: Some(true), ..overrides.clone() };
    let mut formats = HashMap::new();
    let mut entries = Vec::with_capacity(models.len());
    for Named { id, directory, adapter } in models {
        let files = model.text_files(directory)?;
        let format = match formats.entry(files.digest()?) {
            hash_map::Entry::Occupied(known) => Arc::clone(known.get()),
            hash_map::Entry::Vacant(new) => {
                Arc::clone(new.insert(Arc::new(format(&files, model, enable_thinking)?)))
            }
        };
        let settings =
            |overrides: &Overrides| GenerationSettings::load(&files, overrides, format.stop_tokens());
        let (settings, sampled) = (settings(overrides)?, settings(&sampled)?);
        entries.push(Entry { id: id.clone(), format, settings, sampled, adapter: *adapter });
    }
    Ok(entries)
}

/// The threads that read requests, encode prompts and send answers.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(NETWORK_THREADS)
        .max_blocking_threads(ENCODING_THREADS)
        .thread_name("server")
        .enable_all()
        .build()
}

/// Accepts connections until it is told to stop.
async fn accept(listener: TcpListener, server: Server, stop: oneshot::Receiver<()>) -> Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    connections::accept(listener, server::router(Arc::new(server)), stop).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_called_as_its_directory_or_on_the_hub() {
        assert_eq!(name_of(Path::new("no/such/tuned")), "tuned");
        assert_eq!(name_of(Path::new("/hub/models--Qwen--Qwen3-8B/snapshots/0123abc")), "Qwen/Qwen3-8B");
        assert_eq!(name_of(Path::new("/")), "model");
    }
}
