//! All processes of a run, and what they exchange. A run of one process exchanges nothing.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::environment::Place;
use super::machine::Machine;
use super::rendezvous;
use super::star::Star;
use crate::cli::Inputs;
use crate::device::cuda::Communicator;
use crate::error::Kind;
use crate::{Result, cli, error};

/// The time between two looks at what other ranks have sent.
const MOMENT: Duration = Duration::from_millis(2);

/// All processes of a run, seen from one of them.
pub struct World {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) local_rank: usize,
    /// The machine of every rank.
    pub(super) hosts: Vec<String>,
    /// The connections to other ranks; `None` where there are none.
    pub(super) star: Option<Arc<Star>>,
    /// What connects the GPUs of all ranks, once [`World::connect`] has made it.
    pub(super) communicator: OnceCell<Arc<Communicator>>,
    /// The ranks of this machine, once they are known.
    pub(super) machine: OnceCell<Machine>,
}

impl World {
    /// A run of one process.
    pub fn alone() -> Self {
        Self::new(0, 1, 0, Vec::new(), None)
    }

    fn new(rank: usize, size: usize, local_rank: usize, hosts: Vec<String>, star: Option<Star>) -> Self {
        let star = star.map(Arc::new);
        Self { rank, size, local_rank, hosts, star, communicator: OnceCell::new(), machine: OnceCell::new() }
    }

