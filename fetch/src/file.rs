//! A run that fetches one file by its address.

use std::path::Path;

use common::cli::{answer, hide_secrets, note, print_path, warn};
use common::{Error, Result, error, hex};
use reqwest::{StatusCode, Url};
use sha2::{Digest as _, Sha256};

use crate::config::{Config, Destination};
use crate::disk::digest::hash_file;
use crate::disk::folder::{Entry, Folder};
use crate::disk::scratch::{self, Scratch};
use crate::disk::space::check_room;
use crate::hub::{Connector, Description, Failure, Token, describe, give_up_file};
use crate::transfer::{self, RemoteFile, WantedFile, how_much};

/// Fetches the file and prints its path.
pub(crate) async fn fetch(config: &Config, url: &Url) -> Result<()> {
    let path = match &config.destination {
        Destination::Path(path) if path.is_dir() => path.join(config.source.default_name()?),
        Destination::Path(path) => path.clone(),
        Destination::Cache(_) => {
            return Err(
                Error::usage("--cache keeps repositories, not single files").hint("name the file with -o")
            );
        }
    };
    if let Some(variable) = config.offline {
        return use_what_is_there(config, &path, variable);
    }
    let connector = Connector::new(config.network.timeout)?;
    let (found, token) = describe_with_or_without_token(config, &connector, url).await?;
    if config.is_dry_run {
        let size = found.size.map_or("?".into(), |size| size.to_string());
        return answer(format_args!("{size:>15} {}\n", path.display()));
    }
    if path.symlink_metadata().is_ok() && !config.force {
        if !is_the_file(&path, &found)? {
            return Err(error!("{} exists and is not {url}", path.display())
                .hint("--force replaces it, -o chooses another name"));
        }
        note(format_args!("{} is already complete", path.display()));
        return print_path(&path);
    }
    let name =
        path.file_name().ok_or_else(|| Error::usage(format!("-o {} names no file", path.display())))?;
    let folder = Folder::make(path.parent().unwrap_or(Path::new("")))?;
    let scratch = Scratch::open(&folder, &scratch_name(name.as_encoded_bytes()))?;
    let to = folder.entry(name);
    let download = Download { config, url, token, connector, found, scratch: &scratch, to: &to };
    match download.found.size {
        Some(size) => download.in_ranges(size).await?,
        None => download.in_one_stream().await?,
    }
    scratch.remove()?;
    print_path(&path)
}

/// What the server says of the file, and the token that it accepts: a file may be public although the
/// server refuses the user's token, for example because it has expired.
async fn describe_with_or_without_token(
    config: &Config,
    connector: &Connector,
    url: &Url,
) -> Result<(Description, Option<Token>)> {
    let token = config.token.clone();
    match (describe(&connector.connect()?, url, token.as_ref()).await, &token) {
        (Err(Failure::Refused { status, message, .. }), Some(refused))
            if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                && refused.header_for(url).is_some() =>
        {
            match describe(&connector.connect()?, url, None).await {
                Ok(found) => {
                    warn(format_args!(
                        "the server refuses {} ({message}); going on without it",
                        refused.name()
                    ));
                    Ok((found, None))
                }
                Err(_) => Err(error!("the server refuses {} ({message})", refused.name())
                    .hint("check it, and whether it may read the file")),
            }
        }
        (found, _) => Ok((found.map_err(give_up_file)?, token)),
    }
}

/// Uses the file that is there, because the environment variable `variable` forbids requests.
fn use_what_is_there(config: &Config, path: &Path, variable: &str) -> Result<()> {
    if config.force || config.is_dry_run || !path.is_file() {
        return Err(error!("{variable} is set, and {} is not here", path.display())
            .hint(format_args!("unset {variable} to download it")));
    }
    warn(format_args!("{variable} is set; using {} as it is", path.display()));
    print_path(path)
}

/// A file to download, and what it takes.
struct Download<'a> {
    config: &'a Config,
    url: &'a Url,
    token: Option<Token>,
    connector: Connector,
    found: Description,
    scratch: &'a Scratch,
    to: &'a Entry,
}

impl Download<'_> {
    /// Downloads a file of known length over many connections.
    async fn in_ranges(self, size: u64) -> Result<()> {
        let partial = self.scratch.partial("file", size, identity(self.url, &self.found));
        check_room(self.scratch.folder(), [&partial].into_iter())?;
        let done = partial.prepare()?;
        let name = self.to.path().display().to_string();
        let mut remote = RemoteFile::new(name, self.url.clone(), partial);
        remote.etag = self.found.etag;
        let wanted = WantedFile { remote, digest: self.found.digest, done };
        note(format_args!("{}: {}", wanted.remote.name, how_much(size, wanted.there())));
        transfer::run(vec![wanted], self.connector, self.token, &self.config.network, |_, remote| {
            remote.partial.place(self.to)
        })
        .await
        .map_err(|failure| failure.into_error(give_up_file))
    }

    /// Downloads a file of unknown length.
    async fn in_one_stream(self) -> Result<()> {
        let (url, path) = (self.url, self.to.path());
        note(format_args!(
            "{}: the server does not say how long it is; it comes in one stream",
            path.display()
        ));
        let partial = self.scratch.partial("file", 0, identity(url, &self.found));
        partial.prepare()?;
        let folder = self.scratch.folder();
        transfer::bring(
            &self.connector,
            self.token.as_ref(),
            &self.config.network,
            url,
            folder,
            &partial.data,
        )
        .await
        .map_err(|failure| failure.into_error(give_up_file))?;
        if let Some(digest) = &self.found.digest {
            let content = hash_file(&partial.data.path(), digest)?;
            if content != *digest {
                return Err(
                    error!("{url}: expected {digest}, the server sent {content}").hint("try again later")
                );
            }
        }
        partial.place(self.to)
    }
}

/// Whether the file at `path` is the one on the server: by hash, or by length where no hash is known; a
/// file of unknown length never is.
fn is_the_file(path: &Path, found: &Description) -> Result<bool> {
    // A link to a place that is not there is not the file.
    let Ok(there) = fs_err::metadata(path) else { return Ok(false) };
    Ok(there.is_file()
        && found.size == Some(there.len())
        && match &found.digest {
            Some(digest) => hash_file(path, digest)? == *digest,
            None => true,
        })
}

/// What identifies the content at an address: its hash, its etag or its date. Without any of them it
/// differs from run to run, so that no run continues the download of another.
fn identity(url: &Url, found: &Description) -> String {
    match (&found.digest, &found.etag, &found.last_modified) {
        (Some(digest), _, _) => digest.to_string(),
        (None, Some(sign), _) | (None, None, Some(sign)) => hide_secrets(&format!("{url} {sign}")),
        (None, None, None) => format!("{url} at {:?}", std::time::SystemTime::now()),
    }
}

/// The name of the scratch directory beside the file `name`: with a hash of that name, which may be too
/// long to be part of another.
fn scratch_name(name: &[u8]) -> String {
    format!("{}-{}", scratch::NAME, &hex(Sha256::digest(name))[..16])
}
