//! The access token, or the user and password of an address, and the one server that may see them.

use std::path::{Path, PathBuf};

use base64::prelude::{BASE64_STANDARD, Engine};
use common::cli::keep_secret;
use common::error::Kind;
use common::{Context, Error, Result, error, files, hub_cache};
use reqwest::Url;
use reqwest::header::HeaderValue;

use super::percent_decode;

/// Most bytes of a file with a token.
const LONGEST: u64 = 64 << 10;

/// A token, bound to the origin (scheme, host and port) it was given for. Nothing that is printed shows
/// it ([`keep_secret`]).
#[derive(Clone)]
pub(crate) struct Token {
    /// Where the user has the token, for messages.
    name: String,
    header: HeaderValue,
    owner: Url,
}

impl Token {
    /// The user's token for `endpoint`: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `HF_HOME/token`.
    ///
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` set to a true value leaves the two files alone.
    pub(crate) fn from_environment(endpoint: &Url) -> Result<Option<Self>> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        if let Some(token) = variable("HF_TOKEN") {
            return Self::new("HF_TOKEN", &token, endpoint).map(Some);
        }
        let implicit_is_off = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN")
            .is_some_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"));
        let path = match variable("HF_TOKEN_PATH") {
            Some(path) => Some(PathBuf::from(path)),
            None => hub_cache::home().map(|home| home.join("token")),
        };
        match path {
            Some(path) if !implicit_is_off => Self::from_file(&path, endpoint),
            _ => Ok(None),
        }
    }

    fn from_file(path: &Path, endpoint: &Url) -> Result<Option<Self>> {
        let text = match files::read_text(path, LONGEST) {
            Ok(text) => text,
            Err(error) if error.kind() == Kind::Missing && !path.is_dir() => return Ok(None),
            Err(error) => {
                return Err(error.context("the token")).hint("HF_TOKEN_PATH names the file of your token");
            }
        };
        if text.trim().is_empty() {
            return Ok(None);
        }
        Self::new(&format!("the token in {}", path.display()), &text, endpoint).map(Some)
    }

    fn new(name: &str, text: &str, endpoint: &Url) -> Result<Self> {
        let text = text.trim();
        keep_secret(text);
        Self::with_header(name, &format!("Bearer {text}"), endpoint)
    }

    fn with_header(name: &str, header: &str, owner: &Url) -> Result<Self> {
        let mut header = HeaderValue::from_str(header)
            .map_err(|_| error!(Usage, "{name} holds a character that no token has"))?;
        header.set_sensitive(true);
        Ok(Self { name: name.into(), header, owner: owner.clone() })
    }

    /// The user and password of an address, which is left without them.
    pub(crate) fn from_address(url: &mut Url) -> Result<Option<Self>> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let (user, password) =
            (percent_decode(url.username()), percent_decode(url.password().unwrap_or_default()));
        // A token is often written in the place of the user, without a password.
        let secret = if password.is_empty() { &user } else { &password };
        for form in [secret, url.password().unwrap_or_default()] {
            keep_secret(form);
        }
        let both = BASE64_STANDARD.encode(format!("{user}:{password}"));
        keep_secret(&both);
        if url.set_username("").and(url.set_password(None)).is_err() {
            return Err(Error::usage("an address without a server has no user"));
        }
        Self::with_header("the user and password of the address", &format!("Basic {both}"), url).map(Some)
    }

    /// Where the user has the token, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The `Authorization` header for a request to `url`; none where that is another server.
    pub(crate) fn header_for(&self, url: &Url) -> Option<HeaderValue> {
        (url.origin() == self.owner.origin()).then(|| self.header.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_server_sees_the_token() {
        let url = |text: &str| Url::parse(text).unwrap();
        let token = Token::new("HF_TOKEN", "hf_secret\n", &url("https://hub.example")).unwrap();
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
    fn users_and_passwords_leave_the_address() {
        let mut url = Url::parse("https://user:p%40ss@hub.example/x").unwrap();
        let token = Token::from_address(&mut url).unwrap().unwrap();
        assert_eq!(url.as_str(), "https://hub.example/x");
        assert_eq!(token.header_for(&url).unwrap(), "Basic dXNlcjpwQHNz");
        assert!(Token::from_address(&mut url).unwrap().is_none());
    }

    #[test]
    fn a_token_that_cannot_be_sent_is_an_error() {
        assert!(Token::new("HF_TOKEN", "two\nlines", &Url::parse("https://hub.example").unwrap()).is_err());
    }
}
