use serde_json::json;
use tempfile::TempDir;

use super::*;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn error(dir: &TempDir) -> String {
    Folder::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn what_is_no_models_folder_says_what_it_is() {
    assert!(error(&folder(&[])).contains("has no config.json"));
    let adapter = folder(&[("adapter_config.json", "{}")]);
    assert!(error(&adapter).contains("it is an adapter"));
    for text in ["", "[]", "null", "{", &"[".repeat(100_000)] {
        let text = error(&folder(&[("config.json", text)]));
        assert!(text.contains("config.json: is not"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    let generation = folder(&[("config.json", "{}"), ("generation_config.json", "[1]")]);
    assert!(error(&generation).contains("generation_config.json: is not"));
    let file = folder(&[("config.json", "{}")]).path().join("config.json");
    assert!(Folder::open(&file).is_err());
}

#[test]
fn a_folder_is_taken_before_an_id_and_what_is_neither_is_refused() {
    let dir = folder(&[("config.json", r#"{"model_type": "llama"}"#)]);
    let spec = dir.path().to_str().unwrap();
    let found = Folder::locate(spec, &mut |_, _| Ok(())).unwrap();
    assert_eq!(found.config()["model_type"], "llama");
    assert_eq!((found.name(), found.path()), (spec, dir.path()));
    let error = Folder::locate("./no/such/place", &mut |_, _| Ok(())).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("OWNER/NAME@REVISION"), "{error}");
}

#[test]
fn chat_templates_come_from_the_first_place_that_has_any() {
    let list = json!({"chat_template": [
        {"name": "default", "template": "in the list"}, {"name": "tool_use", "template": "tools"}
    ]});
    let (text, list) = (
        json!({"chat_template": "in settings"}).to_string(),
        list.to_string(),
    );
    let file = ("chat_template.jinja", "in a file");
    let old = (
        "chat_template.json",
        r#"{"chat_template": "in the old file"}"#,
    );
    let none = ("tokenizer_config.json", r#"{"chat_template": null}"#);
    for (files, expected) in [
        (
            vec![file, ("tokenizer_config.json", &text), old],
            Some("in a file"),
        ),
        (
            vec![("tokenizer_config.json", &text), old],
            Some("in settings"),
        ),
        (
            vec![("tokenizer_config.json", &list), old],
            Some("in the list"),
        ),
        (vec![none, old], Some("in the old file")),
        (vec![none], None),
        (vec![], None),
    ] {
        let files: Vec<_> = files.into_iter().chain([("config.json", "{}")]).collect();
        let dir = folder(&files);
        let found = Folder::open(dir.path()).unwrap().chat_template().unwrap();
        assert_eq!(found.as_deref(), expected);
    }
    let wrong = [
        ("config.json", "{}"),
        ("tokenizer_config.json", r#"{"chat_template": 1}"#),
    ];
    let dir = folder(&wrong);
    let error = Folder::open(dir.path())
        .unwrap()
        .chat_template()
        .unwrap_err();
    assert!(
        error.to_string().contains("tokenizer_config.json"),
        "{error}"
    );
}

#[test]
fn what_travels_along_is_all_but_architecture_and_tensors() {
    let names = [
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "merges.txt",
        "additional_chat_templates/tool_use.jinja",
    ];
    let mut files: Vec<_> = names.iter().map(|name| (*name, "{}")).collect();
    files.extend([
        ("config.json", "{}"),
        ("model.safetensors", "x"),
        ("README.md", "x"),
        ("run.py", "x"),
    ]);
    let dir = folder(&files);
    let folder = Folder::open(dir.path()).unwrap();
    let loaded = folder.load_passengers().unwrap();
    let found: Vec<&str> = loaded.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(found, names);
    assert!(loaded.iter().all(|file| file.bytes == b"{}"));
}

#[cfg(unix)]
#[test]
fn a_passenger_that_leads_outside_is_refused() {
    let dir = folder(&[("config.json", "{}")]);
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("tokenizer.json")).unwrap();
    let folder = Folder::open(dir.path()).unwrap();
    let error = folder.load_passengers().unwrap_err().to_string();
    assert!(error.contains("outside of the model's folder"), "{error}");
}
