//! The access token, and the one server that may see it.

use std::path::{Path, PathBuf};

use common::{Context, Result, error};
use reqwest::Url;
use reqwest::header::HeaderValue;

/// A token, bound to the origin (scheme, host and port) it was given for.
#[derive(Clone)]
pub struct Token {
    header: HeaderValue,
    owner: Url,
}

impl Token {
    /// The user's token for `endpoint`: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `HF_HOME/token`.
    ///
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` set to a true value leaves the two files alone.
    pub fn from_environment(endpoint: &Url) -> Result<Option<Self>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        if let Some(token) = variable("HF_TOKEN") {
            return Self::new(&token, endpoint).context("HF_TOKEN").map(Some);
        }
        let implicit_is_off = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")
            .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        let path = match variable("HF_TOKEN_PATH") {
            Some(path) => Some(PathBuf::from(path)),
            None => crate::cache::hub_home().map(|home| home.join("token")),
        };
        match path {
            Some(path) if !implicit_is_off => Self::from_file(&path, endpoint),
            _ => Ok(None),
        }
    }

    fn from_file(path: &Path, endpoint: &Url) -> Result<Option<Self>> {
        let text = match fs_err::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if text.trim().is_empty() {
            return Ok(None);
        }
        Self::new(&text, endpoint).with_context(|| path.display()).map(Some)
    }

    fn new(text: &str, endpoint: &Url) -> Result<Self> {
        let mut header = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|_| error!(Usage, "the token holds a character that no token has"))?;
        header.set_sensitive(true);
        Ok(Self { header, owner: endpoint.clone() })
    }

    /// The `Authorization` header for a request to `url`; none where that is another server.
    pub fn header_for(&self, url: &Url) -> Option<HeaderValue> {
        (url.origin() == self.owner.origin()).then(|| self.header.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_server_sees_the_token() {
        let url = |text: &str| Url::parse(text).unwrap();
        let token = Token::new("hf_secret\n", &url("https://hub.example")).unwrap();
        assert_eq!(token.header_for(&url("https://hub.example/a/b")).unwrap(), "Bearer hf_secret");
        for other in [
            "http://hub.example/a",
            "https://hub.example:8443/a",
            "https://cdn.hub.example/a",
            "https://evil.example",
        ] {
            assert!(token.header_for(&url(other)).is_none(), "{other}");
        }
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_an_error() {
        assert!(Token::new("two\nlines", &Url::parse("https://hub.example").unwrap()).is_err());
    }
}
