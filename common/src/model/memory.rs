//! How much memory a training pass takes, before it is taken.

use super::Config;
use crate::kernels::linear_cross_entropy::chunk_rows;

/// What is asked of passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Tokens of the longest sequence, which is never cut.
    pub longest: usize,
    /// Most tokens that a pass should have, where memory allows that.
    pub tokens: usize,
    /// ΣR of the adapters of a block.
    pub ranks: usize,
    /// Whether adapters drop a part of their input: what is left of it needs room too.
    pub dropout: bool,
}

/// Passes that fit: how many tokens one has, and how many blocks run forward twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Most tokens of a pass. A longer single sequence is a pass of its own.
    pub tokens: usize,
    /// Tokens of the longest sequence.
    longest: usize,
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
    /// What adapters with dropout work with, of a token.
    dropped: u64,
    /// What the head works with, of a token and for all.
    head: [u64; 2],
}

impl Plan {
    fn new(needs: Needs, wanted: &Wanted, budget: u64) -> Self {
        let (mut tokens, longest) = (wanted.tokens.max(1), wanted.longest);
        while tokens > longest.max(1) && needs.bytes(tokens, needs.most_recomputed()) > budget {
            tokens = ((tokens - 1) / STEP * STEP).max(longest).max(1);
        }
        Self { tokens, longest, needs, budget }
    }

    /// How many blocks, from the first, of a pass of `tokens` keep only their input and run forward again
    /// in the backward. The last block never does: its backward follows its forward.
    pub fn recomputed(&self, tokens: usize) -> usize {
        let most = self.needs.most_recomputed();
        (0..most).find(|&recomputed| self.needs.bytes(tokens, recomputed) <= self.budget).unwrap_or(most)
    }

    /// Tokens of the longest pass.
    pub fn most_tokens(&self) -> usize {
        self.tokens.max(self.longest)
    }

    /// The most bytes of activations that a pass takes.
    pub fn activations(&self) -> u64 {
        let recomputed = self.recomputed(self.most_tokens());
        let bytes = self.needs.bytes(self.most_tokens(), recomputed);
        // A shorter pass recomputes less where that fits.
        if recomputed > 0 { bytes.max(self.budget) } else { bytes }
    }

    /// Bytes of activations of a pass with nothing but the longest sequence and as many blocks recomputed
    /// as can be: no plan takes less.
    pub fn least(&self) -> u64 {
        self.needs.bytes(self.longest, self.needs.most_recomputed())
    }

    /// Whether even the longest sequence stays within the budget.
    pub fn fits(&self) -> bool {
        self.least() <= self.budget
    }

    /// Bytes of activations of a token where so many blocks are recomputed.
    pub fn per_token(&self, recomputed: usize) -> u64 {
        self.needs.per_token(recomputed) + self.needs.working.max(self.needs.head[0])
    }

    /// Bytes of the budget that no pass needs, less some for buffers that do not fit seamlessly.
    pub fn spare(&self) -> u64 {
        let activations = self.activations();
        self.budget.saturating_sub(activations + activations / SLACK_SHARE)
    }
}

impl Needs {
    /// The last block is never recomputed: its backward follows its forward.
    fn most_recomputed(&self) -> usize {
        self.blocks.saturating_sub(1)
    }

    /// Bytes of a pass. Blocks are recomputed one at a time, after the ones above have given up what they
    /// kept; the head comes before the first backward.
    fn bytes(&self, tokens: usize, recomputed: usize) -> u64 {
        let tokens = tokens as u64;
        let [head, logits] = self.head;
        tokens * self.per_token(recomputed) + (tokens * self.working).max(tokens * head + logits)
    }

    /// Bytes of a token while the backward of the last block begins.
    fn per_token(&self, recomputed: usize) -> u64 {
        self.inputs + (self.blocks - recomputed).max(1) as u64 * self.kept + self.dropped
    }
}

impl Config {
    /// Plans passes within `budget` bytes of activations on the host. Recomputing is preferred to passes of
    /// fewer tokens, and passes are planned even where the longest sequence does not fit ([`Plan::fits`]).
    pub fn plan_on_host(&self, wanted: &Wanted, budget: u64) -> Plan {
        Plan::new(self.needs(size_of::<f32>() as u64, wanted), wanted, budget)
    }

    /// As [`Config::plan_on_host`], on a GPU.
    pub fn plan_on_gpu(&self, wanted: &Wanted, budget: u64) -> Plan {
        Plan::new(self.needs_on_gpu(wanted), wanted, budget)
    }

