//! How much memory a training pass takes, before it is taken. What a part of the model keeps and works with
//! is said beside the part ([`super::attention`], [`super::feed_forward`]); this file adds it up.

use super::activations::ActivationSizes;
use super::attention;
use super::block::Kept;
use super::feed_forward;
use super::{Config, LayerConfig, TapePlan};
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

/// Passes that fit: how many tokens one has, how many blocks run forward twice, and, of sequences that have no room
/// otherwise, which inputs wait on the host and how many rows are computed at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassPlan {
    /// Most tokens of a pass. A longer single sequence is a pass of its own.
    pub tokens: usize,
    /// Tokens of the longest sequence.
    longest: usize,
    needs: Needs,
    budget: u64,
    /// Bytes of the host that inputs of blocks may take.
    on_host: u64,
}

/// What a pass takes, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needs {
    /// The inputs of all blocks, for each token.
    inputs: u64,
    /// The input of a block, for each token.
    input: u64,
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
    /// What a pass takes in slices, where its feed-forwards can be cut.
    sliced: Option<SlicedNeeds>,
}

/// What a pass takes whose feed-forward and head are computed a slice of rows at a time, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SlicedNeeds {
    /// What each block keeps of a token for its backward, besides its input.
    kept: Vec<u64>,
    /// What the backward of a block works with besides, for each token, beside no slice and beside one.
    working: [u64; 2],
    /// Room between buffers, for each token.
    gap: u64,
    /// What a slice works with.
    slice: u64,
}

impl PassPlan {
    fn new(needs: Needs, request: &PassRequest, budget: u64, on_host: u64) -> Self {
        let (mut tokens, longest) = (request.tokens.max(1), request.longest);
        while tokens > longest.max(1) && needs.bytes(tokens, needs.most_recomputed().into()) > budget {
            tokens = ((tokens - 1) / STEP * STEP).max(longest).max(1);
        }
        Self { tokens, longest, needs, budget, on_host }
    }

    /// What a pass of `tokens` keeps for its backward. Blocks, from the first, keep only their inputs and run forward
    /// again in the backward, as few as memory allows; the last block never does: its backward follows its forward.
    /// Where a single sequence has no room even so, it is computed in slices, and inputs wait on the host.
    pub fn tape(&self, tokens: usize) -> TapePlan {
        let fits = |tape: &TapePlan| self.needs.bytes(tokens, *tape) <= self.budget;
        let most = self.needs.most_recomputed();
        let whole = (0..=most).map(TapePlan::from).find(fits);
        let chosen = whole.or_else(|| {
            let slice = Some(self.slice(tokens)?);
            let offloading = |offloaded| {
                (offloaded..=most).map(|recomputed| TapePlan { recomputed, offloaded, slice }).find(fits)
            };
            (0..=self.most_offloaded(tokens).min(most)).find_map(offloading)
        });
        chosen.unwrap_or_else(|| self.smallest(tokens))
    }

    /// How many blocks of a pass of `tokens` run forward twice ([`PassPlan::tape`]).
    pub fn recomputed(&self, tokens: usize) -> usize {
        self.tape(tokens).recomputed
    }

    /// The tape that takes the least memory of the GPU.
    fn smallest(&self, tokens: usize) -> TapePlan {
        let whole = TapePlan::from(self.needs.most_recomputed());
        let sliced = self.slice(tokens).map(|slice| {
            let offloaded = self.most_offloaded(tokens).min(whole.recomputed);
            TapePlan { slice: Some(slice), offloaded, ..whole }
        });
        [whole].into_iter().chain(sliced).min_by_key(|tape| self.needs.bytes(tokens, *tape)).unwrap_or(whole)
    }

    /// The rows of a slice of a pass of `tokens`, where it may be cut: passes of several sequences get fewer instead.
    fn slice(&self, tokens: usize) -> Option<usize> {
        (self.needs.sliced.is_some() && (SLICE + 1..=self.longest).contains(&tokens)).then_some(SLICE)
    }

    /// How many inputs of a pass of `tokens` the host has room for, as far as that leaves less on the GPU.
    fn most_offloaded(&self, tokens: usize) -> usize {
        let input = self.needs.input * tokens as u64;
        let count = self.on_host.checked_div(input).unwrap_or(0);
        let useful = (self.needs.kept.len() + 1).saturating_sub(LEAST_INPUTS);
        usize::try_from(count).map_or(useful, |count| count.min(useful))
    }

    /// Tokens of the longest pass.
    pub fn most_tokens(&self) -> usize {
        self.tokens.max(self.longest)
    }

