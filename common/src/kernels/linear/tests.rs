use candle_core::Var;
use half::bf16;

use super::*;
use crate::checkpoint::{Dtype, Tensor as Stored};
use crate::kernels::Write;
use crate::kernels::dropout;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, constant, exact, gradients, matrix, values, variable,
};
use crate::kernels::philox::Draws;
use crate::nf4::{Quantized, Scheme};

#[derive(Debug, Clone, Copy)]
enum Kind {
    F32,
    Bf16,
    Nf4,
}

/// A random weight, and the values it stands for.
fn weight(random: &mut Random, kind: Kind, [n, k]: [usize; 2]) -> (Weight, Vec<f32>) {
    let values = random.values(n * k, 1.0 / (k as f32).sqrt());
    let stored = Stored::from_f32("w", vec![n, k], &values);
    match kind {
        Kind::F32 => (Weight::Dense(stored), values),
        Kind::Bf16 => {
            let halves: Vec<bf16> = values.into_iter().map(bf16::from_f32).collect();
            let bytes: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            let stored = Stored { dtype: Dtype::BF16, bytes: bytes.into(), ..stored };
            (Weight::Dense(stored), halves.iter().map(|half| half.to_f32()).collect())
        }
        Kind::Nf4 => {
            let quantized = Quantized::quantize(&stored, Scheme::default()).unwrap();
            let values = quantized.dequantize();
            (Weight::Quantized(quantized), values)
        }
    }
}

/// A stack of projections with its parameters, and the oracle's copy of both.
struct Stack {
    linear: Linear,
    parameters: Vector,
    /// W [N, K] and bias [N] of each projection.
    frozen: Vec<(Vec<f32>, Option<Vec<f32>>)>,
}

/// N, the rank of the adapter if there is one, and whether there is a bias.
type Shape = (usize, Option<usize>, bool);

impl Stack {
    fn new(random: &mut Random, kind: Kind, k: usize, shapes: &[Shape]) -> Self {
        // Parameters of other layers lie before and between ours; the A's of a stack are one matrix.
        let mut parameters = random.values(7, 1.0);
        let mut place = |random: &mut Random, len: usize| {
            let start = parameters.len();
            parameters.extend(random.values(len, 0.5));
            start..start + len
        };
        let a: Vec<_> = shapes.iter().map(|shape| shape.1.map(|rank| place(random, rank * k))).collect();
        let b: Vec<_> =
            shapes.iter().map(|shape| shape.1.map(|rank| place(random, shape.0 * rank))).collect();
        let (mut projections, mut frozen) = (Vec::new(), Vec::new());
        for (index, &(n, rank, bias)) in shapes.iter().enumerate() {
            let (weight, values) = weight(random, kind, [n, k]);
            let bias = bias.then(|| random.values(n, 1.0));
            let slot = rank.zip(a[index].clone()).zip(b[index].clone());
            let adapter = slot.map(|((rank, a), b)| AdapterSlot { rank, scale: 0.5 + index as f32, a, b });
            frozen.push((values, bias.clone()));
            projections.push(Projection { name: format!("p{index}"), weight, bias, adapter });
        }
        parameters.extend([f32::NAN; 3]);
        Self { linear: Linear::new(projections).unwrap(), parameters: Vector::Cpu(parameters), frozen }
    }

    fn parameters(&self, dropout: Option<Dropout>) -> Parameters<'_> {
        Parameters { values: &self.parameters, dropout }
    }

    /// The oracle's y [T, ΣN] of x, and its variables A and B of each adapter; without adapters where
    /// there are no parameters.
    fn expected(&self, x: &Var, parameters: Option<Parameters>) -> (candle_core::Tensor, Vec<(Var, Var)>) {
        let t = x.dims()[0];
        let values_of = |slot: &Range<usize>| &self.parameters.host().unwrap()[slot.clone()];
        let (mut parts, mut adapters) = (Vec::new(), Vec::new());
        for (projection, (weight, bias)) in self.linear.projections().iter().zip(&self.frozen) {
            let [n, k] = projection.weight.shape();
            let mut y = x.matmul(&constant(weight, &[n, k]).t().unwrap()).unwrap();
            if let Some(bias) = bias {
                y = y.broadcast_add(&constant(bias, &[n])).unwrap();
            }
            if let Some((slot, parameters)) = projection.adapter.as_ref().zip(parameters) {
                let a = variable(values_of(&slot.a), &[slot.rank, k]);
                let b = variable(values_of(&slot.b), &[n, slot.rank]);
                let mut left = x.as_tensor().clone();
                if let Some(dropout) = parameters.dropout {
                    let ones = matrix(&vec![1.0; t * k], t, k);
                    let mask = dropout::forward(&ones, &slot.dropout(&dropout)).unwrap();
                    left = (left * constant(&values(&mask), &[t, k])).unwrap();
                }
                let lora_hidden = left.matmul(&a.t().unwrap()).unwrap();
                let update = lora_hidden.matmul(&b.t().unwrap()).unwrap();
                y = (y + (update * f64::from(slot.scale)).unwrap()).unwrap();
                adapters.push((a, b));
            }
            parts.push(y);
        }
        (candle_core::Tensor::cat(&parts, 1).unwrap(), adapters)
    }
}

