//! Starts this program once for each GPU of the machine, as torchrun would: passes signals on, and ends all processes
//! when one fails. Rank 0 alone has standard input and output, and prints messages.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::environment::{DEFAULT_PORT, Environment, LOOPBACK};
use crate::device::DeviceChoice;
use crate::error::Kind;
use crate::{Context, Error, Result, cli, error};

/// Says to a process that this program has started it, and names the run.
const RUN: &str = "QLORA_RUN";
/// The time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(20);
/// The time that the other processes have to end by themselves after one has failed.
const GRACE: Duration = Duration::from_secs(28);
/// More processes than a machine has GPUs.
const MOST_PROCESSES: usize = 1 << 10;
/// More machines than a run has.
const MOST_NODES: usize = 1 << 16;

/// The processes that are started on this machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Processes {
    /// The number of processes on every machine.
    per_node: usize,
    /// The number of machines.
    nodes: usize,
    /// The number of this machine, from 0.
    node: usize,
    address: String,
    /// The value of `MASTER_PORT`; `None` takes a free one.
    port: Option<u16>,
}

impl Processes {
    /// The processes to start, as LLaMA-Factory counts them: one for each of the `gpus` that can be seen, or
    /// `NPROC_PER_NODE`, on each of `NNODES` machines. `None` where this process runs alone.
    pub(super) fn wanted<F: Fn(&str) -> Option<String>>(
        environment: &Environment<F>,
        choice: DeviceChoice,
        gpus: impl Fn() -> usize,
    ) -> Result<Option<Self>> {
        let gpus = || if choice == DeviceChoice::Auto { gpus().max(1) } else { 1 };
        let per_node = environment.number("NPROC_PER_NODE", MOST_PROCESSES)?;
        let nodes = environment.number("NNODES", MOST_NODES)?.unwrap_or(1).max(1);
        let node = environment.number("NODE_RANK", nodes)?.unwrap_or(0);
        let per_node = per_node.map_or_else(gpus, |count| count.max(1));
        let address = match environment.text("MASTER_ADDR") {
            Some(address) => address,
            None if nodes == 1 => LOOPBACK.to_owned(),
            None => {
                return Err(Error::usage(format!("NNODES is {nodes} and MASTER_ADDR is not set"))
                    .hint("set MASTER_ADDR to the host of the machine with NODE_RANK 0, on all machines"));
            }
        };
        let port = environment.number("MASTER_PORT", usize::from(u16::MAX))?.map(|port| port as u16);
        let port = if nodes > 1 { Some(port.unwrap_or(DEFAULT_PORT)) } else { port };
        let processes = Self { per_node, nodes, node, address, port };
        Ok((per_node * nodes > 1).then_some(processes))
    }

    /// Starts the processes and waits for all of them. The error of one was reported by it.
    pub(super) fn run(self) -> Result<()> {
        let port = self.port.map_or_else(free_port, Ok)?;
        let size = self.per_node * self.nodes;
        cli::note(format_args!(
            "starting {} processes, one for each GPU{}",
            self.per_node,
            if self.nodes > 1 { format!("; {size} on {} machines", self.nodes) } else { String::new() }
        ));
        let run = if self.nodes > 1 { String::from("nodes") } else { std::process::id().to_string() };
        let mut children = Children(Vec::with_capacity(self.per_node));
        for local_rank in 0..self.per_node {
            let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
            command.args(std::env::args_os().skip(1));
            let rank = self.node * self.per_node + local_rank;
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
            command.env("LOCAL_RANK", local_rank.to_string());
            command.env("LOCAL_WORLD_SIZE", self.per_node.to_string());
            command.env("MASTER_ADDR", &self.address).env("MASTER_PORT", port.to_string()).env(RUN, &run);
            if rank > 0 {
                command.stdin(Stdio::null()).stdout(Stdio::null());
            }
            // Signals of the terminal come to this process alone, which passes them on.
            command.process_group(0);
            children.0.push(Some(command.spawn().context("cannot start a process for each GPU")?));
        }
        children.wait(self.node == 0)
    }
}

/// A port of this machine after which another is free. The system gives neither of them to a connection, which
/// could have it before rank 0 does.
fn free_port() -> Result<u16> {
    let first = 10_000 + (std::process::id() % 10_000) as u16;
    let mut ports = first..first + 10_000;
    ports.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok()).ok_or_else(|| {
        error!("no free port found from {first} on").hint("set MASTER_PORT to one that is free")
    })
}

/// Processes that are running.
struct Children(Vec<Option<Child>>);

