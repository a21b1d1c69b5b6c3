//! The files beside the weights that belong to a model: tokenizer, chat templates, settings of
//! generation, licence.
//!
//! They are recognised by their names. Other files in the directory are never copied, because results are
//! often published and such a file may be private.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Context, Error, Result, bail, cli, error, files};

/// Names of files that decide how text is encoded and how answers are generated.
const TEXT: [&str; 14] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tiktoken.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// The folder of chat templates besides `chat_template.jinja`, such as `tool_use.jinja`.
const TEMPLATES: &str = "additional_chat_templates";

/// Names of files with settings of processors for images, audio and video, and of hubs.
const SETTINGS: [&str; 6] = [
    "configuration.json",
    "feature_extractor_config.json",
    "image_processor_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
];

/// Beginnings of the names of files with the terms under which a model may be used.
const TERMS: [&str; 4] = ["LICENSE", "LICENCE", "NOTICE", "USE_POLICY"];

/// Extensions of weights, which are not copied because the result has its own; no note mentions them.
const WEIGHTS: [&str; 8] = ["safetensors", "bin", "gguf", "h5", "msgpack", "onnx", "pt", "pth"];

/// Names of files that the tools write anew, or that describe the directory rather than the model.
const OWN: [&str; 4] = ["config.json", "adapter_config.json", "fetch.json", "made-by.json"];

/// Most names that a note lists.
const LISTED: usize = 12;

/// A file that goes with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Companion {
    /// The path within the directory of the model, such as `additional_chat_templates/tool_use.jinja`.
    pub name: String,
    /// The path of the file.
    pub path: PathBuf,
    /// Whether the file is a link out of the directory of the model.
    leads_out: bool,
}

/// The files beside the weights of a model.
#[derive(Debug, Clone, Default)]
pub struct Companions {
    /// The files that are copied to a model made from this one, sorted by name.
    pub files: Vec<Companion>,
    /// Names of files that are not recognised and not copied, sorted.
    pub others: Vec<String>,
}

impl Companions {
    /// All companions in `directory`. `config.json` and the index of the weights are not among them,
    /// because they change with the weights.
    pub fn of(directory: &Path) -> Result<Self> {
        Self::chosen(directory, |name| Self::is_text(name) || SETTINGS.contains(&name) || is_terms(name))
    }

    /// The companions in `directory` that decide how text is encoded and how answers are generated.
    pub fn of_text(directory: &Path) -> Result<Self> {
        Self::chosen(directory, Self::is_text)
    }

    /// Whether a file of that name decides how text is encoded or how answers are generated.
    pub fn is_text(name: &str) -> bool {
        let versioned = name.starts_with("tokenizer.model");
        let template = name.strip_prefix(TEMPLATES).is_some_and(|name| name.ends_with(".jinja"));
        TEXT.contains(&name) || versioned || template || name.ends_with(".tiktoken") || name.ends_with(".spm")
    }

    fn chosen(directory: &Path, belongs: impl Fn(&str) -> bool) -> Result<Self> {
        let roots = roots(directory)?;
        let mut found = Self::default();
        for name in names_in(directory)? {
            let path = directory.join(&name);
            if name == TEMPLATES && path.is_dir() {
                for template in names_in(&path)?.iter().filter(|name| name.ends_with(".jinja")) {
                    found.add(format!("{TEMPLATES}/{template}"), path.join(template), &roots);
                }
            } else if belongs(&name) {
                found.add(name, path, &roots);
            } else if !is_expected(&name) && !path.is_dir() {
                found.others.push(name);
            }
        }
        found.files.sort_by(|a, b| a.name.cmp(&b.name));
        found.others.sort();
        Ok(found)
    }

    fn add(&mut self, name: String, path: PathBuf, roots: &[PathBuf]) {
        if !path.is_dir() {
            let target = fs_err::canonicalize(&path);
            let leads_out = !target.is_ok_and(|target| roots.iter().any(|root| target.starts_with(root)));
            self.files.push(Companion { name, path, leads_out });
        }
    }

    /// Fails where a file is a link out of the directory, because such a link could copy any of the user's
    /// files into the result. Links into the blobs of the hub's cache are allowed: its snapshots consist of
    /// them.
    pub fn expect_inside(&self) -> Result<()> {
        self.files.iter().try_for_each(Companion::expect_inside)
    }

    /// Prints a note that lists the files which are not copied, if there are any.
    pub fn note_others(&self) {
        let listed = self.others.iter().take(LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
        match self.others.len() {
            0 => {}
            count @ 1..=LISTED => cli::note(format_args!("not copied ({count}): {listed}")),
            count => cli::note(format_args!("not copied ({count}): {listed}, …")),
        }
    }

    /// The size of all files together, in bytes.
    pub fn size(&self) -> Result<u64> {
        self.files.iter().map(|file| Ok(fs_err::metadata(&file.path)?.len())).sum()
    }
}

impl Companion {
    /// Copies the file's content into the directory of another model, so that the copy stands on its
    /// own. A link that has the copy's name is replaced, and its target left alone.
    pub fn copy(&self, directory: &Path) -> Result<()> {
        self.expect_inside()?;
        let bytes = self.read()?;
        let to = directory.join(&self.name);
        let folder = to.parent().unwrap_or(directory);
        fs_err::create_dir_all(folder)?;
        if folder.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
            bail!(Exists, "{} is a link, where a folder is expected", folder.display());
        }
        let mut copy = cli::temporary(&to, "")?;
        copy.write_all(&bytes).with_context(|| format!("cannot copy to {}", to.display()))?;
        copy.persist(&to).map(drop).map_err(|failed| Error::from(failed.error).context(to.display()))
    }

