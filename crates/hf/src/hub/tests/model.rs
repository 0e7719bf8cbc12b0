//! Whole models, from a server on this machine.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;

use serde_json::json;

use super::*;
use crate::{Folder, Weights};

const NEXT: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// A safetensors file with one tensor of two numbers.
fn tensors(name: &str) -> String {
    let header = format!(r#"{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([0; 8]);
    String::from_utf8(bytes).unwrap()
}

fn whole() -> BTreeMap<&'static str, String> {
    let index = json!({"weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"
    }});
    BTreeMap::from([
        (
            "config.json",
            json!({"model_type": "llama", "eos_token_id": 2}).to_string(),
        ),
        ("tokenizer.json", "{}".to_string()),
        (
            "additional_chat_templates/tool_use.jinja",
            "{{ tools }}".to_string(),
        ),
        ("README.md", "not wanted".to_string()),
        ("pytorch_model.bin", "not wanted".to_string()),
        ("model.safetensors.index.json", index.to_string()),
        ("model-00001-of-00002.safetensors", tensors("a")),
        ("model-00002-of-00002.safetensors", tensors("b")),
    ])
}

/// The files as a Hub has them, ranges and hashes and all.
struct Repository {
    files: BTreeMap<&'static str, String>,
    /// Once, the connection ends after so many bytes of a file of tensors.
    cut_off: AtomicUsize,
    ranges: bool,
}

impl Repository {
    fn of(files: BTreeMap<&'static str, String>) -> Self {
        Self {
            files,
            cut_off: AtomicUsize::new(usize::MAX),
            ranges: true,
        }
    }

    fn serve(self) -> Server {
        Server::reading(move |request| self.reply(request))
    }

    fn reply(&self, request: &str) -> Reply {
        let path = request.split(' ').nth(1).unwrap();
        if path.starts_with("/api/models/org/name/revision/main?") {
            return self.listing(COMMIT);
        }
        if path.starts_with("/api/models/org/name/revision/refs%2Fpr%2F1?") {
            return self.listing(NEXT);
        }
        let commits = [COMMIT, NEXT].map(|commit| format!("/org/name/resolve/{commit}/"));
        let file = commits.iter().find_map(|commit| path.strip_prefix(commit));
        match file.and_then(|file| self.files.get(file)) {
            Some(content) => self.file(content, from(request)),
            None => answer("404 Not Found", "X-Error-Code: RepoNotFound\r\n", ""),
        }
    }

    fn listing(&self, commit: &str) -> Reply {
        let files = self.files.iter();
        let siblings = files.map(|(name, text)| json!({"rfilename": name, "size": text.len()}));
        let siblings: Vec<_> = siblings.collect();
        let listing = json!({"sha": commit, "siblings": siblings});
        answer("200 OK", "", &listing.to_string())
    }

    fn file(&self, content: &str, from: Option<usize>) -> Reply {
        let etag = hex(&Sha256::digest(content));
        let (status, range, body) = match from.filter(|_| self.ranges) {
            None => ("200 OK", String::new(), content),
            Some(from) => (
                "206 Partial Content",
                format!(
                    "Content-Range: bytes {from}-{0}/{1}\r\n",
                    content.len() - 1,
                    content.len()
                ),
                &content[from..],
            ),
        };
        let headers = format!("X-Linked-ETag: \"{etag}\"\r\n{range}");
        let Reply::Whole(reply) = answer(status, &headers, body) else {
            unreachable!()
        };
        let cut = match content.contains("data_offsets") {
            true => self.cut_off.swap(usize::MAX, Ordering::Relaxed),
            false => usize::MAX,
        };
        let head = reply.len() - body.len();
        Reply::Whole(reply[..reply.len().min(head.saturating_add(cut))].to_string())
    }
}

fn from(request: &str) -> Option<usize> {
    let lower = request.to_ascii_lowercase();
    let range = lower
        .lines()
        .find_map(|line| line.strip_prefix("range: bytes="))?;
    range.strip_suffix('-')?.parse().ok()
}

fn locate(hub: &Hub, spec: &str) -> Result<Folder> {
    Folder::locate_in(hub, spec, &mut |_, _| Ok(()))
}

