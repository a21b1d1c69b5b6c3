//! A file of which no server says how long it is: one stream, complete where its body ends.

use std::io::Write;
use std::time::Duration;

use common::cli::{Progress, Size, Unit, check_interrupted, verbose};
use reqwest::{Method, Url};

use super::answer::check_encoding;
use super::rate::RateLimit;
use crate::config::Network;
use crate::disk::folder::{Entry, Folder};
use crate::hub::{Backoff, Body, Connection, Connector, Failure, Request, Token, refuse_page};

/// First and longest wait after a failure.
const WAITS: (Duration, Duration) = (Duration::from_millis(400), Duration::from_millis(12_800));
/// Bytes of the disk that stay free: a body without an end stops there.
const LEFT_FREE: u64 = 256 << 20;

/// Downloads the file at `url` to `to` in `folder`, where a failure leaves nothing; returns its length.
pub(crate) async fn bring(
    connector: &Connector,
    token: Option<&Token>,
    network: &Network,
    url: &Url,
    folder: &Folder,
    to: &Entry,
) -> Result<u64, Failure> {
    let outcome = try_again(connector, token, network, url, folder, to).await;
    if outcome.is_err() {
        // A stream cannot be continued. The failure is what counts, whether or not this succeeds.
        let _ = to.remove();
    }
    outcome
}

/// Begins from the first byte after each failure that may pass.
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
    let mut backoff = Backoff::new(WAITS.0, WAITS.1);
    loop {
        let request = Request { method: Method::GET, url, range: None, token };
        match receive(&connector.connect()?, request, &rate, room, to).await {
            Err(failure) if failure.is_passing() => {
                let own_wait = backoff.next_wait();
                if backoff.failures() > network.retries {
                    return Err(failure);
                }
                let wait = failure.wait_asked_for().unwrap_or(own_wait);
                verbose(format_args!("{failure}; from the beginning in {:.1} s", wait.as_secs_f32()));
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
    let response = connection.send(request).await?.response;
    check_encoding(response.headers())?;
    refuse_page(response.headers(), response.url(), &to.path().to_string_lossy())?;
    let mut file = to.create()?;
    let progress = Progress::new("fetch", None, Unit::Bytes);
    let mut received = 0;
    let mut body = Body::new(response, connection.timeout());
    while let Some(piece) = body.next().await? {
        check_interrupted()?;
        rate.take(piece.len()).await;
        received += piece.len() as u64;
        if received > room {
            return Err(Failure::Fatal(
                common::error!("the server has sent {} and does not end", Size(received))
                    .hint("free some disk space if the file is really that long"),
            ));
        }
        file.write_all(&piece).map_err(common::Error::from)?;
        progress.set(received);
    }
    file.sync_data().map_err(common::Error::from)?;
    Ok(received)
}
