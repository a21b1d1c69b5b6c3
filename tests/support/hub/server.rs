//! Connections and requests of the hub: each connection has a thread, each request is logged and answered.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use super::answers::answer;
use super::{Fault, Seen, Shared, lock};

/// Answers the requests of one connection.
pub(super) fn serve(shared: &Shared, stream: &TcpStream, at_second_port: bool) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = read_request(&mut reader, at_second_port)? {
        std::thread::sleep(shared.behaviour.latency);
        let (request, chooser) = {
            let mut log = lock(&shared.log);
            let number = log.iter().filter(|seen| is_content(&seen.target)).count();
            let request = Seen { connection, number, ..request };
            log.push(request.clone());
            let chooser = if is_content(&request.target) { &shared.chooser } else { &shared.api_chooser };
            (request, lock(chooser).clone())
        };
        let fault = chooser.map_or(Fault::None, |choose| choose(&request));
        if !answer(shared, &request, &fault, stream)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a request asks for the content of a file.
pub(super) fn is_content(target: &str) -> bool {
    target.contains("/resolve/") || target.starts_with("/content/")
}

fn read_request(reader: &mut impl BufRead, at_second_port: bool) -> std::io::Result<Option<Seen>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_string);
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut seen = Seen {
        method,
        target,
        range: None,
        authorization: None,
        form: String::new(),
        at_second_port,
        connection: 0,
        number: 0,
    };
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            reader.take(length).read_to_string(&mut seen.form)?;
            return Ok(Some(seen));
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => seen.range = Some(value.trim().into()),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            "authorization" => seen.authorization = Some(value.trim().into()),
            _ => {}
        }
    }
}