impl Children {
    fn signal(&self, signal: Signal) {
        for child in self.0.iter().flatten() {
            // One that has ended meanwhile needs no signal.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    /// Waits for all processes, and returns an error with the exit code of the first that failed. `has_first` says
    /// whether rank 0 is among them.
    fn wait(mut self, has_first: bool) -> Result<()> {
        let mut is_told = false;
        let mut failed: Option<(usize, ExitStatus)> = None;
        let mut is_explained = false;
        let mut deadline = None;
        while self.0.iter().any(Option::is_some) {
            for (index, place) in self.0.iter_mut().enumerate() {
                let Some(status) = place.as_mut().map_or(Ok(None), Child::try_wait)? else { continue };
                *place = None;
                if !status.success() {
                    failed.get_or_insert((index, status));
                    is_explained |= status.code().is_some();
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
            }
            if cli::interrupted() && !std::mem::replace(&mut is_told, true) {
                self.signal(Signal::TERM);
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                self.signal(Signal::KILL);
            }
            thread::sleep(LOOK);
        }
        let Some((index, status)) = failed else { return Ok(()) };
        match status.code() {
            _ if is_explained => {
                cli::mute();
                let kind = match status.code() {
                    Some(2) => Kind::Usage,
                    Some(130) => Kind::Interrupted,
                    _ => Kind::System,
                };
                Err(Error::new(kind, "a process has failed"))
            }
            _ => Err(error!(
                "the process of {} {index} was ended by signal {}",
                if has_first { "rank" } else { "local rank" },
                status.signal().unwrap_or(0)
            )
            .hint("the system's log says why, such as a lack of memory (dmesg)")),
        }
    }
}

impl Drop for Children {
    /// Ends the processes that were started where others could not be.
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        for child in self.0.iter_mut().flatten() {
            let _ = child.wait();
        }
    }
}

/// Stops the work of this process, as a signal does, once the process that started it is gone, where that was
/// this program.
pub(super) fn end_with_parent<F: Fn(&str) -> Option<String>>(environment: &Environment<F>) -> Result<()> {
    if environment.text(RUN).is_none() {
        return Ok(());
    }
    let parent = parent_id();
    let watch = move || {
        while parent_id() == parent {
            thread::sleep(10 * LOOK);
        }
        cli::stop();
    };
    let thread = thread::Builder::new().name("parent".to_owned()).spawn(watch);
    thread.map(|_| ()).context("cannot watch the process that has started this one")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The processes that are started where three GPUs can be seen.
    fn wanted(variables: &[(&str, &str)], choice: DeviceChoice) -> Result<Option<Processes>> {
        let of = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        Processes::wanted(&Environment(of), choice, || 3)
    }

    #[test]
    fn processes_are_counted_as_llama_factory_counts_them() {
        assert_eq!(wanted(&[], DeviceChoice::Auto).unwrap().unwrap().per_node, 3, "one for each GPU");
        for choice in [DeviceChoice::Cuda(0), DeviceChoice::Cpu] {
            assert_eq!(wanted(&[], choice).unwrap(), None, "one device is named");
        }
        assert_eq!(wanted(&[("NPROC_PER_NODE", "1")], DeviceChoice::Auto).unwrap(), None);
        let found = wanted(&[("NPROC_PER_NODE", "5")], DeviceChoice::Cpu).unwrap().unwrap();
        assert_eq!((found.per_node, found.nodes, found.node, found.port), (5, 1, 0, None));
        let nodes = [("NNODES", "2"), ("NODE_RANK", "1"), ("NPROC_PER_NODE", "4")];
        let error = wanted(&nodes, DeviceChoice::Auto).unwrap_err();
        assert!(error.to_string().contains("NNODES is 2 and MASTER_ADDR is not set"), "{error}");
        let named = [&nodes[..], &[("MASTER_ADDR", "a")]].concat();
        let found = wanted(&named, DeviceChoice::Auto).unwrap().unwrap();
        assert_eq!((found.node, found.address.as_str(), found.port), (1, "a", Some(29500)));
        for wrong in [("NODE_RANK", "2"), ("NNODES", "two"), ("NPROC_PER_NODE", "-1")] {
            let changed: Vec<_> =
                named.iter().copied().filter(|(key, _)| *key != wrong.0).chain([wrong]).collect();
            let error = wanted(&changed, DeviceChoice::Auto).unwrap_err().to_string();
            assert!(error.contains(wrong.0) && error.contains("expected, found"), "{error}");
        }
    }
}