    /// The most bytes of activations that a pass takes.
    pub fn activations(&self) -> u64 {
        let tape = self.tape(self.most_tokens());
        let bytes = self.needs.bytes(self.most_tokens(), tape);
        // A shorter pass recomputes less where that fits.
        if tape.recomputed > 0 { bytes.max(self.budget) } else { bytes }
    }

    /// The most bytes of the host that inputs of blocks take.
    pub fn offloaded_bytes(&self) -> u64 {
        let tokens = self.longest;
        self.tape(tokens).offloaded as u64 * self.needs.input * tokens as u64
    }

    /// Bytes of activations of a pass with nothing but the longest sequence and as many blocks recomputed
    /// as can be: no plan takes less.
    pub fn least(&self) -> u64 {
        self.least_of(self.longest)
    }

    /// Bytes of activations of a pass of `tokens` tokens with as many blocks recomputed as can be.
    pub fn least_of(&self, tokens: usize) -> u64 {
        self.needs.bytes(tokens, self.smallest(tokens))
    }

    /// Whether even the longest sequence stays within the budget.
    pub fn fits(&self) -> bool {
        self.least() <= self.budget
    }

    /// Bytes of activations of a token of a pass that keeps this of its forward.
    pub fn per_token(&self, tape: impl Into<TapePlan>) -> u64 {
        let tape = tape.into();
        let working = match (&self.needs.sliced, tape.slice) {
            (Some(sliced), Some(_)) => sliced.working[0].max(sliced.working[1]),
            _ => self.needs.working.max(self.needs.head[0]),
        };
        self.needs.per_token(tape) + working
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
    fn bytes(&self, tokens: usize, tape: TapePlan) -> u64 {
        let tokens = tokens as u64;
        let working = match (&self.sliced, tape.slice) {
            (Some(SlicedNeeds { working: [alone, beside], slice, .. }), Some(_)) => {
                (tokens * alone).max(tokens * beside + slice)
            }
            _ => {
                let [head, logits] = self.head;
                (tokens * self.working).max(tokens * head + logits)
            }
        };
        tokens * self.per_token(tape) + working + self.gaps[1]
    }

    /// Bytes of a token while the backward of the last block begins, or of a recomputed one that keeps more
    /// than all blocks that are not.
    fn per_token(&self, tape: TapePlan) -> u64 {
        let (kept, gap) = match (&self.sliced, tape.slice) {
            (Some(sliced), Some(_)) => (&sliced.kept, sliced.gap),
            _ => (&self.kept, self.gaps[0]),
        };
        let (again, kept) = kept.split_at(tape.recomputed.min(kept.len()));
        let kept: u64 = kept.iter().sum();
        let inputs = match tape.offloaded as u64 {
            0 => self.inputs,
            offloaded => {
                self.inputs.saturating_sub(offloaded * self.input).max(LEAST_INPUTS as u64 * self.input)
            }
        };
        let dropped = if tape.slice.is_some() { 0 } else { self.dropped };
        inputs + kept.max(again.iter().copied().max().unwrap_or(0)) + dropped + gap
    }
}

impl Config {
    /// Plans passes within `budget` bytes of activations on the host. Recomputing is preferred to passes of
    /// fewer tokens, and passes are planned even where the longest sequence does not fit
    /// ([`PassPlan::fits`]).
    pub fn plan_on_host(&self, request: &PassRequest, budget: u64) -> PassPlan {
        PassPlan::new(self.needs(ActivationSizes::HOST, request), request, budget, 0)
    }

    /// As [`Config::plan_on_host`], on a GPU. A sequence that has no room otherwise is computed in slices.
    pub fn plan_on_gpu(&self, request: &PassRequest, budget: u64) -> PassPlan {
        self.plan_on_gpu_and_host(request, budget, 0)
    }

    /// As [`Config::plan_on_gpu`], where inputs of blocks may wait in `on_host` bytes of the host.
    pub fn plan_on_gpu_and_host(&self, request: &PassRequest, budget: u64, on_host: u64) -> PassPlan {
        PassPlan::new(self.needs_on_gpu(request), request, budget, on_host)
    }

