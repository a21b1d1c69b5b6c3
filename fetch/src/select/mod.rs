//! What is fetched: the user's request, and which files of a repository answer it.
//!
//! | file | what it is |
//! |---|---|
//! | `source` | a repository or the address of a file, as the user names it |
//! | `page` | addresses of a hub's pages, as browsers show them |
//! | `globs` | `--include` and `--exclude` |
//! | `names` | which names of files are refused |
//! | `plan` | the files to fetch, with their sizes and hashes, in order |

pub mod globs;
pub mod names;
pub mod page;
pub mod plan;
pub mod source;
