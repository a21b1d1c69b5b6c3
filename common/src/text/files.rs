//! The files that decide how text is encoded and how answers are generated: those of a model, or those of
//! an adapter and of its base.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::checkpoint::Companions;
use crate::{Result, files};

/// The name of the file with the tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";
/// The name of the file with the settings of the tokenizer, and with the chat template of older models.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// The name of the file with the chat template.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// The name of the file with the settings of sampling and the tokens that end an answer.
pub const GENERATION_CONFIG: &str = "generation_config.json";

/// The text files of a model, or of an adapter and its base. Each file is that of the adapter where it has
/// one, else that of the base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextFiles {
    /// The directories, in the order in which files are looked for.
    directories: Vec<PathBuf>,
    /// What removes the directory once nothing reads it any longer.
    temporary: Option<Temporary>,
}

/// A directory that is removed with the last of its owners.
#[derive(Debug, Clone)]
struct Temporary(Arc<TempDir>);

impl PartialEq for Temporary {
    fn eq(&self, other: &Self) -> bool {
        self.0.path() == other.0.path()
    }
}

impl Eq for Temporary {}

impl TextFiles {
    /// The text files of the model in `directory`, or of the adapter there and of its `base`.
    pub fn of(directory: &Path, base: Option<&Path>) -> Self {
        let directories = [Some(directory), base].into_iter().flatten().map(Path::to_path_buf).collect();
        Self { directories, temporary: None }
    }

    /// The text files in a directory that is removed when nothing reads them any longer.
    pub fn of_temporary(directory: TempDir) -> Self {
        Self {
            directories: vec![directory.path().to_path_buf()],
            temporary: Some(Temporary(Arc::new(directory))),
        }
    }

    /// The path of the file of a name; where there is none, the path where it would be.
    pub fn path(&self, name: &str) -> PathBuf {
        let paths = self.directories.iter().map(|directory| directory.join(name));
        let expected = self.directories.last().map(|directory| directory.join(name)).unwrap_or_default();
        paths.into_iter().find(|path| path.exists()).unwrap_or(expected)
    }

    /// The first directory with a chat template, in a file of its own or in the settings of the tokenizer.
    pub fn template_directory(&self) -> &Path {
        let brings = |directory: &&PathBuf| {
            let config = directory.join(TOKENIZER_CONFIG);
            let settings = || files::read_json::<Value>(&config, files::TOKENIZER_CONFIG).unwrap_or_default();
            directory.join(CHAT_TEMPLATE).exists()
                || (config.exists() && settings().get("chat_template").is_some_and(|value| !value.is_null()))
        };
        let found = self.directories.iter().find(brings).or(self.directories.last());
        found.map_or(Path::new(""), PathBuf::as_path)
    }

    /// The SHA-256 of the names and bytes of all text files, which changes whenever one of them does.
    pub fn digest(&self) -> Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for directory in &self.directories {
            let companions = Companions::of_text(directory)?.files;
            hash.update((companions.len() as u64).to_le_bytes());
            for companion in companions {
                for part in [companion.name.as_bytes(), &companion.read()?] {
                    hash.update((part.len() as u64).to_le_bytes());
                    hash.update(part);
                }
            }
        }
        Ok(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_adapters_file_comes_before_that_of_its_base() {
        let parent = tempfile::tempdir().unwrap();
        let (adapter, base) = (parent.path().join("adapter"), parent.path().join("base"));
        let write = |directory: &Path, name: &str, text: &str| {
            std::fs::create_dir_all(directory).unwrap();
            std::fs::write(directory.join(name), text).unwrap();
        };
        write(&base, TOKENIZER, "{}");
        write(&base, GENERATION_CONFIG, "{}");
        write(&base, CHAT_TEMPLATE, "");
        write(&adapter, TOKENIZER, "{}");
        write(&adapter, TOKENIZER_CONFIG, r#"{"chat_template": null}"#);
        let files = TextFiles::of(&adapter, Some(&base));
        assert_eq!(files.path(TOKENIZER), adapter.join(TOKENIZER));
        assert_eq!(files.path(GENERATION_CONFIG), base.join(GENERATION_CONFIG));
        assert_eq!(files.path("vocab.json"), base.join("vocab.json"), "where it is expected");
        assert_eq!(files.template_directory(), base);
        write(&adapter, TOKENIZER_CONFIG, r#"{"chat_template": "x"}"#);
        assert_eq!(files.template_directory(), adapter, "a file of the base is no reason to leave it");
    }

    #[test]
    fn the_digest_changes_whenever_a_text_file_does() {
        let directory = tempfile::tempdir().unwrap();
        let digest = || TextFiles::of(directory.path(), None).digest().unwrap();
        std::fs::create_dir(directory.path().join("additional_chat_templates")).unwrap();
        let mut seen = vec![digest()];
        for (name, text) in [
            (TOKENIZER, "1"),
            (TOKENIZER, "2"),
            ("special_tokens_map.json", "1"),
            ("additional_chat_templates/tool_use.jinja", "1"),
            ("additional_chat_templates/tool_use.jinja", "2"),
            (GENERATION_CONFIG, "1"),
        ] {
            std::fs::write(directory.path().join(name), text).unwrap();
            assert!(!seen.contains(&digest()), "{name} {text}");
            seen.push(digest());
        }
        std::fs::write(directory.path().join("notes.txt"), "x").unwrap();
        assert_eq!(seen.last(), Some(&digest()));
    }
}
