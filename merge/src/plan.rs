//! Plans the result: each tensor, what it is made from, and the file that it goes to.

use std::collections::BTreeSet;

use common::adapter::{Adapter, TokenRows, Update};
use common::checkpoint::{Dtype, SINGLE, Tensor, TensorSpec, sharded_name};
use common::kernels::linear::Weight;
use common::nf4::Quantized;
use common::weight_names::{EMBEDDING, HEAD};
use common::{Result, bail};

use crate::base::{Base, is_float};

/// A tensor of the result.
pub(crate) struct OutputTensor<'a> {
    /// The name, dtype and shape of the tensor when it is dense.
    pub spec: TensorSpec,
    /// The weight before any update: that of the base, or an adapter's replacement of it.
    pub weight: Weight,
    /// The updates that are added, each with its factor.
    pub updates: Vec<(Update<'a>, f32)>,
    /// Single rows that an adapter replaces.
    pub rows: Option<&'a TokenRows>,
    /// Whether the tensor is quantized again, as it was in the base.
    pub requantize: bool,
}

/// A weight file of the result.
pub(crate) struct Shard<'a> {
    /// The name of the file.
    pub name: String,
    /// The tensors of the result in the file.
    pub tensors: Vec<OutputTensor<'a>>,
    /// The specifications of all tensors that are written; a quantized one is written as several.
    pub specs: Vec<TensorSpec>,
}

/// The weights of the result.
pub(crate) struct MergePlan<'a> {
    /// The weight files, in order.
    pub files: Vec<Shard<'a>>,
    /// Whether the result has a head of its own although config.json of the base ties it to the embedding
    /// table.
    pub untied: bool,
    /// The number of rows of the embedding table, where it differs from the base's.
    pub vocabulary: Option<usize>,
    /// The index of the adapter that brings an embedding table with another number of rows.
    pub resized_by: Option<usize>,
}

impl<'a> MergePlan<'a> {
    /// Plans every tensor of the base. Fails where an adapter changes a tensor that the base does not have.
    pub(crate) fn new(
        base: &Base,
        adapters: &'a [Adapter],
        weights: &[f32],
        shard_size: u64,
        requantize: bool,
    ) -> Result<Self> {
        let mut unused: BTreeSet<String> = adapters
            .iter()
            .flat_map(|adapter| {
                let modules = adapter.modules.keys().map(|module| format!("{module}.weight"));
                modules.chain(adapter.replacements.keys().chain(adapter.tokens.keys()).cloned())
            })
            .collect();
        let changes = |name: &str| unused.contains(name);
        // A head that is trained, or whose table is, cannot share the table any longer unless both become
        // the same. As transformers does, a table that is stored once is read as both, under either name.
        let stored = [base.contains(EMBEDDING), base.contains(HEAD)];
        let has_own_head = stored == [true, true] && base.has_own_head()?;
        let is_changed = changes(HEAD) || changes(EMBEDDING);
        let stays_tied = base.says_tied() && !has_own_head && is_changed && stays_tied(adapters);
        let untied = base.says_tied() && (has_own_head || is_changed && !stays_tied);
        let mut tensors = Vec::new();
        let mut names: Vec<(String, String)> = base.names().map(|name| (name.into(), name.into())).collect();
        match stored {
            [true, false] if untied => names.push((HEAD.into(), EMBEDDING.into())),
            [false, true] if untied => names.push((EMBEDDING.into(), HEAD.into())),
            _ if stays_tied => {
                // One table, whose changes adapters name as the embedding's.
                let shared = names.iter_mut().find(|(name, _)| name == HEAD);
                if let Some((name, _)) = shared.filter(|_| stored == [false, true]) {
                    *name = EMBEDDING.into();
                }
                names.retain(|(name, _)| name != HEAD);
                unused.remove(HEAD);
            }
            _ => {}
        }
        for (name, source) in names {
            unused.remove(&name);
            tensors.push(tensor(base, adapters, weights, name, &source, requantize)?);
        }
        let modules = || base.names().filter_map(|name| name.strip_suffix(".weight"));
        let missing = adapters.iter().find_map(|adapter| adapter.missing_experts(modules()));
        if let Some(name) = unused.first().map(String::as_str).or(missing) {
            bail!(Mismatch, "the adapter changes {name}, which {} does not have", base.directory.display());
        }
        let rows = |name: &str| {
            tensors.iter().find(|tensor| tensor.spec.name == name).map(|tensor| tensor.spec.shape[0])
        };
        if let (Some(table), Some(head)) = (rows(EMBEDDING), rows(HEAD))
            && table != head
        {
            bail!(
                Mismatch,
                "{EMBEDDING} would have {table} rows and {HEAD} {head}: the adapter brings one of them only"
            );
        }
        let shape = base.shape(EMBEDDING).or(base.shape(HEAD));
        let resized_by = adapters.iter().position(|adapter| {
            let brought = adapter.replacements.get(EMBEDDING).map(|tensor| &tensor.shape);
            brought.is_some_and(|brought| Some(brought) != shape.as_ref())
        });
        let vocabulary = resized_by.and_then(|_| rows(EMBEDDING));
        for tensor in &mut tensors {
            tensor.spec.name = base.name_in_result(&tensor.spec.name);
        }
        Ok(Self { files: cut(tensors, shard_size)?, untied, vocabulary, resized_by })
    }

