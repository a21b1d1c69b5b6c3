//! How much memory a training pass takes, before it is taken. What a part of the model keeps and works with
//! is said beside the part ([`super::attention`], [`super::feed_forward`]); this file adds it up.

use super::activations::ActivationSizes;
use super::block::Kept;
use super::feed_forward;
use super::{Config, LayerConfig};
use crate::device::Device;
use crate::kernels::linear_cross_entropy::chunk_rows;

/// The passes that a run needs, and what its adapters add to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassRequest {
    /// Tokens of the longest sequence, which is never cut.
    pub longest: usize,
    /// Most tokens that a pass should have, where memory allows that.
    pub tokens: usize,
    /// ΣR of the adapters of each stack of linear layers ([`super::AdapterLayout::ranks`]).
    pub ranks: Vec<usize>,
    /// Whether adapters drop a part of their input: what is left of it needs room too.
    pub dropout: bool,
}

/// The forwards that a tool runs without a backward on a GPU, and what lies beside the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InferenceRequest {
    /// Tokens of the longest pass.
    pub tokens: usize,
    /// Tokens whose keys and values are kept.
    pub cached: usize,
    /// Bytes of an adapter, and of its 16-bit copies.
    pub adapters: u64,
}

/// Passes that fit: how many tokens one has, and how many blocks run forward twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassPlan {
    /// Most tokens of a pass. A longer single sequence is a pass of its own.
    pub tokens: usize,
    /// Tokens of the longest sequence.
    longest: usize,
    needs: Needs,
    budget: u64,
}

/// What a pass takes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needs {
    /// The inputs of all blocks, for each token.
    inputs: u64,
    /// What each block keeps of a token for its backward, besides its input.
    kept: Vec<u64>,
    /// What the backward of a block works with besides, for each token.
    working: u64,
    /// What adapters with dropout work with, for each token.
    dropped: u64,
    /// What the head works with, for each token and for all.
    head: [u64; 2],
    /// Room between buffers, for each token and for all: memory that was freed in pieces smaller than the
    /// largest buffer cannot serve it.
    gaps: [u64; 2],
}

impl PassPlan {
    fn new(needs: Needs, request: &PassRequest, budget: u64) -> Self {
        let (mut tokens, longest) = (request.tokens.max(1), request.longest);
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
        self.least_of(self.longest)
    }

    /// Bytes of activations of a pass of `tokens` tokens with as many blocks recomputed as can be.
    pub fn least_of(&self, tokens: usize) -> u64 {
        self.needs.bytes(tokens, self.needs.most_recomputed())
    }

    /// Whether even the longest sequence stays within the budget.
    pub fn fits(&self) -> bool {
        self.least() <= self.budget
    }

    /// Bytes of activations of a token where the first `recomputed` blocks run forward twice.
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
        self.kept.len().saturating_sub(1)
    }

    /// Bytes of a pass. Blocks are recomputed one at a time, after the ones above have given up what they
    /// kept; the head comes before the first backward.
    fn bytes(&self, tokens: usize, recomputed: usize) -> u64 {
        let tokens = tokens as u64;
        let [head, logits] = self.head;
        tokens * self.per_token(recomputed)
            + (tokens * self.working).max(tokens * head + logits)
            + self.gaps[1]
    }

    /// Bytes of a token while the backward of the last block begins, or of a recomputed one that keeps more
    /// than all blocks that are not.
    fn per_token(&self, recomputed: usize) -> u64 {
        let (again, kept) = self.kept.split_at(recomputed.min(self.kept.len()));
        let kept: u64 = kept.iter().sum();
        self.inputs + kept.max(again.iter().copied().max().unwrap_or(0)) + self.dropped + self.gaps[0]
    }
}

impl Config {
    /// Plans passes within `budget` bytes of activations on the host. Recomputing is preferred to passes of
    /// fewer tokens, and passes are planned even where the longest sequence does not fit
    /// ([`PassPlan::fits`]).
    pub fn plan_on_host(&self, request: &PassRequest, budget: u64) -> PassPlan {
        PassPlan::new(self.needs(ActivationSizes::HOST, request), request, budget)
    }

    /// As [`Config::plan_on_host`], on a GPU.
    pub fn plan_on_gpu(&self, request: &PassRequest, budget: u64) -> PassPlan {
        PassPlan::new(self.needs_on_gpu(request), request, budget)
    }

    /// Bytes that forwards without a backward take on a GPU: no more than the backward of one block would beside its
    /// input and output, logits in f32 as far as they exist at a time, and keys and values, which are copied where a
    /// cache grows.
    pub fn forward_on_gpu(&self, request: &InferenceRequest) -> u64 {
        let InferenceRequest { tokens, cached, adapters } = *request;
        let passes = PassRequest { longest: tokens, tokens, ranks: Vec::new(), dropout: false };
        let needs = self.needs_on_gpu(&passes);
        let largest = needs.kept.iter().copied().max().unwrap_or(0);
        let ends = ActivationSizes::GPU.values(2 * self.width);
        let per_token = ends + largest + needs.working.max(needs.head[0]) + needs.gaps[0];
        tokens as u64 * per_token
            + 2 * needs.head[1]
            + needs.gaps[1]
            + 2 * cached as u64 * self.keys_and_values_per_token(ActivationSizes::GPU)
            + adapters
    }

    /// Bytes that the keys and values of a token take on a device.
    pub fn cached_per_token(&self, device: &Device) -> u64 {
        self.keys_and_values_per_token(match device {
            Device::Cpu => ActivationSizes::HOST,
            Device::Cuda(_) => ActivationSizes::GPU,
        })
    }

