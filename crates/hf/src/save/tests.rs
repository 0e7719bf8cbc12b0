use crate::Folder;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Dtype, Weights, encode};

fn model() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    fs::write(path("tokenizer.json"), "a tokenizer").unwrap();
    fs::create_dir(path("additional_chat_templates")).unwrap();
    fs::write(path("additional_chat_templates/x.jinja"), "a template").unwrap();
    dir
}

fn source(name: &str, dtype: Dtype) -> TensorSource<'static> {
    TensorSource {
        name: name.to_string(),
        dtype,
        shape: vec![2, 1],
        fetch: Box::new(move || encode(&[1.5, -2.0], dtype)),
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_was_written_is_read_back() {
    let (from, to) = (model(), tempfile::tempdir().unwrap());
    let from = Folder::open(from.path()).unwrap();
    let config = json!({"model_type": "llama", "dtype": "bfloat16"});
    for dir in [to.path().join("a/b"), to.path().join("empty")] {
        if dir.ends_with("empty") {
            fs::create_dir(&dir).unwrap();
        }
        let sources = [source("a", Dtype::BF16), source("b", Dtype::F32)];
        write_folder(&dir, &config, sources, &from.load_passengers().unwrap()).unwrap();
        let found = [
            "additional_chat_templates",
            "config.json",
            "model.safetensors",
            "tokenizer.json",
        ];
        assert_eq!(names(&dir), found);
        assert_eq!(
            names(dir.parent().unwrap()).len(),
            1 + usize::from(dir.ends_with("empty"))
        );
        let folder = Folder::open(&dir).unwrap();
        assert_eq!(*folder.config(), config);
        assert_eq!(
            folder.load_passengers().unwrap(),
            from.load_passengers().unwrap()
        );
        let weights = Weights::open(&folder).unwrap();
        assert_eq!(weights.info("a"), Some((Dtype::BF16, vec![2, 1])));
        for name in ["a", "b"] {
            assert_eq!(weights.read_f32(name).unwrap(), [1.5, -2.0]);
        }
        let bytes = fs::read(dir.join(MODEL_FILE)).unwrap();
        let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(header.metadata().as_ref().unwrap()["format"], "pt");
    }
}

#[test]
fn a_place_that_is_taken_is_left_as_it_is() {
    let from = model();
    let folder = Folder::open(from.path()).unwrap();
    let before = names(from.path());
    for dir in [
        from.path().to_path_buf(),
        from.path().join("tokenizer.json"),
    ] {
        let error =
            write_folder(&dir, &json!({}), [], &folder.load_passengers().unwrap()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("is there already"), "{error}");
    }
    assert_eq!(names(from.path()), before);
}

#[test]
fn what_fails_leaves_nothing() {
    let (from, to) = (model(), tempfile::tempdir().unwrap());
    let from = Folder::open(from.path()).unwrap();
    let broken = TensorSource {
        fetch: Box::new(|| Err(Error::failed("the device is gone"))),
        ..source("b", Dtype::F32)
    };
    let sources = [source("a", Dtype::F32), broken];
    let error = write_folder(
        &to.path().join("new"),
        &json!({}),
        sources,
        &from.load_passengers().unwrap(),
    );
    assert!(error.unwrap_err().to_string().contains("device is gone"));
    assert!(names(to.path()).is_empty());
}
