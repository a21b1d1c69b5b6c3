//! Adapters of the experts of a mixture, which transformers keeps as parameters of three dimensions, and PEFT's
//! layout of them (`ParamWrapper` in `peft/tuners/lora/layer.py`): A is [E·R, K] with the expert as the slow part of
//! a row, and B is [N, R·E] with the expert as the fast part of a column.

use super::lora::Update;
use super::{AdapterConfig, CONFIG};
use crate::checkpoint::Tensor;
use crate::{Result, bail};

/// The parameters of experts that can have an adapter, the inner one of PEFT's two wrappers first.
const PARAMETERS: [&str; 2] = ["gate_up_proj", "down_proj"];
/// The module of experts in transformers.
const EXPERTS: &str = ".experts";
/// What PEFT adds to the path of the inner of two wrappers.
const INNER: &str = ".base_layer";

/// The low-rank updates of one parameter of all experts of a layer: `W[e] + scale · B[e] · A[e]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ExpertsLora {
    /// The matrices A, `[experts, rank, inputs]`.
    pub a: Vec<f32>,
    /// The matrices B, `[experts, outputs, rank]`.
    pub b: Vec<f32>,
    /// The number of experts.
    pub experts: usize,
    /// The number of rows of each A.
    pub rank: usize,
    /// The number of columns of each weight.
    pub inputs: usize,
    /// The number of rows of each weight.
    pub outputs: usize,
    /// The factor of `B · A`.
    pub scale: f32,
}

impl ExpertsLora {
    /// Reads PEFT's two tensors of the parameter `name`, as `model.layers.0.mlp.experts.down_proj`.
    pub(super) fn read(config: &AdapterConfig, name: &str, a: &Tensor, b: &Tensor) -> Result<Self> {
        let rank = config.rank(name);
        let (&[rows, inputs], &[outputs, columns]) = (&a.shape[..], &b.shape[..]) else {
            bail!(Malformed, "the adapter of {name} has shapes {:?} and {:?}", a.shape, b.shape);
        };
        if rows != columns || rows == 0 || !rows.is_multiple_of(rank) {
            bail!(
                Malformed,
                "the adapter of {name} has lora_A {:?} and lora_B {:?}, which do not fit rank {rank} of {CONFIG}",
                a.shape,
                b.shape
            );
        }
        let experts = rows / rank;
        let peft = b.to_f32()?;
        let mut b = vec![0.0; peft.len()];
        for (row, values) in peft.chunks(columns).enumerate() {
            for (column, value) in values.iter().enumerate() {
                let (component, expert) = (column / experts, column % experts);
                b[(expert * outputs + row) * rank + component] = *value;
            }
        }
        let scale = config.scale(name, rank)?;
        Ok(Self { a: a.to_f32()?, b, experts, rank, inputs, outputs, scale })
    }

    /// PEFT's two tensors under the path of its wrapper.
    pub(super) fn tensors(&self, path: &str) -> [Tensor; 2] {
        let Self { a, b, experts, rank, inputs, outputs, .. } = self;
        let columns = rank * experts;
        let mut peft = vec![0.0; b.len()];
        for (place, value) in b.iter().enumerate() {
            let (expert, row, component) = (place / rank / outputs, place / rank % outputs, place % rank);
            peft[row * columns + component * experts + expert] = *value;
        }
        [
            Tensor::from_f32(format!("{path}.lora_A.weight"), vec![columns, *inputs], a),
            Tensor::from_f32(format!("{path}.lora_B.weight"), vec![*outputs, columns], &peft),
        ]
    }

    /// The update of the matrix of one expert that is called `name`, as `gate_proj`: all rows of the parameter, or the
    /// half of gate_up that is gate or up.
    fn of_expert(&self, expert: usize, rows: std::ops::Range<usize>) -> Option<Update<'_>> {
        let Self { rank, inputs, outputs, .. } = self;
        let a = self.a.get(expert * rank * inputs..(expert + 1) * rank * inputs)?;
        let first = expert * outputs;
        let b = self.b.get((first + rows.start) * rank..(first + rows.end) * rank)?;
        Some(Update { a, b, rank: *rank, inputs: *inputs, outputs: rows.len(), scale: self.scale })
    }
}

/// The names of the parameters that an adapter's wrappers belong to: `path` is a module of the adapter's file, and
/// `has_inner` says whether the file has the inner wrapper of the same module.
pub(super) fn parameter_of(config: &AdapterConfig, path: &str, has_inner: bool) -> Result<Option<String>> {
    if let Some(module) = path.strip_suffix(INNER).filter(|module| module.ends_with(EXPERTS)) {
        return Ok(Some(format!("{module}.{}", PARAMETERS[0])));
    }
    if !path.ends_with(EXPERTS) {
        return Ok(None);
    }
    if has_inner {
        return Ok(Some(format!("{path}.{}", PARAMETERS[1])));
    }
    let targets = config.target_parameters.iter().flatten();
    let mut named = targets.filter_map(|target| {
        PARAMETERS.iter().find(|parameter| target.rsplit('.').next() == Some(**parameter))
    });
    match (named.next(), named.next()) {
        (Some(parameter), None) => Ok(Some(format!("{path}.{parameter}"))),
        _ => {
            bail!(Malformed, "{CONFIG}: target_parameters does not say which parameter of {path} is adapted")
        }
    }
}

