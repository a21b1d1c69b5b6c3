//! When something is done that a run does again and again.

use serde::Serialize;

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Every {
    /// Not at all.
    Never,
    /// After this many steps; below 1 after this share of all.
    Steps(f64),
    /// After every pass over the data.
    Epoch,
}

impl Every {
    /// Steps between two times, in a run of `total` steps; `None` where there is but one time or none.
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
