//! How often something is done in a run.

use serde::Serialize;

/// How often something is done in a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Every {
    /// Not at all.
    Never,
    /// Each time this number of steps has been taken; below 1 it is a share of all steps.
    Steps(f64),
    /// After every pass over the data.
    Epoch,
}

impl Every {
    /// The number of steps from one time to the next, in a run of `total` steps; `None` for never.
    pub fn steps(self, total: u64, steps_per_epoch: u64) -> Option<u64> {
        match self {
            Self::Never => None,
            Self::Steps(share) if share < 1.0 => Some(((share * total as f64).ceil() as u64).max(1)),
            Self::Steps(steps) => Some(steps as u64),
            Self::Epoch => Some(steps_per_epoch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_shares_and_epochs() {
        assert_eq!(Every::Never.steps(100, 7), None);
        assert_eq!(Every::Steps(30.0).steps(100, 7), Some(30));
        assert_eq!(Every::Steps(0.25).steps(10, 7), Some(3), "a share is rounded up, as transformers does");
        assert_eq!(Every::Epoch.steps(100, 7), Some(7));
    }
}
