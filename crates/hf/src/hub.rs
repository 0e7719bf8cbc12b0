//! The Hugging Face Hub, and the cache that its other tools share.
//!
//! ```text
//! $HF_HOME/hub/models--ORG--NAME/    ($HF_HUB_CACHE, ~/.cache/huggingface/hub)
//!   blobs/ETAG                       a file's bytes
//!   blobs/ETAG.incomplete            the beginning of a large one's, which the next download goes on from
//!   snapshots/COMMIT/tokenizer.json  a link to them
//!   refs/main                        the commit
//! $HF_HOME/hub/.locks/               held while a large file is downloaded
//! ```
//!
//! The token goes to the Hub's own host and nowhere else, wherever that sends us.

mod cache;
mod large;
mod model;
mod request;
mod tokenizer;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use model::Model;

const ENDPOINT: &str = "https://huggingface.co";
const MAIN: &str = "main";
/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// Before a download that broke off is gone on with.
const PAUSE: Duration = Duration::from_secs(2);
const TOKEN_BYTES: u64 = 4096;
/// Longest file but the tensors': parsing a tokenizer takes more than ten times as much memory.
const MOST_BYTES: u64 = 128 << 20;

/// How to reach the Hub, and where its files are kept.
#[derive(Clone)]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    silence: Duration,
    pause: Duration,
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
    /// The connection, which may come back.
    Broken(String),
    /// What does not change by asking again.
    Failed(String),
}

/// How far a download is: bytes so far and in all, and whether anybody still waits for it.
#[derive(Default)]
struct Progress {
    done: AtomicU64,
    all: AtomicU64,
    given_up: AtomicBool,
}

/// Ends a download that nobody waits for any more.
struct GivesUp(Arc<Progress>);

impl Drop for GivesUp {
    fn drop(&mut self) {
        self.0.given_up.store(true, Ordering::Relaxed);
    }
}

impl Progress {
    fn shown(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.all.load(Ordering::Relaxed),
        )
    }
}

/// A folder that the environment names.
fn named_by(variable: &str) -> Option<PathBuf> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// Where the Hub's tools have their files.
fn home() -> PathBuf {
    named_by("HF_HOME").unwrap_or_else(|| {
        let cache = named_by("XDG_CACHE_HOME");
        let cache = cache.or_else(|| Some(dirs::home_dir()?.join(".cache")));
        cache.unwrap_or_default().join("huggingface")
    })
}

/// The cache that the Hub's tools share, by the variables that they know.
pub fn cache_folder() -> PathBuf {
    named_by("HF_HUB_CACHE").unwrap_or_else(|| home().join("hub"))
}

impl Hub {
    /// As the environment says, by the variables that the Hub's other tools know.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let is_set = |name| variable(name).is_some_and(|value| value != "0");
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_string());
        let silence = variable("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|value| value.parse().ok());
        let token = match is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => variable("HF_TOKEN")
                .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| {
                    let path = variable("HF_TOKEN_PATH").map(PathBuf::from);
                    token_in(&path.unwrap_or_else(|| home().join("token")))
                }),
        };
        Self {
            endpoint: endpoint.trim_end_matches('/').to_string(),
            cache: cache_folder(),
            token: token.as_deref().and_then(usable_token),
            offline: is_set("HF_HUB_OFFLINE"),
            silence: silence.map_or(SILENCE, Duration::from_secs),
            pause: PAUSE,
            most_bytes: MOST_BYTES,
        }
    }

    /// Why a file is not to be had and what to do, for a message.
    fn cause(&self, id: &str, trouble: &Trouble) -> String {
        let page = format!("{}/{id}", self.endpoint);
        match trouble {
            Trouble::Broken(cause) | Trouble::Failed(cause) => {
                cause.lines().next().unwrap_or_default().to_string()
            }
            Trouble::Refused(404, code) if code == "RevisionNotFound" => {
                format!("404: the repository has no such revision: see {page}/tree/main")
            }
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
}

impl Trouble {
    /// Whether the same request may be answered a little later.
    fn may_pass(&self) -> bool {
        match self {
            Self::Refused(status, _) => matches!(status, 429 | 500 | 502 | 503 | 504),
            Self::Broken(_) => true,
            Self::Failed(_) => false,
        }
    }
}

/// `name` or `owner/name`, in the characters the Hub allows.
pub fn is_hub_id(model: &str) -> bool {
    let parts: Vec<&str> = model.split('/').collect();
    parts.len() <= 2
        && parts.iter().all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        })
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

#[cfg(test)]
mod tests;
