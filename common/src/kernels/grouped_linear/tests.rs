use super::*;
use crate::checkpoint;
use crate::kernels::glu::{self, Activation};
use crate::kernels::linear::{Linear, Projection};
use crate::kernels::oracle::{Random, assert_close, constant, exact, gradients, matrix, values, variable};
use crate::kernels::routing::{self, RoutingSpec};
use candle_core::Tensor as Oracle;

const C: usize = 6;
const F: usize = 5;
const RANK: usize = 2;

fn weight(values: &[f32], shape: [usize; 2]) -> Weight {
    Weight::Dense(checkpoint::Tensor::from_f32("w", shape.to_vec(), values))
}

/// The experts of a layer: gate and up, and down, with adapters one after the other in one buffer.
struct Layer {
    spec: RoutingSpec,
    router: Linear,
    gate_up: GroupedLinear,
    down: GroupedLinear,
    router_values: Vec<f32>,
    gate_up_values: Vec<f32>,
    down_values: Vec<f32>,
    parameters: Vec<f32>,
}

fn layer(spec: RoutingSpec, router_values: Vec<f32>, random: &mut Random) -> Layer {
    let e = spec.experts;
    let gate_up_values = random.values(e * 2 * F * C, 1.0);
    let down_values = random.values(e * C * F, 1.0);
    let projection =
        Projection { name: "gate".into(), weight: weight(&router_values, [e, C]), bias: None, adapter: None };
    let gate_up = gate_up_values.chunks(2 * F * C).map(|values| {
        let (gate, up) = values.split_at(F * C);
        vec![weight(gate, [F, C]), weight(up, [F, C])]
    });
    let down = down_values.chunks(C * F).map(|values| vec![weight(values, [C, F])]);
    let mut gate_up = GroupedLinear::new("gate_up_proj".into(), gate_up.collect()).unwrap();
    let mut down = GroupedLinear::new("down_proj".into(), down.collect()).unwrap();
    let mut len = 0;
    for linear in [&mut gate_up, &mut down] {
        let a = len..len + e * RANK * linear.inputs;
        let b = a.end..a.end + e * linear.outputs * RANK;
        len = b.end;
        linear.adapter = Some(AdapterSlot { rank: RANK, scale: 0.7, a, b });
    }
    let parameters = random.values(len, 1.0);
    let router = Linear::new(vec![projection]).unwrap();
    Layer { spec, router, gate_up, down, router_values, gate_up_values, down_values, parameters }
}

/// y, dx and the gradients of the parameters, as the model computes them.
fn ours(layer: &Layer, x: &Tensor, dy: &Tensor) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let values_of = Vector::Cpu(layer.parameters.clone());
    let parameters = Parameters::from(&values_of);
    let routing = routing::forward(x, &layer.router, layer.spec).unwrap();
    let gate_up = forward((x, Rows::Tokens), &layer.gate_up, &routing, Some(parameters)).unwrap();
    let h = glu::forward_weighted(&gate_up.y, Activation::Silu, routing.weights()).unwrap();
    let down = forward((&h, Rows::Slots), &layer.down, &routing, Some(parameters)).unwrap();
    let y = routing::sum_slots(&down.y, &routing, None).unwrap();

    let mut sums = Vector::Cpu(vec![0.0; layer.parameters.len()]);
    let ddown = backward((dy, Rows::Tokens), &layer.down, &routing, parameters).unwrap();
    let glu =
        glu::backward_weighted(ddown.dx.clone(), gate_up.y, Activation::Silu, routing.weights()).unwrap();
    adapter_gradients(
        (dy, Rows::Tokens, ddown.d_lora_hidden.as_ref()),
        (&glu.h, Rows::Slots, None),
        &layer.down,
        &routing,
        parameters,
        &mut sums,
    )
    .unwrap();
    let dgate_up = backward((&glu.dgate_up, Rows::Slots), &layer.gate_up, &routing, parameters).unwrap();
    adapter_gradients(
        (&glu.dgate_up, Rows::Slots, dgate_up.d_lora_hidden.as_ref()),
        (x, Rows::Tokens, gate_up.lora_hidden.as_ref()),
        &layer.gate_up,
        &routing,
        parameters,
        &mut sums,
    )
    .unwrap();
    let dx = routing::sum_slots(&dgate_up.dx, &routing, None).unwrap();
    let dx = routing::backward(&glu.dweights, None, &routing, &layer.router, dx).unwrap();
    (values(&y), values(&dx), sums.to_vec().unwrap())
}

