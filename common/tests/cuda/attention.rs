//! Attention, alone and after a past.

use common::device::Device;
use common::kernels::attention::{self, AttentionSpec, Heads, Past, Sequences};

use super::MANY_ROWS;
use super::check::{Check, on_gpu};

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_is_its_twin() {
    on_gpu(attentions);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_after_a_past_is_its_twin() {
    on_gpu(attentions_after_a_past);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_after_pasts_of_their_own_is_its_twin() {
    on_gpu(attentions_after_pasts_of_their_own);
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn attention_of_many_rows_is_its_twin() {
    on_gpu(|check| {
        let starts: Vec<usize> = (0..=MANY_ROWS.div_ceil(64)).map(|sequence| sequence * 64).collect();
        attention(check, HEADS[0].into(), &starts);
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn sequences_of_other_heads_are_refused() {
    on_gpu(|check| {
        let (small, large) = (HEADS[0], HEADS[1]);
        let (_, qkv) = check.pair(&[4, large.width()], 1.0);
        let sequences = Sequences::new(&[0, 4], small, &check.cuda).unwrap();
        let error = attention::forward(&qkv, large, &sequences, None).err().unwrap();
        assert!(error.to_string().contains("found those of 64"), "{error}");
        let capped = AttentionSpec { softcap: Some(50.0), ..small.into() };
        let (_, qkv) = check.pair(&[4, small.width()], 1.0);
        let error = attention::forward(&qkv, capped, &sequences, None).err().unwrap();
        assert!(error.to_string().contains("soft cap: true"), "{error}");
    });
}

/// Every head size that GPUs have kernels for.
const HEADS: [Heads; 7] = [
    Heads { queries: 9, keys: 3, size: 64 },
    Heads { queries: 28, keys: 4, size: 128 },
    Heads { queries: 4, keys: 4, size: 80 },
    Heads { queries: 6, keys: 2, size: 96 },
    Heads { queries: 32, keys: 8, size: 128 },
    Heads { queries: 8, keys: 4, size: 256 },
    Heads { queries: 4, keys: 1, size: 256 },
];

/// All heads without a window and a soft cap; some with windows of every kind: of one token, shorter and longer
/// than the tiles of keys, and about as long as the sequences; and some with a soft cap that flattens most scores
/// or next to none, with and without a window.
fn specs() -> impl Iterator<Item = AttentionSpec> {
    let windows = [1, 33, 100, 128, 300, 900].into_iter();
    let windowed = windows.flat_map(|window| {
        [0, 1, 2, 5].map(|heads| AttentionSpec { window: Some(window), ..HEADS[heads].into() })
    });
    let limits = [(1.5, None), (50.0, None), (1.5, Some(33)), (5.0, Some(300))].into_iter();
    let capped = limits.flat_map(|(softcap, window)| {
        [0, 1, 2, 3, 5, 6].map(|heads| AttentionSpec {
            window,
            softcap: Some(softcap),
            ..HEADS[heads].into()
        })
    });
    HEADS.into_iter().map(AttentionSpec::from).chain(windowed).chain(capped)
}

fn attentions(check: &mut Check) {
    // The last three are long enough for the kernels of Hopper, with and without whole blocks and tiles.
    let batches: [&[usize]; 7] = [
        &[0, 1],
        &[0, 1, 3, 20, 83, 147, 212, 341, 541],
        &[0, 3, 3, 10],
        &[0, 128, 256, 263],
        &[0, 700],
        &[0, 1, 961, 962, 1040],
        &[0, 896],
    ];
    for spec in specs() {
        for starts in batches {
            attention(check, spec, starts);
        }
    }
}

/// Forward and backward of the sequences that `starts` bounds.
fn attention(check: &mut Check, spec: AttentionSpec, starts: &[usize]) {
    let AttentionSpec { heads, window, softcap, .. } = spec;
    let Heads { queries, keys, size } = heads;
    let t = *starts.last().unwrap();
    let few = &starts[..starts.len().min(9)];
    let what = format!("attention {queries}/{keys}x{size} {few:?} window {window:?} softcap {softcap:?}");
    let (qkv, gqkv) = check.pair(&[t, heads.width()], 2.0);
    let (dy, gdy) = check.pair(&[t, queries * size], 1.0);
    let sequences = Sequences::new(starts, spec, &Device::Cpu).unwrap();
    let gsequences = Sequences::new(starts, spec, &check.cuda).unwrap();
    let y = attention::forward(&qkv, spec, &sequences, None).unwrap();
    let gy = attention::forward(&gqkv, spec, &gsequences, None).unwrap();
    check.same(&what, &y.output, &gy.output, 2.0 * check.bound);
    let (sums, gsums) = (y.log_sums.to_vec().unwrap(), gy.log_sums.to_vec().unwrap());
    check.close(&format!("{what} log-sums"), &sums, &gsums, 1e-3);
    let d = attention::backward(&dy, &qkv, &y, spec, &sequences).unwrap();
    let gd = attention::backward(&gdy, &gqkv, &gy, spec, &gsequences).unwrap();
    check.same(&format!("{what} d"), &d, &gd, 3.0 * check.bound);
    let again = attention::backward(&gdy, &gqkv, &gy, spec, &gsequences).unwrap();
    check.same(&format!("{what} d again"), &gd, &again, 0.0);
}

fn attentions_after_a_past(check: &mut Check) {
    for spec in specs() {
        let AttentionSpec { heads, window, softcap, .. } = spec;
        let Heads { queries, keys, size } = heads;
        for (past_len, starts) in
            [(5, &[0, 1][..]), (700, &[0, 1]), (2051, &[0, 8]), (64, &[0, 7]), (701, &[0, 50, 51, 180, 300])]
        {
            let t = *starts.last().unwrap();
            let what = format!(
                "attention {queries}/{keys}x{size} after {past_len} {starts:?} window {window:?} softcap {softcap:?}"
            );
            // In two pieces, as a cache grows.
            let (first, gfirst) = check.pair(&[past_len / 2 + 1, heads.width()], 2.0);
            let (second, gsecond) = check.pair(&[past_len - past_len / 2 - 1, heads.width()], 2.0);
            let mut past = Past::new(&first, heads).unwrap();
            let mut gpast = Past::new(&gfirst, heads).unwrap();
            past.append(&second, heads).unwrap();
            gpast.append(&gsecond, heads).unwrap();
            let (qkv, gqkv) = check.pair(&[t, heads.width()], 2.0);
            let sequences = Sequences::new(starts, spec, &Device::Cpu).unwrap();
            let gsequences = Sequences::new(starts, spec, &check.cuda).unwrap();
            let y = attention::forward(&qkv, spec, &sequences, Some(&past)).unwrap();
            let gy = attention::forward(&gqkv, spec, &gsequences, Some(&gpast)).unwrap();
            check.same(&what, &y.output, &gy.output, 2.0 * check.bound);
        }
    }
}

/// Sequences that each continue a past, or none: of one token each, more of them than a launch has room for, of few
/// tokens, and of many. Twice, so that the second time the first is part of the pasts.
fn attentions_after_pasts_of_their_own(check: &mut Check) {
    let many: Vec<(usize, usize)> = (0..70).map(|sequence| (1 + sequence * 13 % 300, 1)).collect();
    let batches: [&[(usize, usize)]; 4] = [
        &[(5, 1), (700, 1), (64, 1), (63, 1), (1500, 1)],
        &[(40, 1), (0, 3), (9, 8), (701, 150), (300, 9), (0, 70), (2051, 2)],
        &[(1, 1)],
        &many,
    ];
    for spec in specs().step_by(2) {
        let heads = spec.heads;
        for batch in batches {
            let rows = |tokens: usize, random: &mut Check| random.pair(&[tokens, heads.width()], 2.0);
            let (mut pasts, mut gpasts) = (Vec::new(), Vec::new());
            for (past_len, _) in batch {
                let mut past = Past::empty(heads, &Device::Cpu).unwrap();
                let mut gpast = Past::empty(heads, &check.cuda).unwrap();
                if *past_len > 0 {
                    let (qkv, gqkv) = rows(*past_len, check);
                    past.append(&qkv, heads).unwrap();
                    gpast.append(&gqkv, heads).unwrap();
                }
                pasts.push(past);
                gpasts.push(gpast);
            }
            let mut starts = vec![0];
            starts.extend(batch.iter().scan(0, |end, (_, tokens)| {
                *end += tokens;
                Some(*end)
            }));
            for time in ["", " again"] {
                let lens: Vec<usize> = pasts.iter().map(Past::len).collect();
                let (qkv, gqkv) = rows(*starts.last().unwrap(), check);
                let sequences = Sequences::continued(&starts, &lens, spec, &Device::Cpu).unwrap();
                let gsequences = Sequences::continued(&starts, &lens, spec, &check.cuda).unwrap();
                let mut each: Vec<&mut Past> = pasts.iter_mut().collect();
                let y = attention::extend(&qkv, spec, &sequences, &mut each).unwrap();
                let mut each: Vec<&mut Past> = gpasts.iter_mut().collect();
                let gy = attention::extend(&gqkv, spec, &gsequences, &mut each).unwrap();
                let what = format!("attention {spec:?} of {} pasts of their own{time}", batch.len());
                check.same(&what, &y.output, &gy.output, 2.0 * check.bound);
            }
        }
    }
}