    /// On a GPU, what a backward works with is part of the plan, and so are the logits.
    fn needs_on_gpu(&self, wanted: &Wanted) -> Needs {
        let rows = chunk_rows(self.vocabulary).min(wanted.tokens.max(wanted.longest));
        // An input and its gradient, at the widest.
        let dropped = if wanted.dropout { 2 * 2 * self.feed_forward as u64 } else { 0 };
        Needs {
            working: self.working_per_token(),
            dropped,
            head: [8 * self.width as u64, (rows * self.vocabulary * 2) as u64],
            ..self.needs(2, wanted)
        }
    }

    /// What blocks keep in numbers of `size` bytes.
    fn needs(&self, size: u64, wanted: &Wanted) -> Needs {
        let inputs = (self.layers as u64 + 1) * self.width as u64;
        let kept = self.kept_per_token() + wanted.ranks as u64;
        Needs {
            blocks: self.layers,
            inputs: size * inputs,
            kept: size * kept,
            working: 0,
            dropped: 0,
            head: [0, 0],
        }
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

    fn smollm2() -> Config {
        let json = serde_json::json!({"model_type": "llama", "vocab_size": 49152, "hidden_size": 576,
            "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
            "intermediate_size": 1536, "max_position_embeddings": 8192});
        Config::parse(&json).unwrap()
    }

    const WANTED: Wanted = Wanted { longest: 64, tokens: 1024, ranks: 0, dropout: false };

    #[test]
    fn recomputes_first_and_shortens_passes_last() {
        let config = smollm2();
        let plan = |budget| config.plan_on_host(&WANTED, budget);
        let roomy = plan(1 << 30);
        assert_eq!((roomy.tokens, roomy.recomputed(1024)), (1024, 0));
        assert!(roomy.activations() < 1 << 30);
        assert_eq!(roomy.activations(), 1024 * roomy.per_token(0));
        assert_eq!(roomy.spare(), (1 << 30) - roomy.activations() - roomy.activations() / 8);
        let tight = plan(256 << 20);
        assert_eq!((tight.tokens, tight.spare()), (1024, 0));
        assert!((1..30).contains(&tight.recomputed(1024)) && tight.activations() == 256 << 20);
        assert!(tight.recomputed(512) < tight.recomputed(1024), "a shorter pass recomputes less");
        let tiny = plan(20 << 20);
        assert!((64..512).contains(&tiny.tokens) && tiny.tokens.is_multiple_of(64), "{}", tiny.tokens);
        assert_eq!(tiny.recomputed(tiny.tokens), 29);
        assert!(tiny.fits() && tiny.activations() <= 20 << 20);
        let nothing = plan(0);
        assert_eq!(nothing.tokens, 64, "one pass is planned even where nothing fits");
        assert!(!nothing.fits() && nothing.activations() == nothing.least());
    }

    #[test]
    fn the_longest_sequence_is_never_cut() {
        let config = smollm2();
        let plan =
            |longest, tokens, budget| config.plan_on_host(&Wanted { longest, tokens, ..WANTED }, budget);
        let least = plan(700, 1024, 0).least();
        assert_eq!(plan(700, 1024, least).tokens, 700);
        assert!(plan(700, 1024, least).fits() && !plan(700, 1024, least - 1).fits());
        let long = plan(3000, 1024, 1 << 40);
        assert_eq!((long.tokens, long.activations()), (1024, 3000 * long.per_token(0)), "a pass of its own");
    }

    #[test]
    fn a_gpu_plan_has_room_for_all_that_a_pass_works_with() {
        let config = smollm2();
        let token = |wanted: &Wanted| config.plan_on_gpu(wanted, 1 << 40).per_token(0);
        let plain = token(&WANTED);
        let adapters = Wanted { ranks: 56, ..WANTED };
        assert_eq!(token(&adapters), plain + 30 * 56 * 2, "what adapters make of their inputs");
        assert_eq!(token(&Wanted { dropout: true, ..WANTED }), plain + 4 * 1536);
        assert!(plain > config.plan_on_host(&WANTED, 1 << 40).per_token(0) / 2, "and a backward's own");
        let logits =
            config.plan_on_gpu(&WANTED, 0).least() - 64 * config.plan_on_gpu(&WANTED, 0).per_token(29);
        assert!(logits <= 160 << 20, "in chunks: {logits}");
    }
}
