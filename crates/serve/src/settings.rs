//! What a server is told before it starts.

use aios_base::error::{Error, Result, shortened};
use axum::http::HeaderValue;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Where and what to serve, and to whom. Without `Debug`, which would show the key.
#[derive(Clone)]
pub struct Settings {
    /// Where to listen; port 0 is any free one.
    pub address: SocketAddr,
    /// The model's name: requests for another one are refused.
    pub model: String,
    /// What clients have to send as `Authorization: Bearer KEY`.
    pub key: Option<String>,
    /// Origins of web pages, such as `http://localhost:3000`, that may ask besides this server's own; `*` for all.
    pub allow_origins: Vec<String>,
    pub limits: Limits,
}

/// How much there is at most, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Requests that wait while one is computed.
    pub queue: usize,
    /// Connections at once: well below the files a process may open, of which macOS grants 256.
    pub connections: usize,
    /// Bytes of a request's body.
    pub body: usize,
    /// For a request's head to arrive, from the answer before it on.
    pub head_time: Duration,
    /// For a request's body to arrive.
    pub body_time: Duration,
    /// A client that takes nothing of its answer for this long has gone.
    pub answer_time: Duration,
    /// For a text, from its first computation on; then it ends as if it were long enough.
    pub generation_time: Duration,
    /// What a text that is being made when the server is stopped still gets.
    pub stop_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue: 16,
            connections: 100,
            body: 1 << 20,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(30),
            answer_time: Duration::from_secs(30),
            generation_time: Duration::from_secs(600),
            stop_time: Duration::from_secs(2),
        }
    }
}

impl Settings {
    /// On 127.0.0.1:8080, for this machine alone.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            model: model.into(),
            key: None,
            allow_origins: Vec::new(),
            limits: Limits::default(),
        }
    }

    /// Whether other machines may reach the model without a key: worth a warning or a refusal.
    pub fn is_exposed(&self) -> bool {
        self.key.is_none() && !is_loopback(self.address.ip())
    }

    /// # Errors
    /// A key or an origin that no client could send, or a limit of nothing.
    pub(crate) fn check(&self) -> Result<()> {
        // What stands in a header without a question of encoding.
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if self.key.as_deref().is_some_and(|key| !visible(key)) {
            return Err(Error::invalid(
                "the API key is empty or has characters that no header takes: use letters, digits and signs, without spaces",
            ));
        }
        for origin in &self.allow_origins {
            if !is_origin(origin) {
                let origin = shortened(origin);
                return Err(Error::invalid(format!(
                    "\"{origin}\" is no origin: use one such as http://localhost:3000, without a path, or * for all"
                )));
            }
        }
        if self.model.is_empty() {
            return Err(Error::invalid("the served model has no name: give it one"));
        }
        let Limits {
            connections, body, ..
        } = self.limits;
        for (name, number) in [("connections", connections), ("bytes of a body", body)] {
            if number == 0 {
                return Err(Error::invalid(format!(
                    "a server of 0 {name} answers nobody: allow at least 1"
                )));
            }
        }
        Ok(())
    }
}

/// `*`, or scheme and host as browsers send them.
fn is_origin(text: &str) -> bool {
    let host = text.split_once("://").map(|(_, host)| host);
    let host = host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '?', '#', ' ']));
    text == "*" || (host && HeaderValue::from_str(text).is_ok())
}

/// Whether only this machine reaches an address, be it an IPv4 one written as IPv6.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_reach_it_only_where_asked_to() {
        let exposed = |address: &str, key: Option<&str>| {
            let mut settings = Settings::new("m");
            settings.address = address.parse().unwrap();
            settings.key = key.map(str::to_string);
            settings.is_exposed()
        };
        assert!(!Settings::new("m").is_exposed());
        assert!(!exposed("127.0.0.2:1", None));
        assert!(!exposed("[::1]:1", None));
        assert!(!exposed("[::ffff:127.0.0.1]:1", None));
        assert!(!exposed("0.0.0.0:1", Some("k")));
        assert!(exposed("0.0.0.0:1", None));
        assert!(exposed("[::]:1", None));
        assert!(exposed("192.168.1.2:1", None));
    }

    #[test]
    fn what_no_client_could_send_is_refused() {
        let with_key = |key: &str| {
            let mut settings = Settings::new("m");
            settings.key = Some(key.to_string());
            settings.check().is_ok()
        };
        assert!(with_key("sk-1/2+3="));
        assert!(!with_key(""));
        assert!(!with_key("a b"));
        assert!(!with_key("clé"));
        for (origin, fine) in [
            ("*", true),
            ("http://localhost:3000", true),
            ("https://a.example", true),
            ("a.example", false),
            ("https://a.example/", false),
            ("https://", false),
            ("http://a\nb", false),
        ] {
            let mut settings = Settings::new("m");
            settings.allow_origins = vec![origin.to_string()];
            assert_eq!(settings.check().is_ok(), fine, "{origin}");
        }
    }
}