    /// Bytes that forwards without a backward take on a GPU: no more than the backward of one block would beside its
    /// input and output, logits in f32 as far as they exist at a time, and keys and values, which are copied where a
    /// cache grows.
    pub fn forward_on_gpu(&self, request: &InferenceRequest) -> u64 {
        let InferenceRequest { tokens, cached, adapters } = *request;
        let passes = PassRequest { longest: tokens, tokens, ranks: Vec::new(), dropout: false };
        let needs = self.needs_on_gpu(&passes);
        let ends = ActivationSizes::GPU.values(2 * self.width);
        let largest = |kept: &[u64]| kept.iter().copied().max().unwrap_or(0);
        let (per_token, slice) = match (&needs.sliced, slice_of_forward(tokens)) {
            (Some(sliced), Some(_)) => {
                let working = sliced.working[0].max(sliced.working[1]);
                (ends + largest(&sliced.kept) + working + sliced.gap, sliced.slice)
            }
            _ => (ends + largest(&needs.kept) + needs.working.max(needs.head[0]) + needs.gaps[0], 0),
        };
        tokens as u64 * per_token
            + slice
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
                SET_ASIDE_STEP + most(&|layer| if layer.router().is_some() { GAPS_OF_EXPERTS } else { 0 }),
            ],
            sliced: self.sliced_needs(request),
            ..self.needs(ActivationSizes::GPU, request)
        }
    }

    /// What passes in slices take on a GPU; `None` for mixtures of experts, which share the tokens of a whole pass.
    fn sliced_needs(&self, request: &PassRequest) -> Option<SlicedNeeds> {
        if self.layers.iter().any(|layer| layer.router().is_some()) {
            return None;
        }
        let most = |of: &dyn Fn(&LayerConfig) -> u64| self.layers.iter().map(of).max().unwrap_or(0);
        let sizes = ActivationSizes::GPU;
        let kept = self.kept_by(request, |layer, ranks| {
            Kept::bytes_per_token_in_slices(layer, self.width, ranks, sizes)
        });
        let of_slice = |layer: &LayerConfig| {
            let (config, ranks) = (&layer.feed_forward, request.ranks.get(2..4).unwrap_or_default());
            let dropped = if request.dropout { feed_forward::Kept::dropout_per_token(config) } else { 0 };
            feed_forward::Kept::bytes_per_token(config, self.width, ranks, sizes)
                + feed_forward::Kept::working_per_token(config, self.width)
                + feed_forward::Kept::largest_per_token(config, self.width)
                + sizes.values(2 * self.width)
                + dropped
        };
        let widest = |layer: &LayerConfig| sizes.values(layer.attention.spec.heads.width().max(self.width));
        let dropped = if request.dropout { 2 * most(&widest) } else { 0 };
        let rows = chunk_rows(self.vocabulary).min(SLICE);
        let head = SLICE as u64 * 8 * self.width as u64 + (rows * self.vocabulary * 2) as u64;
        Some(SlicedNeeds {
            kept,
            working: [
                most(&|layer| attention::Kept::working_per_token(&layer.attention, self.width)) + dropped,
                sizes.values(self.width),
            ],
            gap: most(&widest),
            slice: head.max(SLICE as u64 * most(&of_slice)),
        })
    }

    /// The part of the needs that is kept: inputs of blocks, and what blocks keep besides.
    fn needs(&self, sizes: ActivationSizes, request: &PassRequest) -> Needs {
        let kept =
            self.kept_by(request, |layer, ranks| Kept::bytes_per_token(layer, self.width, ranks, sizes));
        let input = sizes.values(self.width);
        let inputs = (self.layers.len() as u64 + 1) * input;
        Needs { inputs, input, kept, working: 0, dropped: 0, head: [0, 0], gaps: [0, 0], sliced: None }
    }

    /// What each layer keeps of a token, which depends on the ranks of the adapters of its stacks.
    fn kept_by(&self, request: &PassRequest, kept: impl Fn(&LayerConfig, &[usize]) -> u64) -> Vec<u64> {
        let mut ranks = &request.ranks[..];
        let of_layer = |layer: &LayerConfig| {
            let (own, others) = ranks.split_at(layer.stacks().count().min(ranks.len()));
            ranks = others;
            kept(layer, own)
        };
        self.layers.iter().map(of_layer).collect()
    }
}

/// The driver sets memory aside in steps of this many bytes.
const SET_ASIDE_STEP: u64 = 32 << 20;
/// What gaps took with experts, whose buffers have many sizes, beyond one of the largest buffer: 65 to 112 MiB were
/// measured.
const GAPS_OF_EXPERTS: u64 = 128 << 20;
/// Inputs that are on a GPU while others wait on the host: the one that is computed with, the next one, which arrives,
/// and the gradient that passes between blocks.
const LEAST_INPUTS: usize = 3;
/// Rows of a slice: enough that dequantizing the weights is a small part of the work.
const SLICE: usize = 8192;
/// Tokens of the longest forward without a backward that a GPU computes whole.
const WHOLE: usize = 2 * SLICE;
/// Passes are shortened by this many tokens at a time.
const STEP: usize = 64;
/// The share of the activations that is not spare either.
const SLACK_SHARE: u64 = 8;

