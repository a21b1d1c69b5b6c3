//! Downloads models and data sets with parallel range requests, every byte checked.
//!
//! | file | what it is |
//! |---|---|
//! | `cli`, `config` | the command line, and what it means |
//! | `source`, `page`, `select`, `names` | what is asked for, which files of it, and which names are refused |
//! | `hub/` | the hub's HTTP API: listing, redirects, token |
//! | `plan`, `repository`, `file` | from a listing to a complete directory; one file by its address |
//! | `download`, `schedule`, `flight`, `transfer`, `growth`, `rate` | parallel ranges over many connections |
//! | `stream` | one stream of unknown length |
//! | `partial`, `follow`, `verify` | chunks on disk, hashing behind them |
//! | `layout`: `directory`, `cache` | where files are put |
//! | `standing` | what is there already, without a request |
//! | `record`, `check` | what says that all are there, and `--verify` |
//! | `folder` | directories held open, through which alone anything is written |
//! | `scratch`, `disk`, `readable` | room for unfinished files, free space, bytes for people |

mod cache;
mod check;
mod cli;
mod config;
mod directory;
mod disk;
mod download;
mod file;
mod flight;
mod folder;
mod follow;
mod growth;
mod hub;
mod layout;
mod leftovers;
mod names;
mod page;
mod partial;
mod plan;
mod rate;
mod readable;
mod record;
mod repository;
mod schedule;
mod scratch;
mod select;
mod source;
mod standing;
mod stream;
mod transfer;
mod verify;
mod votes;

use std::process::ExitCode;
use std::time::Duration;

use common::{Context, Error, Result};

use crate::config::Config;
use crate::hub::Repository;
use crate::source::Source;

fn main() -> ExitCode {
    common::cli::run(common::cli::Tool { name: "fetch", hint: |_| None }, work)
}

fn work(arguments: cli::Arguments) -> Result<()> {
    if let Some(directory) = &arguments.verify {
        return check::check(directory);
    }
    let config = Config::new(arguments)?;
    // Beside these, files are hashed on a thread each.
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.saturating_sub(1).clamp(1, 4))
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = fetch(&config) => outcome,
            () = interruption() => {
                Err(Error::interrupted("interrupted").hint("run the same command again to go on"))
            }
        }
    });
    // Threads that still hash or wait for a name server have nothing left to do.
    runtime.shutdown_background();
    outcome
}

/// Ends when a signal asks to stop, whatever the run is waiting for.
async fn interruption() {
    while !common::cli::interrupted() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn fetch(config: &Config) -> Result<()> {
    match &config.source {
        Source::Repository { kind, id, .. } => {
            let repository = Repository {
                endpoint: config.endpoint.clone(),
                kind: *kind,
                id: id.clone(),
                token: config.token.clone(),
            };
            repository::fetch(config, repository).await
        }
        Source::Url(url) => file::fetch(config, url).await,
    }
}
