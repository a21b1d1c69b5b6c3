//! Causal attention over packed sequences of different lengths, with grouped key/value heads.
//!
//! A batch is sequences laid end to end; a token sees its own sequence up to itself, and the
//! past before it where there is one, or only the last of these tokens where there is a window. Nothing of the
//! size T × T is kept: the backward computes the probabilities again from each row's log-sum-exp (Dao et
//! al. 2022).

mod backward;
pub(super) mod cuda;
mod forward;
mod past;

use std::ops::Range;

use crate::device::{Device, Tensor, Vector};
use crate::{Result, error};

pub use past::Past;

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

/// The attention of a layer: heads, scale and window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionSpec {
    /// The heads.
    pub heads: Heads,
    /// Products of queries and keys are multiplied with it.
    pub scale: f32,
    /// Tokens that a token sees, itself included (sliding window, Beltagy et al. 2020); `None`: all before
    /// it.
    pub window: Option<usize>,
    /// Scaled scores become c·tanh(scores / c), where there is such a c (Gemma 2).
    pub softcap: Option<f32>,
}

impl From<Heads> for AttentionSpec {
    /// Scores scaled by 1/√D, with no window and no soft cap.
    fn from(heads: Heads) -> Self {
        Self { heads, scale: 1.0 / (heads.size as f32).sqrt(), window: None, softcap: None }
    }
}

