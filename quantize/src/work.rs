//! Quantizes a model: its files come in, one after the other or all at once, and the result is a directory
//! with the same model and its linear weights in 4 bits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::checkpoint::{self, Checkpoint, Companions, INDEX, Index};
use common::cli::{
    self, Begun, Destination, Input, Inputs, OutputDirectory, OutputFile, Progress, Size, Unit,
};
use common::model::{EMBEDDING, canonical_name, has_own_head, text_weights};
use common::nf4::Scheme;
use common::{Context, Error, Result, bail, error, files, hex};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::incoming::IncomingModel;
use crate::plan::{Action, QuantizationPlan, keep_patterns};
use crate::{config, report, shard};

const CONFIG: &str = "config.json";
/// The name in `made-by.json`.
const TOOL: &str = "quantize";

/// The options of a run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The settings of quantization.
    pub scheme: Scheme,
    /// Regular expressions of linear weights that are not quantized.
    pub keep: Vec<String>,
    /// The dtype that transformers computes in; `None` leaves that of the model.
    pub compute_dtype: Option<&'static str>,
    /// The file for the errors of all weights, which is not part of the result.
    pub report: Option<PathBuf>,
}

impl Options {
    /// Begins the report of a new result before the work; `None` where the user wants none.
    fn new_report(&self, source: &IncomingModel, output: &Path, force: bool) -> Result<Option<OutputFile>> {
        let begin = |file| OutputFile::begin(&self.report_place(source, output, file)?, force, TOOL);
        self.report.as_deref().map(begin).transpose()
    }

    /// Writes the report of an existing result, unless the file has the same content already.
    fn report_of(&self, source: &IncomingModel, result: &Path, force: bool) -> Result<()> {
        let Some(file) = &self.report else { return Ok(()) };
        let place = self.report_place(source, result, file)?;
        let text = report::text(&source.directory, result)?;
        if file.symlink_metadata().is_ok_and(|found| found.is_file())
            && files::read_text(file, text.len() as u64).is_ok_and(|found| found == text)
        {
            OutputFile::discard(&place, TOOL);
            cli::note(format_args!("{} is already made", file.display()));
            return Ok(());
        }
        let mut file = OutputFile::begin(&place, force, TOOL)?;
        file.write(&text)?;
        file.finish();
        Ok(())
    }

    fn report_place(&self, source: &IncomingModel, output: &Path, file: &Path) -> Result<Destination> {
        Destination::file(file, &[source.directory.clone(), output.to_path_buf()]).context("--report")
    }
}

/// Quantizes the one model among the inputs and returns the directory made.
pub(crate) fn quantize(
    mut inputs: Inputs,
    options: &Options,
    output: Option<PathBuf>,
    force: bool,
) -> Result<PathBuf> {
    let keep = keep_patterns(&options.keep)?;
    // config.json comes first, and nothing can be done before it is there.
    let mut source = begin_source(&mut inputs)?;
    let config_path = source.file(CONFIG).ok_or_else(|| {
        error!("{} has no {CONFIG}", source.directory.display()).hint("name a model's directory")
    })?;
    let (config, parsed) = config::read(&config_path)?;
    let plan = QuantizationPlan::new(options.scheme, keep, parsed);
    // Only companions that are there already; the others are checked when they are copied.
    Companions::of(&source.directory)?.expect_inside()?;
    let destination = match output {
        Some(output) => output,
        None => default_output(&source.directory, options)?,
    };
    let recipe = json!({
        "model": fs_err::canonicalize(&source.directory)?,
        "config": sha256(&files::read(&config_path, files::CONFIG)?),
        "quant_type": options.scheme.quant_type.name(),
        "block_size": options.scheme.block_size,
        "double_quant": options.scheme.double_quant,
        "keep": options.keep,
        "compute_dtype": options.compute_dtype,
    });
    let place = Destination::directory(&destination, std::slice::from_ref(&source.directory))?;
    match OutputDirectory::begin(place, force, TOOL, recipe)? {
        Begun::Done(path) => {
            await_all(&mut inputs, &mut source)?;
            if !is_same(&path, &source)? {
                return Err(cli::made_otherwise(&path));
            }
            cli::note(format_args!("{} is already made; --force makes it again", path.display()));
            options.report_of(&source, &path, force)?;
            Ok(path)
        }
        Begun::New(output) => {
            let report = options.new_report(&source, &destination, force)?;
            Work::new(&plan, source, *output, report).finish(inputs, config, options)
        }
    }
}