    fn keys_and_values_per_token(&self, sizes: ActivationSizes) -> u64 {
        let of_layer = |layer: &LayerConfig| {
            let heads = layer.attention.spec.heads;
            sizes.values(2 * heads.keys * heads.size)
        };
        self.layers.iter().map(of_layer).sum()
    }

    /// On a GPU, what a backward works with is part of the plan, and so are the logits.
    fn needs_on_gpu(&self, request: &PassRequest) -> Needs {
        let rows = chunk_rows(self.vocabulary).min(request.tokens.max(request.longest));
        let most = |of: &dyn Fn(&LayerConfig) -> u64| self.layers.iter().map(of).max().unwrap_or(0);
        Needs {
            working: most(&|layer| Kept::working_per_token(layer, self.width)),
            dropped: match request.dropout {
                true => most(&|layer| feed_forward::Kept::dropout_per_token(&layer.feed_forward)),
                false => 0,
            },
            head: [8 * self.width as u64, (rows * self.vocabulary * 2) as u64],
            gaps: [
                most(&|layer| feed_forward::Kept::largest_per_token(&layer.feed_forward, self.width)),
                most(&|layer| if layer.router().is_some() { GAPS_OF_EXPERTS } else { 0 }),
            ],
            ..self.needs(ActivationSizes::GPU, request)
        }
    }

    /// The part of the needs that is kept: inputs of blocks, and what blocks keep besides.
    fn needs(&self, sizes: ActivationSizes, request: &PassRequest) -> Needs {
        let mut ranks = &request.ranks[..];
        let kept = self.layers.iter().map(|layer| {
            let (own, others) = ranks.split_at(layer.stacks().count().min(ranks.len()));
            ranks = others;
            Kept::bytes_per_token(layer, self.width, own, sizes)
        });
        let kept = kept.collect();
        let inputs = sizes.values((self.layers.len() + 1) * self.width);
        Needs { inputs, kept, working: 0, dropped: 0, head: [0, 0], gaps: [0, 0] }
    }
}

/// What gaps took with experts, whose buffers have many sizes, beyond one of the largest buffer: 65 to 112 MiB were
/// measured.
const GAPS_OF_EXPERTS: u64 = 128 << 20;
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

    fn wanted() -> PassRequest {
        PassRequest { longest: 64, tokens: 1024, ranks: Vec::new(), dropout: false }
    }

    #[test]
    fn recomputes_first_and_shortens_passes_last() {
        let config = smollm2();
        let plan = |budget| config.plan_on_host(&wanted(), budget);
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
        let plan = |longest, tokens, budget| {
            config.plan_on_host(&PassRequest { longest, tokens, ..wanted() }, budget)
        };
        let least = plan(700, 1024, 0).least();
        assert_eq!(plan(700, 1024, least).tokens, 700);
        assert!(plan(700, 1024, least).fits() && !plan(700, 1024, least - 1).fits());
        let long = plan(3000, 1024, 1 << 40);
        assert_eq!((long.tokens, long.activations()), (1024, 3000 * long.per_token(0)), "a pass of its own");
    }

    #[test]
    fn a_gpu_plan_has_room_for_all_that_a_pass_works_with() {
        let config = smollm2();
        let token = |wanted: &PassRequest| config.plan_on_gpu(wanted, 1 << 40).per_token(0);
        let plain = token(&wanted());
        let adapters = PassRequest { ranks: [24, 8, 16, 8].repeat(30), ..wanted() };
        assert_eq!(token(&adapters), plain + 30 * 56 * 2, "what adapters make of their inputs");
        let ragged = PassRequest { ranks: [9, 3, 6, 3].repeat(30), ..wanted() };
        assert_eq!(token(&ragged), plain + 30 * (16 + 8 + 8 + 8) * 2, "in multiples of eight");
        assert_eq!(token(&PassRequest { dropout: true, ..wanted() }), plain + 4 * 1536);
        assert!(plain > config.plan_on_host(&wanted(), 1 << 40).per_token(0) / 2, "and a backward's own");
        let logits =
            config.plan_on_gpu(&wanted(), 0).least() - 64 * config.plan_on_gpu(&wanted(), 0).per_token(29);
        assert!(logits <= 160 << 20, "in chunks: {logits}");
    }

    /// A block of any family keeps the bytes that the plan says, with adapters of uneven ranks.
    #[test]
    fn blocks_keep_what_is_planned() {
        use crate::device::Device;
        use crate::model::{AdapterSettings, Batch, Model, Sequence};
        for directory in crate::model::tiny_models() {
            let mut model = Model::load(&directory, &Device::Cpu).unwrap();
            let targets = ["o_proj", "down_proj"].map(String::from).to_vec();
            model.add_adapters(&AdapterSettings { rank: 3, targets, ..AdapterSettings::default() }).unwrap();
            let sequences = [11, 7, 16].map(|len| vec![5; len]);
            let batch = Batch::pack(
                sequences.iter().map(|tokens| Sequence { tokens, trained: &[true; 16][..tokens.len()] }),
                0,
            );
            let ranks = model.stacks().map(crate::model::Stack::ranks).collect();
            let request = PassRequest { longest: 16, tokens: 34, ranks, dropout: false };
            let needs = model.config().needs(ActivationSizes::HOST, &request);
            let tape = model.forward(&batch, 0).unwrap();
            let kept: Vec<u64> = tape.kept_bytes().collect();
            assert_eq!(
                kept,
                needs.kept.iter().map(|bytes| 34 * bytes).collect::<Vec<_>>(),
                "{}",
                directory.display()
            );
            assert_eq!(tape.input_bytes(), 34 * needs.inputs, "{}", directory.display());
        }
    }
}
