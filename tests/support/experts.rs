//! The other layout of a checkpoint of a mixture of experts.

use std::path::Path;

use common::checkpoint::{Checkpoint, Tensor, write_file};
use common::model::Config;

/// Stores the matrices of all experts of a layer as one tensor, as transformers 5 has them in memory. The model in
/// `directory` has one file of weights with a tensor for each expert.
///
/// # Panics
///
/// Where it is no such model.
pub fn fuse_experts(directory: &Path) {
    let config = Config::read(directory).expect("a model");
    let checkpoint = Checkpoint::open(directory).expect("weights");
    let mut tensors: Vec<Tensor> = checkpoint.tensors().collect();
    for modules in config.experts() {
        let mut take = |name: String| {
            let place = tensors.iter().position(|tensor| tensor.name == name).expect("a matrix of an expert");
            tensors.remove(place)
        };
        let matrices: Vec<Tensor> =
            modules.experts.iter().flatten().map(|module| take(module.weight())).collect();
        let bytes: Vec<u8> = matrices.iter().flat_map(|matrix| matrix.bytes.iter().copied()).collect();
        let [n, k] = modules.shape;
        tensors.push(Tensor {
            name: modules.name.clone(),
            dtype: matrices[0].dtype,
            shape: vec![modules.experts.len(), n, k],
            bytes: bytes.into(),
        });
    }
    write_file(&directory.join("model.safetensors"), &tensors).expect("the weights");
}