/// The paths of PEFT's wrappers of parameters, in the order of `names`.
pub(super) fn wrapper_of(name: &str, names: &dyn Fn(&str) -> bool) -> String {
    let (module, parameter) = name.rsplit_once('.').unwrap_or((name, ""));
    match parameter == PARAMETERS[0] && names(&format!("{module}.{}", PARAMETERS[1])) {
        true => format!("{module}{INNER}"),
        false => module.to_owned(),
    }
}

/// A matrix of an expert by its path, as `model.layers.0.mlp.experts.3.gate_proj`, or as Mixtral's checkpoints name
/// it.
struct Matrix {
    /// The parameter that it is a part of.
    parameter: String,
    expert: usize,
    /// Which half of gate_up it is.
    half: Option<usize>,
}

impl Matrix {
    fn of(path: &str) -> Option<Self> {
        let (path, name) = path.rsplit_once('.')?;
        let (module, expert) = path.rsplit_once('.')?;
        let module = module.strip_suffix(EXPERTS)?;
        let module =
            module.strip_suffix(".block_sparse_moe").map_or(module.into(), |layer| format!("{layer}.mlp"));
        let (parameter, half) = match name {
            "gate_proj" | "w1" => (PARAMETERS[0], Some(0)),
            "up_proj" | "w3" => (PARAMETERS[0], Some(1)),
            "down_proj" | "w2" => (PARAMETERS[1], None),
            _ => return None,
        };
        Some(Self { parameter: format!("{module}{EXPERTS}.{parameter}"), expert: expert.parse().ok()?, half })
    }
}

/// The parameter that a matrix of an expert is a part of, and how many matrices it has.
pub(super) fn parameter_of_matrix(path: &str) -> Option<(String, usize)> {
    let matrix = Matrix::of(path)?;
    Some((matrix.parameter, if matrix.half.is_some() { 2 } else { 1 }))
}

/// The update of a matrix of an expert by its path. Fails where the adapter has fewer experts.
pub(super) fn update<'a>(
    of: impl Fn(&str) -> Option<&'a ExpertsLora>,
    path: &str,
) -> Result<Option<Update<'a>>> {
    let Some(Matrix { parameter, expert, half }) = Matrix::of(path) else { return Ok(None) };
    let Some(lora) = of(&parameter) else { return Ok(None) };
    let size = lora.outputs / 2;
    let rows = half.map_or(0..lora.outputs, |half| half * size..(half + 1) * size);
    match lora.of_expert(expert, rows) {
        Some(update) => Ok(Some(update)),
        None => bail!(Mismatch, "the adapter of {parameter} has {} experts, the base more", lora.experts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_read_as_they_are_written() {
        let config = AdapterConfig::new("base", 2, 4.0, Vec::new());
        let lora = ExpertsLora {
            a: (0..3 * 2 * 5).map(|i| i as f32).collect(),
            b: (0..3 * 4 * 2).map(|i| i as f32 * 0.5).collect(),
            experts: 3,
            rank: 2,
            inputs: 5,
            outputs: 4,
            scale: 2.0,
        };
        let [a, b] = lora.tensors("model.layers.0.mlp.experts");
        assert_eq!((&a.shape[..], &b.shape[..]), (&[6, 5][..], &[4, 6][..]));
        // Row 1 of B: the first component of all experts, then the second.
        assert_eq!(b.to_f32().unwrap()[6..12], [1.0, 5.0, 9.0, 1.5, 5.5, 9.5]);
        assert_eq!(ExpertsLora::read(&config, "x.down_proj", &a, &b).unwrap(), lora);
        for path in ["model.layers.0.mlp.experts.2.up_proj", "model.layers.0.block_sparse_moe.experts.2.w3"] {
            let of = |name: &str| (name == "model.layers.0.mlp.experts.gate_up_proj").then_some(&lora);
            let up = update(of, path).unwrap().unwrap();
            assert_eq!((up.outputs, up.a, up.b), (2, &lora.a[20..30], &lora.b[20..24]));
        }
        assert!(update(|_| Some(&lora), "model.layers.0.mlp.experts.3.up_proj").is_err());
        assert!(update(|_| Some(&lora), "model.layers.0.mlp.up_proj").unwrap().is_none());
    }

    #[test]
    fn wrappers_are_nested_where_both_parameters_have_adapters() {
        let both = |_: &str| true;
        assert_eq!(wrapper_of("l.experts.gate_up_proj", &both), "l.experts.base_layer");
        assert_eq!(wrapper_of("l.experts.down_proj", &both), "l.experts");
        assert_eq!(wrapper_of("l.experts.gate_up_proj", &|_| false), "l.experts");
        let mut config = AdapterConfig::new("base", 2, 4.0, Vec::new());
        let name = |config: &_, path, has_inner| parameter_of(config, path, has_inner).unwrap();
        assert_eq!(name(&config, "l.experts", true).unwrap(), "l.experts.down_proj");
        assert_eq!(name(&config, "l.experts.base_layer", true).unwrap(), "l.experts.gate_up_proj");
        assert_eq!(name(&config, "l.q_proj", false), None);
        assert!(parameter_of(&config, "l.experts", false).is_err());
        config.target_parameters = Some(vec!["mlp.experts.gate_up_proj".into()]);
        assert_eq!(name(&config, "l.experts", false).unwrap(), "l.experts.gate_up_proj");
    }
}
