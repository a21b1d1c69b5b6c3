//! Rotary embedding as config.json describes it: the angle by which each pair of a head's elements is rotated
//! per position, and how that is scaled for texts longer than the model was trained on. As transformers 5
//! reads it (`modeling_rope_utils.py`), `rope_scaling` takes precedence over `rope_parameters`.

mod settings;

use std::borrow::Cow;
use std::ops::Range;

use serde_json::Value;

use self::settings::Settings;
use super::Batch;
use crate::device::Device;
use crate::kernels::rope::Angles;
use crate::{Result, bail, error};

/// The rotary embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Angle by which each pair of a head's R rotated elements is rotated per position, [R/2].
    frequencies: Vec<f32>,
    /// Cosines and sines are multiplied with it: the attention factor of YaRN and LongRoPE, 1 for all others.
    scale: f32,
    /// Positions that the scaled angles are made for.
    pub positions: usize,
    /// Where frequencies depend on the length of the text.
    longer: Option<Longer>,
}

/// Frequencies of texts that are longer than what the model was trained on.
#[derive(Debug, Clone, PartialEq)]
struct Longer {
    /// Texts up to this length are not scaled.
    trained: usize,
    scaling: Scaling,
}

#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    Dynamic(Dynamic),
    /// LongRoPE's frequencies (Ding et al. 2024), [R/2].
    Long(Vec<f32>),
}

/// NTK-aware scaling that begins where a text exceeds what the model was trained on.
#[derive(Debug, Clone, PartialEq)]
struct Dynamic {
    theta: f64,
    factor: f64,
}

impl Rope {
    /// Reads the settings for heads of `size` elements, in a model of `max_positions` positions. `share` is the
    /// part of a head that rotates where config.json names none, in families that rotate parts.
    pub(super) fn parse(json: &Value, size: usize, share: Option<f64>, max_positions: usize) -> Result<Self> {
        Self::of_settings(&Settings::find(json)?, json, size, share, max_positions)
    }

    /// As [`Rope::parse`], for the layers of one type in a family that has settings for each type, with the base
    /// of their angles where config.json has none.
    pub(super) fn parse_of_layers(
        json: &Value,
        layers: &'static str,
        default_theta: f64,
        size: usize,
        max_positions: usize,
    ) -> Result<Self> {
        let settings = Settings::find_of_layers(json, layers, default_theta)?;
        Self::of_settings(&settings, json, size, None, max_positions)
    }

    fn of_settings(
        settings: &Settings,
        json: &Value,
        size: usize,
        share: Option<f64>,
        max_positions: usize,
    ) -> Result<Self> {
        let theta = settings.theta(json)?;
        let size = match share {
            Some(share) => settings.rotated(json, size, share)?,
            None => size,
        };
        let mut rope =
            Self { frequencies: plain(theta, size), scale: 1.0, positions: max_positions, longer: None };
        match settings.kind()? {
            "default" => return Ok(rope),
            "linear" => {
                let factor = settings.positive("factor")?;
                rope.frequencies.iter_mut().for_each(|frequency| *frequency /= factor as f32);
                rope.positions = stretched(max_positions, factor);
            }
            "dynamic" => {
                let factor = settings.positive("factor")?;
                if size <= 2 {
                    bail!(Unsupported, "{}: dynamic scaling of heads of {size} elements", settings.key);
                }
                rope.positions = stretched(max_positions, factor);
                let scaling = Scaling::Dynamic(Dynamic { theta, factor });
                rope.longer = Some(Longer { trained: max_positions, scaling });
            }
            "yarn" => {
                let trained = settings.trained(json, max_positions)?;
                let factor = settings.yarn_factor(max_positions as f64 / trained)?;
                rope.scale = settings.attention_factor(factor)?;
                rope.frequencies = settings.yarn(size, theta, factor, trained)?;
                rope.positions = max_positions.max(stretched(trained as usize, factor));
            }
            "llama3" => {
                let [factor, low, high] = ["factor", "low_freq_factor", "high_freq_factor"]
                    .map(|key| settings.positive(key).map(|value| value as f32));
                let (factor, low, high) = (factor?, low?, high?);
                let trained = settings.trained(json, max_positions)? as f32;
                for frequency in &mut rope.frequencies {
                    *frequency = llama3(*frequency, factor, low, high, trained);
                }
            }
            "longrope" | "su" => {
                let trained = settings.trained(json, max_positions)?;
                let frequencies = |name: &str| -> Result<Vec<f32>> {
                    Ok(long_frequencies(theta, size, &settings.factors(name, size / 2)?))
                };
                let factor = settings.number("factor")?.unwrap_or(max_positions as f64 / trained);
                rope.scale = match settings.number("attention_factor")? {
                    Some(given) => settings.expect_positive("attention_factor", given)?,
                    None if factor <= 1.0 => 1.0,
                    None => (1.0 + factor.ln() / trained.ln()).sqrt(),
                } as f32;
                rope.frequencies = frequencies("short_factor")?;
                rope.longer = Some(Longer {
                    trained: trained as usize,
                    scaling: Scaling::Long(frequencies("long_factor")?),
                });
            }
            other => {
                return Err(error!("{}: rope_type {other:?} is not supported", settings.key)
                    .hint("supported are default, linear, dynamic, yarn, llama3 and longrope"));
            }
        }
        if share.is_none() {
            settings.expect_whole_heads(json)?;
        }
        Ok(rope)
    }

