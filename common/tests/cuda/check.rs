//! Compares twins: the same operation on the host and on the GPU.

use common::device::cuda::{Float16, Gpu};
use common::device::{Device, Tensor, Vector};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The state of a comparison.
pub(crate) struct Check {
    /// The GPU.
    pub cuda: Device,
    /// The numbers that the GPU computes with.
    pub float16: Float16,
    /// How far apart rounding once may bring twins: bf16 moves a value by up to 2⁻⁹ of itself and by
    /// 2⁻⁹/√3 in the mean square, fp16 by an eighth of that.
    pub bound: f64,
    pub random: ChaCha8Rng,
    /// What was further apart than it may be.
    pub failures: Vec<String>,
}

impl Check {
    /// Values that bf16 and fp16 hold exactly.
    pub(crate) fn values(&mut self, len: usize, bound: f32) -> Vec<f32> {
        (0..len).map(|_| bf16::from_f32(self.random.random_range(-bound..bound)).to_f32()).collect()
    }

    /// The same values on the host and on the GPU.
    pub(crate) fn pair(&mut self, shape: &[usize], bound: f32) -> (Tensor, Tensor) {
        let values = self.values(shape.iter().product(), bound);
        (
            Tensor::on(&Device::Cpu, values.clone(), shape).unwrap(),
            Tensor::on(&self.cuda, values, shape).unwrap(),
        )
    }

    /// The same values on the host and on the GPU.
    pub(crate) fn vectors(&mut self, len: usize, bound: f32) -> (Vector, Vector) {
        let values = self.values(len, bound);
        (Vector::Cpu(values.clone()), Vector::from_vec(values, &self.cuda).unwrap())
    }

    /// The norm of the difference, as a share of the norm of what is expected; 0 is to the bit.
    pub(crate) fn close(&mut self, what: &str, expected: &[f32], found: &[f32], bound: f64) {
        assert_eq!(expected.len(), found.len(), "{what}");
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
        let pairs = || expected.iter().zip(found).map(|(&e, &f)| f64::from(e) - f64::from(f));
        let apart = norm(&mut pairs()) / norm(&mut expected.iter().map(|&e| f64::from(e))).max(1e-30);
        eprintln!("{what}: {apart:.2e} of {bound:.0e}");
        // NaN is not close to anything.
        if apart.partial_cmp(&bound).is_none_or(std::cmp::Ordering::is_gt) {
            let worst =
                pairs().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).map_or(0, |worst| worst.0);
            let (e, f, len) = (expected[worst], found[worst], expected.len());
            self.failures.push(format!("{what}: {apart:.2e}, at {worst} of {len} {e} and {f}"));
        }
    }

    /// As [`Check::close`], for tensors.
    pub(crate) fn same(&mut self, what: &str, expected: &Tensor, found: &Tensor, bound: f64) {
        assert_eq!(expected.shape(), found.shape(), "{what}");
        self.close(what, &expected.to_vec().unwrap(), &found.to_vec().unwrap(), bound);
    }
}

/// Buffers come from a pool: filled with NaN and given back, they are what the next ops write into.
fn poison(device: &Device) {
    for len in [1usize << 10, 1 << 14, 1 << 18, 1 << 22] {
        for _ in 0..4 {
            drop(Vector::from_vec(vec![f32::NAN; len], device).unwrap());
        }
    }
}

/// Compares some kernels with their twins, in both number types and in memory that holds NaN before.
pub(crate) fn on_gpu(compare: fn(&mut Check)) {
    for (float16, bound) in [(Float16::Bf16, 3e-3), (Float16::Fp16, 4e-4)] {
        let cuda = Device::Cuda(Gpu::open(0, float16).unwrap());
        poison(&cuda);
        let random = ChaCha8Rng::seed_from_u64(1);
        let mut check = Check { cuda, float16, bound, random, failures: Vec::new() };
        compare(&mut check);
        assert!(check.failures.is_empty(), "{float16:?}\n{}", check.failures.join("\n"));
    }
}
