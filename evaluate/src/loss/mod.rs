//! Ranks models by their loss on instruction data, as lora-train reports it for what is held out: summed over
//! the answers' tokens and divided by their number.

mod examples;
pub mod file_loss;

use std::path::{Path, PathBuf};

use common::checkpoint::check_unchanged;
use common::cli::{self, Destination, OutputFile, Progress, Unit};
use common::data::passes;
use common::model::{Loss, Model};
use common::models::Models;
use common::text::{Example, Tokenizer};
use common::world::World;
use common::world::deal::deal;
use common::{Context, Result, bail};
use serde_json::{Map, Value, json};

use crate::arguments::Arguments;
use crate::identity::identity;
use crate::ranking;
use crate::rounds::{ranks_of, rounds};

pub use examples::Examples;
use file_loss::FileLoss;

/// Prints the losses of all models, best first, and writes them where -o says. All ranks compute together; rank 0
/// prints and writes.
pub fn rank_by_loss(
    directories: &[PathBuf],
    file: &Path,
    arguments: &Arguments,
    world: &World,
) -> Result<()> {
    directories.iter().try_for_each(|directory| arguments.model.expect_supported(directory))?;
    let (mut output, mut details) = match world.is_first() {
        true => loss_files(directories, file, arguments)?,
        false => (None, None),
    };
    let device = world.device(arguments.model.device)?.open()?;
    world.compare(&device)?;
    let longest = arguments.pass_tokens(&device).max(arguments.cutoff_len);
    let mut models = Models::new(&arguments.model, device).for_scoring(longest, world.size());
    // The details have a line for each example, so each example has a pass of its own.
    let tokens = if arguments.details.is_some() { 1 } else { arguments.pass_tokens(models.device()) };
    let (mut found, mut entries) = (Vec::new(), Vec::new());
    for round in rounds(directories.len(), world.size()) {
        let round = &directories[round];
        let (mut examples, mut identities) = (Vec::new(), Vec::new());
        for directory in round {
            let files = arguments.model.text_files(directory)?;
            let tokenizer = Tokenizer::of(&files)?;
            let template = arguments.model.chat_template(&files, &tokenizer)?;
            let of_model =
                Examples::read(file, arguments.limit(), arguments.cutoff_len, &tokenizer, &template)?;
            // The identity is that of the files as they are read, before they may be changed.
            identities.push(match &output {
                Some(_) => identity(directory, arguments.model.base_of(directory)?.as_deref())?,
                None => Value::Null,
            });
            world.expect_same(|| shared(directory, &of_model, tokens, arguments))?;
            examples.push(of_model);
        }
        let losses = losses(round, &examples, tokens, &mut models, world)?;
        let of_models = round.iter().zip(identities).zip(examples.iter().zip(losses));
        for ((directory, identity), (examples, passes)) in of_models {
            if let Some(details) = &mut details {
                details.fill(|path| Ok(fs_err::write(path, examples.details(&passes))?))?;
            }
            let mut loss = Loss { sum: 0.0, tokens: 0 };
            passes.into_iter().for_each(|pass| loss += pass);
            let loss = FileLoss { loss, examples: examples.examples.len() };
            entries.push(json!({
                "model": identity,
                "loss": loss.loss.mean(),
                "perplexity": loss.perplexity(),
                "tokens": loss.loss.tokens,
                "examples": loss.examples,
            }));
            found.push((directory.as_path(), loss));
        }
    }
    if let Some(output) = &mut output {
        let report = json!({"data": file.display().to_string(), "cutoff_len": arguments.cutoff_len, "models": entries});
        output.fill(|path| Ok(fs_err::write(path, serde_json::to_string_pretty(&report)? + "\n")?))?;
    }
    if !world.is_first() {
        return Ok(());
    }
    output.iter_mut().chain(&mut details).try_for_each(OutputFile::place)?;
    output.into_iter().chain(details).for_each(OutputFile::finish);
    cli::answer(ranking::by_loss(found))
}

