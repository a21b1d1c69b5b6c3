//! Fetching one file by its address.

use std::path::{Path, PathBuf};

use common::Result;
use common::cli::{answer, note, print_path};
use reqwest::Url;

use crate::config::{Config, Destination};
use crate::disk::check_room;
use crate::download::{self, Wanted};
use crate::hub::{Connector, Description, describe, give_up_file};
use crate::scratch::Scratch;
use crate::transfer::Remote;
use crate::verify::hash_file;

/// Brings the file and prints its path.
pub async fn fetch(config: &Config, url: &Url) -> Result<()> {
    let connector = Connector::new(config.network.timeout)?;
    let found = describe(&connector.connect()?, url, config.token.as_ref()).await.map_err(give_up_file)?;
    let Some(size) = found.size else {
        return Err(common::error!("{url}: the server does not say how long the file is")
            .hint("fetch needs the length; curl or a browser may manage without"));
    };
    let path = match &config.destination {
        Destination::Path(path) if path.is_dir() => path.join(config.source.default_name()?),
        Destination::Path(path) => path.clone(),
        Destination::Cache(_) => {
            return Err(common::Error::usage("--cache keeps repositories, not single files")
                .hint("name the file with -o"));
        }
    };
    if config.is_dry_run {
        return answer(format_args!("{size:>15} {}\n", path.display()));
    }
    if path.symlink_metadata().is_ok() && !config.force {
        if !is_the_file(&path, size, &found)? {
            return Err(common::error!("{} exists and is not {url}", path.display())
                .hint("--force replaces it, -o chooses another name"));
        }
        note(format_args!("{} is already complete", path.display()));
        return print_path(&path);
    }
    let scratch = Scratch::open(&scratch_path(&path)?)?;
    let partial = scratch.partial("file", size, identity(url, &found));
    check_room(scratch.path(), [&partial].into_iter())?;
    let done = partial.prepare()?;
    let name = path.display().to_string();
    let mut remote = Remote::new(name, url.clone(), partial);
    remote.etag = found.etag;
    let wanted = Wanted { remote, digest: found.digest, done };
    download::run(vec![wanted], connector, config.token.clone(), &config.network, |_, remote| {
        remote.partial.place(&path)
    })
    .await
    .map_err(|failure| failure.into_error(give_up_file))?;
    scratch.remove()?;
    print_path(&path)
}

/// Without a hash the length must do.
fn is_the_file(path: &Path, size: u64, found: &Description) -> Result<bool> {
    let there = fs_err::metadata(path)?;
    Ok(there.is_file()
        && there.len() == size
        && match &found.digest {
            Some(digest) => hash_file(path, digest)? == *digest,
            None => true,
        })
}

/// What tells this content from another one at the same address. Without any sign of it nothing is
/// taken up again.
fn identity(url: &Url, found: &Description) -> String {
    match (&found.digest, &found.etag, &found.last_modified) {
        (Some(digest), _, _) => digest.to_string(),
        (None, Some(sign), _) | (None, None, Some(sign)) => format!("{url} {sign}"),
        (None, None, None) => format!("{url} at {:?}", std::time::SystemTime::now()),
    }
}

/// `.NAME.fetch` beside the file.
fn scratch_path(path: &Path) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| common::Error::usage(format!("-o {} names no file", path.display())))?;
    Ok(path.with_file_name(format!(".{}.fetch", name.to_string_lossy())))
}
