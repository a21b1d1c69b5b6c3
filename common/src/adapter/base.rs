//! The model that an adapter belongs to.

use std::path::{Path, PathBuf};

use super::AdapterConfig;
use super::CONFIG;
use crate::{Result, cli, error, hub_cache};

/// The directory of the base model that `adapter_config.json` names: an absolute path, or one relative to
/// the current directory or to the adapter's. A repository is also found where `fetch` puts it, in a
/// directory with its name without the owner, and in the hub's cache.
pub fn find_base(adapter: &Path, config: &AdapterConfig) -> Result<PathBuf> {
    let Some(base) = config.base_model_name_or_path.as_deref().filter(|base| !base.is_empty()) else {
        return Err(error!("{} names no base model", adapter.join(CONFIG).display())
            .hint("name the base with --base DIRECTORY"));
    };
    let mut places = vec![PathBuf::from(base), adapter.join(base)];
    if let Some((_, name)) = base.split_once('/').filter(|_| is_repository(base)) {
        places.push(PathBuf::from(name));
    }
    if let Some(found) = places.into_iter().find(|place| place.join("config.json").is_file()) {
        return Ok(found);
    }
    if let Some(snapshot) = hub_cache::model(Path::new(base)) {
        return Ok(snapshot);
    }
    let error = error!(Missing, "the base model {base} of adapter {} is not here", adapter.display());
    Err(if is_repository(base) {
        error.hint(format!("fetch {} downloads it; --base DIRECTORY names another place", cli::quoted(base)))
    } else {
        error.hint("name the base with --base DIRECTORY")
    })
}

/// Whether a name reads as `ORGANISATION/NAME`.
fn is_repository(name: &str) -> bool {
    let mut parts = name.split('/');
    let plain = |part: Option<&str>| part.is_some_and(|part| !part.is_empty() && !part.starts_with('.'));
    plain(parts.next()) && plain(parts.next()) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_of(adapter: &Path, base: &str) -> Result<PathBuf> {
        find_base(adapter, &AdapterConfig::new(base, 8, 16.0, Vec::new()))
    }

    #[test]
    fn absolute_and_beside_the_adapter() {
        let directory = tempfile::tempdir().unwrap();
        let (adapter, base) = (directory.path().join("adapter"), directory.path().join("base"));
        std::fs::create_dir(&adapter).unwrap();
        std::fs::create_dir(&base).unwrap();
        assert!(
            base_of(&adapter, base.to_str().unwrap()).is_err(),
            "a directory without config.json is no model"
        );
        std::fs::write(base.join("config.json"), "{}").unwrap();
        assert_eq!(base_of(&adapter, base.to_str().unwrap()).unwrap(), base);
        assert_eq!(base_of(&adapter, "../base").unwrap(), adapter.join("../base"));
    }

    #[test]
    fn what_is_missing_can_be_fetched_or_named() {
        let hint = |base| base_of(Path::new("out"), base).unwrap_err().hint_text().unwrap().to_string();
        assert!(hint("Qwen/Qwen2.5-7B-Instruct").starts_with("fetch Qwen/Qwen2.5-7B-Instruct"));
        assert!(hint("/models/qwen").contains("--base"));
        assert!(hint("").contains("--base"));
    }
}
