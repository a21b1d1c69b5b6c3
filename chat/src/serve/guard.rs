//! Who may ask: holders of the API key, or, where there is none, programs and pages of this machine.

use std::net::IpAddr;

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq;

use super::openai::Problem;

/// The API key, where one is needed.
pub(crate) struct Guard {
    key: Option<String>,
}

impl Guard {
    /// Expects this key of every request, or no key.
    pub(crate) fn new(key: Option<String>) -> Self {
        Self { key }
    }

    /// Refuses requests without the key.
    pub(crate) fn expect_key(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(key) = &self.key else { return Ok(()) };
        let sent = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or("");
        if sent.as_bytes().ct_eq(key.as_bytes()).into() {
            return Ok(());
        }
        let message = "the header authorization: Bearer KEY expected, with the key of this server";
        Err(Problem::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
    }

    /// Without a key, refuses requests to another name than this machine's own: a page of the web could have given
    /// its own name this machine's address, and so read answers (DNS rebinding).
    pub(crate) fn expect_host(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let host = headers.get(HOST).and_then(|value| value.to_str().ok());
        let authority = host.and_then(|host| host.parse::<Authority>().ok());
        let name = authority.as_ref().map_or("", Authority::host);
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is_local = name.eq_ignore_ascii_case("localhost")
            || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if self.key.is_some() || is_local {
            return Ok(());
        }
        let message = "the header host: localhost expected, because this server has no API key";
        Err(Problem::new(StatusCode::FORBIDDEN, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: axum::http::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn a_key_is_expected_where_there_is_one() {
        let guard = Guard::new(Some("secret".to_owned()));
        let is_let_in = |value| guard.expect_key(&headers(AUTHORIZATION, value)).is_ok();
        assert!(is_let_in("Bearer secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            assert!(!is_let_in(wrong), "{wrong}");
        }
        assert!(guard.expect_key(&HeaderMap::new()).is_err());
        assert!(Guard::new(None).expect_key(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn without_a_key_only_this_machine_is_a_host() {
        let guard = Guard::new(None);
        for host in ["localhost:8000", "LocalHost", "127.0.0.1:1", "127.1.2.3", "[::1]:8000"] {
            assert!(guard.expect_host(&headers(HOST, host)).is_ok(), "{host}");
        }
        for host in ["evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "192.168.0.1", "a b"] {
            assert!(guard.expect_host(&headers(HOST, host)).is_err(), "{host}");
        }
        assert!(guard.expect_host(&HeaderMap::new()).is_err());
        let guard = Guard::new(Some("secret".to_owned()));
        assert!(guard.expect_host(&headers(HOST, "gpu.example")).is_ok());
    }
}