/// Forward and backward of a stack on t rows against candle.
fn check_stack(
    random: &mut Random,
    kind: Kind,
    t: usize,
    k: usize,
    shapes: &[Shape],
    dropout: Option<Dropout>,
) {
    let what = format!("linear {kind:?} {t}x{k} {shapes:?} {dropout:?}");
    let stack = Stack::new(random, kind, k, shapes);
    let (linear, parameters) = (&stack.linear, stack.parameters(dropout));
    let n = linear.outputs();
    let (x, dy) = (random.matrix(t, k), random.matrix(t, n));
    let var = variable(&values(&x), &[t, k]);

    let (expected, _) = stack.expected(&var, None);
    let plain = forward(&x, linear, None, None).unwrap();
    assert!(plain.lora_hidden.is_none());
    assert_close(&format!("{what} without adapters"), &values(&plain.y), &exact(&expected), 3e-6, 3e-6);

    let (expected, adapters) = stack.expected(&var, Some(parameters));
    let Output { y, lora_hidden } = forward(&x, linear, Some(parameters), None).unwrap();
    assert_eq!(y.shape(), [t, n]);
    assert_close(&what, &values(&y), &exact(&expected), 1e-5, 1e-5);
    let around = forward(&x, linear, Some(parameters), Some(&dy)).unwrap().y;
    let sum: Vec<f64> =
        exact(&expected).iter().zip(values(&dy)).map(|(y, around)| y + f64::from(around)).collect();
    assert_close(&format!("{what} plus a residual"), &values(&around), &sum, 1e-5, 1e-5);

    // The gradients are added to what is there.
    let before = random.values(stack.parameters.len(), 1.0);
    let mut sums = Vector::Cpu(before.clone());
    let grads = backward(&dy, linear, parameters, true).unwrap();
    adapter_gradients((&dy, &grads), (&x, lora_hidden.as_ref()), linear, parameters, &mut sums).unwrap();
    let (dx, sums) = (grads.dx.unwrap(), sums.host().unwrap());
    assert_eq!(dx.shape(), [t, k]);
    let dy_values = values(&dy);
    let [expected_dx] = gradients(&expected, &dy_values, [&var]);
    assert_close(&format!("{what} dx"), &values(&dx), &expected_dx, 1e-5, 1e-5);
    let mut untouched: Vec<bool> = vec![true; before.len()];
    let slots = linear.projections().iter().filter_map(|projection| projection.adapter.as_ref());
    for (slot, (a, b)) in slots.zip(&adapters) {
        for (part, (range, expected)) in ["dA", "dB"]
            .iter()
            .zip([&slot.a, &slot.b].into_iter().zip(gradients(&expected, &dy_values, [a, b])))
        {
            let before = &before[range.clone()];
            let expected: Vec<f64> =
                expected.iter().zip(before).map(|(gradient, before)| gradient + f64::from(*before)).collect();
            assert_close(&format!("{what} {part}"), &sums[range.clone()], &expected, 1e-5, 1e-5);
            untouched[range.clone()].fill(false);
        }
    }
    for (index, _) in untouched.iter().enumerate().filter(|(_, untouched)| **untouched) {
        assert_eq!(sums[index], before[index], "{what}: parameter {index} is not ours");
    }
    let run = |x: &[f32]| values(&forward(&matrix(x, t, k), linear, Some(parameters), None).unwrap().y);
    assert_slopes(&format!("{what} dx"), random, &values(&x), &values(&dx), &dy_values, run);

    let mut same = Vector::Cpu(before);
    let grads = backward(&dy, linear, parameters, false).unwrap();
    assert!(grads.dx.is_none());
    adapter_gradients((&dy, &grads), (&x, None), linear, parameters, &mut same).unwrap();
    assert_eq!(same.host().unwrap(), sums, "{what}: without dx, and with x·Aᵀ computed again");
}

const STACKS: [&[Shape]; 4] = [
    &[(13, Some(3), true), (7, Some(2), false), (5, Some(1), true)],
    &[(11, None, false), (9, Some(4), true), (3, None, true)],
    &[(19, Some(8), false)],
    &[(6, None, true), (17, None, false)],
];