    /// The bytes of all tensors together.
    pub(crate) fn size(&self) -> Result<u64> {
        let specs = self.files.iter().flat_map(|file| &file.specs);
        specs.map(|spec| Ok(spec.size()? as u64)).sum()
    }

    /// All tensors.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &OutputTensor<'a>> {
        self.files.iter().flat_map(|file| &file.tensors)
    }
}

/// Whether a head that is tied to the embedding table can stay tied, because all adapters change both in
/// the same way. PEFT keeps single trained rows shared, and saves a resized table twice.
fn stays_tied(adapters: &[Adapter]) -> bool {
    adapters.iter().all(|adapter| {
        let folded =
            ["model.embed_tokens", "lm_head"].iter().any(|module| adapter.modules.contains_key(*module));
        let (table, head) = (adapter.replacements.get(EMBEDDING), adapter.replacements.get(HEAD));
        let same = match (table, head) {
            (None, None) => true,
            (Some(table), Some(head)) => {
                table.shape == head.shape && table.dtype == head.dtype && *table.bytes == *head.bytes
            }
            _ => false,
        };
        let same_rows = match (adapter.tokens.get(EMBEDDING), adapter.tokens.get(HEAD)) {
            (Some(table), Some(head)) => table.is_same(head),
            (table, head) => head.is_none() || table.is_some(),
        };
        !folded && same && same_rows
    })
}

