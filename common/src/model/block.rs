//! One transformer block: attention and feed-forward, each behind an RMS norm and added to the
//! residual stream. The forward and its backward stand side by side.

use super::config::Config;
use crate::device::{Device, Tensor, Vector};
use crate::kernels::attention::{self, Attended, Heads, Past, Sequences};
use crate::kernels::linear::{self, Backward, Linear, Parameters};
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
        let parts = config.rope.parts(batch);
        let parts: Vec<(&[u32], &[f32])> =
            parts.iter().map(|(tokens, rates)| (&batch.positions[tokens.clone()], &rates[..])).collect();
        Ok(Self {
            heads: config.heads,
            epsilon: config.epsilon,
            angles: Angles::of_parts(&parts, config.rope.scale, device)?,
            sequences: Sequences::new(&batch.starts, config.heads, device)?,
            parameters: parameters.map(|values| Parameters { values, dropout }),
        })
    }
}

/// What the backward of a block needs besides its input. The norms' outputs and the SwiGLU's are
/// computed again from data that is read anyway.
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
    /// x·Aᵀ of the four linear layers. That of the last is left out where a block is recomputed.
    low: [Option<Tensor>; 4],
}

impl Block {
    /// y [T, C] from x [T, C], what the backward needs, and the qkv to extend a cache with.
    pub fn forward(&self, x: &Tensor, pass: &Pass, past: Option<&Past>) -> Result<(Tensor, Kept)> {
        let mut kept = self.recompute(x, pass, past)?;
        let hidden = swiglu::forward(&kept.gate_up)?;
        let down = linear::forward(&hidden, &self.down, pass.parameters, Some(&kept.middle))?;
        kept.low[3] = down.lora_hidden;
        Ok((down.y, kept))
    }

    /// What the backward needs, from x [T, C]: all of the forward but the last product, whose result is
    /// the next block's input.
    pub fn recompute(&self, x: &Tensor, pass: &Pass, past: Option<&Past>) -> Result<Kept> {
        let normed = rms_norm::forward(x, &self.input_norm, pass.epsilon)?;
        let qkv = linear::forward(&normed, &self.qkv, pass.parameters, None)?;
        let (raw_qkv, qkv, low_qkv) = match &self.head_norms {
            Some(norms) => {
                let normed = rms_norm::forward_heads(&qkv.y, norms, pass.heads.size, pass.epsilon)?;
                (Some(qkv.y), normed, qkv.lora_hidden)
            }
            None => (None, qkv.y, qkv.lora_hidden),
        };
        let qkv = rope::forward(&qkv, turned_columns(pass.heads), &pass.angles)?;
        let attended = attention::forward(&qkv, pass.heads, &pass.sequences, past)?;
        let output = linear::forward(&attended.output, &self.output, pass.parameters, Some(x))?;
        let middle = output.y;
        let normed = rms_norm::forward(&middle, &self.post_norm, pass.epsilon)?;
        let gate_up = linear::forward(&normed, &self.gate_up, pass.parameters, None)?;
        let low = [low_qkv, output.lora_hidden, gate_up.lora_hidden, None];
        Ok(Kept { raw_qkv, qkv, attended, middle, gate_up: gate_up.y, low })
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
        let parameters = pass.parameters.ok_or_else(|| error!(Bug, "backward without parameters"))?;
        let Kept { raw_qkv, qkv, attended, middle, gate_up, low } = kept;
        let [low_qkv, low_output, low_gate_up, low_down] = &low;
        let mut learn = |linear: &Linear, dy: &Tensor, flow: &Backward, x: &Tensor, low: &Option<Tensor>| {
            linear::adapter_gradients((dy, flow), (x, low.as_ref()), linear, parameters, gradients)
        };

        let mut flow = linear::backward(dy, &self.down, parameters, true)?;
        let (dgate_up, hidden) = swiglu::backward(flow.take_dx()?, gate_up)?;
        learn(&self.down, dy, &flow, &hidden, low_down)?;
        drop(hidden);
        let mut flow = linear::backward(&dgate_up, &self.gate_up, parameters, true)?;
        let (dmiddle, normed) =
            rms_norm::backward(&flow.take_dx()?, &middle, &self.post_norm, Some(dy), pass.epsilon)?;
        learn(&self.gate_up, &dgate_up, &flow, &normed, low_gate_up)?;
        drop((dgate_up, normed, middle));

        let mut flow = linear::backward(&dmiddle, &self.output, parameters, true)?;
        learn(&self.output, &dmiddle, &flow, &attended.output, low_output)?;
        let dqkv = attention::backward(&flow.take_dx()?, &qkv, &attended, pass.heads, &pass.sequences)?;
        drop((qkv, attended));
        let mut dqkv = rope::backward(&dqkv, turned_columns(pass.heads), &pass.angles)?;
        if let (Some(norms), Some(raw)) = (&self.head_norms, &raw_qkv) {
            dqkv = rms_norm::backward_heads(&dqkv, raw, norms, pass.heads.size, pass.epsilon)?;
        }
        let mut flow = linear::backward(&dqkv, &self.qkv, parameters, needs_dx)?;
        let (dx, normed) = match needs_dx {
            true => {
                let around = Some(&dmiddle);
                let (dx, normed) =
                    rms_norm::backward(&flow.take_dx()?, x, &self.input_norm, around, pass.epsilon)?;
                (Some(dx), normed)
            }
            false => (None, rms_norm::forward(x, &self.input_norm, pass.epsilon)?),
        };
        learn(&self.qkv, &dqkv, &flow, &normed, low_qkv)?;
        Ok(dx)
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
