//! Downloads models and data sets with parallel range requests, every byte checked.
//!
//! | file | what it is |
//! |---|---|
//! | `cli`, `config` | the command line, and what it means |
//! | `repository`, `file` | a run: a whole repository, or one file by its address |
//! | `select/` | what is asked for, and which files of a repository that is |
//! | `hub/` | the hub's HTTP API: listing, redirects, token |
//! | `transfer/` | parallel ranges over many connections, hashed as they arrive |
//! | `disk/` | the only way to write: open directories, growing files, hashes |
//! | `layout/` | a directory of the user's or the hub's cache, what it holds, and `--verify` |

mod cli;
mod config;
mod disk;
mod file;
mod hub;
mod layout;
mod repository;
mod select;
mod transfer;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Command, CommandFactory};
use common::{Context, Error, Result};

use crate::config::Config;
use crate::hub::Repository;
use crate::select::source::DownloadSource;

/// Runs the tool on a command line, the first word of which is the program.
pub fn main(line: Vec<OsString>) -> ExitCode {
    common::cli::run(common::cli::Tool { name: "fetch", hint: |_| None }, line, work)
}

/// Returns the tool's command line, from which help, man pages and completions are made.
pub fn command() -> Command {
    cli::Arguments::command()
}

fn work(arguments: cli::Arguments) -> Result<()> {
    if let Some(directory) = &arguments.verify {
        return layout::check::check(directory);
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
        DownloadSource::Repository { kind, id, .. } => {
            let repository = Repository {
                endpoint: config.endpoint.clone(),
                kind: *kind,
                id: id.clone(),
                token: config.token.clone(),
            };
            repository::fetch(config, repository).await
        }
        DownloadSource::Url(url) => file::fetch(config, url).await,
    }
}
