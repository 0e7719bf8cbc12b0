use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Instant;

use aios_base::error::{Error, Result};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::request::{hex, joined, same_origin};
use super::*;
use crate::names::{TOKENIZER_CONFIG_FILE, TOKENIZER_FILE};

mod model;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const TOKEN: &str = "hf_secret";

/// What a server does with a request for a path.
enum Reply {
    Whole(String),
    /// A head, then bytes without end.
    Endless(&'static str),
    Silence,
}

/// A server on this machine, and what it was asked for.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::reading(move |request| reply(request.split(' ').nth(1).unwrap()))
    }

    /// One that is given all of a request's head.
    fn reading(reply: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply) = (Arc::clone(&requests), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                std::thread::spawn(move || serve(stream.unwrap(), &seen, &*reply));
            }
        });
        Self { address, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, reply: &dyn Fn(&str) -> Reply) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        request.push(byte[0]);
    }
    let request = String::from_utf8(request).unwrap();
    seen.lock().unwrap().push(request.clone());
    // The client may have gone.
    let _ = match reply(&request) {
        Reply::Whole(text) => stream.write_all(text.as_bytes()),
        Reply::Endless(head) => stream.write_all(head.as_bytes()).and_then(|()| {
            loop {
                stream.write_all(&[b'x'; 4096])?
            }
        }),
        Reply::Silence => {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        }
    };
}

fn answer(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Whole(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\nX-Repo-Commit: {COMMIT}\r\n{headers}\r\n{body}"
    ))
}

fn hub(endpoint: &str) -> (Hub, TempDir) {
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint: endpoint.to_string(),
        cache: cache.path().join("hub"),
        token: Some(TOKEN.to_string()),
        offline: false,
        silence: Duration::from_millis(300),
        pause: Duration::from_millis(1),
        most_bytes: 1 << 20,
    };
    (hub, cache)
}

fn load(hub: &Hub) -> Result<PathBuf> {
    hub.tokenizer_file("org/name", &mut |_, _| Ok(()))
}

fn error(hub: &Hub) -> String {
    let error = load(hub).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let text = error.to_string();
    assert!(!text.contains('\n') && !text.contains(TOKEN), "{text}");
    assert!(
        text.contains("org/name") && text.contains("--model gpt2"),
        "{text}"
    );
    text
}

/// Files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.file_name().to_string_lossy().into_owned()),
        }
    }
    found.sort();
    found
}

#[test]
fn a_download_is_kept_as_the_hubs_other_tools_keep_it() {
    let server = Server::start(|path| match path {
        "/org/name/resolve/main/tokenizer_config.json" => {
            answer("200 OK", "ETag: W/\"c0\"\r\n", "{}")
        }
        path => {
            assert_eq!(path, format!("/org/name/resolve/{COMMIT}/tokenizer.json"));
            answer("200 OK", "ETag: \"f1\"\r\n", "{\"a\": 1}")
        }
    });
    let (hub, _cache) = hub(&server.address);
    let path = load(&hub).unwrap();
    let repository = hub.cache.join("models--org--name");
    assert_eq!(
        path,
        repository
            .join("snapshots")
            .join(COMMIT)
            .join(TOKENIZER_FILE)
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\": 1}");
    assert_eq!(
        std::fs::read_to_string(repository.join("blobs/f1")).unwrap(),
        "{\"a\": 1}"
    );
    assert_eq!(
        std::fs::read_to_string(repository.join("refs/main")).unwrap(),
        COMMIT
    );
    assert!(path.with_file_name(TOKENIZER_CONFIG_FILE).is_file());
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(&path).unwrap(),
        Path::new("../../blobs/f1")
    );
    assert_eq!(files(&hub.cache).len(), 5);
    // Nothing is asked for a second time.
    assert_eq!(load(&hub).unwrap(), path);
    assert_eq!(server.requests().len(), 2);
    assert!(server.requests()[0].contains(&format!("Bearer {TOKEN}")));
}

#[test]
fn the_token_goes_to_no_other_host() {
    let other = Server::start(|_| answer("200 OK", "ETag: \"other\"\r\n", "{}"));
    let elsewhere = other.address.clone();
    let server = Server::start(move |path| match path {
        path if path.starts_with("/org/") => answer(
            "307 Temporary Redirect",
            "Location: /new/tokenizer.json\r\n",
            "",
        ),
        _ => {
            let headers = format!("Location: {elsewhere}/blob?x=1\r\nX-Linked-ETag: \"f1\"\r\n");
            answer("302 Found", &headers, "")
        }
    });
    let (hub, _cache) = hub(&server.address);
    load(&hub).unwrap();
    assert_eq!(server.requests().len(), 4);
    for request in server.requests() {
        assert!(
            request.to_ascii_lowercase().contains("authorization"),
            "{request}"
        );
    }
    assert_eq!(other.requests().len(), 2);
    for request in other.requests() {
        assert!(request.contains("GET /blob?x=1 "), "{request}");
        assert!(
            !request.to_ascii_lowercase().contains("authorization"),
            "{request}"
        );
        assert!(!request.contains(TOKEN), "{request}");
    }
    assert!(hub.cache.join("models--org--name/blobs/f1").is_file());
}

