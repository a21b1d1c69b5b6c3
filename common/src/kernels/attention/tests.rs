use candle_core::{D, DType};
use candle_nn::ops::softmax;

use super::*;
use crate::kernels::oracle::{
    Random, assert_close, assert_slopes, exact, gradients, matrix, values, variable,
};

type Exact = candle_core::Tensor;

/// Plain attention in f64 of one head of one sequence: output [n, D] and log-sums [n, 1]. The
/// first key of the sequence's own is key `past`. A plain loop says which keys a row sees.
fn one_head(q: &Exact, k: &Exact, v: &Exact, past: usize, spec: AttentionSpec) -> (Exact, Exact) {
    let AttentionSpec { window, softcap, .. } = spec;
    let (n, d) = q.dims2().unwrap();
    let keys = k.dim(0).unwrap();
    let scores = (q.matmul(&k.t().unwrap()).unwrap() / (d as f64).sqrt()).unwrap();
    let scores = match softcap.map(f64::from) {
        Some(softcap) => ((scores / softcap).unwrap().tanh().unwrap() * softcap).unwrap(),
        None => scores,
    };
    let is_hidden =
        |row: usize, key: usize| key > past + row || window.is_some_and(|window| key + window <= past + row);
    let mut hidden = Vec::new();
    for row in 0..n {
        for key in 0..keys {
            hidden.push(if is_hidden(row, key) { -1e9 } else { 0.0 });
        }
    }
    let scores = (scores + Exact::from_vec(hidden, (n, keys), &candle_core::Device::Cpu).unwrap()).unwrap();
    let output = softmax(&scores, D::Minus1).unwrap().matmul(v).unwrap();
    (output, scores.exp().unwrap().sum_keepdim(1).unwrap().log().unwrap())
}

/// Plain attention in f64, sequence by sequence and head by head: [T, H·D] and [T, H].
fn expected(
    qkv: &Exact,
    spec: impl Into<AttentionSpec>,
    starts: &[usize],
    past: Option<&Past>,
) -> (Exact, Exact) {
    let spec = spec.into();
    let heads = spec.heads;
    let columns =
        |of: &Exact, range: Range<usize>| of.narrow(1, range.start, range.len()).unwrap().contiguous();
    let past_len = past.map_or(0, Past::len);
    let with_past = |own: Exact, values: fn(&past::HostPast) -> &Vec<f32>, h: usize| {
        let Some(past) = past else { return own };
        let shape = (past_len, heads.keys * heads.size);
        let past = Exact::from_slice(values(past.host().unwrap()), shape, &candle_core::Device::Cpu).unwrap();
        let first = (h / (heads.queries / heads.keys)) * heads.size;
        let past = columns(&past.to_dtype(DType::F64).unwrap(), first..first + heads.size).unwrap();
        Exact::cat(&[past, own], 0).unwrap()
    };
    let (mut outputs, mut log_sums) = (Vec::new(), Vec::new());
    for bounds in starts.windows(2).filter(|bounds| bounds[0] < bounds[1]) {
        let rows = qkv.narrow(0, bounds[0], bounds[1] - bounds[0]).unwrap();
        let (of_heads, sums): (Vec<_>, Vec<_>) = (0..heads.queries)
            .map(|h| {
                let q = columns(&rows, heads.query(h)).unwrap();
                let k = with_past(columns(&rows, heads.key(h)).unwrap(), |past| &past.keys, h);
                let v = with_past(columns(&rows, heads.value(h)).unwrap(), |past| &past.values, h);
                one_head(&q, &k, &v, past_len, spec)
            })
            .unzip();
        outputs.push(Exact::cat(&of_heads, 1).unwrap());
        log_sums.push(Exact::cat(&sums, 1).unwrap());
    }
    (Exact::cat(&outputs, 0).unwrap(), Exact::cat(&log_sums, 0).unwrap())
}

fn sequences(starts: &[usize], heads: Heads) -> Sequences {
    Sequences::new(starts, heads, &Device::Cpu).unwrap()
}

fn random_qkv(random: &mut Random, t: usize, heads: Heads) -> Tensor {
    // ±3 makes some rows attend to few keys and others to many.
    matrix(&random.values(t * heads.width(), 3.0), t, heads.width())
}

