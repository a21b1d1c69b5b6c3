//! Fetching one file by its address.

use std::path::{Path, PathBuf};

use common::Result;
use common::cli::{answer, note, print_path};
use reqwest::Url;

use crate::config::{Config, Destination};
use crate::disk::check_room;
use crate::download::{self, Wanted};
use crate::hub::{Connector, Description, describe, give_up_file};
use crate::readable::how_much;
use crate::scratch::Scratch;
use crate::stream;
use crate::transfer::Remote;
use crate::verify::hash_file;

/// Brings the file and prints its path.
pub async fn fetch(config: &Config, url: &Url) -> Result<()> {
    let connector = Connector::new(config.network.timeout)?;
    let found = describe(&connector.connect()?, url, config.token.as_ref()).await.map_err(give_up_file)?;
    let path = match &config.destination {
        Destination::Path(path) if path.is_dir() => path.join(config.source.default_name()?),
        Destination::Path(path) => path.clone(),
        Destination::Cache(_) => {
            return Err(common::Error::usage("--cache keeps repositories, not single files")
                .hint("name the file with -o"));
        }
    };
    if config.is_dry_run {
        let size = found.size.map_or("?".into(), |size| size.to_string());
        return answer(format_args!("{size:>15} {}\n", path.display()));
    }
    if path.symlink_metadata().is_ok() && !config.force {
        if !is_the_file(&path, &found)? {
            return Err(common::error!("{} exists and is not {url}", path.display())
                .hint("--force replaces it, -o chooses another name"));
        }
        note(format_args!("{} is already complete", path.display()));
        return print_path(&path);
    }
    let scratch = Scratch::open(&scratch_path(&path)?)?;
    match found.size {
        Some(size) => fetch_ranges(config, url, connector, found, size, &scratch, &path).await?,
        None => fetch_stream(config, url, &connector, &found, &scratch, &path).await?,
    }
    scratch.remove()?;
    print_path(&path)
}

/// Brings a file of known length over many connections.
async fn fetch_ranges(
    config: &Config,
    url: &Url,
    connector: Connector,
    found: Description,
    size: u64,
    scratch: &Scratch,
    path: &Path,
) -> Result<()> {
    let partial = scratch.partial("file", size, identity(url, &found));
    check_room(scratch.path(), [&partial].into_iter())?;
    let done = partial.prepare()?;
    let name = path.display().to_string();
    let mut remote = Remote::new(name, url.clone(), partial);
    remote.etag = found.etag;
    let wanted = Wanted { remote, digest: found.digest, done };
    note(format_args!("{}: {}", wanted.remote.name, how_much(size, wanted.there())));
    download::run(vec![wanted], connector, config.token.clone(), &config.network, |_, remote| {
        remote.partial.place(path)
    })
    .await
    .map_err(|failure| failure.into_error(give_up_file))
}

/// Brings a file of unknown length.
async fn fetch_stream(
    config: &Config,
    url: &Url,
    connector: &Connector,
    found: &Description,
    scratch: &Scratch,
    path: &Path,
) -> Result<()> {
    note(format_args!("{}: the server does not say how long it is; it comes in one stream", path.display()));
    let partial = scratch.partial("file", 0, identity(url, found));
    partial.prepare()?;
    stream::bring(connector, config.token.as_ref(), &config.network, url, &partial.data)
        .await
        .map_err(|failure| failure.into_error(give_up_file))?;
    if let Some(digest) = &found.digest {
        let content = hash_file(&partial.data, digest)?;
        if content != *digest {
            return Err(
                common::error!("{url}: expected {digest}, the server sent {content}").hint("try again later")
            );
        }
    }
    partial.place(path)
}

/// Without a hash the length must do, and without both nothing does.
fn is_the_file(path: &Path, found: &Description) -> Result<bool> {
    let there = fs_err::metadata(path)?;
    Ok(there.is_file()
        && found.size == Some(there.len())
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
