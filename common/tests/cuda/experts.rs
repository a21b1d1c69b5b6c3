//! Mixtures of experts: routing, the products of experts, and the gated units between them.

use common::checkpoint::Tensor as Stored;
use common::device::{Device, Tensor, Vector};
use common::kernels::glu::{self, Activation};
use common::kernels::grouped_linear::{self, GroupedLinear};
use common::kernels::linear::{AdapterSlot, Linear, Parameters, Projection, Weight};
use common::kernels::routing::{self, Routing, RoutingSpec, Rows};
use common::nf4::{QuantType, Quantized, Scheme};
use rand::Rng;

use super::check::{Check, on_gpu};

/// The sizes of a mixture, and the tokens that go through it.
#[derive(Debug, Clone, Copy)]
struct Case {
    experts: usize,
    chosen: usize,
    normalized: bool,
    /// C
    width: usize,
    /// F
    hidden: usize,
    tokens: usize,
    rank: usize,
}

const fn case(
    experts: usize,
    chosen: usize,
    width: usize,
    hidden: usize,
    tokens: usize,
    rank: usize,
) -> Case {
    Case { experts, chosen, normalized: chosen.is_multiple_of(2), width, hidden, tokens, rank }
}

/// Widths that no tile of 64, 128 or 256 divides, one token, few, and thousands.
const CASES: [Case; 8] = [
    case(4, 2, 64, 32, 1, 8),
    case(8, 2, 96, 64, 8, 4),
    case(8, 3, 96, 40, 9, 16),
    case(12, 1, 200, 72, 7, 64),
    case(128, 8, 64, 24, 300, 16),
    case(6, 2, 520, 264, 700, 72),
    case(60, 4, 128, 64, 33, 8),
    case(512, 32, 32, 16, 70, 4),
];

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn experts_are_their_twins() {
    on_gpu(|check| {
        for case in CASES {
            for kind in kinds() {
                experts(check, case, kind, Load::AsItComes);
            }
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn experts_of_many_tokens_are_their_twins() {
    on_gpu(|check| experts(check, case(16, 4, 256, 136, 4100, 16), Kind::Dense, Load::AsItComes));
}

/// Every token goes to the first expert, and none to the last.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn an_expert_may_get_all_tokens_or_none() {
    on_gpu(|check| {
        for (tokens, kind) in [(3, kinds()[1]), (1000, Kind::Dense), (1000, kinds()[1])] {
            experts(check, case(8, 2, 96, 40, tokens, 8), kind, Load::FirstAndLast);
        }
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn no_tokens_at_all_are_no_fault() {
    on_gpu(|check| experts(check, case(8, 2, 96, 40, 0, 8), Kind::Dense, Load::AsItComes));
}

/// More slots than a grid has blocks in y and z.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn experts_of_more_slots_than_a_grid_is_high_are_their_twins() {
    on_gpu(|check| experts(check, case(4, 2, 16, 8, super::MANY_ROWS, 8), Kind::Dense, Load::AsItComes));
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Dense,
    Quantized(Scheme),
}

fn kinds() -> [Kind; 4] {
    let nf4 = Scheme::default();
    [
        Kind::Dense,
        Kind::Quantized(nf4),
        Kind::Quantized(Scheme { double_quant: false, block_size: 128, ..nf4 }),
        Kind::Quantized(Scheme { quant_type: QuantType::Fp4, ..nf4 }),
    ]
}

/// Which experts tokens go to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    AsItComes,
    /// All to the first, none to the last.
    FirstAndLast,
}

/// The same layer on both devices.
struct Layers {
    spec: RoutingSpec,
    router: [Linear; 2],
    gate_up: [GroupedLinear; 2],
    down: [GroupedLinear; 2],
    parameters: [Vector; 2],
}

/// A matrix whose products are exact in f32, whatever the order of their sums, so that twins choose the same experts:
/// eighths, of which few are not zero.
fn eighths(check: &mut Check, rows: usize, columns: usize, filled: usize) -> Vec<f32> {
    let mut value = |column| if column < filled { check.random.random_range(-8..=8i8) } else { 0 };
    (0..rows * columns).map(|i| f32::from(value(i % columns)) / 8.0).collect()
}

fn weight(check: &mut Check, kind: Kind, [n, k]: [usize; 2]) -> Weight {
    let values = check.values(n * k, 1.0 / (k as f32).sqrt());
    let stored = Stored::from_f32("w", vec![n, k], &values);
    match kind {
        Kind::Dense => Weight::Dense(stored),
        Kind::Quantized(scheme) => Weight::Quantized(Quantized::quantize(&stored, scheme).unwrap()),
    }
}

fn layers(check: &mut Check, case: Case, kind: Kind, load: Load) -> Layers {
    let Case { experts, chosen, normalized, width, hidden, rank, .. } = case;
    let mut router = eighths(check, experts, width, 24.min(width));
    if load == Load::FirstAndLast {
        for expert in 0..experts {
            router[expert * width] =
                if expert == 0 { 40.0 } else { 0.0 } - if expert + 1 == experts { 40.0 } else { 0.0 };
        }
    }
    let gate_up: Vec<Vec<Weight>> = (0..experts)
        .map(|_| vec![weight(check, kind, [hidden, width]), weight(check, kind, [hidden, width])])
        .collect();
    let down: Vec<Vec<Weight>> = (0..experts).map(|_| vec![weight(check, kind, [width, hidden])]).collect();
    let mut len = 5;
    let mut slot = |inputs: usize, outputs: usize| {
        let a = len..len + experts * rank * inputs;
        let b = a.end + 3..a.end + 3 + experts * outputs * rank;
        len = b.end;
        AdapterSlot { rank, scale: 1.5, a, b }
    };
    let slots = [slot(width, 2 * hidden), slot(hidden, width)];
    let values = check.values(len, 0.3);
    let parameters = [Vector::Cpu(values.clone()), Vector::from_vec(values, &check.cuda).unwrap()];
    let devices = [Device::Cpu, check.cuda.clone()];
    let router = devices.each_ref().map(|device| {
        let weight = Weight::Dense(Stored::from_f32("w", vec![experts, width], &router));
        let projection = Projection { name: "gate".into(), weight, bias: None, adapter: None };
        Linear::new(vec![projection]).unwrap().to_device(device).unwrap()
    });
    let grouped = |name: &str, weights: &Vec<Vec<Weight>>, slot: &AdapterSlot| {
        [0, 1].map(|i| {
            let linear = GroupedLinear::new(name.into(), weights.clone()).unwrap();
            let mut linear = linear.to_device(&devices[i]).unwrap();
            linear.adapter = Some(slot.clone());
            linear.refresh_adapters(&parameters[i]).unwrap();
            linear
        })
    };
    let (gate_up, down) = (grouped("gate_up", &gate_up, &slots[0]), grouped("down", &down, &slots[1]));
    Layers { spec: RoutingSpec { experts, chosen, normalized }, router, gate_up, down, parameters }
}

/// The values of a tensor on the host, as a GPU has them.
fn on_host(tensor: &Tensor) -> Tensor {
    Tensor::on(&Device::Cpu, tensor.to_vec().unwrap(), tensor.shape()).unwrap()
}

/// Every operation of a layer forward and backward. Each gets what the GPU's operation before it has made, so that its
/// own rounding is all that twins differ by: that of the result, of dequantized weights, and, with adapters, of
/// their copies and of what lies between A and B. Each of these moves the norm by a third of the bound.
fn experts(check: &mut Check, case: Case, kind: Kind, load: Load) {
    let what = format!("{case:?} {kind:?} {load:?}");
    let Case { width, hidden, tokens, .. } = case;
    let mut layers = layers(check, case, kind, load);
    let mut x = eighths(check, tokens, width, width);
    if load == Load::FirstAndLast {
        x.iter_mut().step_by(width).for_each(|value| *value = 1.0);
    }
    let pair =
        [Tensor::on(&Device::Cpu, x.clone(), &[tokens, width]), Tensor::on(&check.cuda, x, &[tokens, width])];
    let [x, gx] = pair.map(Result::unwrap);
    let routing = routing::forward(&x, &layers.router[0], layers.spec).unwrap();
    let grouting = routing::forward(&gx, &layers.router[1], layers.spec).unwrap();
    let weights = |routing: &Routing| routing.weights().to_vec().unwrap();
    // Sums of exponentials in another order.
    check.close(&format!("routing {what}"), &weights(&routing), &weights(&grouting), 1e-5);
    let again = routing::forward(&gx, &layers.router[1], layers.spec).unwrap();
    check.close(&format!("routing again {what}"), &weights(&grouting), &weights(&again), 0.0);

    let routings = (&routing, &grouting);
    let (gy, gy_hidden) =
        product(check, &format!("gate_up {what}"), (&gx, Rows::Tokens), &mut layers, Which::GateUp, routings);
    let h = glu::forward_weighted(&on_host(&gy), Activation::Silu, routing.weights()).unwrap();
    let gh = glu::forward_weighted(&gy, Activation::Silu, grouting.weights()).unwrap();
    check.same(&format!("weighted glu {what}"), &h, &gh, check.bound);
    let (gdown, _) =
        product(check, &format!("down {what}"), (&gh, Rows::Slots), &mut layers, Which::Down, routings);
    let (around, garound) = check.pair(&[tokens, width], 1.0);
    for (residual, gresidual) in [(None, None), (Some(&around), Some(&garound))] {
        let y = routing::sum_slots(&on_host(&gdown), &routing, residual).unwrap();
        let gy = routing::sum_slots(&gdown, &grouting, gresidual).unwrap();
        check.same(&format!("sum of slots {what}"), &y, &gy, check.bound);
    }

    let (_, gdy) = check.pair(&[tokens, width], 1.0);
    let gdh = gradients(
        check,
        &format!("down {what}"),
        (&gdy, Rows::Tokens),
        (&gh, Rows::Slots, None),
        &layers,
        Which::Down,
        routings,
    );
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let what = format!("weighted glu {activation:?} {what}");
        let expected =
            glu::backward_weighted(on_host(&gdh), on_host(&gy), activation, routing.weights()).unwrap();
        // Beside the inputs, which others share, and over them.
        let found = glu::backward_weighted(gdh.clone(), gy.clone(), activation, grouting.weights()).unwrap();
        let own =
            |tensor: &Tensor| Tensor::on(&check.cuda, tensor.to_vec().unwrap(), tensor.shape()).unwrap();
        let in_place = glu::backward_weighted(own(&gdh), own(&gy), activation, grouting.weights()).unwrap();
        check.same(&format!("{what} d"), &expected.dgate_up, &found.dgate_up, check.bound);
        check.same(&format!("{what} h"), &expected.h, &found.h, check.bound);
        let [expected, found, placed] =
            [&expected, &found, &in_place].map(|backward| backward.dweights.to_vec().unwrap());
        // Sums of products of both signs, with exponentials that are good to 2⁻²¹.
        check.close(&format!("{what} d weights"), &expected, &found, 1e-4);
        check.close(&format!("{what} d weights in place"), &found, &placed, 0.0);
    }
    let glu = glu::backward_weighted(gdh, gy, Activation::Silu, grouting.weights()).unwrap();
    assert_eq!(glu.dgate_up.shape(), [grouting.slots(), 2 * hidden]);
    let from = (&gx, Rows::Tokens, gy_hidden.as_ref());
    let what_up = format!("gate_up {what}");
    let gdx =
        gradients(check, &what_up, (&glu.dgate_up, Rows::Slots), from, &layers, Which::GateUp, routings);
    let gdx = routing::sum_slots(&gdx, &grouting, None).unwrap();
    let dweights = glu.dweights.to_vec().unwrap();
    let dx =
        routing::backward(&Vector::Cpu(dweights), None, &routing, &layers.router[0], on_host(&gdx)).unwrap();
    // Beside a tensor that another shares, whose sum is rounded twice, and over one.
    let shared = routing::backward(&glu.dweights, None, &grouting, &layers.router[1], gdx.clone()).unwrap();
    let gdx = routing::backward(&glu.dweights, None, &grouting, &layers.router[1], gdx).unwrap();
    check.same(&format!("routing dx {what}"), &dx, &gdx, 2.0 * check.bound);
    check.same(&format!("routing dx of shared {what}"), &dx, &shared, 2.0 * check.bound);
}

#[derive(Debug, Clone, Copy)]
enum Which {
    GateUp,
    Down,
}

impl Which {
    fn of(self, layers: &mut Layers) -> &mut [GroupedLinear; 2] {
        match self {
            Self::GateUp => &mut layers.gate_up,
            Self::Down => &mut layers.down,
        }
    }
}

/// A product without its adapter, with it, again, and with weights that were dequantized before. Returns y and x·Aᵀ.
fn product(
    check: &mut Check,
    what: &str,
    (gx, rows): (&Tensor, Rows),
    layers: &mut Layers,
    which: Which,
    (routing, grouting): (&Routing, &Routing),
) -> (Tensor, Option<Tensor>) {
    let (x, device) = (on_host(gx), check.cuda.clone());
    let [host, gpu] = [0, 1].map(|i| {
        Vector::from_vec(layers.parameters[i].to_vec().unwrap(), &[Device::Cpu, device.clone()][i]).unwrap()
    });
    let [linear, glinear] = which.of(layers);
    let run = |linear: &GroupedLinear, x: &Tensor, routing: &Routing, parameters: Option<&Vector>| {
        grouped_linear::forward((x, rows), linear, routing, parameters.map(Parameters::from)).unwrap()
    };
    let y = run(linear, &x, routing, None).y;
    let gy = run(glinear, gx, grouting, None).y;
    check.same(&format!("{what} plain"), &y, &gy, check.bound);
    let y = run(linear, &x, routing, Some(&host));
    let found = run(glinear, gx, grouting, Some(&gpu));
    check.same(what, &y.y, &found.y, 2.0 * check.bound);
    let again = run(glinear, gx, grouting, Some(&gpu));
    check.same(&format!("{what} again"), &found.y, &again.y, 0.0);
    glinear.cache_dequantized(u64::MAX, &device).unwrap();
    let cached = run(glinear, gx, grouting, Some(&gpu));
    check.same(&format!("{what} with dequantized weights"), &found.y, &cached.y, 0.0);
    (found.y, found.lora_hidden)
}

/// dx, and the gradients of the adapter. Returns dx.
fn gradients(
    check: &mut Check,
    what: &str,
    (gdy, dy_rows): (&Tensor, Rows),
    (gx, x_rows, ghidden): (&Tensor, Rows, Option<&Tensor>),
    layers: &Layers,
    which: Which,
    (routing, grouting): (&Routing, &Routing),
) -> Tensor {
    let [linear, glinear] = match which {
        Which::GateUp => &layers.gate_up,
        Which::Down => &layers.down,
    };
    let [host, gpu] = layers.parameters.each_ref().map(Parameters::from);
    let (x, dy) = (on_host(gx), on_host(gdy));
    let expected = grouped_linear::backward((&dy, dy_rows), linear, routing, host).unwrap();
    let found = grouped_linear::backward((gdy, dy_rows), glinear, grouting, gpu).unwrap();
    check.same(&format!("{what} dx"), &expected.dx, &found.dx, 2.0 * check.bound);
    let again = grouped_linear::backward((gdy, dy_rows), glinear, grouting, gpu).unwrap();
    check.same(&format!("{what} dx again"), &found.dx, &again.dx, 0.0);

    let before = check.values(layers.parameters[0].len(), 0.5);
    let mut sums = Vector::Cpu(before.clone());
    let (of_y, of_x) = ((&dy, dy_rows, expected.d_lora_hidden.as_ref()), (&x, x_rows, None));
    grouped_linear::adapter_gradients(of_y, of_x, linear, routing, host, &mut sums).unwrap();
    let [kept, computed] = [ghidden, None].map(|hidden| {
        let mut sums = Vector::from_vec(before.clone(), &check.cuda).unwrap();
        let (of_y, of_x) = ((gdy, dy_rows, found.d_lora_hidden.as_ref()), (gx, x_rows, hidden));
        grouped_linear::adapter_gradients(of_y, of_x, glinear, grouting, gpu, &mut sums).unwrap();
        sums.to_vec().unwrap()
    });
    let added =
        |sums: &[f32]| -> Vec<f32> { sums.iter().zip(&before).map(|(sum, before)| sum - before).collect() };
    let expected = added(&sums.to_vec().unwrap());
    check.close(&format!("{what} dA, dB"), &expected, &added(&kept), 2.0 * check.bound);
    check.close(&format!("{what} dA, dB with x·Aᵀ computed again"), &kept, &computed, 0.0);
    found.dx
}