/// Forward and backward against candle, without a past.
fn check_batch(seed: u64, spec: impl Into<AttentionSpec>, starts: &[usize]) {
    let spec = spec.into();
    let heads = spec.heads;
    let mut random = Random::new(seed);
    let t = *starts.last().unwrap();
    let qkv = random_qkv(&mut random, t, heads);
    let doutput = random.matrix(t, heads.queries * heads.size);
    let var = variable(&values(&qkv), qkv.shape());
    let (output, log_sums) = expected(&var, spec, starts, None);
    let sequences = sequences(starts, heads);
    let attended = forward(&qkv, spec, &sequences, None).unwrap();
    let what = format!("attention {spec:?} {starts:?}");
    assert_close(&what, &values(&attended.output), &exact(&output), 2e-6, 2e-6);
    let found = attended.log_sums.host().unwrap();
    assert_close(&format!("{what} log-sums"), found, &exact(&log_sums), 2e-6, 2e-6);

    let [expected] = gradients(&output, &values(&doutput), [&var]);
    let dqkv = backward(&doutput, &qkv, &attended, spec, &sequences).unwrap();
    assert_eq!(dqkv.shape(), qkv.shape());
    assert_close(&format!("{what} dqkv"), &values(&dqkv), &expected, 2e-5, 1e-5);
    let run =
        |x: &[f32]| values(&forward(&matrix(x, t, heads.width()), spec, &sequences, None).unwrap().output);
    assert_slopes(&what, &mut random, &values(&qkv), &values(&dqkv), &values(&doutput), run);
}

#[test]
fn packed_sequences_of_odd_lengths() {
    let heads = Heads { queries: 6, keys: 2, size: 5 };
    check_batch(1, heads, &[0, 1, 8, 9, 40, 53]);
    check_batch(2, Heads { queries: 3, keys: 3, size: 8 }, &[0, 17]);
    check_batch(3, Heads { queries: 4, keys: 1, size: 16 }, &[0, 3, 3, 10]);
    check_batch(4, Heads { queries: 1, keys: 1, size: 1 }, &[0, 1]);
}

/// Blocks are of 64 rows forward and 128 backward.
#[test]
fn sequences_that_cross_block_sizes() {
    let heads = Heads { queries: 2, keys: 1, size: 7 };
    check_batch(5, heads, &[0, 63, 127, 192, 321]);
    check_batch(6, heads, &[0, 128, 257]);
}

#[test]
fn one_long_sequence() {
    check_batch(7, Heads { queries: 2, keys: 2, size: 6 }, &[0, 700]);
}

/// Windows of one token, within a block of rows, across blocks, and wider than some sequences.
#[test]
fn a_window_hides_what_is_before_it() {
    let heads = Heads { queries: 4, keys: 2, size: 5 };
    for window in [1, 2, 7, 64, 65, 150, 400] {
        let spec = AttentionSpec { window: Some(window), ..heads.into() };
        check_batch(20 + window as u64, spec, &[0, 1, 9, 73, 210, 521]);
    }
    let mut random = Random::new(30);
    let qkv = random_qkv(&mut random, 40, heads);
    let run =
        |spec: AttentionSpec| values(&forward(&qkv, spec, &sequences(&[0, 40], heads), None).unwrap().output);
    let wide = AttentionSpec { window: Some(40), ..heads.into() };
    assert_eq!(run(wide), run(heads.into()), "a window of the whole sequence hides nothing");
    assert!(
        forward(&qkv, AttentionSpec { window: Some(0), ..wide }, &sequences(&[0, 40], heads), None).is_err()
    );
}

/// Caps that flatten most scores, some, and next to none.
#[test]
fn scores_are_capped_before_any_is_hidden() {
    let heads = Heads { queries: 4, keys: 2, size: 5 };
    let limits = [(0.5, None), (2.0, None), (50.0, None), (2.0, Some(1)), (2.0, Some(7)), (5.0, Some(150))];
    for (seed, (softcap, window)) in (60..).zip(limits) {
        let spec = AttentionSpec { softcap: Some(softcap), window, ..heads.into() };
        check_batch(seed, spec, &[0, 1, 9, 73, 210]);
    }
    let qkv = random_qkv(&mut Random::new(70), 40, heads);
    for softcap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let spec = AttentionSpec { softcap: Some(softcap), ..heads.into() };
        assert!(forward(&qkv, spec, &sequences(&[0, 40], heads), None).is_err(), "{softcap}");
    }
}