#[test]
fn what_is_endless_silent_or_cut_off_leaves_nothing() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nETag: \"f1\"\r\nX-Repo-Commit: abc\r\n";
    type Make = fn() -> Reply;
    let replies: [(Make, &str); 7] = [
        (
            || Reply::Endless("HTTP/1.1 200 OK\r\nETag: \"f1\"\r\nX-Repo-Commit: abc\r\n\r\n"),
            "larger than 1 MiB",
        ),
        (
            || {
                Reply::Endless(
                    "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\nETag: \"f1\"\r\nX-Repo-Commit: abc\r\n\r\n",
                )
            },
            "larger than 1 MiB",
        ),
        (|| Reply::Endless("HTTP/1.1 200 OK\r\nX-Padding: "), ""),
        (|| Reply::Silence, "timeout"),
        (
            || answer("302 Found", "Location: /again\r\n", ""),
            "from one place to the next",
        ),
        (|| answer("302 Found", "", ""), "leads nowhere"),
        (
            || answer("200 OK", "ETag: \"../../evil\"\r\n", "{}"),
            "does not answer as the Hub does",
        ),
    ];
    for (reply, expected) in replies {
        let server = Server::start(move |_| reply());
        let (hub, _cache) = hub(&server.address);
        let text = error(&hub);
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(files(&hub.cache).is_empty());
    }
    let cut_off = format!("{head}Content-Length: 100\r\n\r\n{{}}");
    let server = Server::start(move |_| Reply::Whole(cut_off.clone()));
    let (hub, _cache) = hub(&server.address);
    error(&hub);
    assert!(files(&hub.cache).is_empty());
}

#[test]
fn what_is_not_what_the_hub_has_is_refused() {
    let etag = hex(&Sha256::digest("{}"));
    let headers = format!("X-Linked-ETag: \"{etag}\"\r\n");
    let server = Server::start(move |_| answer("200 OK", &headers, "{\"a\": 1}"));
    let (hub, _cache) = hub(&server.address);
    assert!(error(&hub).contains("not what the Hub has"));
}

/// A proxy that tells no length and gives up: what came is not kept.
#[test]
fn a_download_of_unknown_length_that_is_cut_off_leaves_nothing() {
    let server = Server::start(|_| {
        Reply::Whole(format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nX-Repo-Commit: {COMMIT}\r\nETag: \"abc\"\r\n\r\n{{\"version\": \"1"
        ))
    });
    let (hub, cache) = hub(&server.address);
    let text = error(&hub);
    assert!(text.contains("not JSON"), "{text}");
    assert!(files(cache.path()).is_empty());
}

#[test]
fn refusals_say_what_to_do() {
    let cases = [
        ("401 Unauthorized", "", &["401", "licence", "HF_TOKEN"][..]),
        (
            "403 Forbidden",
            "X-Error-Code: GatedRepo\r\n",
            &["403", "licence", "HF_TOKEN"],
        ),
        (
            "404 Not Found",
            "X-Error-Code: RepoNotFound\r\n",
            &["404", "no such repository", "check the id"],
        ),
        (
            "404 Not Found",
            "X-Error-Code: EntryNotFound\r\n",
            &["404", "has no tokenizer.json"],
        ),
        ("429 Too Many Requests", "", &["429", "later"]),
        ("503 Service Unavailable", "", &["503"]),
    ];
    for (status, headers, words) in cases {
        let server = Server::start(move |_| answer(status, headers, "no"));
        for token in [Some(TOKEN.to_string()), None] {
            let (hub, _cache) = hub(&server.address);
            let text = error(&Hub { token, ..hub });
            for word in words {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }
}

#[test]
fn a_request_to_stop_is_obeyed_at_once() {
    let server = Server::start(|_| Reply::Silence);
    let (hub, _cache) = hub(&server.address);
    let hub = Hub {
        silence: Duration::from_secs(600),
        ..hub
    };
    let started = Instant::now();
    let stopped = hub.tokenizer_file("org/name", &mut |_, _| Err(Error::Stopped));
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(files(&hub.cache).is_empty());
}

#[test]
fn addresses_are_joined_and_compared() {
    let upper = joined("https://a/b/c", "HTTPS://Other/d");
    assert_eq!(upper.as_deref(), Some("HTTPS://Other/d"));
    let base = "https://hub.co/a/resolve/main/b.json?x=1";
    for (location, expected) in [
        ("https://cdn.co/b", "https://cdn.co/b"),
        ("//cdn.co/b", "https://cdn.co/b"),
        ("/c?y", "https://hub.co/c?y"),
        ("c.json", "https://hub.co/a/resolve/main/c.json"),
    ] {
        assert_eq!(joined(base, location).as_deref(), Some(expected));
    }
    let hub = "https://hub.co";
    assert!(same_origin("https://HUB.co:443/x", hub));
    for other in [
        "http://hub.co",
        "https://hub.co:444",
        "https://hub.co.evil",
        "https://hub.co@evil.co/",
        "hub.co",
    ] {
        assert!(!same_origin(other, hub), "{other}");
    }
}

#[test]
fn ids_of_the_hub() {
    assert!(is_hub_id("org/name-1.5_b") && is_hub_id("bert"));
    for bad in ["", "a/b/c", "../x", "a b", "/x", "x/"] {
        assert!(!is_hub_id(bad), "{bad}");
    }
}
