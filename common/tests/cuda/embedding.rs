//! Rows of the embedding table.

use common::checkpoint::Tensor as Stored;
use common::device::Device;
use common::kernels::embedding::{self, Embedding};
use common::kernels::linear::Weight;

use super::MANY_ROWS;
use super::check::{Check, on_gpu};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_embedding_is_its_twin() {
    on_gpu(embeddings);
}

fn embeddings(check: &mut Check) {
    let values = check.values(64 * 24, 0.2);
    let mut table = Embedding::new(Weight::Dense(Stored::from_f32("w", vec![64, 24], &values)), 1.0);
    let x = embedding::forward(&[3, 63, 0, 3], &table, None, &Device::Cpu).unwrap();
    let gx = embedding::forward(&[3, 63, 0, 3], &table, None, &check.cuda).unwrap();
    check.same("embedding", &x, &gx, 0.0);
    assert_eq!(table.keep_on_gpu(2 * 64 * 24 - 1, &check.cuda).unwrap(), 0);
    assert_eq!(table.keep_on_gpu(2 * 64 * 24, &check.cuda).unwrap(), 2 * 64 * 24);
    let gx = embedding::forward(&[3, 63, 0, 3], &table, None, &check.cuda).unwrap();
    check.same("embedding on the GPU", &x, &gx, 0.0);
    let many: Vec<u32> = (0..MANY_ROWS as u32).map(|row| row * 7 % 64).collect();
    let x = embedding::forward(&many, &table, None, &Device::Cpu).unwrap();
    let gx = embedding::forward(&many, &table, None, &check.cuda).unwrap();
    check.same("embedding of many rows", &x, &gx, 0.0);
}
