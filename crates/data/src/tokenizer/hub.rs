//! Tokenizers from the Hugging Face Hub, in the cache that its other tools share.
//!
//! ```text
//! $HF_HOME/hub/models--ORG--NAME/    ($HF_HUB_CACHE, ~/.cache/huggingface/hub)
//!   blobs/ETAG                       a file's bytes
//!   snapshots/COMMIT/tokenizer.json  a link to them
//!   refs/main                        the commit
//! ```
//!
//! The token goes to the Hub's own host and nowhere else, wherever that sends us.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::de::IgnoredAny;

use http::{HeaderMap, Response, Uri, header};
use sha2::{Digest, Sha256};
use ureq::{Agent, Body};

use crate::Watch;
use crate::background::watched;
use crate::hash::hex;
use crate::tokenizer::files::{CONFIG_FILE, TOKENIZER_BYTES, TOKENIZER_FILE};
use aios_base::error::{Error, Result, shown};

const ENDPOINT: &str = "https://huggingface.co";
const REVISION: &str = "main";
const REDIRECTS: usize = 10;
const CONNECTING: Duration = Duration::from_secs(10);
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(30);
const TOKEN_BYTES: u64 = 4096;

/// How to reach the Hub, and where its files are kept.
#[derive(Clone)]
pub(super) struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    silence: Duration,
    most_bytes: u64,
}

/// A file of a repository.
struct Download {
    bytes: Vec<u8>,
    etag: String,
    commit: String,
}

/// Why there is none.
enum Trouble {
    /// What the Hub answered: the status and its name for the error, if any.
    Refused(u16, String),
    Failed(String),
}

/// How far a download is: bytes so far and in all.
type Progress = Arc<(AtomicU64, AtomicU64)>;

