use std::fs;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::value::{Array, Value};

/// Files of the Python package gguf: `scripts/make_gguf_goldens`.
fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name)
}

/// A file of these bytes.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Bytes of a file, put together without any check.
struct Raw {
    pairs: u64,
    tensors: u64,
    head: Vec<u8>,
    infos: Vec<u8>,
}

impl Raw {
    fn new() -> Self {
        Self {
            pairs: 0,
            tensors: 0,
            head: Vec::new(),
            infos: Vec::new(),
        }
    }

    fn text(text: &[u8]) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes(), text].concat()
    }

    fn pair(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.pairs += 1;
        self.head.extend(Self::text(key));
        self.head.extend(kind.to_le_bytes());
        self.head.extend(value);
        self
    }

    fn array(self, kind: u32, count: u64, elements: &[u8]) -> Self {
        let value = [&kind.to_le_bytes(), &count.to_le_bytes()[..], elements].concat();
        self.pair(b"a", 9, &value)
    }

    fn tensor(mut self, name: &[u8], dimensions: &[u64], kind: u32, offset: u64) -> Self {
        self.tensors += 1;
        self.infos.extend(Self::text(name));
        self.infos.extend((dimensions.len() as u32).to_le_bytes());
        for extent in dimensions {
            self.infos.extend(extent.to_le_bytes());
        }
        self.infos.extend(kind.to_le_bytes());
        self.infos.extend(offset.to_le_bytes());
        self
    }

    fn header(version: u32, tensors: u64, pairs: u64) -> Vec<u8> {
        let counts = [tensors.to_le_bytes(), pairs.to_le_bytes()].concat();
        [b"GGUF", &version.to_le_bytes()[..], &counts].concat()
    }

    /// With so many bytes of data.
    fn bytes(&self, data: usize) -> Vec<u8> {
        let mut bytes = Self::header(3, self.tensors, self.pairs);
        bytes.extend(&self.head);
        bytes.extend(&self.infos);
        bytes.resize(bytes.len().next_multiple_of(32) + data, 7);
        bytes
    }
}

#[track_caller]
fn refused(bytes: &[u8], words: &[&str]) {
    let (_dir, path) = file(bytes);
    let error = GgufFile::open(&path).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(!error.contains('\n') && error.contains("a.gguf"), "{error}");
    for word in words {
        assert!(error.contains(word), "{word}: {error}");
    }
}

#[test]
fn what_python_wrote_is_read() {
    let file = GgufFile::open(&golden("all_types.gguf")).unwrap();
    let metadata = file.metadata();
    let keys: Vec<&str> = metadata.iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys[..3],
        ["general.architecture", "general.alignment", "a.u8"]
    );
    assert_eq!(metadata.text("a.text").unwrap(), Some("naïve \n \u{1f600}"));
    assert_eq!(metadata.number("a.u64").unwrap(), Some(1 << 63));
    assert_eq!(metadata.get("a.i64"), Some(&Value::I64(-(1 << 62))));
    assert_eq!(metadata.get("a.i16"), Some(&Value::I16(-30000)));
    assert_eq!(metadata.get("a.i8"), Some(&Value::I8(-100)));
    assert_eq!(metadata.float("a.f32").unwrap(), Some(1e-5));
    assert_eq!(metadata.float("a.f64").unwrap(), Some(0.1));
    assert_eq!(metadata.boolean("a.bool").unwrap(), Some(true));
    assert_eq!(
        metadata.texts("a.texts").unwrap().unwrap(),
        ["<s>", "", "▁a"]
    );
    assert_eq!(
        metadata.integers("a.integers").unwrap().unwrap(),
        [1, -2, 3]
    );
    assert_eq!(metadata.integers("a.bytes").unwrap().unwrap(), [0, 255]);
    assert_eq!(metadata.floats("a.floats").unwrap().unwrap(), [0.5, -1.5]);
    let nested = Array::Array(vec![Array::I32(vec![1, 2]), Array::I32(vec![3])]);
    assert_eq!(metadata.get("a.nested"), Some(&Value::Array(nested)));
    assert_eq!(metadata.get("none"), None);
    assert_eq!(metadata.number("none").unwrap(), None);
}

