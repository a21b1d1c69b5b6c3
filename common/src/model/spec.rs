//! A model before it is loaded, as config.json and the headers of its files describe it, and with that the
//! memory that it will take.

use std::path::Path;

use super::stack::Target;
use super::weight_reader::vector_of;
use super::{
    AdapterLayout, AdapterSettings, Config, LayerConfig, Module, NormWeight, Places, StackConfig, Weights,
};
use crate::Result;
use crate::adapter::Adapter;
use crate::checkpoint::Checkpoint;
use crate::device::Vector;
use crate::device::cuda::{ScratchSizes, buffer_bytes, scratch_bytes};
use crate::kernels::adamw::MomentsSpec;
use crate::kernels::embedding;
use crate::kernels::grouped_linear::GroupedLinearSpec;
use crate::kernels::linear::{LinearSpec, WeightSpec};
use crate::nf4::Scheme;

/// A model of which no weight has been read.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    config: Config,
    embedding: WeightSpec,
    head: LinearSpec,
    /// Elements of every vector of norm weights, as they lie on a device.
    norms: Vec<usize>,
    /// The stacks of linear layers of all blocks, in the order of [`LayerConfig::stacks`].
    stacks: Vec<StackSpec>,
    /// The routers of mixtures of experts.
    routers: Vec<LinearSpec>,
}

/// What a run holds in memory from its beginning to its end, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ResidentBytes {
    /// Frozen weights; on the host they are mapped from their files unless they are quantized by loading.
    pub weights: u64,
    /// The adapters' values, and on a GPU their 16-bit copies.
    pub adapters: u64,
    /// The optimizer's moments, without those in unified memory.
    pub moments: u64,
    /// What matrix products work in on a GPU.
    pub scratch: u64,
    /// The gradients of the adapters' values.
    pub gradients: u64,
}

impl ResidentBytes {
    /// What there is when the model is loaded, before the first pass asks for room for gradients.
    pub fn loaded(&self) -> u64 {
        self.weights + self.adapters + self.moments + self.scratch
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.loaded() + self.gradients
    }
}

impl ModelSpec {
    /// Reads config.json and the headers in a model directory. Linear layers of blocks that are not in 4 bits
    /// will be quantized where that is asked for.
    pub fn read(directory: &Path, quantization: Option<Scheme>) -> Result<Self> {
        Self::of(&Weights::open(directory)?, quantization)
    }

