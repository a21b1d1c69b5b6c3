//! The optimizer.

use common::device::{Device, Vector};
use common::kernels::adamw::{AdamW, Moments, MomentsSpec, gradient_norm};

use super::check::{Check, on_gpu};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn the_optimizer_is_its_twin() {
    on_gpu(optimizer);
}

fn optimizer(check: &mut Check) {
    let optimizer = AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-6, weight_decay: 0.1 };
    for len in [1, 17, 100_003] {
        let (mut parameters, mut gparameters) = check.vectors(len, 1.0);
        let mut moments = Moments::new(len, &Device::Cpu).unwrap();
        let mut gmoments = Moments::new(len, &check.cuda).unwrap();
        for (rate, scale) in [(0.01f32, 1.0f32), (0.02, 0.5), (0.0, 0.25)] {
            let (gradients, ggradients) = check.vectors(len, 2.0);
            let (norm, gnorm) = (gradient_norm(&gradients).unwrap(), gradient_norm(&ggradients).unwrap());
            check.close(&format!("norm {len}"), &[norm as f32], &[gnorm as f32], 1e-6);
            optimizer.step(&mut parameters, &gradients, scale, &mut moments, rate).unwrap();
            optimizer.step(&mut gparameters, &ggradients, scale, &mut gmoments, rate).unwrap();
        }
        let (found, gfound) = (parameters.to_vec().unwrap(), gparameters.to_vec().unwrap());
        check.close(&format!("adamw {len}"), &found, &gfound, 1e-6);
    }
    // In unified memory a step gives the same bits.
    let len = 100_003;
    let (parameters, _) = check.vectors(len, 1.0);
    let (gradients, _) = check.vectors(len, 1.0);
    let step = |moments: Moments| {
        let on_gpu = |vector: &Vector| Vector::from_vec(vector.to_vec().unwrap(), &check.cuda).unwrap();
        let (mut parameters, gradients, mut moments) = (on_gpu(&parameters), on_gpu(&gradients), moments);
        for _ in 0..2 {
            optimizer.step(&mut parameters, &gradients, 1.0, &mut moments, 0.01).unwrap();
        }
        let moments = moments.to_tensors().unwrap();
        (parameters.to_vec().unwrap(), moments.iter().map(|moment| moment.bytes.to_vec()).collect::<Vec<_>>())
    };
    for spec in [MomentsSpec::exact(len), MomentsSpec::in_8_bits(std::iter::once(0..len))] {
        let paged = spec.clone().paged();
        let [plain, paged] = [&spec, &paged].map(|spec| step(Moments::of(spec, &check.cuda).unwrap()));
        assert!(plain == paged, "paged moments give other bits: {spec:?}");
    }
    // In 8 bits: two tensors whose blocks run on, one behind an incomplete block, one too small for it.
    let (tensors, len) = ([0..51_200, 51_200..70_003, 70_003..100_000, 100_000..100_003], 100_003);
    let (mut parameters, mut gparameters) = check.vectors(len, 1.0);
    let mut moments = Moments::of(&MomentsSpec::in_8_bits(tensors.clone()), &Device::Cpu).unwrap();
    let mut gmoments = Moments::of(&MomentsSpec::in_8_bits(tensors), &check.cuda).unwrap();
    for bound in [2.0, 1e-4, 1.0] {
        let (gradients, ggradients) = check.vectors(len, bound);
        let rates = [(0..51_200, 0.01), (51_200..len, 0.02)];
        optimizer.step_at_rates(&mut parameters, &gradients, 0.5, &mut moments, &rates).unwrap();
        optimizer.step_at_rates(&mut gparameters, &ggradients, 0.5, &mut gmoments, &rates).unwrap();
    }
    let (found, gfound) = (parameters.to_vec().unwrap(), gparameters.to_vec().unwrap());
    check.close("adamw in 8 bits", &found[..100_000], &gfound[..100_000], 0.0);
    let (moments, gmoments) = (moments.to_tensors().unwrap(), gmoments.to_tensors().unwrap());
    for (moment, gmoment) in moments.iter().zip(&gmoments) {
        let is_in_8_bits = moment.name.ends_with(".codes") || moment.name.ends_with(".absmax");
        if is_in_8_bits && *moment.bytes != *gmoment.bytes {
            check.failures.push(format!("adamw in 8 bits: {} differs", moment.name));
        }
    }
}
