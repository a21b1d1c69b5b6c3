//! The frozen model, the noise that it is trained with, and where to compute.

use std::path::PathBuf;

use common::device::DeviceChoice;
use common::device::cuda::Float16;
use common::nf4::{QuantType, Scheme};
use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

/// The frozen model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelSettings {
    /// The model's directory, canonical.
    #[serde(rename = "model")]
    pub path: PathBuf,
    /// The type of 16-bit numbers that a GPU computes with. It serializes as whether it is fp16.
    #[serde(rename = "fp16", serialize_with = "is_fp16")]
    pub float16: Float16,
    /// The scheme in which linear layers are quantized when the model is loaded; `None` leaves them as they
    /// are stored.
    #[serde(serialize_with = "scheme")]
    pub quantization: Option<Scheme>,
    /// What the balance of experts counts in the loss; `None` leaves that to config.json.
    #[serde(rename = "moe_aux_loss_coef", skip_serializing_if = "Option::is_none")]
    pub router_loss: Option<f32>,
}

fn is_fp16<S: Serializer>(float16: &Float16, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bool(*float16 == Float16::Fp16)
}

fn scheme<S: Serializer>(scheme: &Option<Scheme>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(scheme) = scheme else { return serializer.serialize_none() };
    let mut object = serializer.serialize_struct("Scheme", 2)?;
    object.serialize_field("type", if scheme.quant_type == QuantType::Fp4 { "fp4" } else { "nf4" })?;
    object.serialize_field("double", &scheme.double_quant)?;
    object.end()
}

/// The noise that regularizes training.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct NoiseSettings {
    /// The share of an adapter's input that is dropped in training; `None` keeps that of the adapter that
    /// the run starts from, or 0.
    #[serde(rename = "lora_dropout")]
    pub dropout: Option<f64>,
    /// The alpha of NEFTune's noise on the embeddings; 0 adds none.
    #[serde(rename = "neftune_noise_alpha")]
    pub neftune_alpha: f64,
}

/// Where to compute.
#[derive(Debug, Clone, Copy)]
pub struct DeviceSettings {
    /// The device that is asked for.
    pub choice: DeviceChoice,
    /// The bytes of GPU memory to stay within; `None` means what is free, less a margin.
    pub vram_budget: Option<u64>,
    /// Whether blocks that have no room on a GPU are divided among those of all ranks.
    pub shard_base: bool,
}
