//! Dynamic loss scaling (Micikevicius et al. 2018, "Mixed Precision Training"): gradients in fp16 would
//! vanish or overflow without it. The constants are those of torch's GradScaler, which skips a batch
//! whose gradients overflow; here the same batch is tried again at half the scale.

use common::{Result, error};
use serde::{Deserialize, Serialize};

/// The scale of a run's first step.
const FIRST: f32 = 65536.0;
/// The number of steps without an overflow after which the scale is doubled.
const INTERVAL: u32 = 2000;

/// The factor of losses that keeps gradients within the range of fp16.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScaler {
    scale: f32,
    /// The number of steps since the scale last changed.
    steps: u32,
    /// The number of times that gradients have overflowed.
    overflows: u64,
}

impl Default for LossScaler {
    /// The scale at the beginning of a run.
    fn default() -> Self {
        Self { scale: FIRST, steps: 0, overflows: 0 }
    }
}

impl LossScaler {
    /// The factor that the loss is multiplied with and gradients are divided by; a power of two.
    pub fn scale(self) -> f32 {
        self.scale
    }

    /// The number of times that gradients have overflowed.
    pub fn overflows(self) -> u64 {
        self.overflows
    }

    /// Takes a step with finite gradients into account: doubles the scale once there were enough of them.
    pub fn succeed(&mut self) {
        self.steps += 1;
        if self.steps == INTERVAL {
            *self = Self { scale: 2.0 * self.scale, steps: 0, ..*self };
        }
    }

    /// Takes gradients that overflowed into account: halves the scale, or fails where no scale helps.
    pub fn overflow(&mut self) -> Result<()> {
        if self.scale <= 1.0 {
            return Err(
                error!("gradients overflow fp16 at every loss scale").hint("use bf16: leave --fp16 out")
            );
        }
        *self = Self { scale: self.scale / 2.0, steps: 0, overflows: self.overflows + 1 };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_halves_at_an_overflow_and_doubles_after_two_thousand_steps() {
        let mut scaler = LossScaler::default();
        scaler.overflow().unwrap();
        assert_eq!((scaler.scale(), scaler.overflows()), (32768.0, 1));
        (0..1999).for_each(|_| scaler.succeed());
        assert_eq!(scaler.scale(), 32768.0);
        scaler.succeed();
        assert_eq!(scaler.scale(), 65536.0);
        (0..1999).for_each(|_| scaler.succeed());
        scaler.overflow().unwrap();
        scaler.succeed();
        assert_eq!(scaler.scale(), 32768.0, "an overflow begins the count again");
        (0..15).for_each(|_| scaler.overflow().unwrap());
        assert!(scaler.overflow().unwrap_err().hint_text().is_some());
    }
}
