//! Causal attention over packed sequences of different lengths, with grouped key/value heads.
//!
//! A batch is sequences laid end to end; a token sees its own sequence up to itself, and the
//! shared past where there is one. Scores are scaled by 1/√D. Nothing of the size T × T is kept:
//! the backward computes the probabilities again from each row's log-sum-exp (Dao et al. 2022).

mod backward;
mod forward;

use std::ops::Range;

use crate::device::Tensor;
use crate::{Result, error};

/// How the columns of a [T, (H + 2K)·D] matrix are heads: H queries, then K keys, then K values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// H, query heads.
    pub queries: usize,
    /// K, key/value heads; divides H.
    pub keys: usize,
    /// D, the size of a head.
    pub size: usize,
}

impl Heads {
    /// (H + 2K)·D.
    pub fn width(self) -> usize {
        (self.queries + 2 * self.keys) * self.size
    }

    /// Columns of query head `h`.
    fn query(self, h: usize) -> Range<usize> {
        h * self.size..(h + 1) * self.size
    }

    /// Columns of the key head that query head `h` shares.
    fn key(self, h: usize) -> Range<usize> {
        self.query(self.queries + h / (self.queries / self.keys))
    }

    /// Columns of the value head that query head `h` shares.
    fn value(self, h: usize) -> Range<usize> {
        self.query(self.queries + self.keys + h / (self.queries / self.keys))
    }
}

/// Keys and values, turned and ready, that every sequence of a batch sees before its own tokens.
#[derive(Debug, Clone, Default)]
pub struct Past {
    /// [P, K·D]
    pub keys: Vec<f32>,
    /// [P, K·D]
    pub values: Vec<f32>,
}

impl Past {
    /// Adds the keys and values of qkv [T, (H + 2K)·D] behind what is there.
    pub fn append(&mut self, qkv: &Tensor, heads: Heads) -> Result<()> {
        check(qkv, heads)?;
        let columns = heads.keys * heads.size;
        for row in qkv.host()?.chunks_exact(heads.width()) {
            let (keys, values) = row[heads.queries * heads.size..].split_at(columns);
            self.keys.extend_from_slice(keys);
            self.values.extend_from_slice(values);
        }
        Ok(())
    }

    /// Keeps the first `len` of its `tokens` rows.
    pub fn truncate(&mut self, tokens: usize, len: usize) {
        let columns = self.keys.len() / tokens.max(1);
        self.keys.truncate(len * columns);
        self.values.truncate(len * columns);
    }
}

/// What the forward gives: the output, and what its backward needs.
pub struct Attended {
    /// [T, H·D]
    pub output: Tensor,
    /// Each row's log of the sum of exponentials of its scores, [T, H].
    pub log_sums: Vec<f32>,
}

/// Attention of qkv [T, (H + 2K)·D] within the sequences that `starts` bounds (first 0, last T).
pub fn forward(qkv: &Tensor, heads: Heads, starts: &[usize], past: Option<&Past>) -> Result<Attended> {
    let t = check(qkv, heads)?;
    check_starts(starts, t)?;
    past.map_or(Ok(()), |past| check_past(past, heads))?;
    match qkv {
        Tensor::Cpu(_) => {
            let (output, log_sums) = forward::run(&qkv.host()?, heads, starts, past);
            Ok(Attended { output: Tensor::from_vec(output, &[t, heads.queries * heads.size])?, log_sums })
        }
    }
}

/// dqkv [T, (H + 2K)·D] from doutput [T, H·D] and the forward's inputs and results, without a past.
pub fn backward(
    doutput: &Tensor,
    qkv: &Tensor,
    attended: &Attended,
    heads: Heads,
    starts: &[usize],
) -> Result<Tensor> {
    let t = check(qkv, heads)?;
    check_starts(starts, t)?;
    doutput.expect("attention backward: doutput", &[t, heads.queries * heads.size])?;
    attended.output.expect("attention backward: output", doutput.shape())?;
    if attended.log_sums.len() != t * heads.queries {
        return Err(error!(
            "attention backward: {} log-sums expected, found {}",
            t * heads.queries,
            attended.log_sums.len()
        ));
    }
    match qkv {
        Tensor::Cpu(_) => {
            let output = attended.output.host()?;
            let dqkv =
                backward::run(&doutput.host()?, &qkv.host()?, &output, &attended.log_sums, heads, starts);
            Tensor::from_vec(dqkv, qkv.shape())
        }
    }
}

fn check(qkv: &Tensor, heads: Heads) -> Result<usize> {
    if heads.queries == 0 || heads.keys == 0 || heads.size == 0 || !heads.queries.is_multiple_of(heads.keys) {
        return Err(error!("attention: {} query heads do not share {} keys", heads.queries, heads.keys));
    }
    let (t, width) = qkv.matrix("attention: qkv")?;
    if width != heads.width() {
        return Err(error!("attention: qkv with {} columns expected, found {width}", heads.width()));
    }
    Ok(t)
}

fn check_past(past: &Past, heads: Heads) -> Result<()> {
    let (keys, values, columns) = (past.keys.len(), past.values.len(), heads.keys * heads.size);
    if keys == values && keys.is_multiple_of(columns) {
        Ok(())
    } else {
        Err(error!("attention: a past of rows of {columns} expected, found {keys} and {values} values"))
    }
}

fn check_starts(starts: &[usize], t: usize) -> Result<()> {
    if starts.first() == Some(&0) && starts.last() == Some(&t) && starts.is_sorted() {
        Ok(())
    } else {
        Err(error!("attention: sequence bounds from 0 to {t} expected, found {starts:?}"))
    }
}

#[cfg(test)]
mod tests;
