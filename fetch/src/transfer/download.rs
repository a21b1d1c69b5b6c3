//! The download itself: connections that carry ranges, hashing behind them, files placed as they end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::cli::{Progress, Subtask, Unit, check_interrupted, note, verbose, warn};
use common::{Result, error};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::Network;
use crate::disk::digest::Digest;
use crate::disk::partial::chunk_count;
use crate::hub::{Connection, Connector, Failure, Token};
use crate::transfer::follow::{Followed, Follower};
use crate::transfer::growth::Growth;
use crate::transfer::leftovers::Leftovers;
use crate::transfer::range::{Arriving, End, Remote, Transfers};
use crate::transfer::rate::RateLimit;
use crate::transfer::request::{Flight, Pace};
use crate::transfer::schedule::{Next, Schedule};
use crate::transfer::votes::{Hopeless, Votes, fingerprint};

/// How often progress is shown and the number of connections considered.
const TICK: Duration = Duration::from_millis(100);
/// First wait after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// How much longer each wait is after a connection that broke in the middle; never longer than the first
/// wait.
const SHORT_WAIT: Duration = Duration::from_millis(10);
/// Bytes for which a connection that broke was worth its while: the next one begins behind them.
const WORTH_KEEPING: u64 = 4096;
/// Longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// One file to bring.
pub struct Wanted {
    /// Where from, and where it grows.
    pub remote: Remote,
    /// What it must hash to, where a server vouches for that.
    pub digest: Option<Digest>,
    /// Chunks that an earlier run left.
    pub done: Vec<bool>,
}

impl Wanted {
    /// Bytes that an earlier run left.
    pub fn there(&self) -> u64 {
        self.remote.partial.bytes_in(&self.done)
    }
}

/// What all tasks share.
struct Shared {
    remotes: Vec<Remote>,
    schedule: Schedule,
    follower: Follower,
    connector: Connector,
    token: Option<Token>,
    rate: RateLimit,
    network: Network,
    /// No request before this moment: a server asked for it.
    quiet_until: Mutex<Instant>,
    /// A server has asked for fewer requests.
    is_limited: AtomicBool,
    leftovers: Leftovers,
    /// For each file, once its content was wrong.
    healing: Vec<Mutex<Option<Healing>>>,
}

/// What tasks report.
pub enum Event {
    /// This file is complete and right.
    Complete(usize),
    /// The run cannot go on.
    Failed(Failure),
}

/// Brings all files. `place` gives a complete file its final name and announces it.
pub async fn run(
    wanted: Vec<Wanted>,
    connector: Connector,
    token: Option<Token>,
    network: &Network,
    mut place: impl FnMut(usize, &Remote) -> Result<()>,
) -> Result<(), Failure> {
    let count = wanted.len();
    let total: u64 = wanted.iter().map(|file| file.remote.partial.size).sum();
    let (events, mut reports) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(wanted, connector, token, network));
    // What is empty, or was left by an earlier run.
    for file in 0..count {
        shared.follow(file, &events);
    }
    let progress = Progress::new("fetch", total, Unit::Bytes);
    progress.resume_from(shared.schedule.arrived());
    let mut lanes = JoinSet::new();
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
                for _ in lanes.len()..connections {
                    lanes.spawn(lane(shared.clone(), events.clone()));
                }
            }
        }
    }
    Ok(())
}

/// One connection's work, until the run ends it.
async fn lane(shared: Arc<Shared>, events: mpsc::UnboundedSender<Event>) {
    if let Err(failure) = shared.work(&events).await {
        // Nobody listens when the run is over already.
        let _ = events.send(Event::Failed(failure));
    }
}