#[test]
fn scores_of_a_past_are_capped() {
    let heads = Heads { queries: 6, keys: 2, size: 5 };
    for (window, past_len, starts) in
        [(None, 67, vec![0, 3]), (None, 3, vec![0, 1, 70]), (Some(80), 67, vec![0, 1, 73])]
    {
        let spec = AttentionSpec { window, softcap: Some(1.5), ..heads.into() };
        let mut random = Random::new(80 + past_len as u64);
        let past = Past::new(&random_qkv(&mut random, past_len, heads), heads).unwrap();
        let qkv = random_qkv(&mut random, *starts.last().unwrap(), heads);
        let (output, log_sums) = expected(&variable(&values(&qkv), qkv.shape()), spec, &starts, Some(&past));
        let attended = forward(&qkv, spec, &sequences(&starts, heads), Some(&past)).unwrap();
        assert_close("a cap with a past", &values(&attended.output), &exact(&output), 2e-6, 2e-6);
        let found = attended.log_sums.host().unwrap();
        assert_close("a cap with a past, log-sums", found, &exact(&log_sums), 2e-6, 2e-6);
    }
}

#[test]
fn a_window_reaches_into_the_past() {
    let heads = Heads { queries: 6, keys: 2, size: 5 };
    for (window, past_len, starts) in [
        (1, 67, vec![0, 3]),
        (5, 3, vec![0, 1, 8, 73]),
        (80, 67, vec![0, 1, 8, 73]),
        (90, 200, vec![0, 70, 201]),
    ] {
        let spec = AttentionSpec { window: Some(window), ..heads.into() };
        let mut random = Random::new(40 + window as u64);
        let past = Past::new(&random_qkv(&mut random, past_len, heads), heads).unwrap();
        let qkv = random_qkv(&mut random, *starts.last().unwrap(), heads);
        let (output, log_sums) = expected(&variable(&values(&qkv), qkv.shape()), spec, &starts, Some(&past));
        let attended = forward(&qkv, spec, &sequences(&starts, heads), Some(&past)).unwrap();
        assert_close("a window with a past", &values(&attended.output), &exact(&output), 2e-6, 2e-6);
        let found = attended.log_sums.host().unwrap();
        assert_close("a window with a past, log-sums", found, &exact(&log_sums), 2e-6, 2e-6);
    }
}

/// No token moves another sequence's outputs or gradients, nor earlier outputs of its own.
#[test]
fn sequences_are_apart_and_the_future_is_hidden() {
    let heads = Heads { queries: 2, keys: 1, size: 4 };
    let sequences = sequences(&[0, 70, 100], heads);
    let mut random = Random::new(8);
    let qkv = random_qkv(&mut random, 100, heads);
    let mut moved = values(&qkv);
    moved[60 * heads.width()..70 * heads.width()].fill(9.0);
    let moved = matrix(&moved, 100, heads.width());
    let doutput = random.matrix(100, 8);
    let run = |qkv: &Tensor| {
        let attended = forward(qkv, heads, &sequences, None).unwrap();
        let dqkv = backward(&doutput, qkv, &attended, heads, &sequences).unwrap();
        (values(&attended.output), values(&dqkv))
    };
    let ((before, dbefore), (after, dafter)) = (run(&qkv), run(&moved));
    assert_eq!(before[..60 * 8], after[..60 * 8]);
    assert_ne!(before[60 * 8..70 * 8], after[60 * 8..70 * 8]);
    assert_eq!(before[70 * 8..], after[70 * 8..]);
    assert_eq!(dbefore[70 * heads.width()..], dafter[70 * heads.width()..]);
}

#[test]
fn every_sequence_sees_the_past() {
    let heads = Heads { queries: 6, keys: 2, size: 5 };
    for (past_len, starts) in [(1, vec![0, 1]), (67, vec![0, 1, 8, 73]), (3, vec![0, 70, 201])] {
        let mut random = Random::new(9 + past_len as u64);
        // In two pieces, as a cache grows.
        let mut past = Past::new(&random_qkv(&mut random, past_len / 2, heads), heads).unwrap();
        past.append(&random_qkv(&mut random, past_len - past_len / 2, heads), heads).unwrap();
        let qkv = random_qkv(&mut random, *starts.last().unwrap(), heads);
        let (output, log_sums) = expected(&variable(&values(&qkv), qkv.shape()), heads, &starts, Some(&past));
        let attended = forward(&qkv, heads, &sequences(&starts, heads), Some(&past)).unwrap();
        assert_close("attention with a past", &values(&attended.output), &exact(&output), 2e-6, 2e-6);
        let found = attended.log_sums.host().unwrap();
        assert_close("attention with a past, log-sums", found, &exact(&log_sums), 2e-6, 2e-6);
    }
}

