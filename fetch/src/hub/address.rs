//! Addresses on a hub, and their percent-encoding.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use reqwest::Url;

use super::RepositoryKind;

/// The address from which a hub sends the content of a file, or redirects to it.
pub(crate) fn file_url(endpoint: &Url, kind: RepositoryKind, id: &str, revision: &str, path: &str) -> Url {
    let mut parts: Vec<&str> = kind.prefix().into_iter().chain(id.split('/')).collect();
    parts.extend(["resolve", revision]);
    parts.extend(path.split('/'));
    join(endpoint, &parts)
}

/// Adds path segments to `base`, each percent-encoded.
pub(super) fn join(base: &Url, parts: &[&str]) -> Url {
    let mut url = base.clone();
    // Only addresses without a host have no segments, and an endpoint has one.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(parts);
    }
    url
}

/// Decodes `%XX`; a text that does not decode to UTF-8 stays as it is.
pub(crate) fn percent_decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8().map_or_else(|_| text.to_string(), Cow::into_owned)
}