impl Shared {
    fn new(wanted: Vec<Wanted>, connector: Connector, token: Option<Token>, network: &Network) -> Self {
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

    /// The files on their way, for people.
    fn active_files(&self) -> Vec<Subtask> {
        let part = |(file, done): (usize, u64)| {
            let remote = &self.remotes[file];
            Subtask { name: remote.name.clone(), done, total: remote.partial.size }
        };
        self.schedule.active_files().into_iter().map(part).collect()
    }

    async fn work(self: &Arc<Self>, events: &mpsc::UnboundedSender<Event>) -> Result<(), Failure> {
        let mut connection = self.connector.connect()?;
        let mut arriving = Arriving::default();
        let mut pace = Pace::expected(self.connector.quickest_answer().unwrap_or_default());
        let mut trouble = Trouble::default();
        loop {
            self.keep_quiet().await;
            let flight = match self.schedule.next(pace) {
                Next::Flight(flight) => flight,
                Next::Wait(limit) => {
                    self.schedule.wait(limit).await;
                    continue;
                }
            };
            let outcome = self.fly(&connection, &flight, &mut arriving, events).await;
            self.schedule.end(&flight);
            match outcome {
                Ok(_) => {
                    trouble = Trouble::default();
                    pace = flight.pace();
                }
                Err(failure) if is_final(&failure) => return Err(failure),
                Err(failure) => {
                    let failure = failure.about(&self.remotes[flight.file].name);
                    verbose(&failure);
                    let received = flight.progress.received.load(Ordering::Relaxed);
                    let wait = trouble.add(received, self.schedule.last_gain());
                    if trouble.fruitless > self.network.retries {
                        return Err(failure);
                    }
                    self.back_off(&failure, wait).await;
                    connection = self.connector.connect()?;
                }
            }
        }
    }

    /// Waits after a failure: as long as the server asks, all connections together, else alone.
    async fn back_off(&self, failure: &Failure, wait: Duration) {
        if let Failure::Transient { wait: Some(asked), .. } = failure {
            let until = Instant::now() + *asked;
            let mut quiet_until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
            if *asked > Duration::from_secs(1) && until > *quiet_until + Duration::from_secs(1) {
                note(format_args!("{failure}; waiting {} s as the server asks", asked.as_secs()));
            }
            *quiet_until = until.max(*quiet_until);
            self.is_limited.store(true, Ordering::Relaxed);
        }
        tokio::time::sleep(wait).await;
    }

    async fn keep_quiet(&self) {
        loop {
            let until = *self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until.into()).await;
        }
    }

