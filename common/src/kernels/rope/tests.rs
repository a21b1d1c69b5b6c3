use candle_core::DType;
use candle_nn::rotary_emb::rope_slow;

use super::*;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, exact, gradients, matrix, values, variable,
};

fn frequencies(half: usize) -> Vec<f32> {
    (0..half).map(|d| 100f32.powf(-(d as f32) / half as f32)).collect()
}

fn angles(positions: &[u32], frequencies: &[f32], scale: f32) -> Angles {
    Angles::new(positions, frequencies, scale, &Device::Cpu).unwrap()
}

/// Heads of which all elements are rotated.
fn whole(count: usize, half: usize) -> RotatedHeads {
    RotatedHeads { count, size: 2 * half, pairs: Pairs::Halves }
}

/// Candle's rotation of the first `heads` heads of var [T, width], in f64.
fn expected(
    var: &candle_core::Tensor,
    heads: usize,
    positions: &[u32],
    half: usize,
    scale: f64,
) -> candle_core::Tensor {
    let (t, width) = var.dims2().unwrap();
    let angles: Vec<f64> = positions
        .iter()
        .flat_map(|&p| frequencies(half).into_iter().map(move |f| f64::from(p as f32 * f)))
        .collect();
    let angles = candle_core::Tensor::from_vec(angles, (t, half), &candle_core::Device::Cpu).unwrap();
    let (cos, sin) = ((angles.cos().unwrap() * scale).unwrap(), (angles.sin().unwrap() * scale).unwrap());
    let columns = heads * 2 * half;
    let x = var.narrow(1, 0, columns).unwrap();
    let x = x.reshape((1, t, heads, 2 * half)).unwrap().transpose(1, 2).unwrap();
    let turned = rope_slow(&x, &cos, &sin).unwrap();
    let turned = turned.transpose(1, 2).unwrap().reshape((t, columns)).unwrap();
    if columns == width {
        return turned;
    }
    let rest = var.narrow(1, columns, width - columns).unwrap();
    candle_core::Tensor::cat(&[turned, rest], 1).unwrap()
}

#[test]
fn heads_turn_as_candles_and_the_rest_is_copied() {
    let mut random = Random::new(1);
    for (t, half, heads, rest) in [(1, 1, 1, 0), (5, 3, 3, 4), (7, 32, 5, 192), (3, 17, 2, 1)] {
        for scale in [1.0, 1.25] {
            let width = heads * 2 * half + rest;
            let (x, dy) = (random.matrix(t, width), random.matrix(t, width));
            let positions = random.below(t, 300);
            let angles = angles(&positions, &frequencies(half), scale);
            let var = variable(&values(&x), &[t, width]);
            let expected = expected(&var, heads, &positions, half, f64::from(scale));
            assert_eq!(expected.dtype(), DType::F64);
            let y = values(&forward(&x, whole(heads, half), &angles).unwrap());
            assert_close("rope", &y, &exact(&expected), 1e-6, 1e-6);

            let [expected] = gradients(&expected, &values(&dy), [&var]);
            let dx = values(&backward(&dy, whole(heads, half), &angles).unwrap());
            assert_close("rope dx", &dx, &expected, 1e-6, 1e-6);
            let run =
                |x: &[f32]| values(&forward(&matrix(x, t, width), whole(heads, half), &angles).unwrap());
            assert_slopes("rope dx", &mut random, &values(&x), &dx, &values(&dy), run);
        }
    }
}

/// Elements after the rotated ones are copied, and neighbours are halves in another order.
#[test]
fn parts_of_heads_and_neighbours() {
    let (t, half, count, size, rest) = (4, 3, 2, 10, 5);
    let (width, rotated) = (count * size + rest, 2 * half);
    let mut random = Random::new(2);
    let (x, positions) = (random.matrix(t, width), random.below(t, 300));
    let angles = angles(&positions, &frequencies(half), 1.0);
    let run = |x: &Tensor, heads: RotatedHeads, run: fn(&Tensor, RotatedHeads, &Angles) -> Result<Tensor>| {
        values(&run(x, heads, &angles).unwrap())
    };
    let heads = RotatedHeads { count, size, pairs: Pairs::Halves };
    let neighbours = RotatedHeads { pairs: Pairs::Neighbours, ..heads };
    // Element d of the halves is element `place(d)` of the neighbours.
    let place = |d: usize| if d < half { 2 * d } else { 2 * (d - half) + 1 };
    let x_values = values(&x);
    let (y, from) = (run(&x, heads, forward), |row: usize, column: usize| x_values[row * width + column]);
    let mut reordered = x_values.clone();
    for (row, head) in (0..t).flat_map(|row| (0..count).map(move |head| (row, head))) {
        let first = row * width + head * size;
        // The rotated elements alone are a head of their own.
        let alone = matrix(&x_values[first..first + rotated], 1, rotated);
        let own = Angles::new(&positions[row..=row], &frequencies(half), 1.0, &Device::Cpu).unwrap();
        let alone = values(&forward(&alone, whole(1, half), &own).unwrap());
        assert_eq!(y[first..first + rotated], alone);
        assert_eq!(y[first + rotated..first + size], x_values[first + rotated..first + size]);
        for d in 0..rotated {
            reordered[first + place(d)] = from(row, head * size + d);
        }
    }
    let reordered = matrix(&reordered, t, width);
    let of_neighbours = run(&reordered, neighbours, forward);
    for (row, head) in (0..t).flat_map(|row| (0..count).map(move |head| (row, head))) {
        let first = row * width + head * size;
        for d in 0..rotated {
            assert_eq!(of_neighbours[first + place(d)], y[first + d]);
        }
        assert_eq!(
            of_neighbours[(row + 1) * width - rest..(row + 1) * width],
            y[(row + 1) * width - rest..(row + 1) * width]
        );
    }
    for heads in [heads, neighbours] {
        let there = matrix(&run(&x, heads, forward), t, width);
        let back: Vec<f64> = x_values.iter().map(|&x| f64::from(x)).collect();
        assert_close("there and back", &run(&there, heads, backward), &back, 1e-6, 1e-6);
    }
}

#[test]
fn position_zero_does_not_turn() {
    let x = [0.5, -1.0, 2.0, 3.0];
    let angles = angles(&[0], &frequencies(2), 1.0);
    assert_eq!(values(&forward(&matrix(&x, 1, 4), whole(1, 2), &angles).unwrap()), x);
}

#[test]
fn wrong_shapes_are_errors() {
    let x = matrix(&[1.0; 24], 2, 12);
    let two = angles(&[0, 1], &frequencies(2), 1.0);
    assert!(forward(&x, whole(2, 2), &two).is_ok());
    assert!(forward(&x, RotatedHeads { size: 6, ..whole(2, 2) }, &two).is_ok());
    assert!(forward(&x, whole(2, 1), &two).is_err(), "more than a head is rotated");
    assert!(forward(&x, whole(4, 2), &two).is_err(), "more columns than there are");
    assert!(forward(&matrix(&[], 2, 0), whole(0, 2), &two).is_err(), "no columns");
    assert!(backward(&matrix(&[1.0; 12], 1, 12), whole(2, 2), &two).is_err(), "angles of two tokens for one");
    assert!(forward(&x, whole(2, 2), &angles(&[0, 1], &[], 1.0)).is_err(), "no frequencies");
    assert!(
        forward(&Tensor::from_vec(vec![1.0; 4], &[4]).unwrap(), whole(1, 2), &two).is_err(),
        "not a matrix"
    );
}
