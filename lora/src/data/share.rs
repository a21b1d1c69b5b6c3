//! The tokenized data of rank 0, on all ranks of a run. Rank 0 tokenizes it with all cores of its machine; the
//! others wait for as long as that takes.

use std::path::PathBuf;
use std::sync::Arc;

use common::world::World;
use common::{Context, Result, error};
use serde::{Deserialize, Serialize};

use super::prepare::{Prepared, Texts};
use super::store::Examples;

/// What other ranks need to know about the examples of rank 0.
#[derive(Serialize, Deserialize)]
struct Offer {
    /// Where their file is, which ranks on the same machine or with the same disk can read.
    path: Option<PathBuf>,
    identity: String,
}

impl Prepared {
    /// The data that rank 0 prepares, on all ranks.
    pub fn on_all_ranks(world: &World, prepare: impl FnOnce() -> Result<Self>) -> Result<Self> {
        let own = if world.is_first() { Some(prepare()?) } else { None };
        let (examples, held_out, texts) = match own {
            Some(Self { examples, held_out, texts }) => (Some(examples), held_out, texts),
            // Rank 0 alone writes files that texts go into.
            None => (None, None, Texts::default()),
        };
        let examples = shared(world, examples)?;
        let held_out = shared(world, held_out)?;
        let examples = examples.ok_or_else(|| error!(Bug, "rank 0 has prepared no examples"))?;
        Ok(Self { examples, held_out, texts })
    }
}

/// The examples of rank 0: its own there, read from their file elsewhere, or sent where that cannot be read.
fn shared(world: &World, own: Option<Arc<Examples>>) -> Result<Option<Arc<Examples>>> {
    let offer = world.from_first(|| {
        let offer = |examples: &Arc<Examples>| Offer {
            path: examples.path().map(PathBuf::from),
            identity: examples.summary().identity.clone(),
        };
        Ok(own.as_ref().map(offer))
    })?;
    let Some(Offer { path, identity }) = offer else { return Ok(None) };
    let found = || Some(Arc::new(Examples::open(path.as_deref()?).ok()?));
    let found = own.or_else(found).filter(|examples| examples.summary().identity == identity);
    if !world.gather(found.is_none())?.contains(&true) {
        return Ok(found);
    }
    let mut file = tempfile::tempfile().context("cannot keep the tokens of rank 0")?;
    match &found {
        Some(examples) => examples.with_file(|from| world.copy(from, &mut std::io::sink()))?,
        None => world.copy(&mut std::io::empty(), &mut file)?,
    }
    match found {
        Some(examples) => Ok(Some(examples)),
        None => Ok(Some(Arc::new(Examples::of_file(file)?))),
    }
}
