//! One transformer block: attention and feed-forward, each behind an RMS norm and added to the
//! residual stream. The forward and its backward stand side by side.

use super::config::Config;
use crate::device::{Device, Tensor, Vector};
use crate::kernels::attention::{self, Attended, Heads, Past, Sequences};
use crate::kernels::linear::{self, Linear, Parameters};
use crate::kernels::rope::Angles;
use crate::kernels::{rms_norm, rope, swiglu};
use crate::{Result, error};

/// The weights of a block.
pub struct Block {
    /// [C]
    pub input_norm: Vector,
    /// Query, key and value, stacked.
    pub qkv: Linear,
    /// Norms of the query heads, then of the key heads, [H + K, D].
    pub head_norms: Option<Vector>,
    /// Output of the attention.
    pub output: Linear,
    /// [C]
    pub post_norm: Vector,
    /// Gate and up, stacked.
    pub gate_up: Linear,
    /// Down.
    pub down: Linear,
}

/// What all blocks of a pass share.
pub struct Pass<'a> {
    pub heads: Heads,
    pub epsilon: f32,
    pub angles: Angles,
    pub sequences: Sequences,
    /// The adapters' values; `None` leaves the adapters out.
    pub parameters: Option<Parameters<'a>>,
}

impl<'a> Pass<'a> {
    /// A pass of the model that `config` describes.
    pub fn new(
        config: &Config,
        batch: &super::Batch,
        parameters: Option<&'a Vector>,
        device: &Device,
    ) -> Result<Self> {
        let dropout = batch.noise.map_or(Ok(None), |noise| noise.dropout())?;
        Ok(Self {
            heads: config.heads,
            epsilon: config.epsilon,
            angles: Angles::new(&batch.positions, &config.frequencies, 1.0, device)?,
            sequences: Sequences::new(&batch.starts, config.heads, device)?,
            parameters: parameters.map(|values| Parameters { values, dropout }),
        })
    }
}

/// What the backward of a block needs besides its input. The norms' outputs and the SwiGLU's are
/// computed again: each costs one pass over data that is read anyway.
pub struct Kept {
    /// Query, key and value before their head norms, where there are any.
    raw_qkv: Option<Tensor>,
    /// [T, (H + 2K)·D], turned.
    qkv: Tensor,
    attended: Attended,
    /// The residual stream between attention and feed-forward, [T, C].
    middle: Tensor,
    /// [T, 2F]
    gate_up: Tensor,
    /// x·Aᵀ of the four linear layers.
    low: [Option<Tensor>; 4],
}

impl Block {
    /// y [T, C] from x [T, C], what the backward needs, and the qkv to extend a cache with.
    pub fn forward(&self, x: &Tensor, pass: &Pass, past: Option<&Past>) -> Result<(Tensor, Kept)> {
        let normed = rms_norm::forward(x, &self.input_norm, pass.epsilon)?;
        let qkv = linear::forward(&normed, &self.qkv, pass.parameters)?;
        let (raw_qkv, qkv, low_qkv) = match &self.head_norms {
            Some(norms) => {
                let normed = rms_norm::forward_heads(&qkv.y, norms, pass.heads.size, pass.epsilon)?;
                (Some(qkv.y), normed, qkv.low)
            }
            None => (None, qkv.y, qkv.low),
        };
        let qkv = rope::forward(&qkv, turned_columns(pass.heads), &pass.angles)?;
        let attended = attention::forward(&qkv, pass.heads, &pass.sequences, past)?;
        let output = linear::forward(&attended.output, &self.output, pass.parameters)?;
        let middle = x.add(&output.y)?;
        let normed = rms_norm::forward(&middle, &self.post_norm, pass.epsilon)?;
        let gate_up = linear::forward(&normed, &self.gate_up, pass.parameters)?;
        let hidden = swiglu::forward(&gate_up.y)?;
        let down = linear::forward(&hidden, &self.down, pass.parameters)?;
        let y = middle.add(&down.y)?;
        let low = [low_qkv, output.low, gate_up.low, down.low];
        Ok((y, Kept { raw_qkv, qkv, attended, middle, gate_up: gate_up.y, low }))
    }

    /// dx [T, C] from dy [T, C]; adds the adapters' gradients to `gradients`. Below the first
    /// adapter no one needs dx, and it is not computed. What the forward kept is given up piece by
    /// piece, so that its memory serves the gradients.
    pub fn backward(
        &self,
        dy: &Tensor,
        x: &Tensor,
        kept: Kept,
        pass: &Pass,
        gradients: &mut Vector,
        needs_dx: bool,
    ) -> Result<Option<Tensor>> {
        let parameters = pass.parameters.ok_or_else(|| error!("backward without parameters"))?;
        let Kept { raw_qkv, qkv, attended, middle, gate_up, low } = kept;
        let [low_qkv, low_output, low_gate_up, low_down] = &low;
        let mut through = |linear: &Linear, dy: &Tensor, x: &Tensor, low: &Option<Tensor>, needs_dx: bool| {
            linear::backward(dy, x, low.as_ref(), linear, parameters, gradients, needs_dx)
        };
        let wanted =
            |dx: Option<Tensor>| dx.ok_or_else(|| error!("a gradient that was asked for is missing"));

        let hidden = swiglu::forward(&gate_up)?;
        let dhidden = wanted(through(&self.down, dy, &hidden, low_down, true)?)?;
        drop(hidden);
        let dgate_up = swiglu::backward(&dhidden, &gate_up)?;
        drop((dhidden, gate_up));
        let normed = rms_norm::forward(&middle, &self.post_norm, pass.epsilon)?;
        let dnormed = wanted(through(&self.gate_up, &dgate_up, &normed, low_gate_up, true)?)?;
        drop(dgate_up);
        let dmiddle = rms_norm::backward(&dnormed, &middle, &self.post_norm, Some(dy), pass.epsilon)?;

        let dattended = wanted(through(&self.output, &dmiddle, &attended.output, low_output, true)?)?;
        let dqkv = attention::backward(&dattended, &qkv, &attended, pass.heads, &pass.sequences)?;
        let mut dqkv = rope::backward(&dqkv, turned_columns(pass.heads), &pass.angles)?;
        if let (Some(norms), Some(raw)) = (&self.head_norms, &raw_qkv) {
            dqkv = rms_norm::backward_heads(&dqkv, raw, norms, pass.heads.size, pass.epsilon)?;
        }
        let normed = rms_norm::forward(x, &self.input_norm, pass.epsilon)?;
        let dnormed = through(&self.qkv, &dqkv, &normed, low_qkv, needs_dx)?;
        dnormed
            .map(|dnormed| rms_norm::backward(&dnormed, x, &self.input_norm, Some(&dmiddle), pass.epsilon))
            .transpose()
    }

    /// The four linear layers, in the order of the forward.
    pub fn linears(&self) -> [&Linear; 4] {
        [&self.qkv, &self.output, &self.gate_up, &self.down]
    }

    /// The four linear layers, to attach adapters to.
    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.qkv, &mut self.output, &mut self.gate_up, &mut self.down]
    }
}

impl Kept {
    /// The turned queries, keys and values, [T, (H + 2K)·D].
    pub fn qkv(&self) -> &Tensor {
        &self.qkv
    }
}

/// Queries and keys turn, values do not.
fn turned_columns(heads: Heads) -> usize {
    (heads.queries + heads.keys) * heads.size
}
