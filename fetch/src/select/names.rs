//! Names that a server gives to files, and which of them may become files here.
//!
//! A listing is written by someone else. A name is accepted only when it stays inside the
//! directory on every system, prints on one line, and cannot stand for two files.

use std::collections::HashSet;

use common::{Result, bail};

/// The record of a complete directory, in the directory itself.
pub(crate) const RECORD: &str = "fetch.json";

/// Names that begin with a dot and that are harmless, although programs read such files.
const HARMLESS: [&str; 3] = [".gitattributes", ".gitignore", ".gitkeep"];

/// Longest component that file systems take, in bytes.
const LONGEST_COMPONENT: usize = 255;

/// Checks one name: relative, `/` between components, none of them empty, `.` or `..`.
pub(crate) fn check(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        "it holds a control character"
    } else if name.contains('\\') {
        "it holds a backslash"
    } else if name.starts_with('/') || name.as_bytes().get(1) == Some(&b':') {
        "it is an absolute path"
    } else if name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        "it has a component that is empty, `.` or `..`"
    } else if name.split('/').any(|part| part.len() > LONGEST_COMPONENT) || name.len() > 2048 {
        "it is too long"
    } else {
        return Ok(());
    };
    bail!(Network, "a file named {name:?} is refused: {reason}")
}

/// Whether a program on this machine may obey a file of this name, as git obeys its hooks, a shell its
/// `.bashrc` and an editor its `.vscode`. Names that begin with a dot are for programs, and no file that a
/// model or a data set needs has such a name.
pub(crate) fn is_obeyed(name: &str) -> bool {
    let (folders, last) = name.rsplit_once('/').unwrap_or(("", name));
    let is_hidden = |name: &str| name.starts_with('.') && !matches!(name, "." | "..");
    folders.split('/').any(is_hidden) || is_hidden(last) && !HARMLESS.contains(&last)
}

/// Checks the names of a whole listing, also against each other.
pub(crate) fn check_all<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<()> {
    let mut seen = HashSet::new();
    for name in names.clone() {
        check(name)?;
        if !seen.insert(name) {
            bail!(Network, "the server lists {name:?} twice");
        }
        // The other names that fetch keeps begin with a dot, as no file that is fetched may.
        if name.split('/').next() == Some(RECORD) {
            return Err(common::error!("{name:?} is a name that fetch keeps for itself")
                .hint(format_args!("leave it out with --exclude {RECORD}")));
        }
    }
    for name in names {
        for (end, _) in name.match_indices('/') {
            if seen.contains(&name[..end]) {
                bail!(Network, "the server lists {:?} both as a file and as a directory", &name[..end]);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_pass() {
        for name in ["config.json", "onnx/model.onnx", "a b", "模型.safetensors", "..hidden", "a..b/c"] {
            check(name).unwrap();
        }
    }

    #[test]
    fn names_that_leave_the_directory_or_the_line_are_refused() {
        let long = "x".repeat(300);
        for name in [
            "",
            "/etc/passwd",
            "../up",
            "a/../../up",
            "a//b",
            "a/",
            ".",
            "C:/x",
            "a\\b",
            "a\nb",
            "a\u{1b}[2J",
            &long,
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_programs_obey_is_told_from_what_they_do_not() {
        for name in [
            ".git/config",
            ".git/hooks/post-checkout",
            "sub/.GIT/config",
            ".bashrc",
            ".ssh/authorized_keys",
            ".envrc",
            "a/.vscode/settings.json",
            ".husky/pre-commit",
            ".gitmodules",
            ".git/.gitattributes",
            ".qlora-tools-fetch/lock",
            ".gitattributes/x",
        ] {
            assert!(is_obeyed(name), "{name}");
        }
        for name in [".gitattributes", ".gitignore", "sub/.gitkeep", "config.json", "a.b/c.d", "git/config"] {
            assert!(!is_obeyed(name), "{name}");
        }
    }

    #[test]
    fn names_that_collide_are_refused() {
        assert!(check_all(["a", "b", "a"].into_iter()).is_err());
        assert!(check_all(["a", "a/b"].into_iter()).is_err());
        assert!(check_all(["fetch.json"].into_iter()).is_err());
        check_all(["a", "b/a", "b/c"].into_iter()).unwrap();
    }
}
