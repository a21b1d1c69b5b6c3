//! Models whose weights are a hole in their file: zeros, which take no room on the disk, whatever the shape.

use std::fs::File;
use std::path::Path;

use common::checkpoint::{Dtype, TensorSpec};
use common::model::{Config, Role};
use common::nf4::{Quantized, Scheme};
use serde_json::{Map, Value, json};

/// Writes a model in the shape of a config.json: in bf16, or with its linear layers in 4 bits. Returns the bytes of its
/// weights.
pub fn write_model(json: &Value, scheme: Option<Scheme>, directory: &Path) -> u64 {
    let (mut header, mut end) = (Map::new(), 0);
    for TensorSpec { name, dtype, shape } in
        tensors(&Config::parse(json).expect("the shape of a model"), scheme)
    {
        let size = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let entry = json!({"dtype": dtype.to_string(), "shape": shape, "data_offsets": [end, end + size]});
        header.insert(name, entry);
        end += size;
    }
    let header = Value::from(header).to_string();
    let length = header.len() as u64;
    std::fs::write(directory.join("config.json"), json.to_string()).expect("config.json");
    let path = directory.join("model.safetensors");
    std::fs::write(&path, [&length.to_le_bytes()[..], header.as_bytes()].concat()).expect("a header");
    let file = File::options().write(true).open(path).expect("the file");
    file.set_len(8 + length + end as u64).expect("a hole");
    end as u64
}

/// All tensors of a model.
fn tensors(config: &Config, scheme: Option<Scheme>) -> Vec<TensorSpec> {
    let dense = |name: &str, shape: &[usize]| TensorSpec::new(name, Dtype::BF16, shape);
    let mut tensors: Vec<TensorSpec> = config.norms().map(|norm| dense(&norm.name, &[norm.len])).collect();
    for module in config.modules() {
        let weight = dense(&module.weight(), &module.shape);
        match scheme.filter(|_| module.role == Role::Projection) {
            Some(scheme) => tensors.extend(Quantized::specs(&weight, scheme).expect("a weight in 4 bits")),
            None => tensors.push(weight),
        }
        tensors.extend(module.bias().map(|name| dense(&name, &module.shape[..1])));
    }
    tensors
}
