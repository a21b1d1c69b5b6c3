//! What the ranks of one machine share of its memory: an empty file that all of them have open, and a limit on what
//! they page-lock.

use std::fs::{File, Metadata, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::exchange::World;
use super::machine::Machine;
use crate::host_memory::{LockableMemory, lockable_memory};
use crate::shared_memory::SharedMemory;
use crate::{Result, cli, error};

/// A file whose content no other machine has. It changes when the machine is started again.
const MACHINE: &str = "/proc/sys/kernel/random/boot_id";

/// What a rank tells the others of its machine and of a file in its memory.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Offer {
    /// The content of [`MACHINE`], where the rank can read it.
    machine: Option<String>,
    file: Result<Place, String>,
}

/// Where other processes find a file that a process has open.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Place {
    process: u32,
    descriptor: i32,
    device: u64,
    inode: u64,
}

impl Place {
    /// The place of a file that this process has open.
    fn of(file: &File) -> std::io::Result<Self> {
        let (device, inode) = identity(&file.metadata()?);
        Ok(Self { process: std::process::id(), descriptor: file.as_raw_fd(), device, inode })
    }

    /// Opens the file, or says why that is not possible.
    fn open(self) -> Result<File, String> {
        let Self { process, descriptor, device, inode } = self;
        let path = format!("/proc/{process}/fd/{descriptor}");
        let fails = |problem: std::io::Error| format!("{path}: {problem}");
        // In another container, the path leads elsewhere or to nothing. What it leads to is not opened before it is known.
        let expect_offered = |found: Metadata| match identity(&found) == (device, inode) {
            true => Ok(()),
            false => Err(format!("{path}: it is another file here, as in another container")),
        };
        expect_offered(std::fs::metadata(&path).map_err(fails)?)?;
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(fails)?;
        expect_offered(file.metadata().map_err(fails)?).map(|()| file)
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl World {
    /// The ranks of this machine. Called on all ranks.
    fn machine(&self) -> Result<&Machine> {
        if let Some(machine) = self.machine.get() {
            return Ok(machine);
        }
        let (machine, _) = self.common_file()?;
        Ok(self.machine.get_or_init(|| machine))
    }

    /// The memory that the ranks of each machine may page-lock beside `taken` bytes of each rank: the least of all
    /// machines. Called on all ranks.
    pub fn lockable_memory(&self, taken: u64) -> Result<LockableMemory> {
        let Machine { most_ranks, problem, .. } = self.machine()?;
        let bytes = lockable_memory().saturating_sub(*most_ranks as u64 * taken);
        Ok(LockableMemory::of_machine(self.least(bytes)?, *most_ranks, problem.is_none()))
    }

    /// Memory of `bytes` bytes that the ranks of each machine share; `None` where no machine has several ranks, and, with
    /// a warning, where they cannot share memory. Called on all ranks.
    pub fn share_memory(&self, bytes: u64) -> Result<Option<SharedMemory>> {
        let machine = self.machine()?;
        let Some(star) = self.star.as_ref().filter(|_| machine.most_ranks > 1) else { return Ok(None) };
        if let Some(problem) = &machine.problem {
            cli::warn(format_args!(
                "the ranks of a machine cannot share memory ({problem}): each keeps a copy of the weights that are streamed"
            ));
            return Ok(None);
        }
        let (machine, file) = self.common_file()?;
        match (file, machine.problem) {
            (Ok(file), None) => {
                let place = (machine.index, machine.ranks);
                let star = Arc::clone(star);
                SharedMemory::new(file, bytes, place, Box::new(move || star.meet())).map(Some)
            }
            (Err(problem), _) | (_, Some(problem)) => {
                Err(error!("the ranks of a machine cannot share memory any more: {problem}")
                    .hint("a rank may have too many files open (ulimit -n)"))
            }
        }
    }

    /// An empty file in memory that the ranks of this machine have opened, or why this rank has not. Called on all ranks.
    fn common_file(&self) -> Result<(Machine, Result<File, String>)> {
        let machine = fs_err::read_to_string(MACHINE).ok();
        let own = memfd_create("qlora-tools weights", MemfdFlags::CLOEXEC).map(File::from);
        let place = own.as_ref().map_err(|problem| (*problem).into()).and_then(Place::of);
        let file = place.map_err(|problem| format!("rank {} has no file in memory: {problem}", self.rank));
        let offers = self.gather(Offer { machine, file })?;
        let machines: Option<Vec<&str>> = offers.iter().map(|offer| offer.machine.as_deref()).collect();
        // Names of hosts do where not all ranks can read more.
        let machines = machines.unwrap_or_else(|| (0..offers.len()).map(|rank| self.host(rank)).collect());
        let machine = Machine::of(&machines, self.rank);
        let file = match (&offers[machine.first].file, own) {
            (Ok(_), Ok(own)) if machine.index == 0 => Ok(own),
            (Ok(place), _) => {
                place.open().map_err(|problem| format!("rank {} cannot open {problem}", self.rank))
            }
            (Err(problem), _) => Err(problem.clone()),
        };
        let problem = self.gather(file.as_ref().err().cloned())?.into_iter().flatten().next();
        Ok((Machine { problem, ..machine }, file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_opened_where_it_is_the_one_that_is_offered() {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC).unwrap());
        file.set_len(77).unwrap();
        let place = Place::of(&file).unwrap();
        assert_eq!(place.open().unwrap().metadata().unwrap().len(), 77);
        let other = Place { inode: place.inode + 1, ..place }.open().unwrap_err();
        assert!(other.ends_with(": it is another file here, as in another container"), "{other}");
        drop(file);
        let gone = Place { descriptor: 1 << 20, ..place }.open().unwrap_err();
        assert!(gone.contains(&format!("/proc/{}/fd/{}", std::process::id(), 1 << 20)), "{gone}");
    }

    #[test]
    fn a_process_alone_shares_nothing() {
        let world = World::alone();
        assert!(world.share_memory(1 << 40).unwrap().is_none());
        let machine = world.machine().unwrap();
        assert_eq!((machine.index, machine.ranks, machine.most_ranks), (0, 1, 1));
    }
}
