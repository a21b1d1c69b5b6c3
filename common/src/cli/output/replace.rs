//! Putting a result in the place of an earlier one: what may be replaced, and how, so that there is a
//! whole result under the name at every moment.

use std::path::Path;

use super::made_by::{Contents, contents};
use super::scratch::Scratch;
use super::write::{exchange, rename_new};
use super::{Destination, foreign, made_otherwise};
use crate::disk::{parent, sync};
use crate::files::check_unchanged;
use crate::{Error, Result, cli, error};

/// Fails where no directory can be put in the place of the destination, whatever is in it.
pub(super) fn expect_replaceable_by_name(destination: &Destination) -> Result<()> {
    let (path, named) = (destination.path(), destination.named());
    let Some(_) = named.file_name() else {
        return Err(Error::usage(format!("{} cannot be an output directory", named.display()))
            .hint("name a new directory with -o"));
    };
    let Ok(found) = fs_err::canonicalize(path) else { return Ok(()) };
    if std::env::current_dir().is_ok_and(|current| current == found) {
        return Err(Error::usage(format!("{} is the current directory", named.display()))
            .hint("name a new directory in it with -o"));
    }
    let is_mounted = rustix::fs::statx(
        rustix::fs::CWD,
        &found,
        rustix::fs::AtFlags::empty(),
        rustix::fs::StatxFlags::BASIC_STATS,
    )
    .is_ok_and(|found| found.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT));
    if is_mounted {
        return Err(error!("{} is a mount point, which no directory can replace", named.display())
            .hint(format_args!("name a directory in it: -o {}", cli::quoted_path(&named.join("out")))));
    }
    Ok(())
}

/// Fails where something is in the place of the result that this run may not replace.
pub(super) fn expect_replaceable(destination: &Destination, force: bool, tool: &str) -> Result<()> {
    match contents(destination.path(), tool)? {
        Contents::Nothing => Ok(()),
        Contents::Foreign(entry) => Err(foreign(destination.named(), &entry, tool)),
        Contents::Ours(..) if !force => Err(made_otherwise(destination.named())),
        Contents::Ours(_, Some(entry)) => Err(foreign(destination.named(), &entry, tool)),
        Contents::Ours(_, None) => Ok(()),
    }
}

/// Gives the new result in `scratch` its name, in the place of the one that has it.
pub(super) fn place(scratch: &Scratch, path: &Path) -> Result<()> {
    check_unchanged()?;
    let (new, old) = (scratch.new_result(), scratch.old_result());
    if path.symlink_metadata().is_err() {
        rename_new(&new, path)?;
    } else if is_empty(path) {
        fs_err::rename(&new, path)?;
    } else if !exchange(&new, path)? {
        // Killed here, the next run puts the old result back.
        fs_err::rename(path, &old)?;
        if let Err(problem) = fs_err::rename(&new, path) {
            fs_err::rename(&old, path)?;
            return Err(problem.into());
        }
    }
    sync(parent(path))
}

/// Puts back the old result of a run that was killed while it replaced it.
pub(super) fn put_back(destination: &Destination, tool: &str) -> Result<()> {
    let mut scratch = Scratch::beside(destination, tool)?;
    let path = destination.path();
    // It may also hold parts, which are looked at later.
    scratch.keeps = true;
    let old = scratch.old_result();
    if old.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        rename_new(&old, path)?;
        sync(parent(path))?;
    }
    Ok(())
}

fn is_empty(directory: &Path) -> bool {
    fs_err::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}