#[test]
fn tensors_have_the_shapes_of_pytorch() {
    let file = GgufFile::open(&golden("all_types.gguf")).unwrap();
    let kinds = file.tensors().iter().map(|tensor| tensor.kind.name());
    let names = file
        .tensors()
        .iter()
        .map(|tensor| tensor.name.to_uppercase());
    assert!(
        kinds
            .zip(names)
            .all(|(kind, name)| kind == name || name == "FOUR")
    );
    assert_eq!(file.tensor("f32").unwrap().shape, [3, 5]);
    assert_eq!(file.tensor("q4_k").unwrap().shape, [2, 256]);
    assert_eq!(file.tensor("four").unwrap().shape, [1, 2, 3, 4]);
    let four = file.bytes("four").unwrap().as_chunks().0.iter();
    let four: Vec<f32> = four.map(|four| f32::from_le_bytes(*four)).collect();
    assert_eq!(four, (0..24).map(|n| n as f32).collect::<Vec<_>>());
    let rows: Vec<u8> = (0..2 * 136).map(|n| n as u8).collect();
    assert_eq!(file.bytes("iq4_xs").unwrap(), rows);
    assert!(!file.tensor("iq4_xs").unwrap().kind.is_supported());
    let all: usize = file.tensors().iter().map(TensorInfo::bytes).sum();
    assert_eq!(file.data_bytes(), all as u64);
}

#[test]
fn a_value_of_another_type_is_named() {
    let file = GgufFile::open(&golden("all_types.gguf")).unwrap();
    let metadata = file.metadata();
    for error in [
        metadata.number("a.i32").unwrap_err(),
        metadata.number("a.bool").map(drop).unwrap_err(),
        metadata.texts("a.integers").map(drop).unwrap_err(),
        metadata.floats("a.integers").map(drop).unwrap_err(),
        metadata.integers("a.texts").map(drop).unwrap_err(),
        metadata.float("a.text").map(drop).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains("all_types.gguf: a.") && error.contains("it must be"),
            "{error}"
        );
    }
}

#[test]
fn any_part_opens_all() {
    for part in 1..=3 {
        let path = golden(&format!("split-0000{part}-of-00003.gguf"));
        let file = GgufFile::open(&path).unwrap();
        let names: Vec<&str> = file.tensors().iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["t0", "t1", "t2", "t3", "t4"]);
        assert_eq!(file.metadata().text("general.name").unwrap(), Some("split"));
        assert_eq!(file.bytes("t3").unwrap(), 3.0_f32.to_le_bytes().repeat(6));
        assert!(
            file.path("t4")
                .unwrap()
                .ends_with("split-00003-of-00003.gguf")
        );
    }
}