/// One to four rows take another way than five and more.
#[test]
fn stacks_are_candles() {
    let mut random = Random::new(1);
    for kind in [Kind::F32, Kind::Bf16, Kind::Nf4] {
        for t in [1, 2, 3, 4, 5, 33] {
            for (shapes, k) in STACKS.iter().zip([37, 64, 129, 5]) {
                check_stack(&mut random, kind, t, k, shapes, None);
            }
        }
    }
}

/// Each adapter sees another part of x.
#[test]
fn stacks_that_drop_are_candles() {
    let mut random = Random::new(8);
    let draws = Draws { seed: 1, step: 2, stream: 0, first_row: 3 };
    let dropout = Some(Dropout::new(0.4, draws).unwrap());
    for t in [1, 4, 33] {
        for (shapes, k) in STACKS.iter().zip([37, 64, 129, 5]) {
            check_stack(&mut random, Kind::Nf4, t, k, shapes, dropout);
        }
    }
}

/// More weights than are widened at a time, so that a projection is cut into blocks of rows.
#[test]
fn weights_of_several_blocks() {
    let mut random = Random::new(2);
    for kind in [Kind::Bf16, Kind::Nf4] {
        for t in [2, 6] {
            check_stack(&mut random, kind, t, 1023, &[(2071, Some(2), true), (3, None, false)], None);
        }
    }
}

/// The gradients of A and B by finite differences of the parameters themselves.
#[test]
fn parameters_by_finite_differences() {
    let mut random = Random::new(3);
    let mut stack = Stack::new(&mut random, Kind::Nf4, 21, STACKS[0]);
    let parameters = stack.parameters.host_mut().unwrap();
    parameters.iter_mut().filter(|value| value.is_nan()).for_each(|value| *value = 0.0);
    let Stack { linear, parameters, .. } = &stack;
    let (x, dy) = (random.matrix(9, 21), random.matrix(9, linear.outputs()));
    let mut gradients = Vector::zeros(parameters.len(), &Device::Cpu).unwrap();
    let grads = backward(&dy, linear, parameters.into(), false).unwrap();
    adapter_gradients((&dy, &grads), (&x, None), linear, parameters.into(), &mut gradients).unwrap();
    let run = |parameters: &[f32]| {
        values(&forward(&x, linear, Some((&Vector::Cpu(parameters.to_vec())).into()), None).unwrap().y)
    };
    let (parameters, gradients) = (parameters.host().unwrap(), gradients.host().unwrap());
    assert_slopes("linear dA and dB", &mut random, parameters, gradients, &values(&dy), run);
}

#[test]
fn the_head_is_candles() {
    let mut random = Random::new(4);
    for kind in [Kind::Bf16, Kind::Nf4] {
        for t in [0, 1, 4, 5, 30] {
            let [n, k] = [301, 27];
            let (weight, wide) = weight(&mut random, kind, [n, k]);
            let projection = Projection { name: "head".into(), weight, bias: None, adapter: None };
            let head = Linear::new(vec![projection]).unwrap();
            let (x, dy) = (random.matrix(t, k), random.values(t * n, 1.0));
            let mut dx = vec![0.0; t * k];
            multiply_transposed(&mut dx, &dy, t, &[&head.projections()[0].weight], Write::Add).unwrap();
            if t == 0 {
                assert!(project(&x, &head).unwrap().wait().unwrap().is_empty());
                continue;
            }
            let var = variable(&values(&x), &[t, k]);
            let expected = var.matmul(&constant(&wide, &[n, k]).t().unwrap()).unwrap();
            assert_close("head", &project(&x, &head).unwrap().wait().unwrap(), &exact(&expected), 3e-6, 3e-6);
            let [expected] = gradients(&expected, &dy, [&var]);
            assert_close("head dx", &dx, &expected, 1e-5, 1e-5);
        }
    }
}

/// What the products promise about their destinations: one overwrites, the other does what it is told.
#[test]
fn products_overwrite_or_add() {
    let mut random = Random::new(5);
    let [n, k] = [10, 6];
    let (weight, wide) = weight(&mut random, Kind::Nf4, [n, k]);
    for t in [3, 8] {
        let (x, dy) = (random.values(t * k, 1.0), random.values(t * n, 1.0));
        let wide = constant(&wide, &[n, k]);
        let mut y = vec![f32::NAN; t * n];
        cpu::multiply(&mut y, &x, t, &[&weight]).unwrap();
        let expected = constant(&x, &[t, k]).matmul(&wide.t().unwrap()).unwrap();
        assert_close("multiply", &y, &exact(&expected), 3e-6, 3e-6);

        let mut dx = x.clone();
        cpu::multiply_transposed(&mut dx, &dy, t, &[&weight], Write::Add).unwrap();
        let alone = constant(&dy, &[t, n]).matmul(&wide).unwrap();
        let added = (&alone + constant(&x, &[t, k])).unwrap();
        assert_close("multiply transposed", &dx, &exact(&added), 3e-6, 3e-6);
        let mut dx = vec![f32::NAN; t * k];
        cpu::multiply_transposed(&mut dx, &dy, t, &[&weight], Write::Overwrite).unwrap();
        assert_close("multiply transposed", &dx, &exact(&alone), 3e-6, 3e-6);
    }
}

