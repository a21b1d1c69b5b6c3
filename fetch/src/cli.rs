//! The command line, as the user writes it.

#![allow(rustdoc::bare_urls)] // doc comments of arguments are the text of --help

use std::path::PathBuf;

use clap::Parser;

use crate::hub::RepositoryKind;

/// Download a model or a data set with parallel range requests, every byte checked
#[derive(Parser, Debug)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// A repository (OWNER/NAME), a known data set, or the URL of a file or of a page of the hub
    #[arg(required_unless_present = "verify")]
    pub source: Option<String>,

    /// Branch, tag or commit [default: that of the page, or main]
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,

    /// Kind of repository [default: model, but dataset for known data sets]
    #[arg(long, value_enum, value_name = "KIND")]
    pub repo_type: Option<RepositoryKind>,

    /// Server speaking the hub's HTTP API [default: HF_ENDPOINT, or https://huggingface.co]
    #[arg(long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// Only files whose name matches the glob; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,

    /// No file whose name matches the glob; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,

    /// Parallel connections [default: as many as make it faster, up to 32]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub connections: Option<u16>,

    /// Seconds without a byte after which a connection is given up
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS")]
    pub timeout: f64,

    /// Failures in a row, with nothing gained, after which the download is given up
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub retries: u32,

    /// Most bytes a second, such as 500K or 10MB
    #[arg(long, value_name = "SIZE")]
    pub max_rate: Option<common::cli::Size>,

    /// Read and write the cache of the hub's own tools instead of a directory
    #[arg(long, conflicts_with = "output")]
    pub cache: bool,

    /// List files and their sizes in bytes, and fetch nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Check a fetched directory against its hashes, without the network
    #[arg(long, value_name = "DIR", conflicts_with = "source")]
    pub verify: Option<PathBuf>,

    #[command(flatten)]
    pub common: common::cli::Common,
}

impl AsRef<common::cli::Common> for Arguments {
    fn as_ref(&self) -> &common::cli::Common {
        &self.common
    }
}

const EXAMPLES: &str = "\
Examples:
  fetch Qwen/Qwen2.5-7B-Instruct                    into ./Qwen2.5-7B-Instruct
  fetch Qwen/Qwen2.5-7B-Instruct | quantize -o q    quantizes each file as it arrives
  fetch alpaca_gpt4_zh -o data                      a known data set
  fetch --verify data                               checks it again, offline
  fetch OWNER/NAME --include '*.json' --revision v1

Prints the path of each file as soon as it is complete and checked, then the directory.
Run the same command again to go on after an interruption.
A token is taken from HF_TOKEN, or the file HF_TOKEN_PATH or HF_HOME/token.
With HF_HUB_OFFLINE=1 nothing is downloaded, and what is there is used.";
