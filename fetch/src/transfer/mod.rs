//! The download: parallel ranges over many connections, hashed as they arrive.
//!
//! | file | what it is |
//! |---|---|
//! | `remote` | a file to download |
//! | `download` | a download: workers, progress, files placed as they are complete |
//! | `shared` | what the tasks of a download share |
//! | `worker` | one connection that fetches one range after the other |
//! | `schedule/` | which connection fetches which chunks |
//! | `request`, `pace` | a range that is being fetched; the speed of its connection |
//! | `range`, `answer` | one range over one connection; what the answer must be |
//! | `leftovers` | beginnings of chunks whose connections broke |
//! | `growth`, `rate` | the number of connections; `--max-rate` |
//! | `hashing` | each file is hashed while it arrives |
//! | `healing`, `votes` | a wrong content, and which of its chunks to fetch again |
//! | `stream` | a file of unknown length, in one stream |

mod answer;
mod download;
mod growth;
mod hashing;
mod healing;
mod leftovers;
mod pace;
mod range;
mod rate;
mod remote;
mod request;
mod schedule;
mod shared;
mod stream;
mod votes;
mod worker;

pub(crate) use download::{how_much, run};
pub(crate) use remote::{RemoteFile, WantedFile};
pub(crate) use stream::bring;
