//! A file of which no server says how long it is: one stream, complete where its body ends.

use std::io::Write;
use std::time::{Duration, Instant};

use common::cli::{Progress, Size, Unit, check_interrupted, detail};
use reqwest::{Method, Url};

use crate::config::Network;
use crate::folder::{Entry, Folder};
use crate::hub::{Connection, Connector, Failure, Request, Token, next_piece, refuse_page};
use crate::rate::RateLimit;
use crate::transfer::check_encoding;

/// First wait after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// Bytes a second below which a server is given up, unless the user wants it slow.
const SLOWEST: f64 = 1024.0;
/// A body without an end stops while the disk still has room for others.
const LEFT_FREE: u64 = 256 << 20;

/// Brings the file at `url` to `to` in `folder`, where a failure leaves nothing; returns its length.
pub async fn bring(
    connector: &Connector,
    token: Option<&Token>,
    network: &Network,
    url: &Url,
    folder: &Folder,
    to: &Entry,
) -> Result<u64, Failure> {
    let outcome = try_again(connector, token, network, url, folder, to).await;
    if outcome.is_err() {
        // What has come cannot be gone on with. The failure is told, whatever becomes of this.
        let _ = to.remove();
    }
    outcome
}

/// Begins anew after each failure that may pass.
async fn try_again(
    connector: &Connector,
    token: Option<&Token>,
    network: &Network,
    url: &Url,
    folder: &Folder,
    to: &Entry,
) -> Result<u64, Failure> {
    let room = folder.free()?.saturating_sub(LEFT_FREE);
    let rate = RateLimit::new(network.max_rate);
    let mut failures = 0;
    loop {
        let request = Request { method: Method::GET, url, range: None, token };
        match receive(&connector.connect()?, request, &rate, room, to).await {
            Err(failure @ (Failure::Transient { .. } | Failure::Unreachable(_))) => {
                failures += 1;
                if failures > network.retries {
                    return Err(failure);
                }
                let asked = if let Failure::Transient { wait, .. } = &failure { *wait } else { None };
                let wait = asked.unwrap_or(FIRST_WAIT * 2_u32.pow(failures.min(6)));
                detail(format_args!("{failure}; from the beginning in {:.1} s", wait.as_secs_f32()));
                tokio::time::sleep(wait).await;
            }
            end => return end,
        }
    }
}

/// One try. A body whose end is announced and does not come is a failure.
async fn receive(
    connection: &Connection,
    request: Request<'_>,
    rate: &RateLimit,
    room: u64,
    to: &Entry,
) -> Result<u64, Failure> {
    let mut response = connection.send(request).await?.response;
    check_encoding(response.headers())?;
    refuse_page(response.headers(), response.url(), &to.path().to_string_lossy())?;
    let mut file = to.create()?;
    let progress = Progress::new("fetch", None, Unit::Bytes);
    let mut received = 0;
    let (mut window_begun, mut window_bytes) = (Instant::now(), 0);
    while let Some(piece) = next_piece(&mut response, connection.timeout()).await? {
        check_interrupted()?;
        rate.take(piece.len()).await;
        received += piece.len() as u64;
        if received > room {
            return Err(Failure::Fatal(
                common::error!("the server has sent {} and does not end", Size(received))
                    .hint("free some disk space if the file is really that long"),
            ));
        }
        window_bytes += piece.len();
        let elapsed = window_begun.elapsed();
        if elapsed > connection.timeout() {
            if !rate.is_limited() && (window_bytes as f64) < SLOWEST * elapsed.as_secs_f64() {
                let seconds = elapsed.as_secs_f32();
                return Err(Failure::transient(format_args!("only {window_bytes} bytes in {seconds:.1} s")));
            }
            (window_begun, window_bytes) = (Instant::now(), 0);
        }
        file.write_all(&piece).map_err(common::Error::from)?;
        progress.set(received);
    }
    file.sync_data().map_err(common::Error::from)?;
    Ok(received)
}