    async fn fly(
        self: &Arc<Self>,
        connection: &Connection,
        flight: &Flight,
        arriving: &mut Arriving,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Result<End, Failure> {
        let transfers = Transfers {
            schedule: &self.schedule,
            token: self.token.as_ref(),
            rate: &self.rate,
            leftovers: &self.leftovers,
        };
        let remote = &self.remotes[flight.file];
        let on_chunk = || self.follow(flight.file, events);
        tokio::select! {
            outcome = transfers.carry(connection, remote, flight, arriving, on_chunk) => outcome,
            () = flight.progress.cancelled.notified() => Ok(End::Done),
        }
    }

    /// Hashes what has become contiguous of a file, on a thread that may block.
    fn follow(self: &Arc<Self>, file: usize, events: &mpsc::UnboundedSender<Event>) {
        if !self.follower.begin(file, self.schedule.frontier(file)) {
            return;
        }
        let (shared, events) = (self.clone(), events.clone());
        tokio::task::spawn_blocking(move || {
            let event = match shared.follower.follow(file, || shared.schedule.frontier(file)) {
                Ok(Followed::Behind) => return,
                Ok(Followed::Complete) => Event::Complete(file),
                Ok(Followed::Wrong { found }) => match shared.heal(file, &found) {
                    // Chunks may have come while nobody could follow.
                    Ok(()) => return shared.follow(file, &events),
                    Err(error) => Event::Failed(error.into()),
                },
                Err(error) => Event::Failed(error.into()),
            };
            // Nobody listens when the run is over already.
            let _ = events.send(event);
        });
    }

    /// Fetches again what may be wrong in a file whose content is; an error where that is hopeless.
    fn heal(&self, file: usize, found: &Digest) -> Result<()> {
        let remote = &self.remotes[file];
        let mut healing = self.healing[file].lock().unwrap_or_else(PoisonError::into_inner);
        let count = chunk_count(remote.partial.size);
        let healing = healing
            .get_or_insert_with(|| Healing { votes: Votes::new(count), arrived: (0..count).collect() });
        let (votes, arrived) = (&mut healing.votes, &healing.arrived);
        self.follower.read_chunks(file, arrived, |chunk, bytes| votes.cast(chunk, fingerprint(bytes)))?;
        let doubtful = votes.doubtful().map_err(|hopeless| {
            let told = match hopeless {
                Hopeless::AlwaysTheSame => "the server sent the same wrong content twice",
                Hopeless::NeverTheSame => "the server sends another content each time",
            };
            error!("{}: {told}, with {found}", remote.name)
                .hint("try again later, or another server with --endpoint")
        })?;
        warn(match doubtful.len() {
            all if all == count => {
                format!("{}: the content is wrong ({found}); fetching it again", remote.name)
            }
            some => format!(
                "{}: {some} of {count} chunks differ between two tries; fetching them again",
                remote.name
            ),
        });
        remote.partial.forget(&doubtful)?;
        // The file is no longer whole when somebody may hash it anew.
        self.schedule.fetch_again(file, &doubtful);
        self.follower.start_over(file);
        healing.arrived = doubtful;
        Ok(())
    }
}

/// What is known of a file whose content was wrong.
struct Healing {
    votes: Votes,
    /// Chunks that have been fetched since the votes were last counted.
    arrived: Vec<usize>,
}

/// Failures of one connection, and whether anybody gained anything meanwhile.
#[derive(Default)]
struct Trouble {
    /// Failures of this connection in a row.
    in_a_row: u32,
    /// Those of them since any connection last completed a chunk.
    fruitless: u32,
    last: Option<Instant>,
}

impl Trouble {
    /// Counts a failure after `received` bytes, and returns how long to wait before the next try.
    fn add(&mut self, received: u64, last_gain: Instant) -> Duration {
        if received >= WORTH_KEEPING || self.last.is_some_and(|last| last < last_gain) {
            self.fruitless = 0;
        }
        self.last = Some(Instant::now());
        self.fruitless += 1;
        let wait = match (received, self.in_a_row) {
            (0, failures) => (FIRST_WAIT * 2_u32.pow(failures.min(10))).min(LONGEST_WAIT),
            // A line that broke in the middle is most likely there again.
            (_, failures) => (SHORT_WAIT * failures).min(FIRST_WAIT),
        };
        self.in_a_row += 1;
        wait
    }
}

/// Whether trying again cannot help.
fn is_final(failure: &Failure) -> bool {
    match failure {
        Failure::Fatal(_) | Failure::Refused { .. } => true,
        Failure::Transient { .. } | Failure::Unreachable(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_one_line_that_breaks_is_opened_again_at_once() {
        let now = Instant::now();
        let waits = |received| {
            let mut trouble = Trouble::default();
            (0..9).map(|_| trouble.add(received, now).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(waits(0)[..3], [200, 400, 800]);
        assert_eq!(waits(0)[8], LONGEST_WAIT.as_millis());
        assert_eq!(waits(1)[..3], [0, 10, 20]);
    }

    #[test]
    fn who_brings_little_and_breaks_is_given_up_all_the_same() {
        let fruitless = |received| {
            let mut trouble = Trouble::default();
            for _ in 0..9 {
                trouble.add(received, Instant::now() - LONGEST_WAIT);
            }
            trouble.fruitless
        };
        assert_eq!((fruitless(1), fruitless(WORTH_KEEPING)), (9, 1));
    }
}
