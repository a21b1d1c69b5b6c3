//! The beginning of a run of several ranks: rank 0 waits for the others at a port, and learns who they are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{SockRef, TcpKeepalive};

use super::ending;
use super::environment::Place;
use super::frame::{self, Kind};
use super::star::Star;
use crate::{Context, Error, Result, cli, error};

/// The time between two looks at what is being waited for.
const LOOK: Duration = Duration::from_millis(20);
/// The time in which a process that connects must say who it is.
const GREETING: Duration = Duration::from_secs(2);
/// The time of waiting after which rank 0 says who is missing.
const PATIENCE: Duration = Duration::from_secs(15);
/// The time after which a machine that does not answer any more is lost.
const SILENCE: Duration = Duration::from_secs(12);
/// The time after which a silent machine is asked whether it is there, and asked again.
const QUESTION: Duration = Duration::from_secs(3);

/// A lost rank ends the run everywhere within 30 s, even where a process waits for a device that hangs.
const _: () = assert!(SILENCE.as_secs() + ending::GRACE.as_secs() < 30);

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hello {
    tool: String,
    version: String,
    run: String,
    rank: usize,
    size: usize,
    host: String,
}

impl Hello {
    fn of(place: &Place) -> Self {
        Self {
            tool: cli::tool_name().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            run: place.run.clone(),
            rank: place.rank,
            size: place.size,
            host: host(),
        }
    }
}

/// The name of this machine.
fn host() -> String {
    let name = fs_err::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "this machine".to_owned() } else { name.trim().to_owned() }
}

/// Connects all ranks of a run within `patience`. From then on, rank 0 alone speaks. Returns the connections, and
/// the machine of every rank.
pub(super) fn meet(place: &Place, patience: Duration) -> Result<(Star, Vec<String>)> {
    let (streams, hosts) = match place.rank {
        0 => wait_for_others(place, patience)?,
        _ => join(place, patience)?,
    };
    if place.rank != 0 {
        cli::mute();
    }
    let mut connections = Vec::with_capacity(streams.len());
    for (index, stream) in streams.into_iter().enumerate() {
        let rank = if place.rank == 0 { index + 1 } else { 0 };
        watch(&stream).context("cannot watch a connection")?;
        connections.push((stream, rank, hosts.get(rank).cloned().unwrap_or_default()));
    }
    Ok((Star::new(connections, place)?, hosts))
}

/// Has the system notice a machine that is gone, and send small frames at once.
fn watch(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)?;
    stream.set_nodelay(true)?;
    let questions = TcpKeepalive::new().with_time(QUESTION).with_interval(QUESTION).with_retries(3);
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&questions)?;
    socket.set_tcp_user_timeout(Some(SILENCE))
}

/// The connections of rank 0 to the others, in their order, and the machines of all.
fn wait_for_others(place: &Place, patience: Duration) -> Result<(Vec<TcpStream>, Vec<String>)> {
    let listener = listen(place)?;
    let own = Hello::of(place);
    let mut joined: Vec<Option<(TcpStream, String)>> = (1..place.size).map(|_| None).collect();
    let begun = Instant::now();
    let mut is_said = false;
    while joined.iter().any(Option::is_none) {
        cli::check_interrupted()?;
        match listener.accept() {
            Ok((stream, _)) => greet(stream, &own, &mut joined)?,
            Err(problem) if problem.kind() == io::ErrorKind::WouldBlock => thread::sleep(LOOK),
            Err(problem) => return Err(Error::from(problem).context("cannot wait for other ranks")),
        }
        if begun.elapsed() > PATIENCE && !is_said {
            is_said = true;
            cli::note(waiting(&own, &joined));
        }
        if begun.elapsed() > patience {
            let error = error!("{} after {} s", waiting(&own, &joined), patience.as_secs());
            return Err(refuse_all(
                &mut joined,
                error.hint(
                    "start every rank with the same MASTER_ADDR and MASTER_PORT; the messages of a missing one \
                     say why it has not come; QLORA_RENDEZVOUS_SECONDS sets how long ranks wait",
                ),
            ));
        }
    }
    let joined: Vec<(TcpStream, String)> = joined.into_iter().flatten().collect();
    let hosts: Vec<String> =
        std::iter::once(own.host).chain(joined.iter().map(|(_, host)| host.clone())).collect();
    let welcome = serde_json::to_vec(&hosts)?;
    let mut streams = Vec::with_capacity(joined.len());
    for (mut stream, host) in joined {
        frame::write(&mut stream, Kind::Welcome, &welcome).with_context(|| format!("cannot reach {host}"))?;
        streams.push(stream);
    }
    Ok((streams, hosts))
}