/// The rows of a slice of a forward of `tokens` on a GPU that has no backward, where it is cut.
pub(super) fn slice_of_forward(tokens: usize) -> Option<usize> {
    (tokens > WHOLE).then_some(SLICE)
}

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

    fn qwen2_7b() -> Config {
        let json = serde_json::json!({"model_type": "qwen2", "vocab_size": 152_064, "hidden_size": 3584,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
            "intermediate_size": 18944, "max_position_embeddings": 400_000});
        Config::parse(&json).unwrap()
    }

    /// A sequence of this many tokens beside shorter ones, which are packed.
    fn long(longest: usize) -> PassRequest {
        PassRequest { longest, tokens: 16384, ranks: [24, 8, 16, 8].repeat(28), dropout: false }
    }

    #[test]
    fn a_long_sequence_is_cut_before_its_inputs_leave_the_gpu() {
        let config = qwen2_7b();
        let plan = |budget, on_host| config.plan_on_gpu_and_host(&long(131_072), budget, on_host);
        let tape = |budget| plan(budget, 1 << 40).tape(131_072);
        let needs = config.needs_on_gpu(&long(131_072));
        let bytes = |tape: TapePlan| needs.bytes(131_072, tape);
        assert_eq!(tape(u64::MAX), 0.into());
        let whole = TapePlan::from(27);
        assert_eq!(tape(bytes(whole)), whole);
        // In slices there is room to keep what some blocks have computed for attention.
        let sliced = tape(bytes(whole) - 1);
        assert_eq!((sliced.slice, sliced.offloaded), (Some(8192), 0));
        assert!((1..27).contains(&sliced.recomputed), "{sliced:?}");
        // Then inputs wait on the host, as few as that takes.
        let offloaded = tape(20 << 30);
        assert!((1..27).contains(&offloaded.offloaded) && offloaded.recomputed == 27, "{offloaded:?}");
        assert!(bytes(offloaded) <= 20 << 30);
        assert!(bytes(TapePlan { offloaded: offloaded.offloaded - 1, ..offloaded }) > 20 << 30);
        // 14 GiB of 32: what is left of a GPU of 24 GB has room for it all.
        let least = plan(0, 1 << 40);
        assert!(least.least() < 14 << 30, "{}", least.least());
        assert_eq!(least.tape(131_072), TapePlan { recomputed: 27, offloaded: 26, slice: Some(8192) });
        let input = 131_072 * 3584 * 2;
        assert_eq!(least.offloaded_bytes(), 26 * input);
        let bounded = plan(0, 5 * input + 1);
        assert_eq!((bounded.tape(131_072).offloaded, bounded.offloaded_bytes()), (5, 5 * input));
    }

    #[test]
    fn what_is_not_a_long_sequence_is_never_cut() {
        let config = qwen2_7b();
        let tape = |longest, tokens| config.plan_on_gpu_and_host(&long(longest), 0, 1 << 40).tape(tokens);
        assert_eq!(tape(8192, 8192), 27.into(), "of one slice");
        assert_eq!(tape(8193, 8193).slice, Some(8192));
        assert_eq!(tape(10_000, 16_384), 27.into(), "several sequences, which can be fewer");
        let json = serde_json::json!({"model_type": "qwen3_moe", "vocab_size": 1000, "hidden_size": 256,
            "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
            "intermediate_size": 192, "max_position_embeddings": 400_000, "num_experts": 12,
            "num_experts_per_tok": 3, "moe_intermediate_size": 96});
        let mixture = Config::parse(&json).unwrap();
        let request = PassRequest { ranks: Vec::new(), ..long(100_000) };
        assert_eq!(mixture.plan_on_gpu_and_host(&request, 0, 1 << 40).tape(100_000), 4.into());
    }

    /// A block of any family keeps the bytes that the plan says, with adapters of uneven ranks.
    #[test]
    fn blocks_keep_what_is_planned() {
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
            if model.config().layers.iter().any(|layer| layer.router().is_some()) {
                continue;
            }
            let tape = model.forward(&batch, TapePlan { slice: Some(10), ..TapePlan::default() }).unwrap();
            let of_layer = |layer: &LayerConfig, ranks: &[usize]| {
                Kept::bytes_per_token_in_slices(layer, model.config().width, ranks, ActivationSizes::HOST)
            };
            let in_slices: Vec<u64> =
                model.config().kept_by(&request, of_layer).iter().map(|bytes| 34 * bytes).collect();
            assert_eq!(tape.kept_bytes().collect::<Vec<_>>(), in_slices, "{}", directory.display());
        }
    }
}
