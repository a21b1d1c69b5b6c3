//! A download: workers that fetch ranges, hashing of what arrives, and files that are placed when complete.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::cli::{Progress, Size, Unit, check_interrupted};
use common::{Result, error};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::growth::Growth;
use super::remote::{RemoteFile, WantedFile};
use super::shared::{Event, Shared};
use super::worker::work;
use crate::config::Network;
use crate::hub::{Connector, Failure, Token};

/// How often progress is shown and the number of connections considered.
const TICK: Duration = Duration::from_millis(100);

/// Describes how many bytes there are to fetch, and how many an earlier run has left.
pub(crate) fn how_much(total: u64, there: u64) -> String {
    match there {
        0 => Size(total).to_string(),
        _ => format!("{}; {} are there, {} to fetch", Size(total), Size(there), Size(total - there)),
    }
}

/// Downloads all files. `place` gives a complete file its final name and announces it.
pub(crate) async fn run(
    wanted: Vec<WantedFile>,
    connector: Connector,
    token: Option<Token>,
    network: &Network,
    mut place: impl FnMut(usize, &RemoteFile) -> Result<()>,
) -> Result<(), Failure> {
    let count = wanted.len();
    let total: u64 = wanted.iter().map(|file| file.remote.partial.size).sum();
    let (events, mut reports) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(wanted, connector, token, network));
    // Files that are empty, or that an earlier run left whole.
    for file in 0..count {
        shared.follow(file, &events);
    }
    let progress = Progress::new("fetch", total, Unit::Bytes);
    progress.resume_from(shared.schedule.arrived());
    let mut workers = JoinSet::new();
    let mut growth = Growth::new(network.connections);
    let mut tick = tokio::time::interval(TICK);
    let mut left = count;
    while left > 0 {
        tokio::select! {
            report = reports.recv() => match report {
                Some(Event::Complete(file)) => {
                    place(file, &shared.remotes[file])?;
                    left -= 1;
                }
                Some(Event::Failed(failure)) => return Err(failure),
                None => return Err(error!(Bug, "the download stopped by itself").into()),
            },
            _ = tick.tick() => {
                check_interrupted().map_err(|error| error.hint("run the same command again to go on"))?;
                let arrived = shared.schedule.arrived();
                progress.set(arrived);
                progress.subtasks(&shared.active_files());
                let is_limited = shared.is_limited.load(Ordering::Relaxed);
                let connections = growth.connections(arrived, is_limited);
                // Before they begin, so that the first does not take the share of all.
                shared.schedule.set_connections(connections);
                for _ in workers.len()..connections {
                    workers.spawn(work(shared.clone(), events.clone()));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_left() {
        assert_eq!(how_much(3 << 20, 0), "3.00 MiB");
        assert_eq!(how_much(3 << 20, 1 << 20), "3.00 MiB; 1.00 MiB are there, 2.00 MiB to fetch");
    }
}