    /// The file's content.
    pub fn read(&self) -> Result<Vec<u8>> {
        files::read(&self.path, files::TOKENIZER)
    }

    fn expect_inside(&self) -> Result<()> {
        if !self.leads_out {
            return Ok(());
        }
        let path = self.path.display();
        let Ok(target) = fs_err::canonicalize(&self.path) else {
            return Err(error!("{path} is a link that leads nowhere")
                .hint(format_args!("rm {} or put the file in its place", cli::quoted_path(&self.path))));
        };
        let (file, link) = (cli::quoted_path(&target), cli::quoted_path(&self.path));
        Err(error!(
            "{path} is a link out of the model's directory, to {}; it is not copied",
            target.display()
        )
        .hint(format_args!("if that file belongs to the model: cp --remove-destination {file} {link}")))
    }
}

fn is_terms(name: &str) -> bool {
    TERMS.iter().any(|start| name.starts_with(start))
}

/// Whether a file of that name is left out without a note.
fn is_expected(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    name.starts_with('.')
        || name.ends_with(".index.json")
        || OWN.contains(&name)
        || extension.is_some_and(|extension| WEIGHTS.contains(&extension))
}

/// The directories that files of a model may lie in: its own, and the blobs of the hub's cache where it
/// is a snapshot there.
fn roots(directory: &Path) -> Result<Vec<PathBuf>> {
    let directory = fs_err::canonicalize(directory)?;
    let snapshots = directory.parent().filter(|parent| parent.ends_with("snapshots"));
    let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
    Ok(blobs.into_iter().filter(|blobs| blobs.is_dir()).chain([directory.clone()]).collect())
}

fn names_in(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(companions: &Companions) -> Vec<&str> {
        companions.files.iter().map(|file| file.name.as_str()).collect()
    }

    #[test]
    fn what_belongs_to_the_model_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let keep = [
            "LICENSE",
            "additional_chat_templates/tool_use.jinja",
            "chat_template.jinja",
            "merges.txt",
            "tokenizer.json",
            "tokenizer.model",
        ];
        let leave = ["README.md", "notes.txt", "training_args.json"];
        let own = ["config.json", "model.safetensors", "model.safetensors.index.json", "fetch.json", ".env"];
        std::fs::create_dir(at("additional_chat_templates")).unwrap();
        for name in keep.iter().chain(&leave).chain(&own) {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::create_dir(at("vocab.json")).unwrap();
        let found = Companions::of(directory.path()).unwrap();
        assert_eq!(names(&found), keep);
        assert_eq!(found.others, leave);
        assert_eq!(names(&Companions::of_text(directory.path()).unwrap()), keep[1..]);
        let target = tempfile::tempdir().unwrap();
        found.files.iter().for_each(|file| file.copy(target.path()).unwrap());
        for name in keep {
            assert_eq!(std::fs::read(target.path().join(name)).unwrap(), name.as_bytes());
        }
    }

    #[test]
    fn links_stay_in_the_directory_or_in_the_blobs_of_the_cache() {
        let parent = tempfile::tempdir().unwrap();
        let repository = parent.path().join("models--a--b");
        let snapshot = repository.join("snapshots/0123");
        std::fs::create_dir_all(&snapshot).unwrap();
        std::fs::create_dir(repository.join("blobs")).unwrap();
        std::fs::write(repository.join("blobs/ff"), "blob").unwrap();
        symlink("../../blobs/ff", snapshot.join("tokenizer.json")).unwrap();
        symlink("tokenizer.json", snapshot.join("vocab.json")).unwrap();
        assert_eq!(names(&Companions::of(&snapshot).unwrap()), ["tokenizer.json", "vocab.json"]);
        let secret = parent.path().join("secret");
        std::fs::write(&secret, "secret").unwrap();
        symlink(&secret, snapshot.join("notes.txt")).unwrap();
        assert_eq!(Companions::of(&snapshot).unwrap().others, ["notes.txt"]);
        Companions::of(&snapshot).unwrap().expect_inside().unwrap();
        symlink(&secret, snapshot.join("LICENSE")).unwrap();
        let found = Companions::of(&snapshot).unwrap();
        let error = found.expect_inside().unwrap_err();
        assert!(error.to_string().contains("LICENSE is a link out of the model's directory"), "{error}");
        assert!(error.hint_text().unwrap().contains("cp --remove-destination"));
        assert!(found.files[0].copy(parent.path()).is_err() && !parent.path().join("LICENSE").exists());
    }

    #[test]
    fn a_copy_never_goes_through_a_link() {
        let parent = tempfile::tempdir().unwrap();
        let (from, to) = (parent.path().join("from"), parent.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("tokenizer.json"), "{}").unwrap();
        std::fs::write(parent.path().join("bashrc"), "mine").unwrap();
        symlink("../bashrc", to.join("tokenizer.json")).unwrap();
        Companions::of(&from).unwrap().files[0].copy(&to).unwrap();
        assert_eq!(std::fs::read_to_string(parent.path().join("bashrc")).unwrap(), "mine");
        assert_eq!(std::fs::read_to_string(to.join("tokenizer.json")).unwrap(), "{}");
    }
}
