use std::io::Write;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A file of a header and as many bytes of data.
pub(crate) fn file(header: &str, data: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[track_caller]
fn refused(header: &str, data: usize, words: &[&str]) {
    let (_dir, path) = file(header, &vec![0; data]);
    let error = TensorFile::open(&path).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(!error.contains('\n') && error.len() < 4000, "{error}");
    for word in words.iter().chain([&"model.safetensors"]) {
        assert!(error.contains(word), "{word}: {error}");
    }
}

/// The entry of a tensor of numbers of four bytes.
fn entry(name: &str, shape: &str, start: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{start},{end}]}}"#)
}

#[test]
fn sizes_that_are_not_those_of_the_shape_are_refused() {
    let one = |shape: &str, start, end| format!("{{{}}}", entry("layer", shape, start, end));
    refused(&one("[3]", 0, 8), 8, &["layer", "takes 12"]);
    refused(&one("[2]", 0, 8), 4, &["layer", "4 bytes follow", "says 8"]);
    refused(&one("[2]", 0, 8), 12, &["12 bytes follow", "says 8"]);
    refused(&one("[1]", 8, 4), 8, &["layer", "begins at byte 8"]);
    refused(&one("[2]", 4, 12), 12, &["layer", "begins at byte 4"]);
    let (huge, end) = (u64::MAX, u64::MAX - 3);
    refused(
        &one(&format!("[{huge}]"), 0, end),
        0,
        &["layer", "no possible"],
    );
    let product = "[4294967296,4294967296]";
    refused(&one(product, 0, 0), 0, &["layer", "no possible"]);
    refused(
        &one("[288230376151711744]", 0, 1 << 60),
        8,
        &["layer", "8 bytes follow"],
    );
    refused(&one("[-1]", 0, 4), 4, &["layer"]);
    refused(&one("[1.5]", 0, 4), 4, &["layer"]);
}

#[test]
fn tensors_that_overlap_or_leave_gaps_are_refused() {
    let two = |start, end| {
        format!(
            "{{{},{}}}",
            entry("a", "[2]", 0, 8),
            entry("b", "[2]", start, end)
        )
    };
    refused(&two(4, 12), 12, &["tensor b", "byte 4", "a ends at byte 8"]);
    refused(&two(0, 8), 8, &["tensor b", "a ends at byte 8"]);
    refused(&two(12, 20), 20, &["tensor b", "byte 12"]);
    let (_dir, path) = file(&two(8, 16), &[0; 16]);
    TensorFile::open(&path).unwrap();
}

#[test]
fn two_tensors_of_one_name_are_refused() {
    let next = format!(
        "{{{},{}}}",
        entry("a", "[2]", 0, 8),
        entry("a", "[2]", 8, 16)
    );
    refused(&next, 16, &["two tensors are called a"]);
    let same = format!(
        "{{{},{}}}",
        entry("a", "[2]", 0, 8),
        entry("a", "[2]", 0, 8)
    );
    refused(&same, 8, &["two tensors are called a"]);
}

#[test]
fn headers_that_are_none_are_refused() {
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let deep_metadata = format!(r#"{{"__metadata__":{}"#, r#"{"a":"#.repeat(100_000));
    for header in ["", "[]", "{", "{}{}", "null", &deep, &deep_metadata] {
        refused(header, 0, &[]);
    }
    let unknown = r#"{"a":{"dtype":"F3","shape":[],"data_offsets":[0,4]}}"#;
    refused(unknown, 4, &["tensor a", "F3"]);
    let part = r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#;
    refused(part, 2, &["tensor a", "no possible"]);
    let long = format!("{{{}}}", entry(&"n\\n".repeat(10_000), "[3]", 0, 8));
    refused(&long, 8, &["takes 12"]);
}

/// Takes no memory: the length is compared with the file's first.
#[test]
fn the_length_of_the_header_is_not_believed() {
    for length in [u64::MAX, u64::MAX - 7, 1 << 40, MAX_HEADER + 1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let mut file = File::create(&path).unwrap();
        file.write_all(&length.to_le_bytes()).unwrap();
        file.write_all(b"{}").unwrap();
        let error = TensorFile::open(&path).unwrap_err().to_string();
        assert!(error.contains("would be"), "{error}");
    }
}

#[test]
fn a_tensor_larger_than_memory_is_refused_before_it_is_read() {
    let bytes: u64 = 1 << 44;
    let header = format!(
        "{{{}}}",
        entry("huge", &format!("[{}]", bytes / 4), 0, bytes)
    );
    let (_dir, path) = file(&header, &[]);
    let length = 8 + header.len() as u64 + bytes;
    // Not every file system has room for as many bytes of nothing.
    if File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length)
        .is_err()
    {
        return;
    }
    let file = TensorFile::open(&path).unwrap();
    let error = file.read_f32("huge").unwrap_err().to_string();
    assert!(error.contains("tensor huge takes 16.00 TiB"), "{error}");
    assert!(file.read("huge").is_err());
}