    /// Whether a text of this length has angles of its own, so that keys that were computed for a shorter
    /// beginning of it cannot be used again.
    pub fn is_stretched(&self, tokens: usize) -> bool {
        self.longer.as_ref().is_some_and(|longer| tokens > longer.trained)
    }

    /// Whether this is the length from which on a text has other angles, the same for all longer ones (LongRoPE).
    pub fn switches_at(&self, tokens: usize) -> bool {
        let switches =
            |longer: &Longer| matches!(longer.scaling, Scaling::Long(_)) && tokens == longer.trained + 1;
        self.longer.as_ref().is_some_and(switches)
    }

    /// The angles of the tokens of a batch.
    pub(super) fn angles(&self, batch: &Batch, device: &Device) -> Result<Angles> {
        let parts = self.parts(batch);
        let parts: Vec<(&[u32], &[f32])> =
            parts.iter().map(|(tokens, rates)| (&batch.positions[tokens.clone()], &rates[..])).collect();
        Angles::of_parts(&parts, self.scale, device)
    }

    /// The tokens of a batch that are rotated by the same frequencies, and these frequencies [R/2]: all tokens
    /// at once, unless the frequencies depend on the length of each sequence.
    fn parts(&self, batch: &Batch) -> Vec<(Range<usize>, Cow<'_, [f32]>)> {
        if self.longer.is_none() {
            return vec![(0..batch.len(), Cow::Borrowed(&self.frequencies))];
        }
        let sequences = batch.starts.windows(2).filter(|bounds| bounds[0] < bounds[1]);
        sequences
            .map(|bounds| {
                let length = batch.positions[bounds[1] - 1] as usize + 1;
                (bounds[0]..bounds[1], self.frequencies_at(length))
            })
            .collect()
    }

    /// The frequencies [R/2] of a text of `length` tokens.
    fn frequencies_at(&self, length: usize) -> Cow<'_, [f32]> {
        match self.longer.as_ref().filter(|longer| length > longer.trained) {
            None => Cow::Borrowed(&self.frequencies),
            Some(Longer { scaling: Scaling::Long(frequencies), .. }) => Cow::Borrowed(frequencies),
            Some(Longer { scaling: Scaling::Dynamic(dynamic), trained }) => {
                Cow::Owned(dynamic.frequencies(length, *trained, 2 * self.frequencies.len()))
            }
        }
    }
}

impl Dynamic {
    /// The frequencies [size/2] of a text of `length` tokens, in f32 as transformers computes them.
    fn frequencies(&self, length: usize, trained: usize, size: usize) -> Vec<f32> {
        let stretch = (self.factor * length as f64) as f32 / trained as f32 - (self.factor - 1.0) as f32;
        let exponent = size as f64 / (size - 2) as f64;
        plain(f64::from(self.theta as f32 * stretch.powf(exponent as f32)), size)
    }
}

/// Frequencies [size/2] without scaling: θ^(−2d/D), in f32 as transformers computes them.
fn plain(theta: f64, size: usize) -> Vec<f32> {
    (0..size).step_by(2).map(|d| 1.0 / (theta as f32).powf(d as f32 / size as f32)).collect()
}

