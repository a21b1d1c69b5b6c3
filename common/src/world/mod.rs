//! A run of several processes, which are called ranks: one on each GPU. Rank 0 alone writes results and prints
//! messages.
//!
//! A [`World`] of one process exchanges nothing, so that callers need not ask how many processes there are.
//!
//! | file | what it is |
//! |---|---|
//! | `environment` | the place of a process in its run, by the variables of launchers |
//! | `launch` | starts this program once for each GPU |
//! | `rendezvous` | how ranks find each other |
//! | `exchange` | [`World`]: what ranks exchange |
//! | `star` | the connections of all ranks to rank 0: gather there, spread from there |
//! | `frame` | the bytes on a connection |
//! | `ending` | why a run ends early |
//! | `files` | files of rank 0 on all ranks |
//! | `machine` | which ranks are on the same machine |
//! | `sharing` | memory that the ranks of one machine share |
//! | `devices` | the GPU of each rank, and sums over the ranks of what is on it |
//! | [`deal`](mod@deal) | deals work to ranks by weight |

pub mod deal;
mod devices;
mod ending;
mod environment;
mod exchange;
mod files;
mod frame;
mod launch;
mod machine;
mod rendezvous;
mod sharing;
mod star;

use std::time::Duration;

use crate::Result;
use crate::device::DeviceChoice;
use crate::device::cuda::Gpu;

use environment::Environment;

pub use crate::shared_memory::{SharedBytes, SharedMemory, shared_bytes};
pub use exchange::World;
pub use files::DirectoryOfFirst;

/// The seconds that ranks wait for each other at the start, unless `QLORA_RENDEZVOUS_SECONDS` says otherwise.
const RENDEZVOUS_SECONDS: usize = 600;

/// Runs `work` as a rank of the run that a launcher has begun; or else, where `choice` leaves all GPUs of this
/// machine to use and there are several, once on each of them in processes of their own; or else here, alone.
pub fn run(choice: DeviceChoice, work: impl FnOnce(&World) -> Result<()>) -> Result<()> {
    let variable = |name: &str| std::env::var(name).ok();
    let environment = Environment(variable);
    let Some(place) = environment.place()? else {
        return match launch::Processes::wanted(&environment, choice, Gpu::count)? {
            Some(processes) => processes.run(),
            None => work(&World::alone()),
        };
    };
    launch::end_with_parent(&environment)?;
    let seconds = environment.number("QLORA_RENDEZVOUS_SECONDS", usize::MAX)?.unwrap_or(RENDEZVOUS_SECONDS);
    let world = World::join(&place, Duration::from_secs(seconds as u64))?;
    let outcome = work(&world);
    world.conclude(outcome)
}
