use std::fs;
use std::path::PathBuf;

use serde_json::json;
use tempfile::TempDir;

use super::*;

/// A safetensors file of tensors of two numbers each.
fn tensors(names: &[&str], value: f32) -> Vec<u8> {
    let entry = |(at, name): (usize, &&str)| {
        let (start, end) = (8 * at, 8 * at + 8);
        format!(r#""{name}":{{"dtype":"F32","shape":[2],"data_offsets":[{start},{end}]}}"#)
    };
    let entries: Vec<String> = names.iter().enumerate().map(entry).collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(
        [1.0, value]
            .map(f32::to_le_bytes)
            .concat()
            .repeat(names.len()),
    );
    bytes
}

/// A model of two files.
fn model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("config.json"), "{}").unwrap();
    fs::write(path("1.safetensors"), tensors(&["a", "unlisted"], 2.0)).unwrap();
    fs::write(path("2.safetensors"), tensors(&["b"], 3.0)).unwrap();
    index(&dir, &[("a", "1.safetensors"), ("b", "2.safetensors")]);
    dir
}

fn index(dir: &TempDir, pairs: &[(&str, &str)]) {
    let map: serde_json::Map<_, _> = pairs
        .iter()
        .map(|(name, file)| (name.to_string(), json!(file)))
        .collect();
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(dir.path().join(INDEX_FILE), index.to_string()).unwrap();
}

fn open(dir: &TempDir) -> Result<Safetensors> {
    Safetensors::open(&Folder::open(dir.path())?)
}

#[track_caller]
fn refused(dir: &TempDir, words: &[&str]) {
    let error = open(dir).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(!error.contains('\n'), "{error}");
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn tensors_are_read_from_the_files_that_the_index_names() {
    let weights = open(&model()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(weights.read_f32("b").unwrap(), [1.0, 3.0]);
    assert_eq!(weights.info("a"), Some((Dtype::F32, vec![2])));
    assert_eq!(weights.info("unlisted"), None);
    assert_eq!(weights.data_bytes(), 24);
    let error = weights.read_f32("unlisted").unwrap_err().to_string();
    assert!(error.contains("no tensor unlisted"), "{error}");
}

#[test]
fn one_file_is_taken_before_an_index() {
    let dir = model();
    fs::write(dir.path().join(MODEL_FILE), tensors(&["c"], 4.0)).unwrap();
    let weights = open(&dir).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn bytes_are_those_of_the_file_before_and_after_they_are_released() {
    let weights = open(&model()).unwrap();
    weights.release("a");
    for _ in 0..2 {
        let bytes = weights.bytes("a").unwrap();
        assert_eq!(bytes, [1.0_f32, 2.0].map(f32::to_le_bytes).concat());
        weights.release("a");
        weights.release("none");
    }
}

#[test]
fn a_file_that_was_cut_off_is_not_mapped() {
    let dir = model();
    let weights = open(&dir).unwrap();
    weights.bytes("b").unwrap();
    let path = dir.path().join("2.safetensors");
    let file = fs::File::options().write(true).open(path).unwrap();
    // Windows lets nobody cut off what is mapped.
    if file.set_len(30).is_ok() {
        let error = weights.bytes("b").unwrap_err().to_string();
        assert!(
            error.contains("tensor b") && error.contains("cut off"),
            "{error}"
        );
        assert!(weights.read_f32("b").is_err());
    }
}

#[test]
fn what_is_not_finite_is_named_with_its_place() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let dir = model();
        fs::write(dir.path().join("2.safetensors"), tensors(&["b"], value)).unwrap();
        let weights = open(&dir).unwrap();
        weights.finite("a").unwrap();
        let error = weights.finite("b").unwrap_err().to_string();
        let words = format!("2.safetensors: tensor b has {shown} at element 1");
        assert!(error.contains(&words), "{error}");
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = model();
    index(&dir, &[("a", "1.safetensors"), ("b", "1.safetensors")]);
    refused(
        &dir,
        &[INDEX_FILE, "tensor b is in 1.safetensors", "no such tensor"],
    );
    index(&dir, &[("a", "1.safetensors"), ("b", "3.safetensors")]);
    refused(&dir, &["3.safetensors is missing", "1 of 2 files"]);
    index(&dir, &[("a", "../1.safetensors")]);
    refused(&dir, &["tensor a", "../1.safetensors"]);
    index(&dir, &[]);
    refused(&dir, &["names no tensor"]);
    fs::write(dir.path().join(INDEX_FILE), "[".repeat(100_000)).unwrap();
    refused(&dir, &[INDEX_FILE]);
}

#[test]
fn a_folder_without_tensors_says_what_it_has_instead() {
    for (name, word) in [
        ("pytorch_model.bin", "a pickle"),
        ("model.gguf", "GGUF"),
        ("adapter_model.safetensors", "adapter"),
        ("notes.txt", "safetensors are needed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("config.json"), "{}").unwrap();
        fs::write(dir.path().join(name), "x").unwrap();
        refused(&dir, &[word]);
    }
}

#[cfg(unix)]
fn link(target: impl AsRef<Path>, dir: &Path, name: &str) {
    let path = dir.join(name);
    let _ = fs::remove_file(&path);
    std::os::unix::fs::symlink(target, path).unwrap();
}

#[cfg(unix)]
#[test]
fn links_that_lead_outside_are_refused() {
    let (dir, other) = (model(), tempfile::tempdir().unwrap());
    let outside: PathBuf = other.path().join("1.safetensors");
    fs::write(&outside, tensors(&["a"], 2.0)).unwrap();
    link(&outside, dir.path(), "1.safetensors");
    refused(&dir, &["1.safetensors is a link to", "outside"]);
    link(&outside, dir.path(), MODEL_FILE);
    refused(&dir, &["model.safetensors is a link to", "outside"]);
    link("2.safetensors", dir.path(), MODEL_FILE);
    assert_eq!(open(&dir).unwrap().names().next(), Some("b"));
    link("nothing", dir.path(), MODEL_FILE);
    refused(&dir, &["a link to nothing"]);
}

/// In the Hub's cache all files are links into the folder of the repository's contents.
#[cfg(unix)]
#[test]
fn links_within_the_hubs_cache_are_followed() {
    let cache = tempfile::tempdir().unwrap();
    let make = |repository: &str| {
        let snapshot = cache.path().join(repository).join("snapshots/abc");
        let blobs = cache.path().join(repository).join("blobs");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join("c1"), "{}").unwrap();
        fs::write(blobs.join("m1"), tensors(&["a"], 2.0)).unwrap();
        link("../../blobs/c1", &snapshot, "config.json");
        link("../../blobs/m1", &snapshot, MODEL_FILE);
        snapshot
    };
    let (good, other) = (make("models--org--name"), make("models--org--other"));
    let open = |path: &Path| Safetensors::open(&Folder::open(path)?);
    open(&good).unwrap();
    link(other.join("../../blobs/m1"), &good, MODEL_FILE);
    assert!(open(&good).is_err());
    assert!(Folder::open(&make("not-of-the-hub")).is_err());
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() {
    let dir = model();
    let path = dir.path().join(MODEL_FILE);
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a valid string that ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    refused(&dir, &["it is not a file"]);
}
