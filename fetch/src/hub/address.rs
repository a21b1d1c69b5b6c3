//! The percent-encoding of addresses.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use reqwest::Url;

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
