//! Files with a wrong content: hashing finds them, and their doubtful chunks are fetched again.

use std::sync::{Arc, PoisonError};

use common::cli::warn;
use common::{Result, error};
use tokio::sync::mpsc;

use super::hashing::Followed;
use super::shared::{Event, Shared};
use super::votes::{Healing, Hopeless, Votes, fingerprint};
use crate::disk::digest::Digest;
use crate::disk::partial::chunk_count;

impl Shared {
    /// Hashes what has arrived of a file without a gap, on a thread that may block.
    pub(super) fn follow(self: &Arc<Self>, file: usize, events: &mpsc::UnboundedSender<Event>) {
        if !self.follower.begin(file, self.schedule.contiguous_end(file)) {
            return;
        }
        let (shared, events) = (self.clone(), events.clone());
        tokio::task::spawn_blocking(move || {
            let event = match shared.follower.follow(file, || shared.schedule.contiguous_end(file)) {
                Ok(Followed::Behind) => return,
                Ok(Followed::Complete) => Event::Complete(file),
                Ok(Followed::Wrong { found }) => match shared.heal(file, &found) {
                    // Chunks may have come meanwhile, when this thread alone could hash them.
                    Ok(()) => return shared.follow(file, &events),
                    Err(error) => Event::Failed(error.into()),
                },
                Err(error) => Event::Failed(error.into()),
            };
            // The download may have ended, and then there is no receiver.
            let _ = events.send(event);
        });
    }

    /// Fetches the doubtful chunks of a file with a wrong content again; an error where that is hopeless.
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
        // First the schedule, so that the file is not whole any more when it may be hashed anew.
        self.schedule.fetch_again(file, &doubtful);
        self.follower.start_over(file);
        healing.arrived = doubtful;
        Ok(())
    }
}
