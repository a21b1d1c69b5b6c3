//! The settings of a rotary embedding in config.json, as transformers 5 reads them.

use std::borrow::Cow;
use std::f64::consts::PI;

use serde_json::{Map, Value};

use crate::{Result, bail, error};

/// The base of the angles where config.json has none.
const DEFAULT_THETA: f64 = 10_000.0;

/// The settings of a rotary embedding, and the key of config.json that they were found under.
pub(super) struct Settings<'a> {
    pub(super) key: &'static str,
    values: Cow<'a, Map<String, Value>>,
}

impl<'a> Settings<'a> {
    /// The settings that hold: those of `rope_scaling` unless it is empty, else of `rope_parameters`.
    pub(super) fn find(json: &'a Value) -> Result<Self> {
        for key in ["rope_scaling", "rope_parameters"] {
            match json.get(key) {
                None | Some(Value::Null) => {}
                Some(Value::Object(values)) if values.is_empty() => {}
                Some(Value::Object(values)) => {
                    if let Some((layers, _)) = values.iter().find(|(_, value)| value.is_object()) {
                        bail!(Unsupported, "{key}: angles of their own for the layers of {layers:?}");
                    }
                    return Ok(Self { key, values: Cow::Borrowed(values) });
                }
                Some(found) => bail!(Malformed, "{key}: an object expected, found {found}"),
            }
        }
        Ok(Self { key: "rope_parameters", values: Cow::Owned(Map::new()) })
    }