/// Sequences that continue pasts of their own, to the bit as each does alone, with windows and a soft cap; then again, after
/// what was added.
#[test]
fn every_sequence_sees_its_own_past() {
    let heads = Heads { queries: 6, keys: 2, size: 5 };
    let plain = AttentionSpec::from(heads);
    for (seed, spec) in [
        (1, plain),
        (2, AttentionSpec { window: Some(4), ..plain }),
        (3, AttentionSpec { window: Some(70), softcap: Some(5.0), ..plain }),
    ] {
        let mut random = Random::new(40 + seed);
        let starts = [0, 1, 2, 9, 82, 83];
        let past_lens = [3, 70, 5, 20, 0];
        let mut pasts = past_lens.map(|len| Past::new(&random_qkv(&mut random, len, heads), heads).unwrap());
        for _ in 0..2 {
            let lens = pasts.each_ref().map(Past::len);
            let qkv = random_qkv(&mut random, 83, heads);
            let mut expected = Vec::new();
            for (bounds, past) in starts.windows(2).zip(&pasts) {
                let rows = rows(&qkv, bounds[0]..bounds[1]);
                let alone = sequences(&[0, bounds[1] - bounds[0]], heads);
                expected.extend(values(&forward(&rows, spec, &alone, Some(past)).unwrap().output));
            }
            let continued = Sequences::continued(&starts, &lens, spec, &Device::Cpu).unwrap();
            let found = extend(&qkv, spec, &continued, &mut pasts.each_mut()).unwrap();
            assert_eq!(values(&found.output), expected);
            for ((bounds, past), len) in starts.windows(2).zip(&pasts).zip(lens) {
                assert_eq!(past.len(), len + bounds[1] - bounds[0]);
            }
        }
    }
    let qkv = random_qkv(&mut Random::new(44), 2, heads);
    let mut past = Past::empty(heads, &Device::Cpu).unwrap();
    let two = Sequences::continued(&[0, 1, 2], &[0, 0], heads, &Device::Cpu).unwrap();
    assert!(extend(&qkv, heads, &two, &mut [&mut past]).is_err(), "a past of each");
    assert!(Sequences::continued(&[0, 1, 2], &[0], heads, &Device::Cpu).is_err());
}

/// A copy of the beginning of a past is the past of these tokens.
#[test]
fn a_past_becomes_a_copy_of_another() {
    let heads = Heads { queries: 4, keys: 2, size: 3 };
    let mut random = Random::new(45);
    let (of, qkv) = (random_qkv(&mut random, 9, heads), random_qkv(&mut random, 5, heads));
    let run =
        |past: &Past| values(&forward(&qkv, heads, &sequences(&[0, 5], heads), Some(past)).unwrap().output);
    let whole = Past::new(&of, heads).unwrap();
    let mut copy = Past::new(&random_qkv(&mut random, 4, heads), heads).unwrap();
    for len in [6, 0, 9] {
        copy.copy_prefix(&whole, len).unwrap();
        assert_eq!(copy.len(), len);
        assert_eq!(run(&copy), run(&Past::new(&rows(&of, 0..len), heads).unwrap()));
    }
    assert!(copy.copy_prefix(&whole, 10).is_err());
}

#[test]
fn an_empty_past_is_none() {
    let heads = Heads { queries: 2, keys: 1, size: 4 };
    let qkv = random_qkv(&mut Random::new(10), 9, heads);
    let run =
        |past: Option<&Past>| values(&forward(&qkv, heads, &sequences(&[0, 9], heads), past).unwrap().output);
    let without = run(None);
    let mut past = Past::new(&matrix(&[], 0, heads.width()), heads).unwrap();
    assert!(past.is_empty());
    assert_eq!(run(Some(&past)), without);
    past.append(&qkv, heads).unwrap();
    assert_ne!(run(Some(&past)), without);
    past.truncate(0);
    assert_eq!(run(Some(&past)), without);
}