#[track_caller]
fn refused(hub: &Hub, spec: &str, words: &[&str]) {
    let text = locate(hub, spec).unwrap_err().to_string();
    assert!(!text.contains('\n') && !text.contains(TOKEN), "{text}");
    for word in words.iter().chain([&spec]) {
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn asked_for(server: &Server, what: &str) -> usize {
    let requests = server.requests();
    requests
        .iter()
        .filter(|request| request.contains(what))
        .count()
}

#[test]
fn a_model_is_downloaded_once_and_whole() {
    let server = Repository::of(whole()).serve();
    let (hub, _cache) = hub(&server.address);
    let folder = locate(&hub, "org/name").unwrap();
    assert_eq!(folder.name(), "org/name");
    assert_eq!(folder.generation().eos, [2]);
    assert_eq!(folder.chat_templates().unwrap()[0].0, "tool_use");
    let weights = Weights::open(&folder).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.read_f32("b").unwrap(), [0.0, 0.0]);
    let repository = hub.cache.join("models--org--name");
    assert_eq!(folder.path(), repository.join("snapshots").join(COMMIT));
    assert_eq!(files(&repository.join("blobs")).len(), 6);
    assert!(!folder.path().join("README.md").exists());
    let asked = server.requests().len();
    locate(&hub, "org/name").unwrap();
    let offline = Hub {
        offline: true,
        ..hub
    };
    locate(&offline, &format!("org/name@{COMMIT}")).unwrap();
    assert_eq!(server.requests().len(), asked);
    refused(&offline, "org/name@v2", &["HF_HUB_OFFLINE"]);
}

#[test]
fn a_revision_has_a_folder_of_its_own() {
    let server = Repository::of(whole()).serve();
    let (hub, _cache) = hub(&server.address);
    let folder = locate(&hub, "org/name@refs/pr/1").unwrap();
    assert!(folder.path().ends_with(NEXT));
    let noted = hub.cache.join("models--org--name/refs/refs/pr/1");
    assert_eq!(std::fs::read_to_string(noted).unwrap(), NEXT);
    refused(&hub, "org/name@none", &["404"]);
    for spec in [
        "org/name@",
        "org/name@../x",
        "org/name@a b",
        "org/../name",
        "name",
    ] {
        assert!(Model::parse(spec).is_none(), "{spec}");
        assert_eq!(locate(&hub, spec).unwrap_err().exit_code(), 1);
    }
}

/// The second time within one download, and after one that ended.
#[test]
fn a_download_that_broke_off_is_gone_on_with() {
    let repository = Repository::of(whole());
    repository.cut_off.store(40, Ordering::Relaxed);
    let server = repository.serve();
    let (hub, _cache) = hub(&server.address);
    Weights::open(&locate(&hub, "org/name").unwrap()).unwrap();
    assert_eq!(asked_for(&server, "ange: bytes=40-"), 1);
}

#[test]
fn what_an_earlier_process_left_is_gone_on_with() {
    for ranges in [true, false] {
        let server = Repository {
            ranges,
            ..Repository::of(whole())
        };
        let server = server.serve();
        let (hub, _cache) = hub(&server.address);
        let content = tensors("a");
        let blobs = hub.cache.join("models--org--name/blobs");
        std::fs::create_dir_all(&blobs).unwrap();
        let etag = hex(&Sha256::digest(&content));
        let part = blobs.join(format!("{etag}.incomplete"));
        std::fs::write(&part, &content[..30]).unwrap();
        Weights::open(&locate(&hub, "org/name").unwrap()).unwrap();
        assert_eq!(asked_for(&server, "ange: bytes=30-"), 1);
        assert!(!part.exists());
    }
}

#[test]
fn what_is_left_of_another_file_is_not_taken() {
    let server = Repository::of(whole()).serve();
    let (hub, _cache) = hub(&server.address);
    let blobs = hub.cache.join("models--org--name/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let etag = hex(&Sha256::digest(tensors("a")));
    let part = blobs.join(format!("{etag}.incomplete"));
    std::fs::write(&part, "something else").unwrap();
    refused(&hub, "org/name", &["not what the Hub has"]);
    assert!(!part.exists());
    locate(&hub, "org/name").unwrap();
}

#[test]
fn a_repository_without_what_is_needed_says_so() {
    let without = |left_out: &'static str, more: &[&'static str]| {
        let mut files = whole();
        files.retain(|name, _| !name.contains(left_out));
        files.extend(more.iter().map(|name| (*name, "{}".to_string())));
        files
    };
    let mut lying = whole();
    let index = json!({"weight_map": {"a": "../../evil.safetensors"}});
    lying.insert("model.safetensors.index.json", index.to_string());
    let mut lacking = whole();
    lacking.remove("model-00002-of-00002.safetensors");
    for (files, words) in [
        (
            without("safetensors", &[]),
            &["pytorch_model.bin", "a pickle"][..],
        ),
        (
            BTreeMap::from([("model.Q4_K_M.gguf", "x".to_string())]),
            &["GGUF"],
        ),
        (without("config.json", &[]), &["no config.json"]),
        (lying, &["tensor a", "evil"]),
        (lacking, &["model-00002-of-00002.safetensors", "has not"]),
    ] {
        let server = Repository::of(files).serve();
        let (hub, _cache) = hub(&server.address);
        refused(&hub, "org/name", words);
        assert!(!hub.cache.join("models--org--name/refs/main").exists());
    }
}

#[test]
fn a_model_that_may_not_be_read_says_what_to_do() {
    for (status, headers, words) in [
        ("401 Unauthorized", "", &["401", "licence", "HF_TOKEN"][..]),
        (
            "403 Forbidden",
            "X-Error-Code: GatedRepo\r\n",
            &["403", "licence"],
        ),
        (
            "404 Not Found",
            "X-Error-Code: RepoNotFound\r\n",
            &["404", "check the id"],
        ),
        (
            "404 Not Found",
            "X-Error-Code: RevisionNotFound\r\n",
            &["404", "no such revision"],
        ),
        ("503 Service Unavailable", "", &["503"]),
        ("200 OK", "", &["does not answer as the Hub does"]),
    ] {
        let server = Server::start(move |_| answer(status, headers, "{}"));
        let (hub, _cache) = hub(&server.address);
        refused(&hub, "org/name", words);
        assert!(files(&hub.cache).is_empty());
    }
    let (hub, _cache) = hub("http://127.0.0.1:1");
    refused(&hub, "org/name", &["could not be downloaded", "network"]);
}

/// As when only architecture and tensors were loaded by another program.
#[test]
fn a_tokenizer_that_the_cache_lacks_is_fetched_if_it_can_be() {
    let server = Repository::of(whole()).serve();
    let (hub, _cache) = hub(&server.address);
    let path = locate(&hub, "org/name").unwrap().path().to_path_buf();
    std::fs::remove_file(path.join("tokenizer.json")).unwrap();
    let away = Hub {
        endpoint: "http://127.0.0.1:1".to_string(),
        ..hub.clone()
    };
    locate(&away, "org/name").unwrap();
    let asked = asked_for(&server, "safetensors HTTP");
    locate(&hub, "org/name").unwrap();
    assert!(path.join("tokenizer.json").is_file());
    assert_eq!(asked_for(&server, "safetensors HTTP"), asked);
}

#[test]
fn the_bytes_told_add_up() {
    let server = Repository::of(whole()).serve();
    let (hub, _cache) = hub(&server.address);
    let model = Model::parse("org/name").unwrap();
    let progress = Progress::default();
    assert!(hub.fetch_model(&model, &progress).is_ok());
    let (done, all) = progress.shown();
    let left_out = ["README.md", "pytorch_model.bin"];
    let wanted = whole()
        .into_iter()
        .filter(|(name, _)| !left_out.contains(name));
    let bytes: usize = wanted.map(|(_, text)| text.len()).sum();
    assert_eq!((done, all), (bytes as u64, bytes as u64));
}

#[test]
fn a_request_to_stop_ends_the_download() {
    let server = Server::start(|_| Reply::Silence);
    let (hub, _cache) = hub(&server.address);
    let hub = Hub {
        silence: Duration::from_secs(600),
        ..hub
    };
    let stopped = Folder::locate_in(&hub, "org/name", &mut |_, _| Err(Error::Stopped));
    assert!(matches!(stopped, Err(Error::Stopped)));
}

#[test]
fn the_settings_alone_are_enough_to_plan_with() {
    let server = Repository::of(whole()).serve();
    let (hub, _cache) = hub(&server.address);
    let alone = |spec: &str| hub.config_alone(spec, &mut |_, _| Ok(())).unwrap();
    let config = alone(&format!("org/name@{COMMIT}")).unwrap();
    assert_eq!(config["model_type"], "llama");
    assert_eq!(asked_for(&server, "safetensors"), 0);
    assert_eq!(alone("a folder"), None);
    locate(&hub, "org/name").unwrap();
    assert_eq!(alone("org/name"), None);
}
