//! Files on this machine: what is written, where it grows, and what it hashes to.
//!
//! | file | what it is |
//! |---|---|
//! | `folder/` | directories that are held open, through which alone anything is written |
//! | `scratch` | the locked directory in which unfinished files grow |
//! | `partial` | a growing file, and which of its chunks are there |
//! | `digest` | what the content of a file must hash to |
//! | `space` | whether the disk has room for what is to come |

pub(crate) mod digest;
pub(crate) mod folder;
pub(crate) mod partial;
pub(crate) mod scratch;
pub(crate) mod space;
