//! What the tasks of a download share: the files, the schedule and the limits; and what they report.

use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use common::cli::Subtask;

use super::hashing::Follower;
use super::leftovers::Leftovers;
use super::rate::RateLimit;
use super::remote::{RemoteFile, WantedFile};
use super::schedule::Schedule;
use super::votes::Healing;
use crate::config::Network;
use crate::hub::{Connector, Failure, Token};

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

impl Shared {
    /// What the tasks share of a download of the files `wanted`.
    pub(crate) fn new(
        wanted: Vec<WantedFile>,
        connector: Connector,
        token: Option<Token>,
        network: &Network,
    ) -> Self {
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
    pub(crate) fn active_files(&self) -> Vec<Subtask> {
        let part = |(file, done): (usize, u64)| {
            let remote = &self.remotes[file];
            Subtask { name: remote.name.clone(), done, total: remote.partial.size }
        };
        self.schedule.active_files().into_iter().map(part).collect()
    }
}