impl AttentionSpec {
    /// The first position that a token at `position` sees.
    fn first_seen(self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// The result of the forward: the output, and what its backward needs besides.
pub struct Attended {
    /// [T, H·D]
    pub output: Tensor,
    /// Each row's log of the sum of exponentials of its scores, [T, H].
    pub log_sums: Vector,
}

/// The sequences of a batch, laid end to end.
pub struct Sequences {
    /// Bounds: first 0, last T.
    starts: Vec<usize>,
    /// The bounds as the kernels of a GPU take their work.
    on_gpu: Option<OnGpu>,
}

/// The work of a GPU's kernels.
enum OnGpu {
    /// Sequences that see a shared past, or none.
    Together(cuda::Tasks),
    /// Sequences that each continue a past of their own.
    Continued(cuda::ContinuedTasks),
}

impl Sequences {
    /// Sequences that `starts` bounds: first 0, last T. Layers that attend to them may differ in their windows
    /// and their scale.
    pub fn new(starts: &[usize], spec: impl Into<AttentionSpec>, device: &Device) -> Result<Self> {
        check_order(starts)?;
        let on_gpu = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(OnGpu::Together(cuda::Tasks::new(gpu, starts, spec.into())?)),
        };
        Ok(Self { starts: starts.to_vec(), on_gpu })
    }

    /// Sequences as [`Sequences::new`] has them, for [`extend`]: each continues a past of its own, of as many tokens as
    /// `pasts` has for it.
    pub fn continued(
        starts: &[usize],
        pasts: &[usize],
        spec: impl Into<AttentionSpec>,
        device: &Device,
    ) -> Result<Self> {
        check_order(starts)?;
        if pasts.len() + 1 != starts.len() {
            return Err(error!(Bug, "attention: {} pasts of {} sequences", pasts.len(), starts.len() - 1));
        }
        let tasks = |gpu| cuda::ContinuedTasks::new(gpu, starts, pasts, spec.into());
        let on_gpu = match device {
            Device::Cpu => None,
            Device::Cuda(gpu) => Some(OnGpu::Continued(tasks(gpu)?)),
        };
        Ok(Self { starts: starts.to_vec(), on_gpu })
    }

    fn tasks(&self) -> Result<&cuda::Tasks> {
        match &self.on_gpu {
            Some(OnGpu::Together(tasks)) => Ok(tasks),
            _ => Err(error!(Bug, "attention: sequences for a GPU expected")),
        }
    }

    fn continued_tasks(&self) -> Result<&cuda::ContinuedTasks> {
        match &self.on_gpu {
            Some(OnGpu::Continued(tasks)) => Ok(tasks),
            _ => Err(error!(Bug, "attention: sequences with pasts of their own on a GPU expected")),
        }
    }
}

/// Attention of qkv [T, (H + 2K)·D] within its sequences, and to the past before each of them.
pub fn forward(
    qkv: &Tensor,
    spec: impl Into<AttentionSpec>,
    sequences: &Sequences,
    past: Option<&Past>,
) -> Result<Attended> {
    let spec = spec.into();
    let heads = spec.heads;
    let t = check(qkv, heads)?;
    check_limits(spec)?;
    check_starts(&sequences.starts, t)?;
    let past = past.filter(|past| !past.is_empty());
    past.map_or(Ok(()), |past| past.check(heads))?;
    match qkv {
        Tensor::Cpu(_) => {
            let past = past.map(Past::host).transpose()?;
            let (output, log_sums) = forward::run(&qkv.host()?, spec, &sequences.starts, |_| past);
            let output = Tensor::from_vec(output, &[t, heads.queries * heads.size])?;
            Ok(Attended { output, log_sums: Vector::Cpu(log_sums) })
        }
        Tensor::Cuda(qkv) => cuda::forward(qkv, spec, sequences.tasks()?, past.map(Past::gpu).transpose()?),
    }
}

/// Attention of qkv [T, (H + 2K)·D] within its sequences, each of which also sees the past of its number. The keys and
/// values of the sequences are then added to their pasts. A GPU leaves the log-sums out.
pub fn extend(
    qkv: &Tensor,
    spec: impl Into<AttentionSpec>,
    sequences: &Sequences,
    pasts: &mut [&mut Past],
) -> Result<Attended> {
    let spec = spec.into();
    let heads = spec.heads;
    let (t, starts) = (check(qkv, heads)?, &sequences.starts);
    check_limits(spec)?;
    check_starts(starts, t)?;
    if pasts.len() + 1 != starts.len() {
        return Err(error!(Bug, "attention: {} pasts of {} sequences", pasts.len(), starts.len() - 1));
    }
    pasts.iter().try_for_each(|past| past.check(heads))?;
    match qkv {
        Tensor::Cpu(_) => {
            let hosts = pasts.iter().map(|past| past.host()).collect::<Result<Vec<_>>>()?;
            let (output, log_sums) = forward::run(&qkv.host()?, spec, starts, |number| Some(hosts[number]));
            for (past, bounds) in pasts.iter_mut().zip(starts.windows(2)) {
                past.append_rows(qkv, bounds[0]..bounds[1], heads)?;
            }
            let output = Tensor::from_vec(output, &[t, heads.queries * heads.size])?;
            Ok(Attended { output, log_sums: Vector::Cpu(log_sums) })
        }
        Tensor::Cuda(qkv) => {
            let pasts = pasts.iter_mut().map(|past| past.gpu_mut()).collect::<Result<_>>()?;
            cuda::extend(qkv, spec, sequences.continued_tasks()?, pasts)
        }
    }
}

/// dqkv [T, (H + 2K)·D] from doutput [T, H·D] and the forward's inputs and results, without a past.
pub fn backward(
    doutput: &Tensor,
    qkv: &Tensor,
    attended: &Attended,
    spec: impl Into<AttentionSpec>,
    sequences: &Sequences,
) -> Result<Tensor> {
    let spec = spec.into();
    let heads = spec.heads;
    let t = check(qkv, heads)?;
    check_limits(spec)?;
    check_starts(&sequences.starts, t)?;
    doutput.expect("attention backward: doutput", &[t, heads.queries * heads.size])?;
    attended.output.expect("attention backward: output", doutput.shape())?;
    if attended.log_sums.len() != t * heads.queries {
        return Err(error!(
            Bug,
            "attention backward: {} log-sums expected, found {}",
            t * heads.queries,
            attended.log_sums.len()
        ));
    }
    match qkv {
        Tensor::Cpu(_) => {
            let (output, log_sums) = (attended.output.host()?, attended.log_sums.host()?);
            let dqkv =
                backward::run(&doutput.host()?, &qkv.host()?, &output, log_sums, spec, &sequences.starts);
            Tensor::from_vec(dqkv, qkv.shape())
        }
        Tensor::Cuda(qkv) => {
            let attended = (attended.output.gpu()?, attended.log_sums.gpu()?);
            cuda::backward(doutput.gpu()?, qkv, attended, spec, sequences.tasks()?).map(Tensor::Cuda)
        }
    }
}

fn check(qkv: &Tensor, heads: Heads) -> Result<usize> {
    if heads.queries == 0 || heads.keys == 0 || heads.size == 0 || !heads.queries.is_multiple_of(heads.keys) {
        return Err(error!(Bug, "attention: {} query heads do not share {} keys", heads.queries, heads.keys));
    }
    let (t, width) = qkv.matrix("attention: qkv")?;
    if width != heads.width() {
        return Err(error!(Bug, "attention: qkv with {} columns expected, found {width}", heads.width()));
    }
    Ok(t)
}

fn check_limits(spec: AttentionSpec) -> Result<()> {
    match (spec.window, spec.softcap) {
        (Some(0), _) => Err(error!(Bug, "attention: a window of no tokens")),
        (_, Some(softcap)) if !(softcap > 0.0 && softcap.is_finite()) => {
            Err(error!(Bug, "attention: a positive soft cap of scores expected, found {softcap}"))
        }
        _ => Ok(()),
    }
}

fn check_order(starts: &[usize]) -> Result<()> {
    match starts.first() == Some(&0) && starts.is_sorted() {
        true => Ok(()),
        false => Err(error!(Bug, "attention: sequence bounds from 0 on expected, found {starts:?}")),
    }
}

fn check_starts(starts: &[usize], t: usize) -> Result<()> {
    if starts.first() == Some(&0) && starts.last() == Some(&t) && starts.is_sorted() {
        Ok(())
    } else {
        Err(error!(Bug, "attention: sequence bounds from 0 to {t} expected, found {starts:?}"))
    }
}

#[cfg(test)]
mod tests;
