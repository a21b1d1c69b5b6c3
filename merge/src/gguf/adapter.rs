//! An adapter alone as a GGUF file, for `llama-cli --lora`, as `convert_lora_to_gguf.py` writes it.

use std::path::Path;

use common::adapter::{Adapter, Lora};
use common::cli::{Progress, Unit};
use common::gguf::{GgufWriter, Metadata, TensorInfo, TensorType, encode_rows};
use common::llama_cpp::{Family, Named, neighbours};
use common::model::Config;
use common::{Result, bail, error};

use super::general;

/// The matrices A and B of an adapter's modules.
pub(crate) struct AdapterTensors {
    metadata: Metadata,
    tensors: Vec<(TensorInfo, Vec<f32>)>,
}

impl AdapterTensors {
    /// The tensors of `adapter`, an adapter of a model of this family, for a file of this name.
    pub(crate) fn new(adapter: &Adapter, family: &Family, config: &Config, file: &Path) -> Result<Self> {
        if let Some(name) = adapter.replacements.keys().chain(adapter.tokens.keys()).next() {
            return Err(error!(
                "the adapter brings a {name} of its own, which llama.cpp takes from no adapter"
            )
            .hint("merge into a .gguf without --adapter-gguf"));
        }
        if let Some(name) = adapter.experts.keys().next() {
            return Err(error!("the adapter changes {name}, and llama.cpp takes no adapters of experts")
                .hint("merge into a .gguf without --adapter-gguf"));
        }
        let mut metadata = Metadata::default();
        let alpha = adapter.config.lora_alpha as f32;
        general::write_adapter_keys(family.name, file, alpha, &mut metadata);
        let size = config.layers.first().map_or(0, |layer| layer.attention.spec.heads.size);
        let mut tensors = Vec::new();
        for (module, lora) in &adapter.modules {
            let weight = format!("{module}.weight");
            let Some(Named { name, .. }) = family.named(&weight) else {
                bail!(
                    Unsupported,
                    "the adapter's module {module} has no name in GGUF files of {}",
                    family.name
                );
            };
            let mut b = scaled(lora, alpha);
            if family.reorders(&weight) {
                if size == 0 || !lora.outputs.is_multiple_of(size) {
                    bail!(Mismatch, "the adapter's module {module} is not of heads of {size} rows");
                }
                neighbours(&mut b, size, lora.rank);
            }
            let is_table = name == "token_embd.weight";
            let (a, a_shape) = match is_table {
                // llama.cpp looks rows of the table's A up by token.
                true => (transposed(&lora.a, lora.rank, lora.inputs), vec![lora.inputs, lora.rank]),
                false => (lora.a.clone(), vec![lora.rank, lora.inputs]),
            };
            for (part, values, shape) in [("a", a, a_shape), ("b", b, vec![lora.outputs, lora.rank])] {
                let info = TensorInfo { name: format!("{name}.lora_{part}"), shape, kind: TensorType::F32 };
                tensors.push((info, values));
            }
        }
        Ok(Self { metadata, tensors })
    }

    /// Writes the file `path`, which must not exist.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let infos: Vec<TensorInfo> = self.tensors.iter().map(|(info, _)| info.clone()).collect();
        let progress =
            Progress::new("merge", infos.iter().filter_map(TensorInfo::size).sum::<u64>(), Unit::Bytes);
        let writer = GgufWriter::create(path, &self.metadata, &infos)?;
        for (info, values) in &self.tensors {
            let mut bytes = vec![0; 4 * values.len()];
            if encode_rows(info.kind, values, &mut bytes).is_some() {
                return Err(error!("tensor {} has values that are not finite", info.name)
                    .hint("the adapter diverged in training; take an earlier checkpoint"));
            }
            writer.write_part(&info.name, 0, &bytes)?;
            progress.add(bytes.len() as u64);
        }
        writer.finish()
    }
}

/// B, scaled so that llama.cpp's factor alpha / r gives the module's own: that of rank-stabilized LoRA, or of a module
/// with another alpha, differs.
fn scaled(lora: &Lora, alpha: f32) -> Vec<f32> {
    let factor = lora.scale * lora.rank as f32 / alpha;
    match factor == 1.0 {
        true => lora.b.clone(),
        false => lora.b.iter().map(|value| value * factor).collect(),
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| values[row * columns + column])).collect()
}
