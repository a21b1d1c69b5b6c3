//! The download: parallel ranges over many connections, hashed as they arrive.
//!
//! | file | what it is |
//! |---|---|
//! | `download` | a run: workers, progress, files placed as they are complete |
//! | `schedule` | which connection fetches which chunks |
//! | `request` | a range on its way, and the speed of its connection |
//! | `range` | one range over one connection, from the request to chunks on disk |
//! | `leftovers` | beginnings of chunks whose connections broke |
//! | `growth`, `rate` | the number of connections; `--max-rate` |
//! | `follow` | hashing of each file behind the download |
//! | `votes` | which chunks to fetch again when a content is wrong |
//! | `stream` | a file of unknown length, in one stream |

pub mod download;
mod follow;
mod growth;
mod leftovers;
pub mod range;
mod rate;
mod request;
mod schedule;
pub mod stream;
mod votes;
