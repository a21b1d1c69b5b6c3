//! The hub's HTTP API: which files a repository has at a revision, and where their bytes are.
//!
//! | file | what it is |
//! |---|---|
//! | `repository`, `address` | kinds and names of repositories, addresses of their files, and how those are encoded |
//! | `token` | the access token, and the one server that may see it |
//! | `connection`, `body` | requests, redirects, and bodies that may stall |
//! | `answer`, `failure` | what status and headers mean; why a request failed |
//! | `retry` | waits between tries |
//! | `api` | short requests, tried a few times |
//! | `listing`, `describe` | the files of a repository; size and hash of one file |

mod address;
mod answer;
mod api;
mod body;
mod connection;
mod describe;
mod failure;
mod listing;
mod repository;
mod retry;
mod token;

pub(crate) use address::percent_decode;
pub(crate) use answer::refuse_page;
pub(crate) use api::{give_up, give_up_file};
pub(crate) use body::Body;
pub(crate) use connection::{Connection, Connector, Request};
pub(crate) use describe::{Description, describe};
pub(crate) use failure::Failure;
pub(crate) use listing::{ListedFile, Listing, is_commit, list};
pub(crate) use repository::{Repository, RepositoryKind, check_id, file_url};
pub(crate) use retry::Backoff;
pub(crate) use token::Token;
