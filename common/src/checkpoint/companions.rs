//! The files beside the weights that belong to a model: tokenizer, chat template, generation
//! settings, licence.

use std::path::{Path, PathBuf};

use super::{ADAPTER, INDEX};
use crate::{Context, Error, Result, cli};

/// Written anew by whoever writes a model, or about the directory rather than the model.
const OWN: [&str; 6] = ["config.json", INDEX, ADAPTER, "adapter_config.json", "fetch.json", "made-by.json"];

/// Extensions of tokenizers, templates and settings; `model` is SentencePiece's.
const EXTENSIONS: [&str; 5] = ["json", "jinja", "model", "tiktoken", "txt"];

/// The files of `directory` that a model made from it takes along, sorted by name. `config.json` and
/// the index are not among them, because they change with the weights.
pub fn companions(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let licence =
            ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"].iter().any(|start| name.starts_with(start));
        let known =
            path.extension().is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known));
        let index_of_others = name.ends_with(".index.json");
        if (known || licence) && !OWN.contains(&name) && !index_of_others && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a file's content, following links, so that the copy stands on its own.
pub fn copy_companion(from: &Path, directory: &Path) -> Result<()> {
    let Some(name) = from.file_name() else { return Ok(()) };
    let to = directory.join(name);
    let (mut source, mut copy) = (crate::files::open(from)?, cli::temporary(&to, "")?);
    std::io::copy(&mut source, &mut copy).with_context(|| format!("cannot copy to {}", to.display()))?;
    copy.persist(&to).map(drop).map_err(|failed| Error::from(failed.error).context(to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_model_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let keep = ["LICENSE", "chat_template.jinja", "merges.txt", "tokenizer.json", "tokenizer.model"];
        let leave =
            ["README.md", "config.json", "model.safetensors", "model.safetensors.index.json", "fetch.json"];
        for name in keep.iter().chain(&leave) {
            std::fs::write(directory.path().join(name), name).unwrap();
        }
        std::fs::create_dir(directory.path().join("folder.json")).unwrap();
        let found = companions(directory.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, keep);
        let target = tempfile::tempdir().unwrap();
        copy_companion(&found[0], target.path()).unwrap();
        assert_eq!(std::fs::read(target.path().join("LICENSE")).unwrap(), b"LICENSE");
    }
}