/// Reads inputs until config.json or the whole directory is there.
fn begin_source(inputs: &mut Inputs) -> Result<IncomingModel> {
    let mut early: Vec<PathBuf> = Vec::new();
    for input in inputs {
        match input? {
            Input::Directory(directory) => {
                let mut source = IncomingModel::growing(&directory);
                source.complete();
                return Ok(source);
            }
            Input::File(file) => {
                let is_config = file.file_name().is_some_and(|name| name == CONFIG);
                early.push(file);
                if let Some(directory) = early.last().filter(|_| is_config).and_then(|file| file.parent()) {
                    let mut source = IncomingModel::growing(directory);
                    for file in &early {
                        source.arrive(file);
                    }
                    return Ok(source);
                }
            }
        }
    }
    bail!(Missing, "no {CONFIG} among the inputs")
}

/// Reads the next input; returns `false` where there is none.
fn next(inputs: &mut Inputs, source: &mut IncomingModel) -> Result<bool> {
    let Some(input) = inputs.next() else { return Ok(false) };
    match input? {
        Input::Directory(directory) if is_same_directory(&directory, &source.directory) => source.complete(),
        Input::Directory(directory) => {
            return Err(Error::usage(format!("one model expected, another found: {}", directory.display())));
        }
        // Files of subdirectories are ignored.
        Input::File(file) => {
            source.arrive(&file);
        }
    }
    Ok(true)
}

fn is_same_directory(left: &Path, right: &Path) -> bool {
    left == right || fs_err::canonicalize(left).ok() == fs_err::canonicalize(right).ok()
}

fn await_all(inputs: &mut Inputs, source: &mut IncomingModel) -> Result<()> {
    while next(inputs, source)? {}
    Ok(())
}

/// The output directory where none is named: `./NAME-nf4`.
fn default_output(directory: &Path, options: &Options) -> Result<PathBuf> {
    let directory = fs_err::canonicalize(directory)?;
    let Some(name) = common::hub_cache::name_of(&directory).and_then(|name| name.into_string().ok()) else {
        return Err(Error::usage("the model's directory has no name").hint("name the result with -o"));
    };
    Ok(PathBuf::from(format!("{name}-{}", options.scheme.quant_type)))
}

fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// Whether a finished result was made from these weights and companions.
fn is_same(result: &Path, source: &IncomingModel) -> Result<bool> {
    let shards = source.shards()?.unwrap_or_default();
    let companions = Companions::of(&source.directory)?.files;
    let companions = companions.into_iter().map(|companion| (companion.name, companion.path));
    let files = shards.into_iter().map(|file| (file.clone(), source.directory.join(file)));
    let files: Vec<(String, PathBuf)> = files.chain(companions).collect();
    let parts = cli::parts_of(result);
    for (name, path) in &files {
        if parts.get(name) != Some(&cli::file_version(path)?) {
            return Ok(false);
        }
    }
    Ok(parts.len() == files.len())
}

struct Work<'a> {
    plan: &'a QuantizationPlan,
    source: IncomingModel,
    output: OutputDirectory,
    report: Option<OutputFile>,
    /// The tensors of the result, by the file that holds them.
    written: BTreeMap<String, Vec<checkpoint::TensorSpec>>,
    /// The linear modules that are not quantized.
    kept: Vec<String>,
    source_bytes: u64,
}

impl<'a> Work<'a> {
    fn new(
        plan: &'a QuantizationPlan,
        source: IncomingModel,
        output: OutputDirectory,
        report: Option<OutputFile>,
    ) -> Self {
        let (written, kept) = (BTreeMap::new(), Vec::new());
        Self { plan, source, output, report, written, kept, source_bytes: 0 }
    }

