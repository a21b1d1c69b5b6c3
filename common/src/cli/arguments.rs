//! The options every tool has.

use std::path::PathBuf;

use clap::Args;

/// The options every tool has; flatten it into the tool's own arguments.
#[derive(Args, Debug, Clone)]
pub struct Common {
    /// Where the result goes
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Do the work again and replace a result that exists
    #[arg(long)]
    pub force: bool,

    /// Say nothing but errors on stderr
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on stderr
    #[arg(short, long)]
    pub verbose: bool,
}
