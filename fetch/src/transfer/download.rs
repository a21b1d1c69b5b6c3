//! A download: workers that fetch ranges, hashing of what arrives, and files that are placed when complete.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::cli::{Progress, Size, Subtask, Unit, check_interrupted};
use common::{Result, error};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::growth::Growth;
use super::hashing::Follower;
use super::healing::Healing;
use super::leftovers::Leftovers;
use super::rate::RateLimit;
use super::remote::{RemoteFile, WantedFile};
use super::schedule::Schedule;
use super::worker::work;
use crate::config::Network;
use crate::hub::{Connector, Failure, Token};

/// How often progress is shown and the number of connections considered.
const TICK: Duration = Duration::from_millis(100);

/// What all tasks of a download share.
pub(super) struct Shared {
    /// The files, as the indices of all other parts count them.
    pub remotes: Vec<RemoteFile>,
    /// Which connection fetches what.
    pub schedule: Schedule,
    /// The hashing of each file.
    pub follower: Follower,
    /// Makes a connection for each worker.
    pub connector: Connector,
    /// The token, for the hub only.
    pub token: Option<Token>,
    /// `--max-rate`.
    pub rate: RateLimit,
    /// How often to try again, and how long to wait.
    pub network: Network,
    /// Until when a server has asked to be sent no request.
    pub quiet_until: Mutex<Instant>,
    /// Whether a server has asked for fewer requests.
    pub is_limited: AtomicBool,
    /// Beginnings of chunks that broken connections have left.
    pub leftovers: Leftovers,
    /// For each file, what is known of it once its content was wrong.
    pub healing: Vec<Mutex<Option<Healing>>>,
}

/// What a task reports.
pub(super) enum Event {
    /// This file is complete and right.
    Complete(usize),
    /// The download cannot continue.
    Failed(Failure),
}

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

impl Shared {
    fn new(wanted: Vec<WantedFile>, connector: Connector, token: Option<Token>, network: &Network) -> Self {
        let sizes = wanted.iter().map(|file| (file.remote.partial.size, file.done.clone())).collect();
        let digests = wanted
            .iter()
            .map(|file| (file.remote.partial.data.clone(), file.remote.partial.size, file.digest.clone()))
            .collect();
        Self {
            healing: wanted.iter().map(|_| Mutex::new(None)).collect(),
            leftovers: Leftovers::default(),
            schedule: Schedule::new(sizes, network.max_rate.is_some()),
            follower: Follower::new(digests),
            remotes: wanted.into_iter().map(|file| file.remote).collect(),
            connector,
            token,
            rate: RateLimit::new(network.max_rate),
            network: network.clone(),
            quiet_until: Mutex::new(Instant::now()),
            is_limited: AtomicBool::new(false),
        }
    }

    /// The files that are being fetched, for the progress bar.
    fn active_files(&self) -> Vec<Subtask> {
        let part = |(file, done): (usize, u64)| {
            let remote = &self.remotes[file];
            Subtask { name: remote.name.clone(), done, total: remote.partial.size }
        };
        self.schedule.active_files().into_iter().map(part).collect()
    }
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