/// Begins the files that losses are written to, before anything is computed: the report and the details.
fn loss_files(
    directories: &[PathBuf],
    file: &Path,
    arguments: &Arguments,
) -> Result<(Option<OutputFile>, Option<OutputFile>)> {
    let mut inputs = vec![file.to_path_buf()];
    for directory in directories {
        inputs.extend(arguments.inputs_of(directory)?);
    }
    let begin = |path: &PathBuf, inputs: &[PathBuf]| {
        OutputFile::begin(&Destination::file(path, inputs)?, arguments.common.force, "evaluate")
    };
    let output = arguments.common.output.as_ref();
    // What is placed last begins first, so that a run after a kill finds it.
    let details = arguments.details.as_ref().map(|details| begin(details, &inputs)).transpose()?;
    inputs.extend(arguments.details.clone());
    Ok((output.map(|output| begin(output, &inputs)).transpose()?, details))
}

/// What must be the same on all ranks.
fn shared(
    directory: &Path,
    examples: &Examples,
    pass_tokens: usize,
    arguments: &Arguments,
) -> Result<Map<String, Value>> {
    let model = identity(directory, arguments.model.base_of(directory)?.as_deref())?;
    let mut shared = Map::new();
    shared.insert("the model".into(), model["fingerprint"].clone());
    shared.insert("the base".into(), model["base"]["fingerprint"].clone());
    shared.insert("the tokens of the data".into(), examples.identity().into());
    shared.insert("pass_tokens".into(), pass_tokens.into());
    Ok(shared)
}

/// A pass that was computed: its place among those of its model, the bits of its summed loss, and its tokens.
type Computed = (usize, u64, usize);

/// Computes the losses of the models of a round on their examples, one for each pass of at most `pass_tokens` tokens; an
/// example that is longer has a pass of its own. The passes of one model are dealt to all ranks; of several models, each
/// rank has one.
fn losses(
    round: &[PathBuf],
    examples: &[Examples],
    pass_tokens: usize,
    models: &mut Models,
    world: &World,
) -> Result<Vec<Vec<Loss>>> {
    let own = if round.len() == 1 { 0 } else { world.rank() };
    let passes: Vec<&[Example]> = passes::passes(&examples[own].examples, pass_tokens).collect();
    let ranks = ranks_of(own, round.len(), world.size());
    let tokens = |pass: &&[Example]| pass.iter().map(|example| example.tokens.len()).sum();
    let dealt = deal(&passes.iter().map(tokens).collect::<Vec<usize>>(), ranks.len());
    let of_rank = dealt.get(world.rank() - ranks.start).map_or(&[][..], Vec::as_slice);
    let model = match round.len() {
        1 => models.load_among(&round[own], world)?,
        _ => models.load(&round[own])?,
    };
    let found = computed(model, &passes, of_rank).with_context(|| round[own].display().to_string())?;
    let mut of_ranks = world.gather(found)?.into_iter();
    let of_model = |index: usize| {
        let ranks = ranks_of(index, round.len(), world.size());
        let mut all: Vec<Computed> = of_ranks.by_ref().take(ranks.len()).flatten().collect();
        all.sort_unstable_by_key(|(place, ..)| *place);
        all.into_iter().map(|(_, sum, tokens)| Loss { sum: f64::from_bits(sum), tokens }).collect()
    };
    Ok((0..round.len()).map(of_model).collect())
}

/// Computes the losses of these of the passes.
fn computed(model: &Model, passes: &[&[Example]], own: &[usize]) -> Result<Vec<Computed>> {
    let total: usize = own.iter().map(|&index| passes[index].len()).sum();
    let progress = Progress::new("computing the loss", total as u64, Unit::Items("examples"));
    let mut found = Vec::with_capacity(own.len());
    for &index in own {
        let loss = model.loss(&passes::pack(passes[index]))?;
        check_unchanged()?;
        if !loss.sum.is_finite() {
            bail!(
                Malformed,
                "the model's loss is {}: its weights hold numbers that are not finite, or overflow",
                loss.sum
            );
        }
        found.push((index, loss.sum.to_bits(), loss.tokens));
        progress.add(passes[index].len() as u64);
        cli::check_interrupted()?;
    }
    Ok(found)
}
