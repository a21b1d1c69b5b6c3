//! The ranks of a run, as torchrun starts them on one machine.

use std::net::{Ipv4Addr, TcpListener};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU16, Ordering};

/// The number of ports that this process has looked at.
static SEEN: AtomicU16 = AtomicU16::new(0);

/// A value for `MASTER_PORT`: nothing uses the port after it, which is none that the system gives to a connection.
pub fn master_port() -> u16 {
    // Tests that run in other processes at the same time begin elsewhere.
    let first = 10_000 + (process::id() % 400) as u16 * 50;
    loop {
        let port = first + SEEN.fetch_add(1, Ordering::Relaxed) % 2000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return port;
        }
    }
}

/// Makes the program that is to be started rank `rank` of `size`, which meet at `port`.
pub fn make_rank(command: &mut Command, rank: usize, size: usize, port: u16) {
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", size.to_string());
    command.env("LOCAL_RANK", rank.to_string()).env("LOCAL_WORLD_SIZE", size.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    command.env("OMP_NUM_THREADS", "1").env("QLORA_RENDEZVOUS_SECONDS", "60");
}
