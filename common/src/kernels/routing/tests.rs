use super::*;
use crate::checkpoint;
use crate::kernels::linear::{Projection, Weight};
use crate::kernels::oracle::{matrix, values};

/// A router whose logits are x itself.
fn identity(experts: usize) -> Linear {
    let mut values = vec![0.0; experts * experts];
    (0..experts).for_each(|i| values[i * experts + i] = 1.0);
    let weight = Weight::Dense(checkpoint::Tensor::from_f32("w", vec![experts, experts], &values));
    Linear::new(vec![Projection { name: "gate".into(), weight, bias: None, adapter: None }]).unwrap()
}

fn route(logits: &[f32], chosen: usize, normalized: bool) -> Routing {
    let spec = RoutingSpec { experts: 3, chosen, normalized };
    forward(&matrix(logits, logits.len() / 3, 3), &identity(3), spec).unwrap()
}

#[test]
fn slots_are_ordered_by_expert_and_then_by_token() {
    let routing = route(&[0.0, 1.0, 2.0, 2.0, 1.0, 0.0, 0.0, 2.0, 1.0], 2, true);
    let chosen = routing.host().unwrap();
    assert_eq!(chosen.experts(), [2, 1, 0, 1, 1, 2]);
    assert_eq!([0, 1, 2].map(|expert| chosen.of_expert(expert)), [0..1, 1..4, 4..6]);
    assert_eq!(chosen.tokens(), [1, 0, 1, 2, 0, 2]);
    let large = 1.0 / (1.0 + (-1.0f32).exp());
    let expected = [large, 1.0 - large, 1.0 - large, large, large, 1.0 - large];
    let found = routing.weights().to_vec().unwrap();
    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    let sums = sum_slots(&matrix(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 6, 1), &routing, None).unwrap();
    assert_eq!(values(&sums), [18.0, 5.0, 40.0]);
    let residual = matrix(&[0.5, 0.25, 0.125], 3, 1);
    let sums = sum_slots(&matrix(&[1.0; 6], 6, 1), &routing, Some(&residual)).unwrap();
    assert_eq!(values(&sums), [2.5, 2.25, 2.125]);
}

#[test]
fn of_equal_experts_the_first_are_chosen() {
    let routing = route(&[1.0, 1.0, 1.0, 0.0, 1.0, 1.0], 2, false);
    assert_eq!(routing.host().unwrap().experts(), [0, 1, 1, 2]);
    assert!((routing.weights().to_vec().unwrap()[0] - 1.0 / 3.0).abs() < 1e-6);
}

/// A loss that is not a number is found where losses are; routing goes on.
#[test]
fn logits_that_are_no_numbers_do_not_panic() {
    let routing = route(&[f32::NAN, 1.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0], 2, true);
    assert_eq!(routing.slots(), 4);
    assert!(routing.weights().to_vec().unwrap().iter().any(|weight| weight.is_nan()));
}

#[test]
fn more_choices_than_experts_are_refused() {
    let spec = RoutingSpec { experts: 3, chosen: 4, normalized: true };
    assert!(forward(&matrix(&[0.0; 3], 1, 3), &identity(3), spec).is_err());
}