    /// Joins the other ranks.
    pub(super) fn join(place: &Place, patience: Duration) -> Result<Self> {
        let &Place { rank, size, local_rank, .. } = place;
        if size == 1 {
            return Ok(Self::new(rank, size, local_rank, Vec::new(), None));
        }
        let (star, hosts) = rendezvous::meet(place, patience)?;
        Ok(Self::new(rank, size, local_rank, hosts, Some(star)))
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether this is rank 0, which alone writes results.
    pub fn is_first(&self) -> bool {
        self.rank == 0
    }

    /// The parts of all ranks, in the order of the ranks.
    pub fn gather<T: Serialize + DeserializeOwned>(&self, part: T) -> Result<Vec<T>> {
        let Some(star) = &self.star else { return Ok(vec![part]) };
        let parts = star.gather(serde_json::to_vec(&part)?)?;
        let whole = star.spread(parts.join(&b'\n'))?;
        whole.split(|byte| *byte == b'\n').map(|part| Ok(serde_json::from_slice(part)?)).collect()
    }

    /// Returns on all ranks what rank 0 makes.
    pub fn from_first<T: Serialize + DeserializeOwned>(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some(star) = &self.star else { return make() };
        let made = if self.is_first() { serde_json::to_vec(&make()?)? } else { Vec::new() };
        Ok(serde_json::from_slice(&star.spread(made)?)?)
    }

    /// The directories and YAML files that the tool is called with. Those that come through a pipe are read by
    /// rank 0 for all ranks, because launchers give the pipe to one process.
    pub fn inputs(&self, arguments: &[PathBuf]) -> Result<Inputs> {
        if self.star.is_none() || !cli::from_stdin(arguments) {
            return cli::inputs(arguments);
        }
        let paths = self.from_first(|| cli::inputs(arguments)?.models())?;
        Ok(Inputs::from_arguments(paths))
    }

    /// The sums over all ranks, added in the order of the ranks.
    pub fn sums<const N: usize>(&self, values: [f64; N]) -> Result<[f64; N]> {
        let parts = self.gather(values.map(f64::to_bits).to_vec())?;
        let mut sums = values;
        for (index, sum) in sums.iter_mut().enumerate().filter(|_| self.size > 1) {
            *sum = parts.iter().map(|part| part.get(index).map_or(0.0, |bits| f64::from_bits(*bits))).sum();
        }
        Ok(sums)
    }

    /// Whether something holds on any rank.
    pub fn any(&self, holds: bool) -> Result<bool> {
        Ok(self.gather(holds)?.contains(&true))
    }

    /// Whether the run stops here: a signal has asked a rank to stop, or a rank was lost.
    pub fn stops(&self) -> bool {
        self.any(cli::interrupted()).unwrap_or(true)
    }

    /// An error where the run ends because of another rank.
    pub fn check(&self) -> Result<()> {
        self.star.as_ref().map_or(Ok(()), |star| star.check())
    }

    /// An error where ranks differ in one of `settings`, which names it.
    pub fn expect_same(&self, settings: impl FnOnce() -> Result<Map<String, Value>>) -> Result<()> {
        if self.star.is_none() {
            return Ok(());
        }
        let all = self.gather(settings()?)?;
        let Some((first, others)) = all.split_first() else { return Ok(()) };
        for (rank, other) in (1..).zip(others) {
            let keys = first.keys().chain(other.keys());
            if let Some(key) = keys.into_iter().find(|key| first.get(*key) != other.get(*key)) {
                let shown = |settings: &Map<String, Value>| {
                    settings.get(key).map_or("not set".to_owned(), |value| value.to_string())
                };
                let host = self.host(rank);
                return Err(error!(
                    "ranks differ in {key}: it is {} on rank 0 and {} on rank {rank}, on {host}",
                    shown(first),
                    shown(other)
                )
                .hint("start all ranks with the same settings, and the same model on every machine"));
            }
        }
        Ok(())
    }

    /// Sends something to rank 0, which asks for it with [`World::sent_by`]. Called on other ranks than 0.
    pub fn send<T: Serialize>(&self, item: &T) -> Result<()> {
        match &self.star {
            Some(star) => star.gather(serde_json::to_vec(item)?).map(|_| ()),
            None => Ok(()),
        }
    }

    /// The next thing that another rank has sent to this one, rank 0; `None` where nothing has come yet.
    pub fn sent_by<T: DeserializeOwned>(&self, rank: usize) -> Result<Option<T>> {
        let part = self.star.as_ref().map_or(Ok(None), |star| star.received(rank))?;
        Ok(part.map(|part| serde_json::from_slice(&part)).transpose()?)
    }

    /// Waits a moment for other ranks; an error where the run ends.
    pub fn wait_a_moment(&self) -> Result<()> {
        std::thread::sleep(MOMENT);
        self.check()
    }

    /// The machine of a rank.
    pub(super) fn host(&self, rank: usize) -> &str {
        self.hosts.get(rank).map_or("this machine", String::as_str)
    }

    /// Ends the run on this rank. The other ranks are told of an error, which one rank reports.
    pub(super) fn conclude(&self, outcome: Result<()>) -> Result<()> {
        let Some(star) = &self.star else { return outcome };
        // What GPUs exchange is through on all ranks before any of them ends.
        let met = outcome.and_then(|()| match self.communicator.get() {
            Some(_) => self.gather(()).map(|_| ()),
            None => Ok(()),
        });
        let error = match met {
            Ok(()) => {
                star.done();
                return Ok(());
            }
            Err(error) => error,
        };
        // A rank that was told to stop because of another ends with an error of that kind, which is not its own.
        let is_told = star.reason().is_some_and(|reason| !reason.is_interruption());
        let is_own = error.kind() != Kind::Interrupted || !is_told;
        if is_own {
            star.failed(&error);
        }
        match star.reason() {
            Some(reason) if !is_own || !self.is_first() => {
                if self.is_first() {
                    star.failed(&error);
                }
                Err(reason.error(&error))
            }
            _ => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::Error;

    #[test]
    fn a_world_of_one_is_inert() {
        let world = World::alone();
        assert_eq!((world.rank(), world.size(), world.is_first()), (0, 1, true));
        assert_eq!(world.gather(7).unwrap(), [7]);
        assert_eq!(world.from_first(|| Ok("it".to_owned())).unwrap(), "it");
        let sums = world.sums([-0.0, f64::NAN]).unwrap();
        assert!(sums[0].is_sign_negative() && sums[1].is_nan());
        assert_eq!(world.directory(Path::new("a")).unwrap().path(), Path::new("a"));
        world.expect_same(|| Err(Error::usage("not asked for"))).unwrap();
        world.copy(&mut &b"abc"[..], &mut Vec::new()).unwrap();
        assert!(world.conclude(Err(Error::usage("no"))).unwrap_err().to_string().contains("no"));
    }
}
