//! How much memory a training pass takes, before it is taken.

use super::Config;
use crate::device::Device;
use crate::kernels::linear_cross_entropy::chunk_rows;

/// Passes that fit: how many tokens one has, and how many blocks run forward twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Most tokens of a pass. A longer single sequence is a pass of its own.
    pub tokens: usize,
    needs: Needs,
    budget: u64,
}

/// What a pass takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Needs {
    blocks: usize,
    /// The inputs of all blocks, of a token.
    inputs: u64,
    /// What one block keeps of a token for its backward, besides its input.
    kept: u64,
    /// What the backward of a block works with besides, of a token.
    working: u64,
    /// What the head works with, of a token and for all.
    head: [u64; 2],
}

impl Plan {
    /// How many blocks, from the first, of a pass of `tokens` keep only their input and run forward again
    /// in the backward. The last block never does: its backward follows its forward.
    pub fn recomputed(&self, tokens: usize) -> usize {
        let most = self.needs.blocks.saturating_sub(1);
        (0..most).find(|&recomputed| self.needs.bytes(tokens, recomputed) <= self.budget).unwrap_or(most)
    }

    /// The most bytes of activations that a pass takes.
    pub fn activations(&self) -> u64 {
        let recomputed = self.recomputed(self.tokens);
        let bytes = self.needs.bytes(self.tokens, recomputed);
        // A shorter pass recomputes less where that fits.
        if recomputed > 0 { bytes.max(self.budget) } else { bytes }
    }

    /// Bytes of the budget that no pass needs, less some for buffers that do not fit seamlessly.
    pub fn spare(&self) -> u64 {
        let activations = self.activations();
        self.budget.saturating_sub(activations + activations / SLACK_SHARE)
    }
}

impl Needs {
    /// Bytes of a pass. Blocks are recomputed one at a time, after the ones above have given up what they
    /// kept; the head comes before the first backward.
    fn bytes(&self, tokens: usize, recomputed: usize) -> u64 {
        let tokens = tokens as u64;
        let kept = (self.blocks - recomputed).max(1) as u64 * self.kept;
        let [head, logits] = self.head;
        tokens * (self.inputs + kept) + (tokens * self.working).max(tokens * head + logits)
    }
}

impl Config {
    /// Plans passes of up to `tokens` tokens within `budget` bytes of activations. Recomputing is
    /// preferred to passes of fewer tokens, and one pass is planned even where nothing fits.
    pub fn plan(&self, tokens: usize, budget: u64, device: &Device) -> Plan {
        let inputs = (self.layers as u64 + 1) * self.width as u64;
        // On a GPU, what a backward works with is part of the plan, and so are the logits.
        let (size, working, head) = match device {
            Device::Cpu => (4, 0, [0, 0]),
            Device::Cuda(_) => {
                let logits = chunk_rows(self.vocabulary).min(tokens) * self.vocabulary * 2;
                (2, self.working_per_token(), [8 * self.width as u64, logits as u64])
            }
        };
        let kept = size * self.kept_per_token();
        let needs = Needs { blocks: self.layers, inputs: size * inputs, kept, working, head };
        let mut tokens = tokens.max(1);
        while tokens > STEP && needs.bytes(tokens, self.layers) > budget {
            tokens = (tokens - 1) / STEP * STEP;
        }
        Plan { tokens, needs, budget }
    }

    /// Values that one block keeps of each token for its backward, besides its input: qkv (twice with
    /// head norms), the attention's output and log-sums, the residual between, gate and up.
    fn kept_per_token(&self) -> u64 {
        let heads = self.heads;
        let qkv = heads.width() * if self.head_norm { 2 } else { 1 };
        let attended = heads.queries * (heads.size + 1);
        (qkv + attended + self.width + 2 * self.feed_forward) as u64
    }

    /// Bytes per token that the backward of a block holds at its fullest on a GPU, besides what the
    /// forward kept: the gradients of the hidden values and of the residual stream in bf16 (those of gate
    /// and up are written over gate and up), parts of the gradients of keys and values in f32.
    fn working_per_token(&self) -> u64 {
        let keys = 2 * self.heads.keys * self.heads.size;
        (2 * (self.feed_forward + 3 * self.width) + 8 * keys) as u64
    }
}

/// Passes are shortened by this many tokens at a time.
const STEP: usize = 64;
/// The share of the activations that is not spare either.
const SLACK_SHARE: u64 = 8;

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
        assert_eq!((roomy.tokens, roomy.recomputed(1024)), (1024, 0));
        assert!(roomy.activations() < 1 << 30);
        assert_eq!(roomy.spare(), (1 << 30) - roomy.activations() - roomy.activations() / 8);
        assert_eq!(config.plan(1024, 256 << 20, &Device::Cpu).spare(), 0);
        let tight = config.plan(1024, 256 << 20, &Device::Cpu);
        assert_eq!(tight.tokens, 1024);
        assert!((1..30).contains(&tight.recomputed(1024)) && tight.activations() == 256 << 20);
        assert!(tight.recomputed(512) < tight.recomputed(1024), "a shorter pass recomputes less");
        let tiny = config.plan(1024, 20 << 20, &Device::Cpu);
        assert!((64..512).contains(&tiny.tokens) && tiny.tokens.is_multiple_of(64), "{}", tiny.tokens);
        assert_eq!(tiny.recomputed(tiny.tokens), 29);
        assert!(tiny.activations() <= 20 << 20);
        let nothing = config.plan(1024, 0, &Device::Cpu);
        assert_eq!(nothing.tokens, 64, "one pass is planned even where nothing fits");
        assert!(nothing.activations() > 0);
    }
}
