//! Which files of a repository are wanted: `--include`, `--exclude`, and the default.

use common::{Error, Result, error};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Weights in formats that none of the tools read; left out where safetensors are there too.
const OTHER_FORMATS: [&str; 12] = [
    "*.bin",
    "*.pt",
    "*.pth",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
    "*.tflite",
    "*.gguf",
    "*.mlmodel",
    "consolidated*.safetensors",
];

/// The compiled globs of `--include` and `--exclude`, or the default.
#[derive(Debug)]
pub(crate) struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
    other_formats: GlobSet,
    /// The globs as written, for the record of a download.
    pub written: Written,
}

/// The globs as the user wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Written {
    /// `--include`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// `--exclude`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

impl Selection {
    /// Compiles the globs, in which `*` also matches `/`, as in the hub's own tool.
    pub(crate) fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(Self {
            include: if include.is_empty() { None } else { Some(compile("--include", include)?) },
            exclude: compile("--exclude", exclude)?,
            other_formats: compile("", &OTHER_FORMATS)?,
            written: Written { include: include.to_vec(), exclude: exclude.to_vec() },
        })
    }

    /// Whether each of `names` is wanted, in their order; an error where none is.
    pub(crate) fn choose(&self, names: &[&str], duplicates_matter: bool) -> Result<Vec<bool>> {
        let has_safetensors =
            names.iter().any(|name| name.ends_with(".safetensors") && !self.other_formats.is_match(name));
        let wanted: Vec<bool> = names
            .iter()
            .map(|name| {
                let included = match &self.include {
                    Some(include) => include.is_match(name),
                    None => !(duplicates_matter && has_safetensors && self.other_formats.is_match(name)),
                };
                included && !self.exclude.is_match(name)
            })
            .collect();
        if !names.is_empty() && !wanted.contains(&true) {
            return Err(error!("none of the {} files is wanted", names.len())
                .hint("--dry-run --include '*' lists them all"));
        }
        Ok(wanted)
    }
}

fn compile(flag: &str, globs: &[impl AsRef<str>]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        let glob = GlobBuilder::new(glob.as_ref())
            .literal_separator(false)
            .build()
            .map_err(|error| Error::usage(format!("{flag}: {error}")))?;
        set.add(glob);
    }
    set.build().map_err(|error| Error::usage(format!("{flag}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 6] = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "consolidated.safetensors",
        "original/tokenizer.model",
    ];

    fn chosen(include: &[&str], exclude: &[&str]) -> Vec<&'static str> {
        let owned = |globs: &[&str]| globs.iter().map(ToString::to_string).collect::<Vec<_>>();
        let selection = Selection::new(&owned(include), &owned(exclude)).unwrap();
        let wanted = selection.choose(&NAMES, true).unwrap();
        NAMES.into_iter().zip(wanted).filter_map(|(name, wanted)| wanted.then_some(name)).collect()
    }

    #[test]
    fn by_default_weights_come_in_one_format() {
        assert_eq!(chosen(&[], &[]), ["config.json", "model.safetensors", "original/tokenizer.model"]);
    }

    #[test]
    fn the_user_decides() {
        assert_eq!(chosen(&["*.bin", "onnx/*"], &[]), ["pytorch_model.bin", "onnx/model.onnx"]);
        assert_eq!(
            chosen(&["*"], &["*.safetensors", "onnx/*"]),
            ["config.json", "pytorch_model.bin", "original/tokenizer.model"]
        );
        assert_eq!(chosen(&[], &["original/*"]), ["config.json", "model.safetensors"]);
    }

    #[test]
    fn without_safetensors_other_formats_are_wanted() {
        let selection = Selection::new(&[], &[]).unwrap();
        assert_eq!(selection.choose(&["pytorch_model.bin"], true).unwrap(), [true]);
    }

    #[test]
    fn nothing_left_and_broken_globs_are_errors() {
        let selection = Selection::new(&["*.nothing".to_string()], &[]).unwrap();
        assert!(selection.choose(&NAMES, true).is_err());
        assert!(Selection::new(&["[".to_string()], &[]).is_err());
    }
}