/// LongRoPE's frequencies [size/2]: those of [`plain`], each divided by its factor.
fn long_frequencies(theta: f64, size: usize, factors: &[f64]) -> Vec<f32> {
    let wavelength = |pair: usize| (theta as f32).powf((2 * pair) as f32 / size as f32);
    factors.iter().enumerate().map(|(pair, factor)| 1.0 / (*factor as f32 * wavelength(pair))).collect()
}

/// Positions times a factor.
fn stretched(positions: usize, factor: f64) -> usize {
    (positions as f64 * factor).clamp(1.0, f64::from(i32::MAX)) as usize
}

/// Llama 3.1's scaling: long wavelengths are stretched by `factor`, short ones kept, those between
/// blended.
fn llama3(frequency: f32, factor: f32, low: f32, high: f32, trained: f32) -> f32 {
    let wavelength = 2.0 * std::f32::consts::PI / frequency;
    if wavelength > trained / low {
        frequency / factor
    } else if wavelength < trained / high {
        frequency
    } else {
        let smooth = (trained / wavelength - low) / (high - low);
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Sequence;
    use serde_json::json;

    fn parse(json: Value) -> Result<Rope> {
        Rope::parse(&json, 64, None, 2048)
    }

    #[test]
    fn scaling_goes_before_parameters_unless_it_is_empty() {
        let parameters = json!({"rope_theta": 10000.0, "rope_type": "default"});
        let linear = json!({"type": "linear", "factor": 4.0});
        let both = parse(json!({"rope_parameters": parameters, "rope_scaling": linear})).unwrap();
        assert_eq!(both.frequencies[0], 0.25);
        assert_eq!(both.positions, 8192);
        for nothing in [json!(null), json!({})] {
            let rope = parse(json!({"rope_parameters": parameters, "rope_scaling": nothing})).unwrap();
            assert_eq!((rope.frequencies[0], rope.positions), (1.0, 2048));
        }
    }

    #[test]
    fn a_base_that_would_get_lost_is_said() {
        let parameters = json!({"rope_theta": 1e6, "rope_type": "default"});
        let linear = json!({"type": "linear", "factor": 4.0});
        let error = parse(json!({"rope_parameters": parameters, "rope_scaling": linear})).unwrap_err();
        assert!(error.hint_text().unwrap().contains("move rope_theta"), "{error}");
        let beside = json!({"rope_theta": 1e6, "rope_parameters": parameters, "rope_scaling": linear});
        let inside = json!({"rope_scaling": {"type": "linear", "factor": 4.0, "rope_theta": 1e6}});
        assert_eq!(parse(beside).unwrap(), parse(inside).unwrap());
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (scaling, named) in [
            (json!({"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}), "32 numbers expected"),
            (json!({"type": "longrope", "long_factor": [2.0]}), "short_factor is missing"),
            (json!({"type": "proportional"}), "proportional"),
            (json!({"type": "yarn"}), "factor is missing"),
            (json!({"type": "linear", "factor": "4"}), "rope_scaling.factor"),
            (json!({"type": "linear", "factor": -1}), "above 0"),
            (json!({"rope_type": null}), "rope_type"),
            (json!({"full_attention": {"rope_type": "default"}}), "full_attention"),
            (json!({"type": "linear", "factor": 2, "partial_rotary_factor": 0.5}), "partial_rotary_factor"),
            (json!({"type": "yarn", "factor": 2, "truncate": 1}), "truncate"),
            (json!("linear"), "an object expected"),
        ] {
            let error = parse(json!({"rope_scaling": scaling})).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    /// Each sequence is rotated as it would be alone, and only sequences beyond the trained length are stretched.
    #[test]
    fn dynamic_frequencies_follow_the_length_of_each_sequence() {
        let json = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}});
        let rope = Rope::parse(&json, 8, None, 10).unwrap();
        let (short, long) = (vec![1; 10], vec![1; 11]);
        let sequences = [&short, &long].map(|tokens| Sequence { tokens, trained: &[] });
        let batch = Batch::pack(sequences, 0);
        let parts = rope.parts(&batch);
        assert_eq!((parts[0].0.clone(), parts[1].0.clone()), (0..10, 10..21));
        assert_eq!(*parts[0].1, *plain(1e4, 8));
        assert_ne!(parts[1].1, parts[0].1);
        assert_eq!(rope.parts(&Batch::prompt(&[1], 10))[0].1, parts[1].1, "behind ten tokens");
        assert!(rope.is_stretched(11) && !rope.is_stretched(10));
        assert_eq!(rope.positions, 20);
    }
}
