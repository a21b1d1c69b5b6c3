//! Loading: a directory's tensors become the decoder's frozen weights, mapped and not copied.

use std::path::{Path, PathBuf};

use super::blocks::Blocks;
use super::head::Head;
use super::weight_reader::WeightReader;
use super::{Adapters, Model, ModelSpec, Places, Weights};
use crate::adapter::{self, Adapter, AdapterConfig};
use crate::device::Device;
use crate::kernels::embedding::Embedding;
use crate::kernels::linear::{Linear, Projection};
use crate::nf4::Scheme;
use crate::world::World;
use crate::{Context, Result};

/// Whether a directory holds a PEFT adapter and not a model.
pub fn is_adapter(directory: &Path) -> bool {
    directory.join("adapter_config.json").exists()
}

/// The base that an adapter directory names.
pub fn base_of_adapter(directory: &Path) -> Result<PathBuf> {
    adapter::find_base(directory, &AdapterConfig::read(directory)?)
}

impl Model {
    /// Loads a model directory (bf16, f16, f32 or NF4), or a PEFT adapter with the base it names.
    pub fn load(directory: &Path, device: &Device) -> Result<Self> {
        load(directory, None, device)
    }

    /// Loads a model directory and quantizes the linear layers of its blocks where they are not in
    /// 4 bits already.
    pub fn load_quantized(directory: &Path, scheme: Scheme, device: &Device) -> Result<Self> {
        load_base(directory, Some(scheme), device, None, &World::alone())
    }

    /// Loads a model directory with the weights of its blocks where `place` says, which is told what the headers of the
    /// files say, and quantized where `quantization` asks for that. On the host weights always stay in the memory maps
    /// of their files.
    pub fn load_to(
        directory: &Path,
        quantization: Option<Scheme>,
        device: &Device,
        place: impl Fn(&ModelSpec) -> Result<Places>,
    ) -> Result<Self> {
        load_base(directory, quantization, device, Some(&place), &World::alone())
    }

    /// As [`Model::load_to`], called on all ranks of `world` with the same places. The ranks of a machine share one
    /// copy of the blocks that lie in page-locked memory, and all ranks the blocks that are sharded; of a model with
    /// sharded blocks, all ranks run the same number of passes ([`Model::is_sharded`]).
    pub fn load_among(
        directory: &Path,
        quantization: Option<Scheme>,
        device: &Device,
        place: impl Fn(&ModelSpec) -> Result<Places>,
        world: &World,
    ) -> Result<Self> {
        load_base(directory, quantization, device, Some(&place), world)
    }

    /// Loads an adapter on another base than the one it names.
    pub fn load_with_base(adapter: &Path, base: &Path, device: &Device) -> Result<Self> {
        load(adapter, Some(base), device)
    }
}

/// Loads a model, or an adapter on `base`; without `base`, on the base that the adapter names.
fn load(directory: &Path, base: Option<&Path>, device: &Device) -> Result<Model> {
    if !is_adapter(directory) {
        return load_base(directory, None, device, None, &World::alone());
    }
    let base = match base {
        Some(base) => base.to_path_buf(),
        None => base_of_adapter(directory)?,
    };
    let mut model = load_base(&base, None, device, None, &World::alone())?;
    let adapter = Adapter::load(directory)?;
    model.set_adapter(&adapter).with_context(|| directory.display().to_string())?;
    Ok(model)
}

/// Says where the weights of a model's blocks go.
type Planner<'a> = &'a dyn Fn(&ModelSpec) -> Result<Places>;

/// Loads a base, with the weights of its blocks where `place` says; without it, all weights stay on the device. The
/// ranks of `world` share blocks.
fn load_base(
    directory: &Path,
    quantization: Option<Scheme>,
    device: &Device,
    place: Option<Planner>,
    world: &World,
) -> Result<Model> {
    let opened = Weights::open(directory)?;
    let (places, slot_bytes) = match place {
        None => (Places::resident(opened.config.layers.len()), 0),
        Some(place) => {
            let spec = ModelSpec::of(&opened, quantization)?;
            let places = place(&spec)?;
            let slot_bytes = places.slot_bytes(&spec.block_bytes());
            (places, slot_bytes)
        }
    };
    let Weights { config, checkpoint } = opened;
    let weights = WeightReader { checkpoint: &checkpoint, quantization, device, block: None };
    let table = weights.weight(&config.embedding())?;
    let head = Projection {
        name: "lm_head".into(),
        weight: match config.tied_head {
            true => table.clone(),
            false => weights.weight(&config.head())?,
        },
        bias: None,
        adapter: None,
    };
    let head = Head {
        norm: weights.scaled_norm(&config.last_norm(), config.logit_scale)?,
        softcap: config.logit_softcap,
        projection: Linear::new(vec![head])?.to_device(device)?,
        epsilon: config.epsilon,
    };
    let embedding = match config.tied_head {
        true => Embedding::tied(table, config.embedding_scale, &head.projection),
        false => Embedding::new(table, config.embedding_scale),
    };
    let blocks = Blocks::load(&config.layers, weights, &places, slot_bytes, world)?;
    Ok(Model { device: device.clone(), embedding, blocks, head, adapters: Adapters::none(), config })
}