    /// As [`ModelSpec::read`], of a model of which the headers have been read.
    pub(super) fn of(weights: &Weights, quantization: Option<Scheme>) -> Result<Self> {
        let Weights { config, checkpoint } = weights;
        let mut spec = Self {
            embedding: weight(checkpoint, &config.embedding())?,
            head: linear(checkpoint, &[config.head()])?,
            norms: Vec::new(),
            stacks: Vec::new(),
            routers: Vec::new(),
            config: config.clone(),
        };
        let expect_norm = |norm: &NormWeight| vector_of(checkpoint, &norm.name, norm.len).map(|_| ());
        expect_norm(&spec.config.last_norm())?;
        for layer in &spec.config.layers {
            for stack in layer.stacks() {
                spec.stacks.push(StackSpec::find(checkpoint, stack)?);
            }
            if let Some(router) = layer.router() {
                spec.routers.push(linear(checkpoint, std::slice::from_ref(router))?);
            }
            layer.norms().try_for_each(expect_norm)?;
            spec.norms.extend(layer.norm_lengths());
        }
        spec.norms.push(spec.config.last_norm().len);
        Ok(match quantization {
            Some(scheme) => spec.quantized(scheme),
            None => spec,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// This model with the linear layers of its blocks in 4 bits.
    pub fn quantized(&self, scheme: Scheme) -> Self {
        let mut spec = self.clone();
        spec.stacks.iter_mut().for_each(|stack| stack.quantize(scheme));
        spec
    }

    /// Where new adapters will lie.
    pub fn new_adapters(&self, options: &AdapterSettings) -> Result<AdapterLayout> {
        AdapterLayout::new(&self.targets(), options)
    }

    /// Where the adapters of a PEFT directory will lie.
    pub fn adapters(&self, adapter: &Adapter) -> Result<AdapterLayout> {
        AdapterLayout::of_adapter(&self.targets(), adapter)
    }

    fn targets(&self) -> Vec<Vec<Target<'_>>> {
        self.config.layers.iter().flat_map(LayerConfig::stacks).map(StackConfig::targets).collect()
    }

    /// What training these adapters holds on the host.
    pub fn resident_on_host(&self, adapters: &AdapterLayout, moments: &MomentsSpec) -> ResidentBytes {
        let head = if self.config.tied_head { 0 } else { self.head.bytes() };
        let linears = self.stacks.iter().map(StackSpec::bytes).sum::<u64>()
            + self.routers.iter().map(LinearSpec::bytes).sum::<u64>();
        let norms = size_of::<f32>() * self.norms.iter().sum::<usize>();
        let values = (size_of::<f32>() * adapters.len) as u64;
        ResidentBytes {
            weights: self.embedding.bytes() + head + linears + norms as u64,
            adapters: values,
            moments: moments.bytes(),
            scratch: 0,
            gradients: values,
        }
    }

    /// Bytes of the weights on a GPU.
    pub fn gpu_bytes(&self) -> u64 {
        let norms = self.norms.iter().map(|&len| Vector::gpu_bytes(len));
        let stacks: u64 = self.stacks.iter().map(StackSpec::gpu_bytes).sum();
        let others = self.routers.iter().chain([&self.head]);
        norms.sum::<u64>() + stacks + others.map(LinearSpec::gpu_bytes).sum::<u64>()
    }

    /// Bytes of each block's frozen weights that are streamed where they do not stay on a GPU.
    pub fn block_bytes(&self) -> Vec<u64> {
        let mut stacks = self.stacks.iter().map(StackSpec::weight_bytes_on_gpu);
        let bytes = |layer: &LayerConfig| stacks.by_ref().take(layer.stacks().count()).sum();
        self.config.layers.iter().map(bytes).collect()
    }

    /// Bytes of the weights on a GPU that has those of blocks where `places` says, and of the slots that the others are
    /// streamed through.
    pub fn gpu_bytes_at(&self, places: &Places) -> u64 {
        let blocks = self.block_bytes();
        self.gpu_bytes() - blocks.iter().sum::<u64>() + places.bytes_on_gpu(&blocks)
    }

    /// Bytes that matrix products and dequantized weights work in on a GPU.
    pub(super) fn scratch_on_gpu(&self) -> u64 {
        let head = Some(&self.head).filter(|head| head.is_quantized()).map(LinearSpec::len);
        let stacks = self.stacks.iter().filter(|stack| stack.is_quantized()).map(StackSpec::len);
        scratch_bytes(head.into_iter().chain(stacks).fold(ScratchSizes::NONE, ScratchSizes::with))
    }

    /// Bytes of the values of these adapters on a GPU, and of their 16-bit copies.
    pub fn adapters_on_gpu(&self, adapters: &AdapterLayout) -> u64 {
        let copies = self.stacks.iter().zip(adapters.ranks()).map(|(stack, r)| stack.adapter_bytes(r));
        Vector::gpu_bytes(adapters.len) + copies.sum::<u64>()
    }

    /// What training these adapters holds on a GPU, where the embedding table is not, unless it is the head.
    pub fn resident_on_gpu(&self, adapters: &AdapterLayout, moments: &MomentsSpec) -> ResidentBytes {
        let values = Vector::gpu_bytes(adapters.len);
        ResidentBytes {
            weights: self.gpu_bytes(),
            adapters: self.adapters_on_gpu(adapters),
            moments: moments.gpu_bytes(),
            scratch: self.scratch_on_gpu(),
            gradients: values,
        }
    }

    /// The most that [`super::Model::cache_dequantized`] can spend.
    pub fn cacheable(&self, reads_table: bool) -> u64 {
        let table = match reads_table && !self.config.tied_head {
            true => embedding::table_bytes(&self.embedding),
            false => 0,
        };
        let stacks = self.stacks.iter().filter(|stack| stack.is_quantized());
        table + stacks.map(|stack| buffer_bytes::<u16>(stack.len())).sum::<u64>()
    }
}

/// A stack of which no weight has been read.
#[derive(Debug, Clone)]
enum StackSpec {
    Linear(LinearSpec),
    Experts(GroupedLinearSpec),
}

impl StackSpec {
    fn find(checkpoint: &Checkpoint, stack: StackConfig) -> Result<Self> {
        Ok(match stack {
            StackConfig::Linear(modules) => Self::Linear(linear(checkpoint, modules)?),
            StackConfig::Experts(modules) => {
                let of_expert =
                    |modules: &Vec<Module>| modules.iter().map(|module| weight(checkpoint, module)).collect();
                let weights = modules.experts.iter().map(of_expert).collect::<Result<_>>()?;
                Self::Experts(GroupedLinearSpec { weights })
            }
        })
    }

    fn quantize(&mut self, scheme: Scheme) {
        let weights: Vec<&mut WeightSpec> = match self {
            Self::Linear(linear) => linear.weights.iter_mut().collect(),
            Self::Experts(linear) => linear.weights.iter_mut().flatten().collect(),
        };
        weights.into_iter().for_each(|weight| *weight = weight.quantized(scheme));
    }

    /// Whether all weights are in 4 bits, so that a GPU dequantizes them.
    fn is_quantized(&self) -> bool {
        match self {
            Self::Linear(linear) => linear.is_quantized(),
            Self::Experts(linear) => linear.is_quantized(),
        }
    }

    /// Numbers of all weights.
    fn len(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.len(),
            Self::Experts(linear) => linear.len(),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Linear(linear) => linear.bytes(),
            Self::Experts(linear) => linear.bytes(),
        }
    }

    fn gpu_bytes(&self) -> u64 {
        match self {
            Self::Linear(linear) => linear.gpu_bytes(),
            Self::Experts(linear) => linear.gpu_bytes(),
        }
    }

    fn weight_bytes_on_gpu(&self) -> u64 {
        match self {
            Self::Linear(linear) => linear.weight_bytes_on_gpu(),
            Self::Experts(linear) => linear.weight_bytes_on_gpu(),
        }
    }

    fn adapter_bytes(&self, ranks: usize) -> u64 {
        match self {
            Self::Linear(linear) => linear.adapter_bytes(ranks),
            Self::Experts(linear) => linear.adapter_bytes(ranks),
        }
    }
}

fn weight(checkpoint: &Checkpoint, module: &Module) -> Result<WeightSpec> {
    WeightSpec::find(checkpoint, &module.weight(), module.shape)
}

fn linear(checkpoint: &Checkpoint, modules: &[Module]) -> Result<LinearSpec> {
    let mut weights = Vec::new();
    for module in modules {
        weights.push(weight(checkpoint, module)?);
        if let Some(bias) = module.bias() {
            vector_of(checkpoint, &bias, module.shape[0])?;
        }
    }
    Ok(LinearSpec { weights, has_bias: modules.iter().any(|module| module.has_bias) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::kernels::linear::{Linear, Weight};
    use crate::model::{HeadNormsConfig, Model, Place, Stack};
    use crate::nf4::{Absmax, QuantType};
    use std::path::PathBuf;

    /// Models of every family, with tied heads and without, in bf16 and as bitsandbytes quantizes them.
    fn directories() -> Vec<PathBuf> {
        crate::model::tiny_models().into_iter().flat_map(|model| [model.clone(), model.join("nf4")]).collect()
    }

    /// As they are, and quantized by loading.
    fn schemes() -> [Option<Scheme>; 3] {
        let scheme = |double_quant| Scheme { quant_type: QuantType::Nf4, block_size: 64, double_quant };
        [None, Some(scheme(false)), Some(scheme(true))]
    }

    fn load(directory: &Path, scheme: Option<Scheme>) -> Model {
        match scheme {
            Some(scheme) => Model::load_quantized(directory, scheme, &Device::Cpu).unwrap(),
            None => Model::load(directory, &Device::Cpu).unwrap(),
        }
    }

    /// The stacks of linear layers, without those of experts.
    fn linears(model: &Model) -> impl Iterator<Item = &Linear> {
        model.stacks().filter_map(|stack| match stack {
            Stack::Linear(linear) => Some(linear),
            Stack::Experts(_) => None,
        })
    }

    /// Lengths in bytes of all that is copied to a GPU of a loaded model, each a buffer.
    fn copied(model: &Model) -> Vec<usize> {
        let mut buffers = vec![4 * model.head.norm.len()];
        for block in model.blocks.iter() {
            buffers.extend(block.norms().map(|norm| 4 * norm.len()));
        }
        for linear in linears(model).chain([&model.head.projection]) {
            let projections = linear.projections();
            buffers.extend(copied_weights(linear));
            if projections.iter().any(|projection| projection.bias.is_some()) {
                buffers.push(2 * linear.outputs());
            }
            if projections.iter().all(|projection| matches!(projection.weight, Weight::Quantized(_))) {
                buffers.push(64 * projections.len());
            }
        }
        for block in model.blocks.iter() {
            buffers.extend(block.router().map(|router| 2 * router.inputs() * router.outputs()));
        }
        buffers.extend(model.stacks().flat_map(copied_experts));
        buffers
    }

    /// Lengths in bytes of the buffers of the weights of a stack.
    fn copied_weights(linear: &Linear) -> Vec<usize> {
        let of_weight = |weight: &Weight| match weight {
            Weight::Dense(tensor) => vec![2 * tensor.element_count()],
            Weight::Quantized(weight) => {
                let codes = [weight.packed().len(), 4 * weight.quant_type().values().len()];
                let absmax = match weight.absmax() {
                    Absmax::Plain(absmax) => vec![4 * absmax.len()],
                    Absmax::Nested { codes, map, absmax, .. } => {
                        vec![codes.len(), 4 * map.len(), 4 * absmax.len()]
                    }
                };
                [&codes[..], &absmax[..]].concat()
            }
        };
        linear.projections().iter().flat_map(|projection| of_weight(&projection.weight)).collect()
    }

    /// Lengths in bytes of the buffers of experts, of which each holds a part of all weights.
    fn copied_experts(stack: Stack) -> Vec<usize> {
        let Stack::Experts(linear) = stack else { return Vec::new() };
        let (mut dense, mut packed, mut codes, mut absmax_len, mut count) = (0, 0, 0, 0, 0);
        for weight in linear.weights() {
            match weight {
                Weight::Dense(tensor) => dense += 2 * tensor.element_count(),
                Weight::Quantized(weight) => {
                    count += 1;
                    packed += weight.packed().len();
                    match weight.absmax() {
                        Absmax::Plain(absmax) => absmax_len += 4 * absmax.len(),
                        Absmax::Nested { codes: own, absmax, .. } => {
                            codes += own.len();
                            absmax_len += 4 * absmax.len();
                        }
                    }
                }
            }
        }
        let tables = 4 * (16 + if codes > 0 { 256 } else { 0 });
        // A buffer without numbers is one of one number.
        if count == 0 { vec![dense] } else { vec![packed, absmax_len, codes.max(1), tables, 64 * count] }
    }

    #[test]
    fn headers_say_what_a_gpu_will_hold() {
        let (mut tied, mut quantized) = (0, 0);
        for directory in directories() {
            for scheme in schemes() {
                let (spec, model) = (ModelSpec::read(&directory, scheme).unwrap(), load(&directory, scheme));
                let copied: usize = copied(&model).iter().map(|bytes| bytes.next_multiple_of(512)).sum();
                assert_eq!(spec.gpu_bytes(), copied as u64, "{} {scheme:?}", directory.display());
                tied += usize::from(spec.config().tied_head);
                quantized += usize::from(spec.stacks.iter().all(StackSpec::is_quantized));
            }
        }
        let all = 3 * directories().len();
        assert!((1..all).contains(&tied) && (1..all).contains(&quantized), "{tied} {quantized}");
    }

    /// What a block streams are the weights of its stacks; biases, norms, routers and tables of addresses stay.
    #[test]
    fn headers_say_what_a_block_streams() {
        for directory in directories() {
            for scheme in schemes() {
                let (spec, model) = (ModelSpec::read(&directory, scheme).unwrap(), load(&directory, scheme));
                let streamed = |stack: Stack| {
                    let buffers = match stack {
                        Stack::Linear(linear) => copied_weights(linear),
                        Stack::Experts(_) => {
                            let mut buffers = copied_experts(stack);
                            buffers.truncate(4);
                            buffers
                        }
                    };
                    buffers.iter().map(|bytes| bytes.next_multiple_of(512) as u64).sum::<u64>()
                };
                let expected: Vec<u64> =
                    model.blocks.iter().map(|block| block.stacks().map(streamed).sum()).collect();
                let found = spec.block_bytes();
                assert_eq!(found, expected, "{} {scheme:?}", directory.display());

                let all = found.iter().sum::<u64>();
                let at = |places| spec.gpu_bytes_at(&places);
                assert_eq!(at(Places::resident(found.len())), spec.gpu_bytes());
                let places = Places::streaming(found.len(), found.len(), 1, Place::File);
                let largest = found.iter().max().unwrap();
                assert_eq!(at(places), spec.gpu_bytes() - all + largest);
            }
        }
    }

    #[test]
    fn headers_say_what_adapters_and_their_copies_will_be() {
        for directory in directories() {
            let options = AdapterSettings {
                rank: 5,
                targets: vec!["o_proj".into(), "down_proj".into()],
                ..AdapterSettings::default()
            };
            let (spec, mut model) = (ModelSpec::read(&directory, None).unwrap(), load(&directory, None));
            let layout = spec.new_adapters(&options).unwrap();
            model.add_adapters(&options).unwrap();
            assert_eq!(
                (layout.len, &layout.tensors),
                (model.adapters().values.len(), &model.adapters().tensors)
            );
            let held = spec.resident_on_gpu(&layout, &MomentsSpec::exact(layout.len));
            let values = (4 * layout.len as u64).next_multiple_of(512);
            // Each copy as one matrix of the stack's ranks, rounded up to 8; those of experts one after the other.
            let copies = |stack: Stack| {
                let (experts, inputs, outputs) = match stack {
                    Stack::Linear(linear) => (1, linear.inputs(), linear.outputs()),
                    Stack::Experts(linear) => (linear.experts(), linear.inputs(), linear.outputs()),
                };
                let ranks = experts * stack.ranks().next_multiple_of(8);
                let matrices = [ranks * inputs, outputs * ranks];
                matrices.iter().map(|numbers| (2 * numbers).next_multiple_of(512) as u64).sum::<u64>()
            };
            assert_eq!(held.adapters, values + model.stacks().map(copies).sum::<u64>());
            assert_eq!((held.gradients, held.moments), (values, 2 * values));
            let expected = model.stacks().map(Stack::ranks).collect::<Vec<_>>();
            assert_eq!(layout.ranks(), expected);
            assert!(expected.contains(&5) && expected.contains(&0));
        }
    }

    /// Buffers for dequantized weights: the largest stack, and the largest of the others.
    #[test]
    fn scratch_has_room_for_the_largest_stacks() {
        let directory = &directories()[0];
        let scratch = |scheme| {
            let spec = ModelSpec::read(directory, scheme).unwrap();
            spec.resident_on_gpu(&AdapterLayout::default(), &MomentsSpec::exact(0)).scratch
        };
        let mut stacks: Vec<usize> = linears(&load(directory, None))
            .map(|linear| (2 * linear.inputs() * linear.outputs()).next_multiple_of(512))
            .collect();
        stacks.sort_unstable();
        stacks.dedup();
        let [.., second, first] = stacks[..] else { panic!("{stacks:?}") };
        assert_eq!(scratch(schemes()[2]), (32 << 20) + (first + second) as u64);
        assert_eq!(scratch(None), (32 << 20) + 2 * 512, "nothing is widened");
    }

    #[test]
    fn on_the_host_weights_take_what_their_files_do() {
        for directory in directories() {
            let spec = ModelSpec::read(&directory, None).unwrap();
            let checkpoint =
                crate::model::text_weights(Checkpoint::open(&directory).unwrap(), &spec.config).unwrap();
            let is_used = |name: &str| !name.contains("quant_state") && !name.ends_with(".quant_map");
            let tensors = checkpoint.tensors().filter(|tensor| is_used(&tensor.name));
            // Norms and biases are widened to f32.
            let bytes: usize = tensors
                .map(|tensor| {
                    match tensor.shape.len() == 1 && tensor.dtype == crate::checkpoint::Dtype::BF16 {
                        true => 2 * tensor.bytes.len(),
                        false => tensor.bytes.len(),
                    }
                })
                .sum();
            let held = spec.resident_on_host(&AdapterLayout::default(), &MomentsSpec::exact(0));
            let repeated = |layer: &LayerConfig| match &layer.attention.head_norms {
                Some(HeadNormsConfig::EachHead(_)) => {
                    let heads = layer.attention.spec.heads;
                    4 * (heads.queries + heads.keys - 2) * heads.size
                }
                _ => 0,
            };
            let repeated: usize = spec.config().layers.iter().map(repeated).sum();
            assert_eq!(held.weights, (bytes + repeated) as u64, "{}", directory.display());
        }
    }

    #[test]
    fn what_is_spare_goes_into_the_table_only_where_passes_read_it_there() {
        for directory in directories() {
            let spec = ModelSpec::read(&directory, schemes()[2]).unwrap();
            let [v, c] = spec.embedding.shape();
            let table = spec.cacheable(true) - spec.cacheable(false);
            let is_tied = spec.config().tied_head;
            assert_eq!(table, if is_tied { 0 } else { (2 * v * c).next_multiple_of(512) as u64 });
            assert!(spec.cacheable(false) > 0, "weights in 16 bits");
        }
    }
}
