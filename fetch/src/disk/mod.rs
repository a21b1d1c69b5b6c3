//! Files on this machine: what is written, where it grows, and what it hashes to.
//!
//! | file | what it is |
//! |---|---|
//! | `folder/` | directories that are held open, through which alone anything is written |
//! | `scratch` | the locked directory in which unfinished files grow |
//! | `partial` | a growing file, and which of its chunks are there |
//! | `digest` | what the content of a file must hash to |
//! | `space` | whether the disk has room for what is to come |

pub mod digest;
pub mod folder;
pub mod partial;
pub mod scratch;
pub mod space;
