//! The options of the data.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use common::Result;
use common::cli::Size;
use common::data::{DataSource, RowLimit};

/// The options of the data, named as LLaMA-Factory names them.
#[derive(Args, Debug, Clone)]
pub struct DataArguments {
    /// JSON, JSON lines, CSV or parquet file of alpaca rows or messages; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub data: Vec<PathBuf>,

    /// Names of datasets in dataset_info.json, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub dataset: Vec<String>,

    /// File of examples held out for evaluation; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub eval_data: Vec<PathBuf>,

    /// Names of datasets held out for evaluation, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub eval_dataset: Vec<String>,

    /// Examples held out for evaluation: a share below 1, or a number
    #[arg(long, value_name = "SIZE", default_value_t = 0.0)]
    pub val_size: f64,

    /// Where dataset_info.json is
    #[arg(long, value_name = "DIR", default_value = "data")]
    pub dataset_dir: PathBuf,

    /// Use no more than the first N rows of each dataset
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_samples: Option<u64>,

    /// Most bytes of a row, unpacked: a file with a longer one is refused
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub max_row_size: Size,

    /// Stop at the first malformed row in place of skipping it
    #[arg(long)]
    pub strict: bool,

    /// Keep no more tokens of an example than this
    #[arg(long, value_name = "TOKENS", default_value_t = 2048,
        value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub cutoff_len: u64,

    /// Count examples put together up to --cutoff-len as one; they still do not see each other
    #[arg(long)]
    pub packing: bool,

    /// The same as --packing
    #[arg(long)]
    pub neat_packing: bool,

    /// Read no more of each dataset than --max-steps can see, and --buffer-size rows to choose from
    #[arg(long)]
    pub streaming: bool,

    /// Rows that --streaming reads beyond those it needs, so that they come in random order
    #[arg(long, value_name = "ROWS", default_value_t = 16384)]
    pub buffer_size: u64,

    /// A template by its name in LLaMA-Factory, in place of the model's own
    #[arg(long, value_name = "NAME")]
    pub template: Option<String>,

    /// Whether a reasoning model thinks before it answers; false drops thoughts in the data, and the template
    /// writes an empty one that is not trained; the template decides where nothing is said
    #[arg(long, value_name = "BOOL")]
    pub enable_thinking: Option<bool>,

    /// Train prompts as well as answers
    #[arg(long)]
    pub train_on_prompt: bool,

    /// Train the last answer of a conversation only
    #[arg(long)]
    pub mask_history: bool,

    /// Whether the text of a special token that stands in data, such as <|im_end|>, is text like any other;
    /// false makes it that token, as LLaMA-Factory does unless told otherwise
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub split_special_tokens: bool,

    /// Tokenize again what an earlier run has tokenized and kept
    #[arg(long)]
    pub overwrite_cache: bool,

    /// Show the first N examples as they are trained, what is trained in green
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub show_examples: usize,
}

impl DataArguments {
    /// Whether there are held-out examples.
    pub fn holds_out(&self) -> bool {
        self.val_size > 0.0 || !self.eval_data.is_empty() || !self.eval_dataset.is_empty()
    }

    /// Whether examples are put together in packs.
    pub fn packs(&self) -> bool {
        self.packing || self.neat_packing
    }

    /// The most tokens of an example, or of a pack, whose last place LLaMA-Factory keeps free.
    pub fn longest(&self) -> usize {
        let cutoff = usize::try_from(self.cutoff_len).unwrap_or(usize::MAX);
        cutoff - usize::from(self.packs())
    }

    /// The sources of the named files and the named data sets. `seed` decides which rows are drawn from a data
    /// set that asks for a part of its rows.
    pub(super) fn sources(&self, files: &[PathBuf], names: &[String], seed: u64) -> Result<Vec<DataSource>> {
        let files = files.iter().map(|path| Ok(DataSource::file(path)));
        let named = names.iter().map(|name| DataSource::named(name.trim(), &self.dataset_dir, seed));
        let mut sources = files.chain(named).collect::<Result<Vec<_>>>()?;
        for source in &mut sources {
            let bytes = usize::try_from(self.max_row_size.0).unwrap_or(usize::MAX);
            source.row_limit = RowLimit { bytes, option: Some("--max-row-size") };
        }
        if let Some(most) = self.max_samples.and_then(|most| usize::try_from(most).ok()) {
            sources.iter_mut().for_each(|source| source.max_samples = Some(most));
        }
        Ok(sources)
    }
}