/// The same in candle: every expert computes every token, and counts with the weight that the router gives it.
fn oracle(layer: &Layer, x: &[f32], dy: &[f32], chosen: &[Vec<u32>]) -> [Vec<f64>; 3] {
    let (t, e) = (chosen.len(), layer.spec.experts);
    let x = variable(x, &[t, C]);
    let parameters = variable(&layer.parameters, &[layer.parameters.len()]);
    let logits = x.matmul(&constant(&layer.router_values, &[e, C]).t().unwrap()).unwrap();
    let exponents = logits.exp().unwrap();
    let probabilities = exponents.broadcast_div(&exponents.sum_keepdim(1).unwrap()).unwrap();
    let mask: Vec<f32> =
        chosen.iter().flat_map(|of| (0..e as u32).map(|e| f32::from(of.contains(&e)))).collect();
    let mut weights = (probabilities * constant(&mask, &[t, e])).unwrap();
    if layer.spec.normalized {
        weights = weights.broadcast_div(&weights.sum_keepdim(1).unwrap()).unwrap();
    }
    let product = |x: &Oracle, values: &[f32], linear: &GroupedLinear, expert: usize| -> Oracle {
        let (k, n) = (linear.inputs, linear.outputs);
        let w = constant(&values[expert * n * k..][..n * k], &[n, k]);
        let adapter = linear.adapter.as_ref().unwrap();
        let part = |start: usize, rows: usize, columns: usize| {
            parameters.narrow(0, start, rows * columns).unwrap().reshape((rows, columns)).unwrap()
        };
        let a = part(adapter.a.start + expert * RANK * k, RANK, k);
        let b = part(adapter.b.start + expert * n * RANK, n, RANK);
        let low = x.matmul(&a.t().unwrap()).unwrap().matmul(&b.t().unwrap()).unwrap();
        (x.matmul(&w.t().unwrap()).unwrap() + (low * f64::from(adapter.scale)).unwrap()).unwrap()
    };
    let mut y = constant(&vec![0.0; t * C], &[t, C]);
    for expert in 0..e {
        let gate_up = product(&x, &layer.gate_up_values, &layer.gate_up, expert);
        let h = candle_nn::ops::swiglu(&gate_up).unwrap();
        let out = product(&h, &layer.down_values, &layer.down, expert);
        y = (y + out.broadcast_mul(&weights.narrow(1, expert, 1).unwrap()).unwrap()).unwrap();
    }
    let [dx, dparameters] = gradients(&y, dy, [&x, &parameters]);
    [exact(&y), dx, dparameters]
}

fn is_candles(layer: &Layer, x: &Tensor, random: &mut Random) {
    let (t, _) = x.matrix("x").unwrap();
    let dy = random.matrix(t, C);
    let routing = routing::forward(x, &layer.router, layer.spec).unwrap();
    let chosen = routing.host().unwrap().experts().chunks(layer.spec.chosen).map(<[u32]>::to_vec);
    let [y, dx, dparameters] = oracle(layer, &values(x), &values(&dy), &chosen.collect::<Vec<_>>());
    let ours = ours(layer, x, &dy);
    assert_close("experts y", &ours.0, &y, 2e-6, 1e-5);
    assert_close("experts dx", &ours.1, &dx, 5e-6, 2e-5);
    assert_close("experts dparameters", &ours.2, &dparameters, 5e-6, 2e-5);
}

#[test]
fn experts_are_candles() {
    let mut random = Random::new(3);
    for (experts, chosen, normalized, t) in
        [(4, 2, true, 7), (4, 2, false, 7), (5, 1, true, 3), (3, 3, false, 4), (8, 2, true, 1)]
    {
        let spec = RoutingSpec { experts, chosen, normalized };
        let router = random.values(experts * C, 1.0);
        let layer = layer(spec, router, &mut random);
        let x = random.matrix(t, C);
        is_candles(&layer, &x, &mut random);
    }
}

/// All tokens choose the first expert before the others, and no token the last one.
#[test]
fn an_expert_may_get_all_tokens_or_none() {
    let mut random = Random::new(4);
    let spec = RoutingSpec { experts: 4, chosen: 2, normalized: true };
    let mut router = vec![0.0; 4 * C];
    for (expert, bias) in [9.0, 4.0, 3.0, -9.0].into_iter().enumerate() {
        router[expert * C] = bias;
        router[expert * C + 1..][..C - 1].copy_from_slice(&random.values(C - 1, 0.3));
    }
    let layer = layer(spec, router, &mut random);
    let mut x = random.values(6 * C, 1.0);
    x.chunks_mut(C).for_each(|row| row[0] = 1.0);
    let x = matrix(&x, 6, C);
    let routing = routing::forward(&x, &layer.router, spec).unwrap();
    let chosen = routing.host().unwrap();
    assert_eq!((chosen.of_expert(0).len(), chosen.of_expert(3).len()), (6, 0));
    is_candles(&layer, &x, &mut random);
}

#[test]
fn no_tokens_at_all_are_no_fault() {
    let mut random = Random::new(5);
    let spec = RoutingSpec { experts: 3, chosen: 2, normalized: true };
    let router = random.values(3 * C, 1.0);
    let layer = layer(spec, router, &mut random);
    let (y, dx, gradients) = ours(&layer, &matrix(&[], 0, C), &matrix(&[], 0, C));
    assert!(y.is_empty() && dx.is_empty() && gradients.iter().all(|gradient| *gradient == 0.0));
}

#[test]
fn experts_of_different_shapes_are_refused() {
    let weights = vec![vec![weight(&[0.0; 6], [2, 3])], vec![weight(&[0.0; 6], [3, 2])]];
    let error = GroupedLinear::new("experts".into(), weights).err().unwrap().to_string();
    assert!(error.contains("[[2, 3]] expected, found [[3, 2]]"), "{error}");
}
