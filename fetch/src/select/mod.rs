//! What is fetched: the user's request, and which files of a repository answer it.
//!
//! | file | what it is |
//! |---|---|
//! | `source` | a repository or the address of a file, as the user names it |
//! | `page` | addresses of a hub's pages, as browsers show them |
//! | `globs` | `--include` and `--exclude` |
//! | `names` | which names of files are refused |
//! | `plan` | the files to fetch, with their sizes and hashes, in order |

pub(crate) mod globs;
pub(crate) mod names;
pub(crate) mod page;
pub(crate) mod plan;
pub(crate) mod source;