/// A folder with the parts of the split model under other names.
fn parts(names: &[(u32, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (number, name) in names {
        let from = golden(&format!("split-0000{number}-of-00003.gguf"));
        fs::copy(from, dir.path().join(name)).unwrap();
    }
    dir
}

#[test]
fn parts_that_are_not_all_there_are_named() {
    let first = (1, "a-00001-of-00003.gguf");
    let second = (2, "a-00002-of-00003.gguf");
    for (names, word) in [
        (
            vec![first],
            "a-00002-of-00003.gguf, another of the model's 3 parts, is missing",
        ),
        (vec![first, second], "a-00003-of-00003.gguf, another"),
        (vec![(1, "a.gguf")], "its name does not say which"),
        (
            vec![(1, "a-00001-of-00002.gguf")],
            "its name does not say which",
        ),
        (
            vec![first, second, (2, "a-00003-of-00003.gguf")],
            "by its name it is part 3 of 3, and by split.no and split.count part 2 of 3",
        ),
    ] {
        let dir = parts(&names);
        let error = GgufFile::open(&dir.path().join(names[0].1));
        let error = error.unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn what_is_no_such_file_is_refused() {
    refused(b"", &["ends at byte 0"]);
    refused(b"GGU", &["ends at byte 3"]);
    refused(b"PK\x03\x04 and more than that", &["instead of GGUF"]);
    refused(&Raw::header(1, 0, 0), &["version 1", "newer file"]);
    refused(&Raw::header(4, 0, 0), &["version 4"]);
    refused(&Raw::header(3_u32.swap_bytes(), 0, 0), &["big-endian"]);
    assert!(GgufFile::open(Path::new("none.gguf")).is_err());
}

#[test]
fn version_two_has_the_same_layout() {
    let mut bytes = Raw::new().tensor(b"t", &[2], 0, 0).bytes(8);
    bytes[4] = 2;
    let (_dir, path) = file(&bytes);
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.bytes("t").unwrap(), [7; 8]);
}

#[test]
fn counts_are_held_against_the_file_before_anything_is_allocated() {
    for count in [1, 1 << 60, u64::MAX] {
        refused(
            &Raw::header(3, 0, count),
            &["key-values", "ends 0 bytes later"],
        );
        refused(
            &Raw::header(3, count, 0),
            &["tensors", "ends 0 bytes later"],
        );
    }
    for count in [1 << 60, u64::MAX] {
        let text = Raw::new().pair(b"a", 8, &count.to_le_bytes());
        refused(&text.bytes(0), &["key a", "bytes of text"]);
        for kind in [0, 6, 8, 9, 10] {
            refused(
                &Raw::new().array(kind, count, &[]).bytes(0),
                &["key a", "elements"],
            );
        }
    }
    let mut key = Raw::header(3, 0, 1);
    key.extend((1_u64 << 62).to_le_bytes());
    key.extend([0; 40]);
    refused(&key, &["bytes of key"]);
}

#[test]
fn nested_arrays_are_read_to_some_depth() {
    let level = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat();
    let deep = |levels: usize| {
        let mut value = level.repeat(levels);
        value.extend(0_u32.to_le_bytes());
        value.extend(0_u64.to_le_bytes());
        Raw::new().pair(b"a", 9, &value).bytes(0)
    };
    let (_dir, path) = file(&deep(7));
    GgufFile::open(&path).unwrap();
    refused(&deep(8), &["key a", "nested"]);
    refused(&deep(100_000), &["key a", "nested"]);
}

#[test]
fn types_that_are_not_known_are_named() {
    refused(
        &Raw::new().pair(b"a", 13, &[0; 8]).bytes(0),
        &["key a", "type 13"],
    );
    refused(
        &Raw::new().array(99, 1, &[0; 8]).bytes(0),
        &["elements' type 99"],
    );
    refused(
        &Raw::new().pair(b"a", 7, &[2]).bytes(0),
        &["key a", "neither true"],
    );
    refused(
        &Raw::new().tensor(b"t", &[32], 4, 0).bytes(64),
        &["tensor t", "format 4 of ggml"],
    );
}

#[test]
fn names_are_unique_and_utf8() {
    let twice = Raw::new().pair(b"a", 0, &[1]).pair(b"a", 0, &[1]);
    refused(&twice.bytes(0), &["key a is there twice"]);
    let twice = Raw::new()
        .tensor(b"t", &[8], 0, 0)
        .tensor(b"t", &[8], 0, 32);
    refused(&twice.bytes(64), &["two tensors are called t"]);
    refused(
        &Raw::new().pair(b"\xFF", 0, &[1]).bytes(0),
        &["key", "no UTF-8"],
    );
    refused(
        &Raw::new().tensor(b"\xFF", &[8], 0, 0).bytes(32),
        &["tensor", "no UTF-8"],
    );
}

#[test]
fn text_that_is_no_utf8_is_an_error_once_it_is_asked_for() {
    let text = Raw::text(b"a\xFFb");
    let raw =
        Raw::new()
            .pair(b"one", 8, &text)
            .array(8, 1, &text)
            .pair(b"good", 8, &Raw::text(b"c"));
    let (_dir, path) = file(&raw.bytes(0));
    let file = GgufFile::open(&path).unwrap();
    let metadata = file.metadata();
    let shown = Value::Text("a\u{FFFD}b".to_string());
    assert_eq!(metadata.get("one"), Some(&shown));
    assert_eq!(metadata.text("good").unwrap(), Some("c"));
    let error = metadata.texts("a").unwrap_err().to_string();
    assert!(error.contains("a has text that is no UTF-8"), "{error}");
    assert!(metadata.text("one").is_err());
}

#[test]
fn shapes_must_be_possible() {
    let of = |dimensions: &[u64], kind| Raw::new().tensor(b"t", dimensions, kind, 0).bytes(64);
    refused(&of(&[], 0), &["tensor t", "0 dimensions"]);
    refused(&of(&[1, 1, 1, 1, 1], 0), &["5 dimensions"]);
    refused(&of(&[0, 4], 0), &["shape [4, 0]", "no numbers"]);
    refused(
        &of(&[1 << 40, 1 << 40], 0),
        &["no possible number of bytes"],
    );
    refused(&of(&[u64::MAX], 0), &["tensor t"]);
    refused(
        &of(&[33], 8),
        &["rows have 33 numbers", "blocks of 32 of Q8_0"],
    );
    let mut many = Raw::new().tensor(b"t", &[], 0, 0);
    many.infos.clear();
    many.infos.extend(Raw::text(b"t"));
    many.infos.extend([0xFF; 40]);
    refused(&many.bytes(0), &["4294967295 dimensions"]);
}

#[test]
fn places_must_be_within_the_file_and_apart() {
    let of = |offset| Raw::new().tensor(b"t", &[8], 0, offset);
    refused(
        &of(8).bytes(64),
        &["tensor t", "byte 8", "no multiple of 32"],
    );
    refused(
        &of(0).bytes(31),
        &["before the end of tensor t", "not whole"],
    );
    refused(&of(64).bytes(64), &["before the end of tensor t"]);
    refused(
        &of(u64::MAX - 31).bytes(64),
        &["before the end of tensor t"],
    );
    let overlap = of(0).tensor(b"u", &[16], 0, 32).tensor(b"v", &[8], 0, 64);
    refused(&overlap.bytes(128), &["tensors u and v overlap"]);
}

#[test]
fn the_alignment_is_a_power_of_two() {
    let of = |alignment: u32| {
        let key = b"general.alignment";
        Raw::new().pair(key, 4, &alignment.to_le_bytes()).bytes(0)
    };
    for alignment in [0, 3, 48] {
        refused(&of(alignment), &["general.alignment is", "power of two"]);
    }
    let text = Raw::new().pair(b"general.alignment", 8, &Raw::text(b"32"));
    refused(&text.bytes(0), &["general.alignment is \"32\""]);
    let (_dir, path) = file(&of(1 << 31));
    GgufFile::open(&path).unwrap();
}

#[test]
fn bytes_are_those_of_the_file_before_and_after_they_are_released() {
    let file = GgufFile::open(&golden("all_types.gguf")).unwrap();
    file.release("four");
    let before = file.bytes("four").unwrap().to_vec();
    file.release("four");
    file.release("none");
    assert_eq!(file.bytes("four").unwrap(), before);
    let error = file.bytes("none").unwrap_err().to_string();
    assert!(error.contains("no tensor none"), "{error}");
}

#[test]
fn a_file_that_was_cut_off_is_not_mapped() {
    let (_dir, path) = file(&fs::read(golden("all_types.gguf")).unwrap());
    let opened = GgufFile::open(&path).unwrap();
    opened.bytes("four").unwrap();
    let handle = fs::File::options().write(true).open(&path).unwrap();
    // Windows lets nobody cut off what is mapped.
    if handle.set_len(1000).is_ok() {
        let error = opened.bytes("four").unwrap_err().to_string();
        assert!(
            error.contains("tensor four") && error.contains("cut off"),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        changes in prop::collection::vec((0_usize..4000, any::<u8>()), 1..6),
        cut in 0_usize..8000,
    ) {
        let mut bytes = fs::read(golden("all_types.gguf")).unwrap();
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(cut);
        let (_dir, path) = file(&bytes);
        if let Ok(file) = GgufFile::open(&path) {
            for tensor in file.tensors() {
                prop_assert_eq!(file.bytes(&tensor.name).unwrap().len(), tensor.bytes());
            }
            let _ = crate::model::config(&file);
        }
    }
}