impl Hub {
    /// As the environment says, by the variables that the Hub's other tools know.
    pub(super) fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_set = |name| variable(name).is_some_and(|value| value != "0");
        let home = variable("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
            let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| Some(dirs::home_dir()?.join(".cache")));
            cache.unwrap_or_default().join("huggingface")
        });
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_string());
        let silence = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.parse().ok());
        let token = match is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => variable("HF_TOKEN")
                .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| {
                    let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
                    token_in(&path.unwrap_or_else(|| home.join("token")))
                }),
        };
        Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: variable("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.as_deref().and_then(usable_token),
            offline: is_set("HF_HUB_OFFLINE"),
            silence: silence.map_or(SILENCE, Duration::from_secs),
            most_bytes: TOKENIZER_BYTES,
        }
    }

    /// Path of the tokenizer file of Hub model `id` in the shared cache, downloaded if need be.
    ///
    /// # Errors
    /// In one line with what to do, if it is not to be had; or what `watch` gives, at once.
    pub(super) fn tokenizer_file(&self, id: &str, watch: &mut Watch) -> Result<PathBuf> {
        if let Some(path) = self.cached(id) {
            return Ok(path);
        }
        if self.offline {
            return Err(self.failed(id, "HF_HUB_OFFLINE forbids the download"));
        }
        // Many tokenizers have no such file; what matters is whether an end of text is found at load.
        let config = match self.download(id, REVISION, CONFIG_FILE, watch)? {
            Ok(config) => Some(config),
            Err(Trouble::Refused(404, _)) => None,
            Err(trouble) => return Err(self.failed(id, &self.cause(id, &trouble))),
        };
        let revision = config.as_ref().map_or(REVISION, |config| &config.commit);
        let tokenizer = self
            .download(id, revision, TOKENIZER_FILE, watch)?
            .map_err(|trouble| self.failed(id, &self.cause(id, &trouble)))?;
        if let Some(config) = &config {
            self.keep(id, CONFIG_FILE, config)?;
        }
        let path = self.keep(id, TOKENIZER_FILE, &tokenizer)?;
        // Last, so that an interruption does not leave a cached tokenizer without its companion.
        let main = self.repository(id).join("refs").join(REVISION);
        self.write(&main, tokenizer.commit.as_bytes())?;
        Ok(path)
    }

    fn repository(&self, id: &str) -> PathBuf {
        self.cache
            .join(format!("models--{}", id.replace('/', "--")))
    }

    fn cached(&self, id: &str) -> Option<PathBuf> {
        let repository = self.repository(id);
        let commit = std::fs::read_to_string(repository.join("refs").join(REVISION)).ok()?;
        let path = repository
            .join("snapshots")
            .join(commit.trim())
            .join(TOKENIZER_FILE);
        path.is_file().then_some(path)
    }

    /// Downloads a file into memory, so that whatever interrupts it leaves nothing.
    fn download(
        &self,
        id: &str,
        revision: &str,
        file: &str,
        watch: &mut Watch,
    ) -> Result<Result<Download, Trouble>> {
        let progress = Progress::default();
        let (hub, told) = (self.clone(), Arc::clone(&progress));
        let url = format!("{}/{id}/resolve/{revision}/{file}", self.endpoint);
        watched(
            &format!("tokenizer {id}"),
            watch,
            || {
                (
                    progress.0.load(Ordering::Relaxed),
                    progress.1.load(Ordering::Relaxed),
                )
            },
            move || Ok(hub.fetch(url, &told)),
        )
    }

    fn fetch(&self, mut url: String, progress: &Progress) -> Result<Download, Trouble> {
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
            if let Some(token) = self.token.as_ref().filter(|_| is_own) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| failed(error.to_string()))?;
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
            let (Some(etag), Some(commit)) =
                (etag.filter(|t| is_name(t)), commit.filter(|c| is_name(c)))
            else {
                return Err(failed(format!(
                    "{} does not answer as the Hub does",
                    self.endpoint
                )));
            };
            let bytes = self.body(response, progress).map_err(failed)?;
            if is_sha256(&etag) && hex(&Sha256::digest(&bytes)) != etag {
                return Err(failed("what came is not what the Hub has".to_string()));
            }
            // Both files are JSON; one that was cut off would stay in the cache, which others share.
            if let Err(error) = serde_json::from_slice::<IgnoredAny>(&bytes) {
                return Err(failed(format!("what came is not JSON: {error}")));
            }
            return Ok(Download {
                bytes,
                etag,
                commit,
            });
        }
        Err(failed("it is sent from one place to the next".to_string()))
    }

    fn body(&self, response: Response<Body>, progress: &Progress) -> Result<Vec<u8>, String> {
        let too_large = || format!("it is larger than {} MiB", self.most_bytes >> 20);
        let length = response.body().content_length();
        progress.1.store(length.unwrap_or(0), Ordering::Relaxed);
        if length.is_some_and(|length| length > self.most_bytes) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = body.read(&mut buffer).map_err(|error| error.to_string())?;
            bytes.extend_from_slice(&buffer[..read]);
            progress.0.store(bytes.len() as u64, Ordering::Relaxed);
            if bytes.len() as u64 > self.most_bytes {
                return Err(too_large());
            }
            if read == 0 {
                break;
            }
        }
        match length {
            Some(length) if length != bytes.len() as u64 => {
                Err(format!("it ended after {} of {length} bytes", bytes.len()))
            }
            _ => Ok(bytes),
        }
    }

    /// Puts a file into the cache; gives its path there.
    fn keep(&self, id: &str, name: &str, file: &Download) -> Result<PathBuf> {
        let repository = self.repository(id);
        let blob = repository.join("blobs").join(&file.etag);
        if !blob.is_file() {
            self.write(&blob, &file.bytes)?;
        }
        let snapshot = repository.join("snapshots").join(&file.commit);
        let path = snapshot.join(name);
        if path.is_file() {
            return Ok(path);
        }
        std::fs::create_dir_all(&snapshot).map_err(|error| self.cannot_keep(&error))?;
        // A link that leads nowhere any more is in the way of a new one.
        let _ = std::fs::remove_file(&path);
        let target: PathBuf = ["..", "..", "blobs", &file.etag].iter().collect();
        match link(&target, &path) {
            Ok(()) => Ok(path),
            // On Windows not everybody may make links.
            Err(_) => self.write(&path, &file.bytes).map(|()| path),
        }
    }

    /// Writes a file aside and renames it.
    fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let write = || {
            std::fs::create_dir_all(folder)?;
            let aside = tempfile::Builder::new()
                .suffix(".incomplete")
                .tempfile_in(folder)?;
            std::io::Write::write_all(&mut aside.as_file(), bytes)?;
            readable(aside.as_file())?;
            aside.persist(path).map(drop).map_err(|error| error.error)
        };
        write().map_err(|error| self.cannot_keep(&error))
    }

    fn cannot_keep(&self, cause: &std::io::Error) -> Error {
        Error::failed(format!(
            "cannot write to the Hugging Face cache {}: {cause}; set HF_HOME to a folder that can be written",
            shown(&self.cache)
        ))
    }

    fn cause(&self, id: &str, trouble: &Trouble) -> String {
        let page = format!("{}/{id}", self.endpoint);
        match trouble {
            Trouble::Failed(cause) => cause.lines().next().unwrap_or_default().to_string(),
            Trouble::Refused(404, code) if code == "EntryNotFound" => format!(
                "404: the repository has no {TOKENIZER_FILE}; choose one with a fast (tokenizers) tokenizer"
            ),
            Trouble::Refused(404, _) => "404: there is no such repository".to_string(),
            Trouble::Refused(status @ (401 | 403), _) => match self.token {
                None => format!(
                    "{status}: there is no such repository, or it is private or gated: for the latter accept its \
                     licence on {page} and set HF_TOKEN to a token that may read it"
                ),
                Some(_) => format!(
                    "{status}: the token in use may not read it: accept the licence on {page}, or set HF_TOKEN to \
                     another one"
                ),
            },
            Trouble::Refused(429, _) => "429: too many requests; try again later".to_string(),
            Trouble::Refused(status, _) => format!("the server answered {status}"),
        }
    }

    fn failed(&self, id: &str, cause: &str) -> Error {
        Error::failed(format!(
            "tokenizer {id} is neither a local path nor in the Hugging Face cache, and could not be downloaded ({cause}): check the id and the network, or use --model gpt2, which is built in"
        ))
    }
}

/// What stands in a token file, if there is one.
fn token_in(path: &Path) -> Option<String> {
    if !path.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(TOKEN_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

fn usable_token(text: &str) -> Option<String> {
    let token = text.trim();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        tracing::warn!("the Hugging Face token has characters that none can have: it is not used");
        return None;
    }
    (!token.is_empty()).then(|| token.to_string())
}

fn value(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_string())
}

/// Whether two addresses have scheme, host and port in common.
fn same_origin(one: &str, other: &str) -> bool {
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
fn joined(url: &str, location: &str) -> Option<String> {
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
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=128).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('.')
}

fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(windows)]
fn link(target: &Path, path: &Path) -> std::io::Result<()> {
    std::os::windows::fs::symlink_file(target, path)
}

#[cfg(not(any(unix, windows)))]
fn link(_: &Path, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Temporary files are for their owner alone; the cache is shared.
#[cfg(unix)]
fn readable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
