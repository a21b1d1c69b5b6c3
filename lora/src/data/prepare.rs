//! All data of a run, tokenized, and kept in the user's cache for the next run.

use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use common::checkpoint::Companions;
use common::cli::{self, Progress, Unit};
use common::data::{DataSource, Encoder, Malformed, records, rows};
use common::text::ending::missing_tokens;
use common::text::{ChatTemplate, Ending, LabelOptions, TextFiles, Tokenizer};
use common::{Context, Result, bail, hex};
use sha2::{Digest, Sha256};

use super::store::Examples;
use super::{DataArguments, EncodedFile, show};

/// The time after which kept tokens that no run has used are deleted.
const KEPT: Duration = Duration::from_secs(60 * 24 * 3600);
/// The version of the code that makes tokens: kept tokens of another version are not used.
const VERSION: &str = concat!("lora-train ", env!("CARGO_PKG_VERSION"), " 3");

/// The examples of a run, and what they say about the texts of its adapter.
pub struct Prepared {
    /// The training examples, in the order of the data.
    pub examples: Arc<Examples>,
    /// The examples of data that is held out as a whole, if there is any.
    pub held_out: Option<Arc<Examples>>,
    /// What the adapter's files say about its texts.
    pub texts: Texts,
}

/// What an adapter's files say about its texts, beyond what its model's files say.
#[derive(Debug, Default)]
pub struct Texts {
    /// The Jinja text of the chat template, where it is not the model's own.
    pub template: Option<String>,
    /// The token that ends trained answers.
    pub end: Option<(u32, String)>,
}

impl DataArguments {
    /// Reads and tokenizes all data for the model in `directory`. `seed` decides which rows are drawn from a
    /// data set that asks for a part of its rows.
    pub fn prepare(&self, directory: &Path, seed: u64) -> Result<Prepared> {
        // They are copied beside every checkpoint; what is wrong with them is said before the first step.
        Companions::of_text(directory)?.expect_inside()?;
        let tokenizer = Tokenizer::load(directory)?;
        let template = match &self.template {
            Some(name) => ChatTemplate::named(name, &tokenizer)?,
            None => ChatTemplate::load(directory, &tokenizer)?,
        };
        let template = template.with_thinking(self.enable_thinking);
        let template = if self.mask_history { template.without_earlier_thoughts() } else { template };
        template.unread_thinking().iter().for_each(cli::warn);
        missing_tokens(&tokenizer, &template).iter().for_each(cli::warn);
        let preparation = Preparation {
            arguments: self,
            model: directory,
            tokenizer: &tokenizer,
            template: &template,
            options: LabelOptions {
                cutoff_len: self.longest(),
                train_on_prompt: self.train_on_prompt,
                mask_history: self.mask_history,
                split_special_tokens: self.split_special_tokens,
            },
        };
        let held_out = preparation.examples(self.sources(&self.eval_data, &self.eval_dataset, seed)?)?;
        let examples = preparation.examples(self.sources(&self.data, &self.dataset, seed)?)?;
        let Some(examples) = examples else { bail!(Row, "nothing to train on") };
        for index in 0..self.show_examples.min(examples.summary().examples) {
            let example = examples.get(index)?;
            let text = show::shown(&tokenizer, &example)?;
            cli::note_lines(&format!("example {}, {} tokens:\n{text}", index + 1, example.tokens.len()));
        }
        let end = match Ending::of(&tokenizer, &template) {
            Some(Ending::Token(id)) => Some((id, tokenizer.decode_with_special(&[id])?)),
            Some(Ending::Text(_)) => None,
            None => {
                cli::warn(
                    "the chat template writes nothing after the last answer, so the model is not trained to end \
                     it: --template chooses another template",
                );
                None
            }
        };
        let template = self.template.as_ref().map(|_| template.source().to_owned());
        let texts = Texts { template, end };
        Ok(Prepared { examples: Arc::new(examples), held_out: held_out.map(Arc::new), texts })
    }
}

