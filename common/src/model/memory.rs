//! How much memory a training pass takes, before it is taken.

use super::Config;
use crate::device::Device;
use crate::kernels::linear_cross_entropy::chunk_rows;

/// A pass that fits: how many tokens it has, and how many blocks run forward twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Most tokens of a pass. A longer single sequence is a pass of its own.
    pub tokens: usize,
    /// Blocks, from the first, that keep only their input and run forward again in the backward.
    pub recomputed: usize,
    /// Bytes of activations that a pass of `tokens` keeps.
    pub activations: u64,
}

impl Config {
    /// Plans passes of up to `tokens` tokens within `budget` bytes of activations. Recomputing is
    /// preferred to passes of fewer tokens, and one pass is planned even where nothing fits.
    pub fn plan(&self, tokens: usize, budget: u64, device: &Device) -> Plan {
        // On a GPU, what a block's backward works with is part of the plan, and so are the logits.
        let (size, working, fixed) = match device {
            Device::Cpu => (4, 0, 0),
            Device::Cuda(_) => {
                let logits = chunk_rows(self.vocabulary).min(tokens) * self.vocabulary * 2;
                (2, self.working_per_token(), logits as u64)
            }
        };
        let bytes = |tokens: usize, recomputed: usize| {
            let kept = (self.layers - recomputed) as u64 * self.kept_per_token();
            let inputs = (self.layers as u64 + 1) * self.width as u64;
            fixed + tokens as u64 * (size * (kept + inputs) + working)
        };
        let mut tokens = tokens.max(1);
        while tokens > 64 && bytes(tokens, self.layers) > budget {
            tokens /= 2;
        }
        let recomputed = (0..self.layers).find(|&n| bytes(tokens, n) <= budget).unwrap_or(self.layers);
        Plan { tokens, recomputed, activations: bytes(tokens, recomputed) }
    }

    /// Values that one block keeps of each token for its backward, besides its input: qkv (twice with
    /// head norms), the attention's output and log-sums, the residual between, gate and up.
    fn kept_per_token(&self) -> u64 {
        let heads = self.heads;
        let qkv = heads.width() * if self.head_norm { 2 } else { 1 };
        let attended = heads.queries * (heads.size + 1);
        (qkv + attended + self.width + 2 * self.feed_forward) as u64
    }

    /// Bytes per token that the backward of a block holds at its fullest on a GPU: what a recomputed
    /// block keeps, the hidden values and their gradients (then, in the place of the one and of gate
    /// and up, the gradients of these) in bf16; parts of the gradients of keys and values in f32.
    fn working_per_token(&self) -> u64 {
        let keys = 2 * self.heads.keys * self.heads.size;
        let wide = 2 * (2 * self.feed_forward + 6 * self.width);
        2 * self.kept_per_token() + (wide + 8 * keys) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recomputes_first_and_shortens_passes_last() {
        let json = serde_json::json!({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "intermediate_size": 1536, "max_position_embeddings": 8192});
        let config = Config::parse(&json).unwrap();
        let roomy = config.plan(1024, 1 << 30, &Device::Cpu);
        assert_eq!((roomy.tokens, roomy.recomputed), (1024, 0));
        assert!(roomy.activations < 1 << 30);
        let tight = config.plan(1024, 256 << 20, &Device::Cpu);
        assert_eq!(tight.tokens, 1024);
        assert!((1..30).contains(&tight.recomputed) && tight.activations <= 256 << 20);
        let tiny = config.plan(1024, 20 << 20, &Device::Cpu);
        assert_eq!((tiny.tokens, tiny.recomputed), (256, 30));
        assert_eq!(
            config.plan(1024, 0, &Device::Cpu).tokens,
            64,
            "one pass is planned even where nothing fits"
        );
    }
}
