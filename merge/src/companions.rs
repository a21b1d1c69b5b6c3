//! The files beside the weights of the result: those of the base, and those that an adapter was trained
//! with where they differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::Result;
use common::checkpoint::{Companion, Companions};
use common::text::files::CHAT_TEMPLATE;

/// The files that are copied beside the weights, and the names of those of the base that are not.
///
/// An adapter's chat template replaces all templates of the base, because the model must be prompted as it
/// was trained. From the adapter with a resized vocabulary (`resized`) all text files are copied, because
/// its tokenizer has the added tokens.
pub(crate) fn companions(base: &Path, adapters: &[PathBuf], resized: Option<&Path>) -> Result<Companions> {
    let Companions { files, others } = Companions::of(base)?;
    let mut files: BTreeMap<String, Companion> =
        files.into_iter().map(|file| (file.name.clone(), file)).collect();
    for adapter in adapters {
        let own = Companions::of_text(adapter)?.files;
        if let Some(template) = own.iter().find(|file| file.name == CHAT_TEMPLATE)
            && !is_same(files.get(CHAT_TEMPLATE), template)?
        {
            files.retain(|name, _| !is_template(name));
            let templates = own.iter().filter(|file| is_template(&file.name));
            files.extend(templates.map(|file| (file.name.clone(), file.clone())));
        }
        if resized == Some(adapter) {
            files.extend(own.into_iter().map(|file| (file.name.clone(), file)));
        }
    }
    Ok(Companions { files: files.into_values().collect(), others })
}

fn is_template(name: &str) -> bool {
    name.ends_with(".jinja")
}

fn is_same(one: Option<&Companion>, other: &Companion) -> Result<bool> {
    Ok(match one {
        Some(one) => one.read()? == other.read()?,
        None => false,
    })
}
