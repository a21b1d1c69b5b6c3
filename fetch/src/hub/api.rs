//! Short requests to the hub, tried a few times.

use std::time::Duration;

use common::{Error, error};
use reqwest::{Method, Url};

use super::address::join;
use super::answer::is_page;
use super::connection::Answer;
use super::{Backoff, Body, Connection, Failure, Repository, Request, Token};

/// Most bytes of one JSON answer; the longest known page of a listing has about 1 MB.
const LARGEST_ANSWER: usize = 64 << 20;
/// Tries of one short request.
const TRIES: u32 = 4;
/// The wait after the first of them; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Asks until there is an answer. A transient failure is tried again; an unreachable hub is not.
pub(super) async fn ask(
    connection: &Connection,
    method: Method,
    url: &Url,
    token: Option<&Token>,
) -> Result<Answer, Failure> {
    let mut backoff = Backoff::new(FIRST_WAIT, FIRST_WAIT * (1 << TRIES));
    loop {
        let request = Request { method: method.clone(), url, range: None, token };
        match connection.send(request).await {
            Err(Failure::Transient { message, wait }) => {
                let own_wait = backoff.next_wait();
                if backoff.failures() == TRIES {
                    return Err(Failure::transient(message));
                }
                let wait = wait.unwrap_or(own_wait);
                common::cli::note(format_args!("{message}; trying again in {:.1} s", wait.as_secs_f32()));
                tokio::time::sleep(wait).await;
            }
            answer => return answer,
        }
    }
}

/// Reads a whole JSON answer, of bounded size.
pub(super) async fn read_json(connection: &Connection, answer: Answer) -> Result<serde_json::Value, Failure> {
    if is_page(answer.response.headers()) {
        return Err(common::error!("{}: a web page, not the hub's API", answer.url)
            .hint("check --endpoint and HF_ENDPOINT, and whether the network wants a login")
            .into());
    }
    let mut text = Vec::new();
    let mut body = Body::new(answer.response, connection.timeout());
    while let Some(piece) = body.next().await? {
        if text.len() + piece.len() > LARGEST_ANSWER {
            return Err(common::error!(
                Network,
                "{}: the answer is longer than {LARGEST_ANSWER} bytes",
                answer.url
            )
            .into());
        }
        text.extend_from_slice(&piece);
    }
    serde_json::from_slice(&text).map_err(|error| {
        Failure::Fatal(common::error!(Network, "{}: not the hub's API: {error}", answer.url))
    })
}

/// The error a run ends with after `failure` on the way to `repository`.
pub(crate) fn give_up(failure: Failure, repository: &Repository) -> Error {
    match failure {
        Failure::Refused { status, code, message } => {
            refused(status.as_u16(), code.as_deref(), message, repository)
        }
        Failure::Unreachable(message) => error!("{message}")
            .hint("check the network, or name another server with --endpoint or HF_ENDPOINT"),
        other => give_up_file(other),
    }
}

/// The error a run ends with after `failure` on the way to a file of no repository.
pub(crate) fn give_up_file(failure: Failure) -> Error {
    match failure {
        Failure::Fatal(error) => error,
        Failure::Unreachable(message) => error!("{message}").hint("check the network and the address"),
        Failure::Refused { message, .. } => error!("{message}").hint("check the address"),
        Failure::Transient { message, .. } => {
            error!("{message}").hint("the server is in trouble; run the same command again later")
        }
    }
}

/// Says what a refusal means and what to do about it.
fn refused(status: u16, code: Option<&str>, message: String, repository: &Repository) -> Error {
    let id = &repository.id;
    let parts: Vec<&str> = repository.kind.prefix().into_iter().chain(id.split('/')).collect();
    let page = join(&repository.endpoint, &parts);
    let has_token = repository.token.is_some();
    match (code, status) {
        (Some("GatedRepo"), _) if has_token => {
            error!("{message}").hint(format_args!("ask for access at {page}"))
        }
        (Some("GatedRepo"), _) => error!("{message}")
            .hint(format_args!("ask for access at {page}, then set HF_TOKEN to your token")),
        (Some("RevisionNotFound"), _) => error!("{id} has no such revision ({message})")
            .hint("--revision takes a branch, a tag or a commit"),
        (Some("EntryNotFound"), _) => error!(Network, "{message}"),
        (Some("RepoNotFound"), _) | (None, 401 | 404) if has_token => {
            error!("no repository {id} that your token may read ({message})")
                .hint("check the spelling; for a data set add --repo-type dataset")
        }
        (Some("RepoNotFound"), _) | (None, 401 | 404) => error!("no public repository {id} ({message})")
            .hint(
                "check the spelling; for a data set add --repo-type dataset, for a private one set HF_TOKEN",
            ),
        (Some(code), _) => error!(Network, "{message} ({code})"),
        (None, _) => error!(Network, "{message}"),
    }
}
