//! Checkpoints that are Hugging Face's folders.

use aios_hf::{Folder, Weights};

use super::*;

fn file(name: &str, text: &str) -> FolderFile {
    FolderFile {
        name: name.into(),
        bytes: text.into(),
    }
}

fn files() -> Vec<FolderFile> {
    vec![
        file("config.json", r#"{"model_type": "llama"}"#),
        file("generation_config.json", r#"{"eos_token_id": 7}"#),
        file("tokenizer.json", "{}"),
        file("additional_chat_templates/tool_use.jinja", "{{ tools }}"),
    ]
}

fn save(writer: &mut BundleWriter, step: u64, files: &[FolderFile]) -> Result<PathBuf> {
    let contents = BundleContents {
        folder: files,
        ..contents(step)
    };
    writer.save(&contents).map(|saved| saved.path)
}

/// With all files that there may be.
pub(super) fn save_all(writer: &mut BundleWriter, step: u64) {
    save(writer, step, &files()).unwrap();
}

fn writer(dir: &Path) -> Result<BundleWriter> {
    BundleWriter::new(Lock::acquire_for_folders(dir)?, 0, &|_| Ok(()))
}

#[test]
fn a_checkpoint_is_a_folder_that_other_programs_load() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path()).unwrap();
    let checkpoint = save(&mut writer, 1, &files()).unwrap();
    assert_eq!(opened_step(dir.path()), 1);
    for path in [dir.path(), &checkpoint] {
        let folder = Folder::open(path).unwrap();
        assert_eq!(folder.config()["model_type"], "llama");
        assert_eq!(folder.generation().eos, [7]);
        let mut loaded = folder.load_passengers().unwrap();
        loaded.push(files().swap_remove(0));
        loaded.sort_by(|a, b| a.name.cmp(&b.name));
        let mut expected = files();
        expected.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(loaded, expected);
        let weights = Weights::open(&folder).unwrap();
        assert_eq!(weights.info("bias"), Some((Dtype::BF16, vec![7])));
    }
}

#[test]
fn the_folder_is_that_of_the_newest_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path()).unwrap();
    save(&mut writer, 1, &files()).unwrap();
    let changed = [file("config.json", "{}"), file("tokenizer.json", "{}")];
    save(&mut writer, 2, &changed).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    assert_eq!(*folder.config(), json!({}));
    assert!(!dir.path().join("generation_config.json").exists());
    assert!(
        !dir.path()
            .join("additional_chat_templates/tool_use.jinja")
            .exists()
    );
}

#[test]
fn without_such_files_a_bundle_has_none() {
    let dir = saved(&[1]);
    let manifest = Manifest::read(dir.path()).unwrap().unwrap();
    let names = [
        CONFIG,
        MODEL,
        OPTIMIZER,
        "tokenizer/tokenizer.json",
        TRAINER,
    ];
    assert_eq!(manifest.names().collect::<Vec<_>>(), names);
    let header = concat!(
        r#"{"__metadata__":{"format":"pt"},"#,
        r#""layer.weight":{"dtype":"F32","shape":[3,5],"data_offsets":[0,60]},"#,
        r#""bias":{"dtype":"BF16","shape":[7],"data_offsets":[60,74]}}"#,
    );
    let model = fs::read(dir.path().join(MODEL)).unwrap();
    let length = header.len().next_multiple_of(8);
    assert_eq!(model[..8], (length as u64).to_le_bytes());
    assert!(model[8..].starts_with(header.as_bytes()));
    assert_eq!(model.len(), 8 + length + 74);
}

#[test]
fn only_a_folders_own_files_are_saved() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(dir.path()).unwrap();
    for name in ["../config.json", "README.md", MODEL, "manifest.json"] {
        let error = save(&mut writer, 1, &[file(name, "x")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a file of a model's folder"), "{error}");
    }
    assert!(folders(dir.path()).is_empty());
}

#[test]
fn a_model_that_a_run_begins_with_is_not_replaced() {
    for name in ["config.json", "model.safetensors.index.json", "vocab.json"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(name), "{}").unwrap();
        let error = Lock::acquire_for_folders(dir.path()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // Saves that write no such file have nothing to replace.
        Lock::acquire(dir.path()).unwrap();
    }
}

#[test]
fn an_edit_at_the_top_is_kept_and_one_in_the_checkpoint_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = writer(dir.path()).unwrap();
    save(&mut first, 1, &files()).unwrap();
    fs::write(dir.path().join("config.json"), "mine").unwrap();
    let checkpoint = save(&mut first, 2, &files()).unwrap();
    let kept = dir.path().join("config.json.changed");
    assert_eq!(fs::read_to_string(kept).unwrap(), "mine");
    flip_a_byte(&checkpoint.join("config.json"), 3);
    assert_eq!(opened_step(dir.path()), 2, "the files at the top are whole");
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    assert_eq!(opened_step(dir.path()), 1);
}

#[test]
fn a_bundle_that_was_copied_without_its_checkpoints_keeps_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    save(&mut writer(dir.path()).unwrap(), 1, &files()).unwrap();
    fs::remove_dir_all(dir.path().join(CHECKPOINTS)).unwrap();
    writer(dir.path()).unwrap();
    let folder = Folder::open(&checkpoint(dir.path(), 1)).unwrap();
    assert_eq!(folder.load_passengers().unwrap().len(), 3);
}