fn listen(place: &Place) -> Result<TcpListener> {
    let is_loopback = place.address == "localhost"
        || place.address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let address = if is_loopback { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let port = place.port;
    let listener = TcpListener::bind((address, port)).map_err(|problem| match problem.kind() {
        io::ErrorKind::AddrInUse => error!("port {port}, at which rank 0 waits for the others, is in use")
            .hint("set MASTER_PORT to another on all ranks; the port after it is the one that is used"),
        _ => Error::from(problem)
            .context(format!("rank 0 cannot wait for the others at port {port}"))
            .hint("set MASTER_PORT to another on all ranks"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Who has come and who is missing.
fn waiting(own: &Hello, joined: &[Option<(TcpStream, String)>]) -> String {
    let mut here = vec![format!("0 on {}", own.host)];
    let mut missing = Vec::new();
    for (index, peer) in joined.iter().enumerate() {
        match peer {
            Some((_, host)) => here.push(format!("{} on {host}", index + 1)),
            None => missing.push((index + 1).to_string()),
        }
    }
    format!(
        "waiting for rank{} {} of {}; here: {}",
        if missing.len() == 1 { "" } else { "s" },
        missing.join(", "),
        own.size,
        here.join(", ")
    )
}

/// Lets a process join that says it is a rank of this run. One of another run, or that says nothing, is turned
/// away; a rank that cannot be one of this run ends it.
fn greet(mut stream: TcpStream, own: &Hello, joined: &mut [Option<(TcpStream, String)>]) -> Result<()> {
    let hello = || -> io::Result<Hello> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(GREETING))?;
        match frame::read(&mut &stream, frame::GREETING)? {
            (Kind::Hello, bytes) => Ok(serde_json::from_slice(&bytes)?),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    // Anybody can connect; only ranks matter.
    let Ok(hello) = hello() else { return Ok(()) };
    if hello.run != own.run {
        let _ = frame::write(&mut stream, Kind::Refused, b"the port belongs to another run");
        return Ok(());
    }
    let place = (1..own.size).contains(&hello.rank).then(|| &mut joined[hello.rank - 1]);
    let problem = if (&hello.tool, &hello.version) != (&own.tool, &own.version) {
        Some(format!("is {} {}, and rank 0 is {} {}", hello.tool, hello.version, own.tool, own.version))
    } else if hello.size != own.size {
        Some(format!("counts {} ranks, and rank 0 counts {}", hello.size, own.size))
    } else {
        match place {
            Some(place @ None) => {
                *place = Some((stream, hello.host));
                return Ok(());
            }
            Some(Some((_, host))) => Some(format!("is there a second time, also on {host}")),
            None => Some("has the number of no rank but 0".to_owned()),
        }
    };
    let error = error!("rank {} on {} {}", hello.rank, hello.host, problem.unwrap_or_default())
        .hint("start all ranks by one launcher, with the same program and the same variables");
    let _ = frame::write(&mut stream, Kind::Over, &[1]);
    Err(refuse_all(joined, error))
}

/// Tells all that have come that the run ends with an error, which rank 0 reports.
fn refuse_all(joined: &mut [Option<(TcpStream, String)>], error: Error) -> Error {
    for (stream, _) in joined.iter_mut().flatten() {
        let _ = frame::write(stream, Kind::Over, &[cli::exit_code(error.kind())]);
    }
    error
}

/// The connection of another rank to rank 0, and the machines of all.
fn join(place: &Place, patience: Duration) -> Result<(Vec<TcpStream>, Vec<String>)> {
    let begun = Instant::now();
    let hello = serde_json::to_vec(&Hello::of(place))?;
    loop {
        cli::check_interrupted()?;
        let problem = match connect(place) {
            // Rank 0 waits no longer than this after it has answered.
            Ok(mut stream) => match knock(&mut stream, &hello, patience + GREETING)? {
                Some(hosts) => return Ok((vec![stream], hosts)),
                None => "what listens there has let this rank in, but not all others".to_owned(),
            },
            Err(problem) => problem.to_string(),
        };
        if begun.elapsed() > patience {
            // One of a machine says it.
            if place.local_rank != 0 {
                cli::mute();
            }
            return Err(error!(
                "rank {} cannot reach rank 0 at {}:{} after {} s: {problem}",
                place.rank,
                place.address,
                place.port,
                patience.as_secs()
            )
            .hint("the messages of rank 0 say why; MASTER_ADDR and MASTER_PORT name its host and the port before"));
        }
        thread::sleep(5 * LOOK);
    }
}

fn connect(place: &Place) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = (place.address.as_str(), place.port).to_socket_addrs()?.collect();
    let mut problem = io::Error::from(io::ErrorKind::AddrNotAvailable);
    // Rank 0 listens at IPv4.
    for address in addresses.into_iter().filter(SocketAddr::is_ipv4) {
        match TcpStream::connect_timeout(&address, SILENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

/// Says who this is, and waits until all ranks have come: for the machines of all. `None` where the connection
/// ends, or where nothing has come in the time of `patience`, because something other than rank 0 listens there.
fn knock(stream: &mut TcpStream, hello: &[u8], patience: Duration) -> Result<Option<Vec<String>>> {
    let begun = Instant::now();
    if frame::write(stream, Kind::Hello, hello).is_err() {
        return Ok(None);
    }
    stream.set_read_timeout(Some(5 * LOOK))?;
    let mut first = [0];
    loop {
        cli::check_interrupted()?;
        match stream.peek(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(problem) if problem.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < patience => {}
            Err(_) => return Ok(None),
        }
    }
    stream.set_read_timeout(Some(GREETING))?;
    match frame::read(stream, frame::LARGEST) {
        Ok((Kind::Welcome, hosts)) => Ok(Some(serde_json::from_slice(&hosts)?)),
        Ok((Kind::Over, _)) => {
            cli::mute();
            Err(error!("rank 0 has ended the run").hint("the message of rank 0 says why"))
        }
        Ok((Kind::Refused, why)) => {
            Err(error!("rank 0 lets this process not join: {}", String::from_utf8_lossy(&why))
                .hint("set MASTER_PORT to a port that no other run uses, on all ranks"))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_here_and_who_is_missing_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let there = |host: &str| {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            Some((stream, host.to_owned()))
        };
        let own = |size: usize| Hello {
            tool: "lora-train".into(),
            version: "1".into(),
            run: String::new(),
            rank: 0,
            size,
            host: "a".into(),
        };
        assert_eq!(waiting(&own(3), &[None, there("b")]), "waiting for rank 1 of 3; here: 0 on a, 2 on b");
        assert_eq!(
            waiting(&own(4), &[None, there("b"), None]),
            "waiting for ranks 1, 3 of 4; here: 0 on a, 2 on b"
        );
    }
}
