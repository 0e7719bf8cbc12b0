use std::path::{Path, PathBuf};

use crate::{Content, content, each_document};
use aios_base::config::{
    BadRecords, ChatOptions, CorpusOptions, RecordForm, TextDocuments, TextFormat, TrainOn,
};
use aios_base::error::Result;

/// Written by pyarrow: eight rows, of which the fourth has no text.
const FILES: [&str; 9] = [
    "none",
    "snappy",
    "gzip",
    "brotli",
    "lz4",
    "zstd",
    "plain_v2",
    "delta_length",
    "delta",
];

fn path(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    folder.join(format!("{name}.parquet"))
}

fn options(path: PathBuf) -> CorpusOptions {
    CorpusOptions {
        text_documents: TextDocuments::Whole,
        bad_records: BadRecords::Skip,
        ..CorpusOptions::new(path)
    }
}

fn read(options: &CorpusOptions) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    each_document(options, &mut |text, _| {
        texts.push(text.to_string());
        Ok(())
    })?;
    Ok(texts)
}

fn error(options: &CorpusOptions) -> String {
    let error = read(options).unwrap_err().to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

/// A file of these bytes.
fn written(bytes: &[u8]) -> tempfile::TempPath {
    let file = tempfile::Builder::new().suffix(".parquet").tempfile();
    let path = file.unwrap().into_temp_path();
    std::fs::write(&path, bytes).unwrap();
    path
}

fn texts() -> Vec<String> {
    let long = "x".repeat(300);
    [
        "Hello world",
        "naïve café 日本",
        "line one\nline two",
        &long,
        "Hello world again",
        "Hello world again and again",
    ]
    .map(str::to_string)
    .to_vec()
}

#[test]
fn every_compression_and_encoding_is_read() {
    for name in FILES {
        assert_eq!(read(&options(path(name))).unwrap(), texts(), "{name}");
    }
    let mut with_null = texts();
    for at in [1, 3] {
        with_null.insert(at, "null".to_string());
    }
    assert_eq!(read(&options(path("required"))).unwrap(), with_null);
}

#[test]
fn the_column_is_named_by_the_field() {
    let of = |field: &str| CorpusOptions {
        text_field: field.to_string(),
        ..options(path("zstd"))
    };
    let bodies = read(&of("meta.body")).unwrap();
    assert_eq!((bodies.len(), &*bodies[7]), (8, "body 7"));
    for (field, expected) in [
        (
            "body",
            "no column \"body\" among [id, text, tags.list.element, meta.body]",
        ),
        ("id", "column \"id\" does not hold text"),
        ("tags.list.element", "is a list"),
    ] {
        let error = error(&of(field));
        assert!(error.contains(expected), "{error}");
        assert!(
            error.contains("zstd.parquet") && error.contains("--text-field"),
            "{error}"
        );
    }
}

#[test]
fn a_row_without_text_is_a_bad_record() {
    let options = CorpusOptions {
        bad_records: BadRecords::Error,
        ..options(path("snappy"))
    };
    let error = error(&options);
    assert!(
        error.contains("snappy.parquet row 4: its text is null"),
        "{error}"
    );
}

#[test]
fn the_content_counts_and_not_the_name() {
    let named_text = tempfile::NamedTempFile::with_suffix(".txt").unwrap();
    std::fs::copy(path("gzip"), named_text.path()).unwrap();
    assert_eq!(
        read(&options(named_text.path().to_path_buf())).unwrap(),
        texts()
    );
    let no_parquet = written(b"{\"text\": \"x\"}");
    let error = error(&options(no_parquet.to_path_buf()));
    assert!(
        error.contains("its name says that it is a Parquet file"),
        "{error}"
    );
}

#[test]
fn where_another_format_is_asked_for_it_is_refused() {
    let gzip = written(b"");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    std::io::copy(
        &mut std::fs::File::open(path("none")).unwrap(),
        &mut encoder,
    )
    .unwrap();
    std::fs::write(&gzip, encoder.finish().unwrap()).unwrap();
    let renamed = gzip.with_extension("parquet.gz");
    std::fs::rename(&gzip, &renamed).unwrap();
    let text = CorpusOptions {
        text_format: TextFormat::Text,
        ..options(path("none"))
    };
    for options in [text, options(renamed.clone())] {
        let error = error(&options);
        assert!(
            error.contains("it is a Parquet file; give it as it is"),
            "{error}"
        );
    }
    std::fs::remove_file(renamed).unwrap();
}

#[test]
fn a_file_that_was_cut_off_is_an_error() {
    let bytes = std::fs::read(path("none")).unwrap();
    for length in [4, 5, 11, 12, 100, bytes.len() - 1] {
        let cut = written(&bytes[..length]);
        let error = error(&options(cut.to_path_buf()));
        assert!(error.contains("damaged or cut off"), "{length}: {error}");
    }
}

/// Whatever a flipped bit does, it is an error or a text, and no panic.
#[test]
fn damaged_files_do_no_harm() {
    for name in ["zstd", "delta", "lz4", "plain_v2"] {
        let bytes = std::fs::read(path(name)).unwrap();
        for at in (4..bytes.len()).step_by(13) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 7);
            let damaged = written(&damaged);
            let _ = read(&options(damaged.to_path_buf()));
        }
    }
}

fn conversations(name: &str, form: RecordForm) -> Vec<String> {
    let chat = ChatOptions {
        form,
        train_on: TrainOn::Assistant,
        template: None,
        tokens: Vec::new(),
    };
    let options = CorpusOptions {
        chat: Some(chat),
        ..CorpusOptions::new(path(name))
    };
    let recognised = content(&CorpusOptions::new(path(name)), &mut |_, _| Ok(()));
    assert_eq!(recognised.unwrap(), Content::Conversations(form));
    read(&options).unwrap()
}

/// Five rows, of which the third has an empty list and the fourth none; written by pyarrow.
#[test]
fn lists_of_messages_are_put_together_row_by_row() {
    for name in ["messages", "messages_v2"] {
        let rows = conversations(name, RecordForm::Messages);
        assert_eq!(rows.len(), 5, "{name}");
        let values: Vec<serde_json::Value> = rows
            .iter()
            .map(|row| serde_json::from_str(row).unwrap())
            .collect();
        let said = &values[0]["messages"];
        assert_eq!(said[1]["content"], "b – ü");
        assert_eq!(
            (&said[0]["note"], &said[1]["note"]),
            (&serde_json::Value::Null, &"x".into())
        );
        assert_eq!(values[1]["messages"].as_array().unwrap().len(), 3);
        assert_eq!(values[1]["tools"], "[{\"name\": \"f\"}]");
        assert!(values[1]["messages"][2]["content"].is_null());
        for empty in &values[2..4] {
            assert_eq!(empty["messages"], serde_json::json!([]));
        }
        assert_eq!(values[4]["messages"][0]["content"], "last");
    }
}

#[test]
fn columns_of_a_prompt_and_its_completion_go_side_by_side() {
    let rows = conversations("pairs", RecordForm::PromptCompletion);
    assert_eq!(rows[0], r#"{"completion":" 2","prompt":"1 + 1 ="}"#);
    assert_eq!(rows.len(), 2);
}