#[test]
fn what_is_cut_off_later_is_an_error() {
    let header = format!("{{{}}}", entry("a", "[2]", 0, 8));
    let (_dir, path) = file(&header, &[0; 8]);
    let tensors = TensorFile::open(&path).unwrap();
    let short = 8 + header.len() as u64 + 4;
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(short)
        .unwrap();
    let errors = [
        tensors.read_f32("a").unwrap_err(),
        tensors.read("a").unwrap_err(),
        tensors.require(|_| true).unwrap_err(),
    ];
    for error in errors {
        let error = error.to_string();
        assert!(
            error.contains("tensor a") && error.contains("cut off"),
            "{error}"
        );
    }
}

fn source<'a>(name: &str, dtype: Dtype, values: &'a [f32]) -> TensorSource<'a> {
    TensorSource {
        name: name.to_string(),
        dtype,
        shape: vec![values.len()],
        fetch: Box::new(move || crate::encode(values, dtype)),
    }
}

fn written(sources: &[TensorSource]) -> (TempDir, TensorFile) {
    let mut bytes = Vec::new();
    write_tensors(sources, |part| {
        bytes.extend(part);
        Ok(())
    })
    .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let file = TensorFile::open(&path).unwrap();
    (dir, file)
}

#[test]
fn numbers_are_read_in_every_float_type_and_in_pieces() {
    let values: Vec<f32> = (0..AT_ONCE + 9)
        .map(|at| (at % 251) as f32 - 125.0)
        .collect();
    let all = [Dtype::F32, Dtype::F16, Dtype::BF16];
    let sources: Vec<_> = all
        .iter()
        .map(|d| source(&d.to_string(), *d, &values))
        .collect();
    let (_dir, file) = written(&sources);
    for dtype in all {
        assert_eq!(file.read_f32(&dtype.to_string()).unwrap(), values);
    }
}

#[test]
fn what_are_no_floats_are_not_read_as_such() {
    let header = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    let (_dir, path) = file(header, &[0; 8]);
    let tensors = TensorFile::open(&path).unwrap();
    let error = tensors.read_f32("ids").unwrap_err().to_string();
    assert!(error.contains("tensor ids is of type I64"), "{error}");
    assert_eq!(tensors.read("ids").unwrap().bytes, [0; 8]);
    tensors.require(|_| false).unwrap();
}

#[test]
fn a_source_that_gives_something_else_is_refused() {
    let short = TensorSource {
        name: "a".to_string(),
        dtype: Dtype::F32,
        shape: vec![2],
        fetch: Box::new(|| Ok(vec![0; 4])),
    };
    let error = write_tensors(&[short], |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("tensor a has 4 bytes"), "{error}");
    let same = [
        source("a", Dtype::F32, &[1.0]),
        source("a", Dtype::BF16, &[1.0]),
    ];
    let error = write_tensors(&same, |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("two tensors are called a"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_header_may_be_anything(text in any::<Vec<u8>>(), length in any::<u8>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        let mut bytes = u64::from(length).to_le_bytes().to_vec();
        bytes.extend(text);
        std::fs::write(&path, bytes).unwrap();
        let _ = TensorFile::open(&path);
    }
}
