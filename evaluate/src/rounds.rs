//! Which models are scored at the same time.

use std::ops::Range;
use std::path::{Path, PathBuf};

use common::{Context, Result};

/// The rounds in which `ranks` ranks score `models` models, of which each round has some, in order: one for each rank as
/// long as there are so many left, and then one at a time, which all ranks score together. So every model is loaded by one
/// rank where that leaves none without work.
pub fn rounds(models: usize, ranks: usize) -> Vec<Range<usize>> {
    let spread = models - models % ranks;
    let of_all = (0..spread).step_by(ranks).map(|first| first..first + ranks);
    of_all.chain((spread..models).map(|model| model..model + 1)).collect()
}

/// The ranks that score the model at `index` of a round of `models` models.
pub fn ranks_of(index: usize, models: usize, ranks: usize) -> Range<usize> {
    if models == 1 { 0..ranks } else { index..index + 1 }
}

/// One of the models that the tool is called with.
#[derive(Clone, Copy)]
pub struct ModelOfRound<'a> {
    /// The index of the model among those.
    pub index: usize,
    /// The directories of all models.
    pub directories: &'a [PathBuf],
}

impl<'a> ModelOfRound<'a> {
    /// Returns the directory of the model.
    pub fn directory(self) -> &'a Path {
        &self.directories[self.index]
    }

    /// Says of an error which of several models it is about.
    pub fn name<T>(self, result: Result<T>) -> Result<T> {
        let Self { index, directories } = self;
        let several =
            || format!("{} of {} models, {}", index + 1, directories.len(), directories[index].display());
        if directories.len() > 1 { result.with_context(several) } else { result }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_a_model_and_what_is_left_is_shared() {
        assert_eq!(rounds(3, 1), [0..1, 1..2, 2..3]);
        assert_eq!(rounds(6, 4), [0..4, 4..5, 5..6]);
        assert_eq!(rounds(4, 2), [0..2, 2..4]);
        assert_eq!(rounds(1, 3), rounds(1, 1));
        assert!(rounds(0, 3).is_empty());
        assert_eq!((ranks_of(2, 4, 4), ranks_of(0, 1, 4), ranks_of(0, 1, 1)), (2..3, 0..4, 0..1));
    }
}