    /// The settings of the layers of one type: those in its object of `rope_parameters`, or as older files have
    /// them, `rope_scaling` and `rope_theta` for full attention and `rope_local_base_freq` for sliding windows.
    pub(super) fn find_of_layers(json: &'a Value, layers: &'static str, default_theta: f64) -> Result<Self> {
        let of_layers = json.get("rope_parameters").and_then(|parameters| parameters.get(layers));
        let is_full = layers == "full_attention";
        let mut values = match of_layers {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(values)) => values.clone(),
            Some(found) => bail!(Malformed, "rope_parameters.{layers}: an object expected, found {found}"),
        };
        if is_full && let Some(Value::Object(scaling)) = json.get("rope_scaling") {
            values.extend(scaling.clone());
        }
        let beside = if is_full { "rope_theta" } else { "rope_local_base_freq" };
        let theta = json.get(beside).filter(|theta| !theta.is_null()).cloned();
        values.entry("rope_theta").or_insert_with(|| theta.unwrap_or_else(|| default_theta.into()));
        Ok(Self { key: layers, values: Cow::Owned(values) })
    }

    /// R of heads of `size` elements, an even number.
    pub(super) fn rotated(&self, json: &Value, size: usize, share: f64) -> Result<usize> {
        let share = match self.number("partial_rotary_factor")? {
            None => json.get("partial_rotary_factor").and_then(Value::as_f64).unwrap_or(share),
            Some(share) => share,
        };
        let rotated = (size as f64 * share) as usize;
        match rotated >= 2 && rotated <= size && rotated.is_multiple_of(2) {
            true => Ok(rotated),
            false => bail!(
                Malformed,
                "partial_rotary_factor: {share} of heads of {size} is not an even number of elements"
            ),
        }
    }

    /// A list of `count` numbers above 0.
    pub(super) fn factors(&self, name: &str, count: usize) -> Result<Vec<f64>> {
        let Some(Value::Array(factors)) = self.values.get(name) else {
            bail!(Malformed, "{}: {name} is missing", self.key);
        };
        if factors.len() != count {
            bail!(Malformed, "{}.{name}: {count} numbers expected, found {}", self.key, factors.len());
        }
        let factor = |factor: &Value| match factor.as_f64() {
            Some(factor) => self.expect_positive(name, factor),
            None => bail!(Malformed, "{}.{name}: numbers expected, found {factor}", self.key),
        };
        factors.iter().map(factor).collect()
    }

    /// The base of the angles: that of the settings, or the one beside them.
    pub(super) fn theta(&self, json: &Value) -> Result<f64> {
        if let Some(theta) = self.number("rope_theta")? {
            return self.expect_positive("rope_theta", theta);
        }
        let beside = |value: Option<&Value>| value.filter(|value| !value.is_null()).map(Value::as_f64);
        if let Some(theta) = beside(json.get("rope_theta")) {
            let theta = theta.filter(|theta| theta.is_finite() && *theta > 0.0);
            return theta.ok_or_else(|| {
                error!(Malformed, "rope_theta: a number above 0 expected, found {}", json["rope_theta"])
            });
        }
        // transformers then takes its default, which is hardly what anybody means.
        match beside(json.get("rope_parameters").and_then(|other| other.get("rope_theta"))) {
            Some(Some(theta)) if theta != DEFAULT_THETA => {
                Err(error!("rope_scaling has no rope_theta, and the one of rope_parameters, {theta}, does not hold for it")
                    .hint("in config.json, move rope_theta from rope_parameters into rope_scaling"))
            }
            _ => Ok(DEFAULT_THETA),
        }
    }

    /// The kind of scaling, also by its older name.
    pub(super) fn kind(&self) -> Result<&str> {
        match self.values.get("rope_type").or_else(|| self.values.get("type")) {
            None => Ok("default"),
            Some(Value::String(kind)) => Ok(kind),
            Some(found) => bail!(Malformed, "{}.rope_type: a name expected, found {found}", self.key),
        }
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<f64>> {
        match self.values.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => bail!(Malformed, "{}.{name}: a number expected, found {value}", self.key),
            },
        }
    }

    pub(super) fn expect_positive(&self, name: &str, number: f64) -> Result<f64> {
        match number > 0.0 {
            true => Ok(number),
            false => bail!(Malformed, "{}.{name}: a number above 0 expected, found {number}", self.key),
        }
    }

    pub(super) fn positive(&self, name: &str) -> Result<f64> {
        match self.number(name)? {
            Some(number) => self.expect_positive(name, number),
            None => bail!(Malformed, "{}: {name} is missing", self.key),
        }
    }

    /// Positions that the model was trained for before it was scaled. One beside the settings wins.
    pub(super) fn trained(&self, json: &Value, max_positions: usize) -> Result<f64> {
        const KEY: &str = "original_max_position_embeddings";
        let beside = json.get(KEY).filter(|value| !value.is_null());
        let number = match beside {
            Some(value) => value.as_f64(),
            None => return self.expect_positive(KEY, self.number(KEY)?.unwrap_or(max_positions as f64)),
        };
        let number = number.filter(|number| number.is_finite() && *number > 0.0);
        number.ok_or_else(|| error!(Malformed, "{KEY}: a number above 0 expected, found {}", json[KEY]))
    }

    /// YaRN's factor; one that is there and null is `implied` by the positions.
    pub(super) fn yarn_factor(&self, implied: f64) -> Result<f64> {
        match self.values.get("factor") {
            Some(Value::Null) => Ok(implied),
            _ => self.positive("factor"),
        }
    }

    /// What YaRN multiplies cosines and sines with (Peng et al. 2023, eq. 22).
    pub(super) fn attention_factor(&self, factor: f64) -> Result<f32> {
        if let Some(given) = self.number("attention_factor")? {
            return self.expect_positive("attention_factor", given).map(|given| given as f32);
        }
        let scale = |weight: f64| if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 };
        let weights = [self.number("mscale")?, self.number("mscale_all_dim")?];
        Ok(match weights {
            [Some(mscale), Some(all)] if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
            _ => scale(1.0),
        } as f32)
    }

    /// YaRN's frequencies [size/2]: pairs that turn often within the trained positions are kept, those
    /// that turn seldom are stretched by `factor`, those between are blended.
    pub(super) fn yarn(&self, size: usize, theta: f64, factor: f64, trained: f64) -> Result<Vec<f32>> {
        if theta <= 1.0 {
            bail!(Malformed, "{}: YaRN needs a rope_theta above 1, found {theta}", self.key);
        }
        let turns = |name: &str, default: f64| -> Result<f64> {
            let given = self.number(name)?.filter(|given| *given != 0.0);
            self.expect_positive(name, given.unwrap_or(default))
        };
        let (often, seldom) = (turns("beta_fast", 32.0)?, turns("beta_slow", 1.0)?);
        // The element that turns so often.
        let element = |turns: f64| size as f64 * (trained / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (mut low, mut high) = (element(often), element(seldom));
        let truncate = match self.values.get("truncate") {
            None | Some(Value::Bool(true)) => true,
            Some(Value::Bool(false) | Value::Null) => false,
            Some(found) => bail!(Malformed, "{}.truncate: true or false expected, found {found}", self.key),
        };
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(size as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let blend = |pair: usize| {
            let wavelength = (theta as f32).powf((2 * pair) as f32 / size as f32);
            let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let kept = 1.0 - ramp;
            1.0 / (factor as f32 * wavelength) * (1.0 - kept) + 1.0 / wavelength * kept
        };
        Ok((0..size / 2).map(blend).collect())
    }

    /// Scaled angles of a part of each head are another model's.
    pub(super) fn expect_whole_heads(&self, json: &Value) -> Result<()> {
        let share = match self.number("partial_rotary_factor")? {
            None => json.get("partial_rotary_factor").and_then(Value::as_f64),
            share => share,
        };
        match share {
            None | Some(1.0) => Ok(()),
            Some(share) => bail!(Unsupported, "partial_rotary_factor: 1 expected, found {share}"),
        }
    }
}