    fn finish(mut self, mut inputs: Inputs, config: Value, options: &Options) -> Result<PathBuf> {
        let progress = Progress::new("quantize", 0, Unit::Bytes);
        loop {
            if self.quantize_one(&progress)? {
                continue;
            }
            match next(&mut inputs, &mut self.source) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Err(self.ended_early(error)),
            }
        }
        drop(progress);
        let shards = self.source.shards()?.unwrap_or_default();
        for file in &shards {
            if !self.written.contains_key(file) {
                bail!(Missing, "{} is missing", self.source.directory.join(file).display());
            }
        }
        // Each file was valid; now all of them have to match the index.
        let checkpoint = text_weights(Checkpoint::open(&self.source.directory)?, self.plan.config())?;
        let is_tied = self.plan.config().tied_head;
        let own_head = is_tied && checkpoint.contains(EMBEDDING) && has_own_head(&checkpoint)?;
        self.write_rest(config, options, own_head)?;
        let text = match &self.report {
            Some(_) => report::text(&self.source.directory, &self.output.path())?,
            None => String::new(),
        };
        self.summary();
        let path = self.output.commit()?;
        if let Some(mut report) = self.report {
            report.write(&text)?;
            report.finish();
        }
        Ok(path)
    }

    /// Quantizes a file that has arrived and is not done; returns `false` where there is none.
    fn quantize_one(&mut self, progress: &Progress) -> Result<bool> {
        let Some(shards) = self.source.shards()? else { return Ok(false) };
        let ready = |file: &String| Some((file.clone(), self.source.file(file)?));
        let Some((file, path)) =
            shards.iter().filter(|file| !self.written.contains_key(*file)).find_map(ready)
        else {
            return Ok(false);
        };
        progress.set_total(self.total_bytes(&shards)?);
        progress.message(file.clone());
        let from = cli::file_version(&path)?;
        let tensors = text_weights(Checkpoint::open_file(&path)?, self.plan.config())?;
        if self.written.is_empty() {
            self.note_left_out();
            self.expect_linear(&tensors)?;
        }
        let specs = shard::output_specs(&tensors, self.plan)?;
        for name in tensors.names().filter(|name| self.plan.action(name) == Action::Keep) {
            self.kept.push(name.trim_end_matches(".weight").to_string());
        }
        let size = fs_err::metadata(&path)?.len();
        if self.output.has_part(&file, &from) {
            cli::note(format_args!("{file} is already quantized"));
            progress.add(size);
        } else {
            self.output.check_space(size_of(&specs))?;
            // A file of weights that read images alone has nothing in the result.
            if !specs.is_empty() {
                shard::quantize(&tensors, self.plan, &self.output.path().join(&file), progress)
                    .with_context(|| path.display().to_string())
                    .hint("run the same command again; what is done is kept")?;
            }
            self.output.finish_part(&file, from)?;
        }
        self.source_bytes += size;
        self.written.insert(file, specs);
        Ok(true)
    }

    /// Says that the result is the text model alone, where there is more.
    fn note_left_out(&self) {
        if self.plan.config().is_composite {
            cli::note(
                "the result is the text model alone, which transformers loads by itself; \
                 the weights that read images are left out",
            );
        }
    }

    /// Fails where the model has no linear weight that could be quantized, because its names are others.
    fn expect_linear(&self, tensors: &Checkpoint) -> Result<()> {
        let index = self.source.index()?;
        let listed: Vec<&str> = match &index {
            Some(index) => index.weight_map.keys().map(String::as_str).collect(),
            None => tensors.names().collect(),
        };
        match listed.iter().any(|name| self.plan.is_linear(&canonical_name(name))) {
            true => Ok(()),
            false => Err(error!(
                "{}: no linear weight found, such as model.layers.0.self_attn.q_proj.weight; the first tensor is {}",
                self.source.directory.display(),
                listed.first().unwrap_or(&"missing")
            )
            .hint("save the model in transformers with save_pretrained, or fetch it again")),
        }
    }

    /// The bytes of all weight files; while they arrive, those that the index tells.
    fn total_bytes(&self, shards: &[String]) -> Result<u64> {
        if let Some(total) =
            self.source.index()?.and_then(|index| index.metadata.total_size).filter(|&size| size > 0)
        {
            return Ok(total);
        }
        let size =
            |file: &String| fs_err::metadata(self.source.directory.join(file)).map_or(0, |data| data.len());
        Ok(shards.iter().map(size).sum())
    }

    fn ended_early(&self, error: Error) -> Error {
        let shards = self.source.shards().ok().flatten().unwrap_or_default();
        match shards.iter().find(|file| !self.written.contains_key(*file)) {
            Some(file) => error.context(format!("upstream ended before {file}")),
            None => error,
        }
    }

    /// Writes all files of the result except the weights.
    fn write_rest(&mut self, config: Value, options: &Options, own_head: bool) -> Result<()> {
        let directory = self.output.path();
        if self.source.index()?.is_some() {
            let mut index = Index::default();
            let mut bytes = 0;
            for (file, specs) in &self.written {
                for spec in specs {
                    bytes += spec.size()? as u64;
                    index.weight_map.insert(spec.name.clone(), file.clone());
                }
            }
            index.metadata.total_size = Some(bytes);
            cli::write_file(&directory.join(INDEX), &index.to_json()?)?;
        }
        self.kept.sort();
        let compute = options.compute_dtype;
        let text = config::with_quantization(config, options.scheme, compute, &self.kept, own_head)?;
        cli::write_file(&directory.join(CONFIG), &text)?;
        let companions = Companions::of(&self.source.directory)?;
        for companion in &companions.files {
            let from = cli::file_version(&companion.path)?;
            companion.copy(&directory)?;
            self.output.finish_part(&companion.name, from)?;
        }
        companions.note_others();
        Ok(())
    }

    fn summary(&self) {
        let bytes: u64 = self.written.values().map(|specs| size_of(specs)).sum();
        cli::note(format_args!(
            "{} in, {} out ({:.1} %)",
            Size(self.source_bytes),
            Size(bytes),
            100.0 * bytes as f64 / self.source_bytes.max(1) as f64
        ));
    }
}

/// The bytes of all tensors together, whose sizes must have been checked.
fn size_of(specs: &[checkpoint::TensorSpec]) -> u64 {
    specs.iter().filter_map(|spec| spec.size().ok()).map(|size| size as u64).sum()
}
