//! Requests: where they are sent on to, who is told the token, and what comes back into memory.

use std::io::Read;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{HeaderMap, Response, Uri, header};
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};
use ureq::{Agent, Body};

use super::{Download, Hub, Progress, Trouble};

const REDIRECTS: usize = 10;
const CONNECTING: Duration = Duration::from_secs(10);

/// What answers a request, wherever it was sent on to.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    /// What the Hub's own host calls the file's content.
    etag: Option<String>,
    commit: Option<String>,
}

impl Answer {
    /// The names of a file's content and of its commit, which are to become those of files.
    pub(super) fn identity(&self, hub: &Hub) -> Result<(String, String), Trouble> {
        let etag = self.etag.clone().filter(|name| is_name(name));
        let commit = self.commit.clone().filter(|name| is_name(name));
        etag.zip(commit).ok_or_else(|| {
            Trouble::Failed(format!("{} does not answer as the Hub does", hub.endpoint))
        })
    }
}

impl Hub {
    pub(super) fn file_url(&self, id: &str, revision: &str, file: &str) -> String {
        let revision = revision.replace('/', "%2F");
        format!("{}/{id}/resolve/{revision}/{file}", self.endpoint)
    }

    /// A file, in memory.
    pub(super) fn fetch(&self, url: String, progress: &Progress) -> Result<Download, Trouble> {
        let is_json = url.ends_with(".json");
        let answer = self.request(url, 0)?;
        let (etag, commit) = answer.identity(self)?;
        let bytes = self.body(answer.response, progress)?;
        if is_sha256(&etag) && hex(&Sha256::digest(&bytes)) != etag {
            return Err(not_the_hubs());
        }
        // One that was cut off would stay in the cache, which others share.
        if is_json && let Err(error) = serde_json::from_slice::<IgnoredAny>(&bytes) {
            return Err(Trouble::Failed(format!("what came is not JSON: {error}")));
        }
        Ok(Download {
            bytes,
            etag,
            commit,
        })
    }

    /// Asks for what is at `url`, from byte `from` on.
    pub(super) fn request(&self, mut url: String, from: u64) -> Result<Answer, Trouble> {
        let agent: Agent = Agent::config_builder()
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECTING))
            .timeout_recv_response(Some(self.silence))
            .timeout_per_read(Some(self.silence))
            .user_agent(concat!("aios/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        let failed = |cause: String| Trouble::Failed(cause);
        let (mut etag, mut commit) = (None, None);
        for _ in 0..REDIRECTS {
            let is_own = same_origin(&url, &self.endpoint);
            let mut request = agent.get(&url).header(header::ACCEPT_ENCODING, "identity");
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| is_own) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call();
            let response = response.map_err(|error| Trouble::Broken(error.to_string()))?;
            let (status, headers) = (response.status(), response.headers());
            if is_own {
                let tag = value(headers, "x-linked-etag").or_else(|| value(headers, "etag"));
                etag = tag
                    .map(|tag| tag.trim_start_matches("W/").replace('"', ""))
                    .or(etag);
                commit = value(headers, "x-repo-commit").or(commit);
            }
            if status.is_redirection() {
                let location = value(headers, "location");
                let location = location.ok_or_else(|| failed(format!("{status} leads nowhere")))?;
                url = joined(&url, &location)
                    .ok_or_else(|| failed(format!("{status} leads to no address")))?;
                continue;
            }
            if !status.is_success() {
                let code = value(headers, "x-error-code").unwrap_or_default();
                return Err(Trouble::Refused(status.as_u16(), code));
            }
            return Ok(Answer {
                response,
                etag,
                commit,
            });
        }
        Err(failed("it is sent from one place to the next".to_string()))
    }

    /// All of an answer.
    pub(super) fn body(
        &self,
        response: Response<Body>,
        progress: &Progress,
    ) -> Result<Vec<u8>, Trouble> {
        let too_large =
            || Trouble::Failed(format!("it is larger than {} MiB", self.most_bytes >> 20));
        let length = response.body().content_length();
        if progress.all.load(Ordering::Relaxed) == 0 {
            progress.all.store(length.unwrap_or(0), Ordering::Relaxed);
        }
        if length.is_some_and(|length| length > self.most_bytes) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = body.read(&mut buffer);
            let read = read.map_err(|error| Trouble::Broken(error.to_string()))?;
            bytes.extend_from_slice(&buffer[..read]);
            progress.done.fetch_add(read as u64, Ordering::Relaxed);
            if bytes.len() as u64 > self.most_bytes {
                return Err(too_large());
            }
            if read == 0 {
                break;
            }
        }
        match length {
            Some(length) if length != bytes.len() as u64 => {
                Err(ended_early(bytes.len() as u64, length))
            }
            _ => Ok(bytes),
        }
    }
}

pub(super) fn ended_early(bytes: u64, length: u64) -> Trouble {
    Trouble::Broken(format!("it ended after {bytes} of {length} bytes"))
}

pub(super) fn not_the_hubs() -> Trouble {
    Trouble::Failed("what came is not what the Hub has".to_string())
}

/// Lower-case hexadecimal digits of `bytes`.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn value(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

/// Whether two addresses have scheme, host and port in common.
pub(super) fn same_origin(one: &str, other: &str) -> bool {
    let origin = |url: &str| {
        let url: Uri = url.parse().ok()?;
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let usual = if scheme == "https" { 443 } else { 80 };
        let host = url.host()?.to_ascii_lowercase();
        Some((host, url.port_u16().unwrap_or(usual), scheme))
    };
    origin(one).is_some() && origin(one) == origin(other)
}

/// Where `location` leads from `url`.
pub(super) fn joined(url: &str, location: &str) -> Option<String> {
    let base: Uri = url.parse().ok()?;
    let origin = format!("{}://{}", base.scheme_str()?, base.authority()?);
    let scheme = location.split_once("://").map(|(scheme, _)| scheme);
    if scheme.is_some_and(|scheme| {
        ["http", "https"]
            .iter()
            .any(|s| scheme.eq_ignore_ascii_case(s))
    }) {
        return Some(location.to_string());
    }
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{}://{rest}", base.scheme_str()?));
    }
    if location.starts_with('/') {
        return Some(format!("{origin}{location}"));
    }
    let folder = base
        .path()
        .rsplit_once('/')
        .map_or("", |(folder, _)| folder);
    Some(format!("{origin}{folder}/{location}"))
}

/// Whether a name out of a header may become that of a file.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

pub(super) fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}
