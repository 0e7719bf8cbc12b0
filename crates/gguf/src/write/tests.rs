use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::file::GgufFile;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(name)
}

fn tensor(name: &str, shape: &[usize], bytes: Vec<u8>) -> Tensor<'static> {
    Tensor {
        name: name.to_string(),
        shape: shape.to_vec(),
        kind: Kind::F32,
        fetch: Box::new(move || Ok(bytes.clone())),
    }
}

fn place() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/a.gguf");
    (dir, path)
}

#[test]
fn the_bytes_are_those_that_python_writes() {
    for name in ["all_types.gguf", "rope_freqs.gguf"] {
        let file = GgufFile::open(&golden(name)).unwrap();
        let metadata = file.metadata().iter();
        let metadata: Vec<_> = metadata
            .map(|(key, value)| (key.to_string(), value.clone()))
            .collect();
        let tensors = file.tensors().iter().map(|tensor| Tensor {
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            kind: tensor.kind,
            fetch: Box::new(|| Ok(file.bytes(&tensor.name)?.to_vec())),
        });
        let (_dir, path) = place();
        write(&path, &metadata, &tensors.collect::<Vec<_>>()).unwrap();
        assert_eq!(
            fs::read(path).unwrap(),
            fs::read(golden(name)).unwrap(),
            "{name}"
        );
    }
}

#[test]
fn nothing_is_left_of_what_fails() {
    let good = || tensor("a", &[2], vec![0; 8]);
    let text = |text: &str| Value::Text(text.to_string());
    let pair = |key: &str, value| (key.to_string(), value);
    let twice = [pair("a", text("b")), pair("a", text("b"))];
    let aligned = [pair("general.alignment", Value::U32(48))];
    for (metadata, tensors, word) in [
        (&[][..], vec![good(), good()], "two tensors are called a"),
        (&twice[..], vec![good()], "key a is there twice"),
        (&aligned[..], vec![good()], "general.alignment is 48"),
        (
            &[][..],
            vec![good(), tensor("b", &[2], vec![0; 9])],
            "tensor b has 9 bytes",
        ),
        (&[][..], vec![tensor("b", &[], vec![0; 4])], "0 dimensions"),
        (&[][..], vec![tensor("b", &[0, 2], vec![])], "no numbers"),
        (
            &[][..],
            vec![Tensor {
                kind: Kind::Q8_0,
                ..tensor("b", &[2, 16], vec![])
            }],
            "no whole blocks",
        ),
        (
            &[][..],
            vec![Tensor {
                fetch: Box::new(|| Err(Error::Stopped)),
                ..good()
            }],
            "stopped",
        ),
    ] {
        let (dir, path) = place();
        let error = write(&path, metadata, &tensors).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        let left = fs::read_dir(dir.path().join("new"));
        assert!(left.is_err() || left.unwrap().next().is_none(), "{word}");
    }
}

#[test]
fn a_name_that_is_taken_is_kept() {
    let (_dir, path) = place();
    write(&path, &[], &[tensor("a", &[2], vec![1; 8])]).unwrap();
    let error = write(&path, &[], &[tensor("a", &[2], vec![2; 8])]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("is there already"), "{error}");
    let file = GgufFile::open(&path).unwrap();
    assert_eq!(file.bytes("a").unwrap(), [1; 8]);
}

#[cfg(unix)]
#[test]
fn everybody_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = place();
    write(&path, &[], &[]).unwrap();
    let mode = fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
}