#[test]
fn no_rows_are_no_mistake() {
    let mut random = Random::new(6);
    let stack = Stack::new(&mut random, Kind::Nf4, 8, STACKS[0]);
    let x = matrix(&[], 0, 8);
    let output = forward(&x, &stack.linear, Some(stack.parameters(None)), None).unwrap();
    assert_eq!(output.y.shape(), [0, stack.linear.outputs()]);
    let mut gradients = Vector::Cpu(vec![0.5; stack.parameters.len()]);
    let (linear, parameters) = (&stack.linear, &stack.parameters);
    let grads = backward(&output.y, linear, parameters.into(), true).unwrap();
    adapter_gradients((&output.y, &grads), (&x, None), linear, parameters.into(), &mut gradients).unwrap();
    assert_eq!(grads.dx.unwrap().shape(), [0, 8]);
    assert_eq!(gradients.host().unwrap(), vec![0.5; parameters.len()]);
}

#[test]
fn wrong_shapes_are_errors() {
    let mut random = Random::new(7);
    let mut projection = |n, k, bias: Option<usize>| Projection {
        name: "p".into(),
        weight: weight(&mut random, Kind::F32, [n, k]).0,
        bias: bias.map(|len| vec![0.0; len]),
        adapter: None,
    };
    assert!(Linear::new(vec![projection(3, 4, None), projection(3, 5, None)]).is_err());
    assert!(Linear::new(vec![projection(3, 4, Some(4))]).is_err());

    let stack = Stack::new(&mut random, Kind::F32, 8, STACKS[0]);
    let (linear, parameters) = (&stack.linear, &stack.parameters);
    let (x, n, len) = (random.matrix(6, 8), linear.outputs(), parameters.len());
    let short = Vector::Cpu(parameters.host().unwrap()[..len - 9].to_vec());
    assert!(forward(&random.matrix(6, 7), linear, None, None).is_err());
    assert!(forward(&Tensor::from_vec(vec![0.0; 8], &[8]).unwrap(), linear, None, None).is_err());
    assert!(forward(&x, linear, None, Some(&x)).is_err(), "a residual of another shape");
    assert!(forward(&x, linear, Some((&short).into()), None).is_err(), "parameters cut short");
    let Output { y: dy, lora_hidden } = forward(&x, linear, Some(parameters.into()), None).unwrap();
    let run =
        |dy: &Tensor, x: &Tensor, lora_hidden: Option<&Tensor>, parameters: &Vector, gradients: usize| {
            let mut gradients = Vector::zeros(gradients, &Device::Cpu)?;
            let grads = backward(dy, linear, parameters.into(), true)?;
            adapter_gradients((dy, &grads), (x, lora_hidden), linear, parameters.into(), &mut gradients)
        };
    let lora_hidden = lora_hidden.unwrap();
    let ranks = linear.ranks();
    assert_eq!(lora_hidden.shape(), [6, ranks]);
    assert!(run(&dy, &x, Some(&lora_hidden), parameters, len).is_ok());
    assert!(run(&random.matrix(5, n), &x, Some(&lora_hidden), parameters, len).is_err());
    assert!(run(&dy, &random.matrix(6, 7), Some(&lora_hidden), parameters, len).is_err());
    assert!(
        run(&dy, &x, Some(&lora_hidden.gather_rows(&[1, 2, 3, 4, 5]).unwrap()), parameters, len).is_err()
    );
    assert!(run(&dy, &x, Some(&random.matrix(6, ranks - 1)), parameters, len).is_err());
    assert!(run(&dy, &x, Some(&lora_hidden), &short, len - 9).is_err(), "parameters cut short");
    assert!(
        run(&dy, &x, Some(&lora_hidden), parameters, len - 9).is_err(),
        "fewer gradients than parameters"
    );

    let mut stack = Stack::new(&mut random, Kind::F32, 8, STACKS[2]);
    stack.linear.projections_mut()[0].adapter.as_mut().unwrap().rank += 1;
    assert!(
        forward(&x, &stack.linear, Some(stack.parameters(None)), None).is_err(),
        "a rank that A and B have not"
    );

    assert!(project(&random.matrix(2, 8), linear).is_ok());
    assert!(project(&random.matrix(2, 7), linear).is_err());
    assert!(project(&Tensor::from_vec(vec![0.0; 8], &[8]).unwrap(), linear).is_err());
}
