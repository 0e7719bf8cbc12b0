//! Who may ask: clients with the key, and no web page of another origin.

use crate::failure::Failure;
use crate::settings::{Settings, is_loopback};
use axum::http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Request, StatusCode};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use subtle::ConstantTimeEq;

pub struct Guard {
    /// Digests have one length, so that comparing them tells nothing about the key's.
    key: Option<[u8; 32]>,
    /// Where only names of this machine may lead: a page whose host's name was made to lead here is stopped by this, and by
    /// nothing else where there is no key.
    loopback: Option<SocketAddr>,
    allow_origins: Vec<String>,
}

impl Guard {
    /// `address` is where the server listens.
    pub fn new(settings: &Settings, address: SocketAddr) -> Self {
        let key = settings.key.as_ref();
        let only_here = key.is_none() && is_loopback(address.ip());
        Self {
            key: key.map(|key| Sha256::digest(key).into()),
            loopback: only_here.then_some(address),
            allow_origins: settings.allow_origins.clone(),
        }
    }

    /// # Errors
    /// What the client lacks.
    pub fn check<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        let host = self.check_host(request)?;
        self.check_origin(request.headers(), host)?;
        // Whether the server lives is no secret, and what watches over it has no key.
        match request.uri().path() {
            "/health" => Ok(()),
            _ => self.check_key(request.headers()),
        }
    }

    /// The host that the client means, if it says which.
    fn check_host<'a, B>(&self, request: &'a Request<B>) -> Result<Option<&'a str>, Failure> {
        let host = one(request.headers(), &HOST)?;
        let Some(address) = self.loopback else {
            return Ok(host);
        };
        let target = request.uri().authority().map(Authority::as_str);
        let ours = |host: &str| is_here(host, address.ip());
        if host.is_some_and(ours) && target.is_none_or(ours) {
            return Ok(host);
        }
        Err(forbidden(format!(
            "without an API key, this server is asked as localhost:{} alone, and not by another name in the Host header",
            address.port()
        )))
    }

    /// Browsers say which page asks, unless it is one's own or only reads.
    fn check_origin(&self, headers: &HeaderMap, host: Option<&str>) -> Result<(), Failure> {
        let Some(origin) = one(headers, &ORIGIN)? else {
            return Ok(());
        };
        let same = |text: &str| origin.eq_ignore_ascii_case(text);
        let page = origin.split_once("://").map(|(_, page)| page);
        let own = page
            .zip(host)
            .is_some_and(|(page, host)| page.eq_ignore_ascii_case(host));
        if own
            || self
                .allow_origins
                .iter()
                .any(|allowed| allowed == "*" || same(allowed))
        {
            return Ok(());
        }
        Err(forbidden(
            "this server answers no web page of another origin, unless it was started to allow that one (--allow-origin)",
        ))
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let Some(key) = &self.key else {
            return Ok(());
        };
        let given = one(headers, &AUTHORIZATION)?.and_then(|text| text.split_once(' '));
        let fits = given.is_some_and(|(scheme, given)| {
            let given: [u8; 32] = Sha256::digest(given.trim()).into();
            scheme.eq_ignore_ascii_case("bearer") && bool::from(given.ct_eq(key))
        });
        if fits {
            Ok(())
        } else {
            Err(Failure::wrong_key())
        }
    }
}

fn forbidden(message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::FORBIDDEN, message)
}

/// A header that is there once, if at all.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) if value.to_str().is_ok() => Ok(value.to_str().ok()),
        _ => Err(Failure::request(format!(
            "the header {name} is not one plain text"
        ))),
    }
}

/// Whether a host means this machine. The port may be another one, of a tunnel.
fn is_here(host: &str, bound: IpAddr) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        // A colon within an address is none before a port.
        Some((name, port)) if !host.ends_with(']') => (name, port),
        _ => (host, ""),
    };
    let bare = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    };
    let named = name.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|address| address == bound || is_loopback(address));
    named && port.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(key: Option<&str>, address: &str, origins: &[&str]) -> Guard {
        let mut settings = Settings::new("m");
        settings.key = key.map(str::to_string);
        settings.allow_origins = origins.iter().map(|origin| origin.to_string()).collect();
        Guard::new(&settings, address.parse().unwrap())
    }

    /// 200, or the status of the refusal.
    fn status(guard: &Guard, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let checked = guard.check(&request.body(()).unwrap());
        checked.map_or_else(|failure| failure.status.as_u16(), |()| 200)
    }

    #[test]
    fn only_this_machine_is_here() {
        let bound = "127.0.0.1".parse().unwrap();
        for host in [
            "127.0.0.1",
            "127.0.0.1:80",
            "localhost",
            "LocalHost:1",
            "[::1]:8600",
            "127.8.9.1",
            "localhost:",
        ] {
            assert!(is_here(host, bound), "{host}");
        }
        for host in [
            "",
            ":8600",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:localhost",
            "localhost:80@evil.example",
            "::1",
            "[::1",
            "[::2]",
            "[::1].evil.example",
            "[127.0.0.1]",
            "localhost:8600:8600",
            "0.0.0.0",
        ] {
            assert!(!is_here(host, bound), "{host}");
        }
    }

    #[test]
    fn another_name_of_this_machine_is_refused_without_a_key() {
        let here = guard(None, "127.0.0.1:8080", &[]);
        assert_eq!(status(&here, "/", &[("host", "localhost:8080")]), 200);
        assert_eq!(status(&here, "/health", &[("host", "evil.example")]), 403);
        assert_eq!(status(&here, "/", &[]), 403);
        assert_eq!(
            status(&here, "http://evil.example/", &[("host", "localhost")]),
            403
        );
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(status(&here, "/", &twice), 400);
        let open = guard(None, "0.0.0.0:8080", &[]);
        assert_eq!(status(&open, "/", &[("host", "gpu-box:8080")]), 200);
    }

    #[test]
    fn pages_of_other_origins_are_refused_unless_allowed() {
        let with = |origins: &[&str], origin: &str| {
            let headers = [("host", "localhost:8080"), ("origin", origin)];
            status(&guard(None, "127.0.0.1:8080", origins), "/", &headers)
        };
        assert_eq!(with(&[], "http://localhost:8080"), 200, "its own");
        assert_eq!(with(&[], "http://localhost:3000"), 403);
        assert_eq!(with(&[], "https://evil.example"), 403);
        assert_eq!(with(&[], "null"), 403);
        assert_eq!(
            with(&["http://localhost:3000"], "http://localhost:3000"),
            200
        );
        assert_eq!(
            with(&["http://localhost:3000"], "http://localhost:3001"),
            403
        );
        assert_eq!(with(&["*"], "https://any.example"), 200);
    }

    #[test]
    fn the_key_is_needed_for_all_but_health() {
        let locked = guard(Some("secret"), "127.0.0.1:8080", &[]);
        let with = |value: &str| status(&locked, "/v1/models", &[("authorization", value)]);
        assert_eq!(with("Bearer secret"), 200);
        assert_eq!(with("bearer secret"), 200);
        assert_eq!(with("Bearer secre"), 401);
        assert_eq!(with("Bearer secrets"), 401);
        assert_eq!(with("Basic secret"), 401);
        assert_eq!(with("secret"), 401);
        assert_eq!(status(&locked, "/v1/models", &[]), 401);
        assert_eq!(status(&locked, "/health", &[]), 200);
        let host = [("host", "any.example"), ("authorization", "Bearer secret")];
        assert_eq!(status(&locked, "/v1/models", &host), 200);
    }
}
