//! The hub's HTTP API: which files a repository has at a revision, and where their bytes are.
//!
//! | file | what it is |
//! |---|---|
//! | `repository`, `address` | kinds and names of repositories, addresses of their files |
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

pub use address::{file_url, percent_decode};
pub use answer::refuse_page;
pub use api::{give_up, give_up_file};
pub use body::Body;
pub use connection::{Connection, Connector, Request};
pub use describe::{Description, describe};
pub use failure::Failure;
pub use listing::{ListedFile, Listing, is_commit, list};
pub use repository::{Repository, RepositoryKind, check_id};
pub use retry::Backoff;
pub use token::Token;