/// Everything that the data of a run is tokenized with.
struct Preparation<'a> {
    arguments: &'a DataArguments,
    model: &'a Path,
    tokenizer: &'a Tokenizer,
    template: &'a ChatTemplate,
    options: LabelOptions,
}

impl Preparation<'_> {
    /// The examples of `sources`, as an earlier run has kept them or else tokenized; `None` without sources.
    fn examples(&self, sources: Vec<DataSource>) -> Result<Option<Examples>> {
        if sources.is_empty() {
            return Ok(None);
        }
        let kept = match cli::cache_directory("tokens") {
            Ok(cache) => Some(cache.join(self.key(&sources)?)),
            Err(problem) => {
                cli::verbose(format_args!("tokens are not kept: {problem}"));
                None
            }
        };
        let reusable = kept.as_deref().filter(|path| path.exists() && !self.arguments.overwrite_cache);
        let examples = match reusable.map(Examples::open) {
            Some(Ok(examples)) => {
                cli::note(format_args!("{} examples, tokenized before", examples.summary().examples));
                examples
            }
            Some(Err(problem)) => {
                cli::verbose(format_args!("{problem}; tokenizing again"));
                self.tokenize(&sources, kept.as_deref())?
            }
            None => self.tokenize(&sources, kept.as_deref())?,
        };
        if let Some(path) = kept {
            keep(&path);
        }
        examples.summary().warnings.iter().for_each(cli::warn);
        Ok(Some(examples))
    }

    fn tokenize(&self, sources: &[DataSource], kept: Option<&Path>) -> Result<Examples> {
        let strict = self.arguments.strict;
        let scratch = match kept.and_then(Path::parent) {
            Some(cache) => cache.to_path_buf(),
            None => std::env::temp_dir(),
        };
        let encoder = Encoder::new(self.tokenizer, self.template, self.options, strict);
        let mut file = EncodedFile::new(encoder, &scratch)?;
        let size = |file: &PathBuf| fs_err::metadata(file).map_or(0, |metadata| metadata.len());
        let total: u64 = sources.iter().flat_map(DataSource::files).map(size).sum();
        let progress = Progress::new("tokenizing", total, Unit::Bytes);
        let mut malformed = Malformed::default();
        let mut before = 0;
        for source in sources {
            malformed.merge(records(source, strict, &mut |batch, position| {
                cli::check_interrupted()?;
                file.add(batch)?;
                progress.set(before + position);
                Ok(ControlFlow::Continue(()))
            })?);
            before += source.files().map(size).sum::<u64>();
        }
        drop(progress);
        file.finish(malformed, kept)
    }

    /// The name of the kept tokens, a hash of everything that decides them.
    fn key(&self, sources: &[DataSource]) -> Result<String> {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(VERSION.as_bytes());
        part(&TextFiles::of(self.model, None).digest()?);
        part(self.template.source().as_bytes());
        if let Some(thinking) = self.arguments.enable_thinking {
            part(format!("enable_thinking {thinking}").as_bytes());
        }
        part(format!("{:?} {}", self.options, self.arguments.strict).as_bytes());
        for source in sources {
            part(source.reading().as_bytes());
            for file in source.files() {
                part(&content(file)?);
            }
        }
        Ok(hex(hash.finalize()))
    }
}

/// The SHA-256 of a file.
fn content(path: &Path) -> Result<Vec<u8>> {
    let mut file =
        rows::open(path).hint("--data names a JSON, JSON lines, CSV or parquet file of examples")?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().to_vec()),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Marks kept tokens as used, and deletes those that no run has used for long.
fn keep(path: &Path) {
    let now = SystemTime::now();
    if let Ok(file) = std::fs::File::options().append(true).open(path) {
        let _ = file.set_modified(now);
    }
    let others =
        path.parent().and_then(|cache| std::fs::read_dir(cache).ok()).into_iter().flatten().flatten();
    for other in others {
        let modified = other.metadata().and_then(|metadata| metadata.modified());
        let unused = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        if unused.is_some_and(|unused| unused > KEPT) {
            let _ = std::fs::remove_file(other.path());
        }
    }
}