#[test]
fn far_scores_neither_overflow_nor_leave_a_nan() {
    let heads = Heads { queries: 1, keys: 1, size: 1 };
    // Scores of the second row: 1e4 and −1e4.
    let qkv = matrix(&[1.0, 100.0, 5.0, 100.0, -100.0, 7.0], 2, 3);
    let sequences = sequences(&[0, 2], heads);
    let attended = forward(&qkv, heads, &sequences, None).unwrap();
    assert_eq!(values(&attended.output), [5.0, 5.0]);
    let dqkv = backward(&matrix(&[1.0, 1.0], 2, 1), &qkv, &attended, heads, &sequences).unwrap();
    assert_eq!(values(&dqkv), [0.0, 0.0, 2.0, 0.0, 0.0, 0.0]);
}

/// Rows of a matrix.
fn rows(matrix: &Tensor, rows: Range<usize>) -> Tensor {
    matrix.gather_rows(&rows.map(|row| row as u32).collect::<Vec<u32>>()).unwrap()
}

/// What is left of a past is the past of the tokens that are left.
#[test]
fn a_past_forgets_its_end() {
    let heads = Heads { queries: 4, keys: 2, size: 3 };
    let mut random = Random::new(13);
    let (qkv, before) = (random_qkv(&mut random, 5, heads), random_qkv(&mut random, 9, heads));
    let run =
        |past: &Past| values(&forward(&qkv, heads, &sequences(&[0, 5], heads), Some(past)).unwrap().output);
    let mut past = Past::new(&before, heads).unwrap();
    for len in [9, 12, 6, 1] {
        past.truncate(len);
        assert_eq!(past.len(), len.min(9));
        let rest = Past::new(&rows(&before, 0..len.min(9)), heads).unwrap();
        assert_eq!(run(&past), run(&rest));
    }
    past.append(&rows(&before, 1..9), heads).unwrap();
    assert_eq!(run(&past), run(&Past::new(&before, heads).unwrap()));
}

#[test]
fn wrong_shapes_are_errors() {
    let heads = Heads { queries: 2, keys: 1, size: 3 };
    let qkv = random_qkv(&mut Random::new(11), 4, heads);
    let run =
        |heads, starts: &[usize]| forward(&qkv, heads, &Sequences::new(starts, heads, &Device::Cpu)?, None);
    let run_back = |doutput: &Tensor, attended: &Attended, starts: &[usize]| {
        backward(doutput, &qkv, attended, heads, &Sequences::new(starts, heads, &Device::Cpu)?)
    };
    let (attended, doutput) = (run(heads, &[0, 4]).unwrap(), matrix(&[0.0; 24], 4, 6));
    assert!(run_back(&doutput, &attended, &[0, 4]).is_ok());
    assert!(run(Heads { keys: 0, ..heads }, &[0, 4]).is_err());
    assert!(run(Heads { queries: 0, keys: 2, ..heads }, &[0, 4]).is_err(), "no queries");
    assert!(run(Heads { queries: 3, keys: 2, ..heads }, &[0, 4]).is_err(), "3 queries for 2 keys");
    assert!(run(Heads { size: 4, ..heads }, &[0, 4]).is_err());
    for starts in [&[][..], &[0], &[0, 3], &[1, 4], &[0, 5], &[0, 3, 2, 4]] {
        assert!(run(heads, starts).is_err(), "{starts:?}");
        assert!(run_back(&doutput, &attended, starts).is_err(), "{starts:?}");
    }
    let mut past = Past::new(&qkv, heads).unwrap();
    assert!(past.append(&qkv, Heads { size: 4, ..heads }).is_err());
    assert_eq!(past.len(), 4);
    assert!(Past::new(&qkv, Heads { size: 4, ..heads }).is_err());
    for other in [Heads { size: 2, ..heads }, Heads { keys: 2, ..heads }, Heads { size: 6, ..heads }] {
        let past = Past::new(&random_qkv(&mut Random::new(12), 3, other), other).unwrap();
        let run = forward(&qkv, heads, &sequences(&[0, 4], heads), Some(&past));
        assert!(run.is_err(), "a past of {other:?}");
    }
    assert!(run_back(&matrix(&[0.0; 20], 4, 5), &attended, &[0, 4]).is_err());
    let other = random_qkv(&mut Random::new(12), 3, heads);
    let other = forward(&other, heads, &sequences(&[0, 3], heads), None).unwrap();
    assert!(run_back(&doutput, &other, &[0, 4]).is_err(), "another batch's");
    let other = Attended { log_sums: other.log_sums, ..run(heads, &[0, 4]).unwrap() };
    assert!(run_back(&doutput, &other, &[0, 4]).is_err(), "another batch's log-sums");
}