fn tensor<'a>(
    base: &Base,
    adapters: &'a [Adapter],
    weights: &[f32],
    name: String,
    source: &str,
    requantize: bool,
) -> Result<OutputTensor<'a>> {
    let (spec, mut weight) = base.weight(source)?;
    let mut spec = TensorSpec { name: name.clone(), ..spec };
    let mut replaced = false;
    for adapter in adapters {
        if let Some(replacement) = adapter.replacements.get(&name) {
            if std::mem::replace(&mut replaced, true) {
                bail!(Mismatch, "more than one adapter brings a {name} of its own");
            }
            let resizes = [EMBEDDING, HEAD].contains(&name.as_str())
                && replacement.shape.len() == 2
                && replacement.shape[1..] == spec.shape[1..];
            if replacement.shape != spec.shape && !resizes {
                bail!(Mismatch, "the adapter has {name} {:?}, the base {:?}", replacement.shape, spec.shape);
            }
            if replacement.dtype != spec.dtype && !(is_float(replacement.dtype) && is_float(spec.dtype)) {
                bail!(
                    Mismatch,
                    "the adapter has {name} as {}, the base as {}",
                    replacement.dtype,
                    spec.dtype
                );
            }
            spec.shape.clone_from(&replacement.shape);
            weight = Weight::Dense(replacement.clone());
        }
    }
    let mut rows = None;
    for adapter in adapters {
        let Some(tokens) = adapter.tokens.get(&name) else { continue };
        if rows.replace(tokens).is_some() {
            bail!(Mismatch, "more than one adapter brings rows of {name}");
        }
        let outside = tokens.indices.iter().find(|&&index| index >= spec.shape[0]);
        if let Some(index) = outside {
            bail!(Mismatch, "the adapter has a row {index} of {name} {:?}", spec.shape);
        }
        if tokens.values.shape[1..] != spec.shape[1..] || !is_float(spec.dtype) {
            let found = &tokens.values.shape;
            bail!(
                Mismatch,
                "the adapter has rows {found:?} of {name}, which is {} {:?}",
                spec.dtype,
                spec.shape
            );
        }
    }
    let module = name.strip_suffix(".weight").unwrap_or(&name);
    let mut updates = Vec::new();
    for (adapter, &counts) in adapters.iter().zip(weights) {
        let Some(lora) = adapter.update(module)? else { continue };
        if spec.shape != [lora.outputs, lora.inputs] || !is_float(spec.dtype) {
            bail!(
                Mismatch,
                "the adapter of {module} is for a weight [{}, {}], the base has {} {:?}",
                lora.outputs,
                lora.inputs,
                spec.dtype,
                spec.shape
            );
        }
        updates.push((lora, counts));
    }
    let requantize = requantize && matches!(weight, Weight::Quantized(_));
    Ok(OutputTensor { spec, weight, rows, updates, requantize })
}

impl OutputTensor<'_> {
    /// The specifications of the tensors that are written for this one.
    pub(crate) fn output_specs(&self) -> Result<Vec<TensorSpec>> {
        match &self.weight {
            Weight::Quantized(quantized) if self.requantize => {
                Quantized::specs(&self.spec, quantized.scheme())
            }
            _ => Ok(vec![self.spec.clone()]),
        }
    }

    /// The tensor whose bytes are copied, where nothing changes; else `None`.
    pub(crate) fn unchanged(&self) -> Option<&Tensor> {
        match &self.weight {
            Weight::Dense(tensor)
                if self.updates.is_empty() && self.rows.is_none() && tensor.dtype == self.spec.dtype =>
            {
                Some(tensor)
            }
            _ => None,
        }
    }

    /// The number of rows and of columns; a vector has one row.
    pub(crate) fn rows_and_columns(&self) -> (usize, usize) {
        match self.spec.shape[..] {
            [rows, columns] => (rows, columns),
            _ => (1, self.spec.shape.iter().product()),
        }
    }

    /// The bytes of a row, whose dtype must be BF16, F16 or F32.
    pub(crate) fn row_size(&self) -> usize {
        self.rows_and_columns().1 * if self.spec.dtype == Dtype::F32 { 4 } else { 2 }
    }
}

/// Distributes tensors to files of at most `shard_size` bytes each. A larger tensor has a file of its own.
fn cut(tensors: Vec<OutputTensor<'_>>, shard_size: u64) -> Result<Vec<Shard<'_>>> {
    let mut files: Vec<Shard> = Vec::new();
    let mut filled = 0;
    for tensor in tensors {
        let specs = tensor.output_specs()?;
        let size = specs.iter().map(|spec| Ok(spec.size()? as u64)).sum::<Result<u64>>()?;
        match files.last_mut() {
            Some(file) if filled + size <= shard_size => {
                filled += size;
                file.tensors.push(tensor);
                file.specs.extend(specs);
            }
            _ => {
                filled = size;
                files.push(Shard { name: SINGLE.into(), tensors: vec![tensor], specs });
            }
        }
    }
    let count = files.len();
    if count > 1 {
        for (number, file) in files.iter_mut().enumerate() {
            file.name = sharded_name(number + 1, count);
        }
    }
    Ok(files)
}
