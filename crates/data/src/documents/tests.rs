use std::io::Write;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn options(path: &Path) -> CorpusOptions {
    CorpusOptions::new(path)
}

fn read(options: &CorpusOptions) -> Result<Vec<String>> {
    read_all(options).map(|(documents, _)| documents)
}

fn read_all(options: &CorpusOptions) -> Result<(Vec<String>, LeftOut)> {
    let mut documents = Vec::new();
    let mut current = String::new();
    let mut left_out = LeftOut::default();
    let reading = Reading {
        options,
        meter: &Arc::default(),
        splits: &|_, _| true,
        vocabulary: u32::MAX,
    };
    for file in list_files(options)?.files {
        read_documents(&file, &reading, &mut left_out, &mut |piece| {
            let Piece::Text(piece, end) = piece else {
                panic!("tokens");
            };
            assert!(piece.len() < 2 * PIECE_BYTES);
            current.push_str(piece);
            if end != End::No {
                documents.push(std::mem::take(&mut current));
            }
            Ok(())
        })?;
    }
    assert_eq!(current, "", "a document without an end");
    Ok((documents, left_out))
}

/// As [`documents_of`], with bad records skipped; their number too.
fn good_documents_of(name: &str, content: &[u8]) -> (Vec<String>, u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    let options = CorpusOptions {
        bad_records: BadRecords::Skip,
        ..options(&path)
    };
    let (documents, left_out) = read_all(&options).unwrap();
    (documents, left_out.count)
}

/// Documents of a file of this name and content.
fn documents_of(name: &str, content: &[u8]) -> Result<Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    read(&options(&path))
}

fn text_documents_of(mode: TextDocuments, content: &str) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    std::fs::write(&path, content).unwrap();
    let options = CorpusOptions {
        text_documents: mode,
        ..options(&path)
    };
    read(&options).unwrap()
}

fn error_of(name: &str, content: &str) -> String {
    documents_of(name, content.as_bytes())
        .unwrap_err()
        .to_string()
}

fn gzip(content: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
    encoder.write_all(content.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &str) -> Vec<u8> {
    zstd::encode_all(content.as_bytes(), 1).unwrap()
}

const TEXT: &str = "\n\none\n  two\n \t\nthree<|endoftext|>four\n\n\n";

#[test]
fn blank_lines_and_separators_end_documents() {
    let documents = text_documents_of(TextDocuments::Blank, TEXT);
    assert_eq!(documents, ["one\n  two", "three", "four"]);
}

#[test]
fn lines_are_documents() {
    let documents = text_documents_of(TextDocuments::Line, TEXT);
    assert_eq!(documents, ["one", "  two", "three", "four"]);
}

#[test]
fn a_file_is_a_document() {
    let documents = text_documents_of(TextDocuments::File, TEXT);
    assert_eq!(documents, ["one\n  two\n \t\nthree", "four"]);
}

#[test]
fn line_ends_and_byte_order_mark_make_no_difference() {
    let crlf = format!("\u{FEFF}{}", TEXT.replace('\n', "\r\n"));
    let documents = text_documents_of(TextDocuments::Blank, &crlf);
    assert_eq!(documents, ["one\n  two", "three", "four"]);
}

#[test]
fn json_lines() {
    let content =
        "{\"text\": \"a\\nb\", \"id\": 1}\r\n\n{\"id\": {}, \"text\": \"c<|endoftext|>d\"}";
    let documents = documents_of("a.jsonl", content.as_bytes()).unwrap();
    assert_eq!(documents, ["a\nb", "c", "d"]);
}

#[test]
fn bad_json_is_named_with_its_line() {
    let error = error_of("a.jsonl", "{\"text\": \"a\"}\n\n{\"text\": \"b\",}\n");
    assert!(
        error.contains("a.jsonl line 3: not valid JSON at column 14"),
        "{error}"
    );
    assert_eq!(error.matches("line").count(), 1, "{error}");
}

#[test]
fn a_missing_json_field_is_named_with_those_there_are() {
    let error = error_of("a.jsonl", "{\"body\": \"a\", \"id\": 1}");
    assert!(
        error.contains("line 1: no field \"text\" among [body, id]"),
        "{error}"
    );
    assert!(error.contains("--text-field"));
}

#[test]
fn json_text_has_to_be_a_string_in_an_object() {
    assert!(error_of("a.jsonl", "{\"text\": null}").contains("not a string but null"));
    assert!(error_of("a.jsonl", "[1]").contains("not a JSON object"));
}

#[test]
fn csv_rows() {
    let content = "id,text\r\n1,\"a, \"\"b\"\"\r\nc\"\r\n2,d\r\n";
    let documents = documents_of("a.csv", content.as_bytes()).unwrap();
    assert_eq!(documents, ["a, \"b\"\nc", "d"]);
}

#[test]
fn a_missing_csv_column_is_named_with_those_there_are() {
    let error = error_of("a.csv", "id,body\n1,x\n");
    assert!(
        error.contains("no column \"text\" among [id, body]"),
        "{error}"
    );
}

#[test]
fn an_uneven_csv_row_is_named_with_its_line() {
    let error = error_of("a.csv", "id,text\n1,x\n2\n");
    assert!(
        error.contains("a.csv line 3: the row has 1 field, but the header has 2"),
        "{error}"
    );
}

#[test]
fn a_quote_that_never_closes_is_named_with_its_line() {
    let rows = "2,\"b\nB\"\n3,c\n";
    for (content, line) in [
        (format!("id,text\n{rows}\n4,\"open\n5,e\n6,f"), 6),
        (format!("id,text\n{rows}\"a\nb\",\"open\n\n5,e\n"), 6),
        (format!("id,text\n{rows}\"open,e\n5,e\n"), 5),
        ("id,\"text\n1,a\n".to_string(), 1),
    ] {
        let error = error_of("a.csv", &content);
        let place = format!("a.csv line {line}: a quote (\") is opened here and never closed");
        assert!(error.contains(&place), "{error}");
    }
}

/// A quote too many, which the next one seems to close.
#[test]
fn a_quote_that_closes_within_its_field_is_named_with_its_line() {
    for (rows, line) in [
        ("1,\"A quote\n2,\"b\"\n3,c\n", 2),
        ("1,a\n2,\"never\n\n3,\"good\"\n4,\"good, too\"\n", 3),
        ("1,\"he said \"no\" to me\"\n", 2),
        ("\"1\"x,a\n", 2),
        ("1,\"a\" \"b,c\n2,d\n", 2),
    ] {
        let error = error_of("a.csv", &format!("id,text\n{rows}"));
        let place =
            format!("a.csv line {line}: a quote (\") is opened here and closed within its field");
        assert!(error.contains(&place), "{error}");
    }
    let error = error_of("a.csv", "\"id\"s,text\n1,a\n");
    assert!(error.contains("a.csv line 1: a quote"), "{error}");
    let fine = "id,text\n1,\"a \"\"b\"\" \"\n2,c \"d\" e\n3,\"\"\"f\"\"\"\n\"4\",\"g,\nh\"\n";
    let documents = documents_of("a.csv", fine.as_bytes()).unwrap();
    assert_eq!(documents, ["a \"b\" ", "c \"d\" e", "\"f\"", "g,\nh"]);
}

/// What a quote that never closes has made to be read again holds a bad row in each line: copying the rest at each of them
/// would take minutes.
#[test]
fn bad_rows_behind_a_quote_that_never_closes_are_read_at_once() {
    const ROWS: usize = 500_000;
    let content = format!("text\n\"open\n{}good\n", "\"\"a\n".repeat(ROWS));
    let (documents, bad) = good_documents_of("a.csv", content.as_bytes());
    assert_eq!((documents, bad), (vec!["good".into()], ROWS as u64 + 1));
}

#[test]
fn a_table_may_have_other_separators() {
    for (name, content) in [
        ("a.csv", "id;text\n1;\"a; b\"\n2;c, d\n"),
        ("a.tsv", "id\ttext\n1\ta; b\n2\t\"c, d\"\n"),
        ("a.csv", "id|text\n1|a; b\n2|c, d\n"),
        ("a.dat", "id\ttext\n1\ta; b\n2\tc, d\n"),
        ("a.txt", "text\tid\na; b\t1\nc, d\t2\n"),
    ] {
        let documents = documents_of(name, content.as_bytes()).unwrap();
        assert_eq!(documents, ["a; b", "c, d"], "{content}");
    }
}

const OBJECTS: [&str; 6] = [
    "{\"text\":\"a\"}\n{\"text\":\"b {\\\"\"}\n",
    "[{\"text\":\"a\"},{\"text\":\"b {\\\"\"}]",
    "\n[\n  {\n    \"text\": \"a\"\n  },\n  {\n    \"text\": \"b {\\\"\"\n  }\n]\n",
    "{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b {\\\"\"\n}\n",
    "{\"text\":\"a\"} {\"text\":\"b {\\\"\"}",
    "[{\"text\":\"a\"}]\n[] [{\"text\":\"b {\\\"\"}]",
];

#[test]
fn json_objects_are_read_in_any_shape_under_any_name() {
    for content in OBJECTS {
        for name in ["a.jsonl", "a.ndjson", "a.json", "a.dat", "a.txt", "a"] {
            let documents = documents_of(name, content.as_bytes()).unwrap();
            assert_eq!(documents, ["a", "b {\""], "{name}: {content}");
        }
    }
}

#[test]
fn all_of_a_file_is_text_if_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.jsonl");
    std::fs::write(&path, OBJECTS[0]).unwrap();
    let options = CorpusOptions {
        text_format: TextFormat::Text,
        text_documents: TextDocuments::File,
        ..options(&path)
    };
    assert_eq!(read(&options).unwrap(), [OBJECTS[0].trim_end()]);
}

#[test]
fn an_array_that_is_cut_off_within_a_string_is_a_plain_error() {
    for content in ["[1,\"abc", "[1,\"", "[{\"text\":\"a\"}, \"ab\\"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        std::fs::write(&path, content).unwrap();
        for bad_records in [BadRecords::Error, BadRecords::Skip] {
            let options = CorpusOptions {
                bad_records,
                ..options(&path)
            };
            let error = read(&options).unwrap_err().to_string();
            assert!(error.contains("a.json line 1"), "{error}");
        }
    }
}

#[test]
fn long_records_are_read_in_pieces() {
    let long = "long é \\\"text\\\" ".repeat(200_000);
    let expected = long.replace('\\', "");
    for content in [
        format!("{{\"text\":\"a\"}}\n{{\"n\":[{{}}],\"text\":\"{long}\"}}\n{{\"text\":\"b\"}}"),
        format!("[{{\"text\":\"a\"}},{{\"n\":[{{}}],\"text\":\"{long}\"}}, {{\"text\":\"b\"}}]"),
        format!("{{\"text\":\"a\",\"x\":\"{long}\"}} {{\"text\":\"{long}\"}}{{\"text\":\"b\"}}"),
    ] {
        let documents = documents_of("a.json", content.as_bytes()).unwrap();
        assert!(documents == ["a", &expected, "b"], "{content:.40}");
    }
}

#[test]
fn errors_in_json_are_named_with_their_line() {
    let cases = [
        (
            "[\n{\"text\":\"a\"},\n{\"text\":\n1}]",
            "line 3: field \"text\" is not a string but a number",
        ),
        (
            "[\n{\"text\":\"a\"},\n{\"text\":\n1x}]",
            "line 4: not valid JSON at column 2",
        ),
        ("[{\"text\":\"a\"}\n{\"text\":\"b\"}]", "line 2: no comma"),
        ("[{\"text\":\"a\"},\n", "line 2: the array has no end"),
        (
            "[{\"text\":\"a\"},\n{\"text\":\"b\"\n",
            "line 2: the object that begins here has no end",
        ),
        ("[{\"text\":\"a\"},\n\"b\"]", "line 2: not a JSON object"),
        ("{\n\"text\":\"a\"}\nthen", "line 3: not a JSON object"),
    ];
    for (content, expected) in cases {
        let error = error_of("a.json", content);
        assert!(error.contains(expected), "{content}: {error}");
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        for content in [
            format!("{{\"text\":\"a\",\"deep\":{deep}}}\n"),
            format!("[{{\"text\":\"a\",\"deep\":{deep}}}]"),
            format!("{{\"text\":{deep}}}\n"),
        ] {
            let error = error_of("a.json", &content);
            assert!(error.contains("nested deeper than 128"), "{error}");
        }
    }
}

#[test]
fn bad_records_are_skipped_and_counted() {
    let latin = b"{\"text\":\"a\"}\n{\"text\":\"caf\xE9\"}\n{\"text\":\"b\"}\n";
    let nul = b"{\"text\":\"a\"}\n{\"text\":\"\0\"}\n{\"text\":\"b\"}\n";
    let cases: [(&str, &[u8], u64); 14] = [
        (
            "a.jsonl",
            b"{\"text\":\"a\"}\n{\"text\":\n{\"text\":\"b\"}\n[]\n{}\n\n",
            3,
        ),
        (
            "a.jsonl",
            b"{\"text\":\"a\",\n{\"text\":\"a\"}\n{\"text\":\"b\"}\n",
            1,
        ),
        (
            "a.jsonl",
            b"{\"text\":\"a\"}\n{\"text\":null}\n{\"text\":\"b\"}\n{\"text\":\"c",
            2,
        ),
        ("a.jsonl", latin, 1),
        ("a.jsonl", nul, 1),
        (
            "a.json",
            b"[1,{\"text\":\"a\"},\"],\",[{}],null,{\"text\":\"b\"},{\"text\":x},{}]",
            6,
        ),
        (
            "a.json",
            b"{\n\"text\":\"a\"}\nthen\n{\"text\":\"b\"}\n{\"n\":1}",
            2,
        ),
        (
            "a.json",
            b"{\n\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"",
            1,
        ),
        ("a.csv", b"id,text\n1,a\n2\n3,b\n4,c,d\n", 2),
        ("a.csv", b"id,text\n1,a\n2,caf\xE9\n3,b\n\xFF,c\n", 2),
        ("a.csv", b"id,text\n1,a\n2,\"open\n3,b\n", 1),
        ("a.csv", b"id,text\n1,a\n\"x\ny\",\"open\n3,b\n", 1),
        ("a.csv", b"id,text\n1,a\n\"open,x\n3,b\n", 1),
        ("a.csv", b"id,text\n1,\"a\"\n2,b\n3,\"", 1),
    ];
    for (name, content, bad) in cases {
        let (documents, left_out) = good_documents_of(name, content);
        let content = String::from_utf8_lossy(content);
        assert_eq!(
            (documents, left_out),
            (vec!["a".to_string(), "b".to_string()], bad),
            "{content}"
        );
    }
}

/// What is no record may not be skipped over.
#[test]
fn a_text_with_bad_bytes_is_an_error_whatever_becomes_of_records() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    std::fs::write(&path, b"caf\xE9\n").unwrap();
    let options = CorpusOptions {
        bad_records: BadRecords::Skip,
        ..options(&path)
    };
    let error = read(&options).unwrap_err().to_string();
    assert!(error.contains("invalid UTF-8 at byte 3"), "{error}");
}

#[test]
fn utf16_is_read_as_text_in_every_format() {
    for (name, content) in [
        ("a.txt", "one é\r\n\r\ntwo 🦀\r\n"),
        ("a.jsonl", "{\"text\": \"one é\"}\n{\"text\": \"two 🦀\"}\n"),
        ("a.csv", "id;text\n1;one é\n2;two 🦀\n"),
    ] {
        for mark in ["", "\u{FEFF}"] {
            let units = format!("{mark}{content}");
            for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
                let bytes: Vec<u8> = units.encode_utf16().flat_map(bytes).collect();
                let documents = documents_of(name, &bytes).unwrap();
                assert_eq!(documents, ["one é", "two 🦀"], "{name}");
            }
        }
    }
}

#[test]
fn compression_is_told_by_content_and_not_by_name() {
    let text = "{\"text\": \"one\"}\n{\"text\": \"two\"}\n";
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a", "a.gz"] {
        for bytes in [gzip(text), zstd(text)] {
            assert_eq!(
                documents_of(name, &bytes).unwrap(),
                ["one", "two"],
                "{name}"
            );
        }
    }
    let twice = zstd::encode_all(&gzip(text)[..], 1).unwrap();
    let error = documents_of("a.jsonl.gz", &twice).unwrap_err().to_string();
    assert!(error.contains("compressed twice"), "{error}");
    let error = error_of("a.jsonl.gz", text);
    assert!(error.contains("neither gzip nor zstd"), "{error}");
}

#[test]
fn other_formats_are_refused_by_their_name_with_what_to_do() {
    let cases: [(&[u8], &str, &str); 3] = [
        (b"Obj\x01\x04\x15\0text", "Avro", "pandas"),
        (b"PK\x03\x04\x14\0\0\0", "zip", "unpack"),
        (b"\xFD7zXZ\0\0\x04", "xz", "decompress"),
    ];
    for (content, kind, way_out) in cases {
        for name in ["a.txt", "a.jsonl", "a.csv", "a.avro"] {
            let error = documents_of(name, content).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains(kind) && error.contains(way_out),
                "{error}"
            );
        }
    }
}

#[test]
fn compressed_files_may_have_several_members() {
    let cases = [
        ("a.txt", "one\n\n", "two\n"),
        ("a.jsonl", "{\"text\":\"one\"}\n", "{\"text\":\"two\"}\n"),
        ("a.csv", "text\none\n", "two\n"),
    ];
    for (name, first, second) in cases {
        let gz = [gzip(first), gzip(second)].concat();
        let zst = [zstd(first), zstd(second)].concat();
        assert_eq!(
            documents_of(&format!("{name}.gz"), &gz).unwrap(),
            ["one", "two"]
        );
        assert_eq!(
            documents_of(&format!("{name}.zst"), &zst).unwrap(),
            ["one", "two"]
        );
    }
}

#[test]
fn a_truncated_compressed_file_is_an_error() {
    let text = "some text ".repeat(100);
    for (name, bytes) in [("a.txt.gz", gzip(&text)), ("a.txt.zst", zstd(&text))] {
        let error = documents_of(name, &bytes[..bytes.len() - 5]).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_binary_file_is_named_with_the_byte() {
    for name in ["a.txt", "a.jsonl", "a.csv"] {
        let error = error_of(name, "text\n\0\n");
        assert!(
            error.contains(name) && error.contains("NUL at byte 5"),
            "{error}"
        );
    }
}

#[test]
fn ascii_only_drops_everything_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.txt");
    std::fs::write(&path, "naïve — café\n\n日本\n").unwrap();
    let options = CorpusOptions {
        ascii_only: true,
        ..options(&path)
    };
    assert_eq!(read(&options).unwrap(), ["nave  caf"]);
}

#[test]
fn a_long_line_comes_in_pieces_cut_between_words() {
    let line = "some words é ".repeat(3 * PIECE_BYTES / 10);
    let mut pieces = Vec::new();
    let mut sink = |piece: Piece| {
        if let Piece::Text(piece, _) = piece {
            pieces.push(piece.to_string());
        }
        Ok(())
    };
    let reading = Reading {
        options: &options(Path::new("a.txt")),
        meter: &Arc::default(),
        splits: &|_, _| true,
        vocabulary: u32::MAX,
    };
    let mut documents = Documents::new(&reading, &mut sink);
    documents.push(&line).unwrap();
    documents.end().unwrap();
    assert_eq!(pieces.concat(), line);
    assert!(pieces.len() > 2);
    assert!(pieces[1..].iter().all(|piece| piece.starts_with(' ')));
}

#[test]
fn pieces_have_the_ids_of_the_whole() {
    let gpt2 = super::super::Tokenizer::load("gpt2").unwrap();
    let text = "It's  a test,\n\n\twith 12 tabs \u{A0} and\nlines. Isn't it?  ";
    let whole = gpt2.encode(text).unwrap();
    for end in 12..text.len() {
        let at = cut(&text[..text.floor_char_boundary(end)]);
        let parts = [&text[..at], &text[at..]].map(|part| gpt2.encode(part).unwrap());
        assert_eq!(parts.concat(), whole, "cut at {at}");
    }
}

#[test]
fn a_separator_is_found_wherever_pieces_meet() {
    for filler in ["x", "é", " ", "a b "] {
        for shift in 0..20 {
            let length = 2 * PIECE_BYTES - shift;
            let head = "y".to_string() + &filler.repeat(length / filler.len());
            let documents =
                text_documents_of(TextDocuments::File, &format!("{head}{SEPARATOR}end"));
            assert_eq!(documents, [head.as_str(), "end"]);
        }
    }
}

proptest! {
    /// Against the plain definition, on text made of whatever matters.
    #[test]
    fn documents_are_as_defined(parts in proptest::collection::vec(
        prop_oneof!["\n", "\r\n", " ", "a", "é", "<\\|endoftext\\|>"], 0..40)) {
        let content = parts.concat();
        let text = content.replace("\r\n", "\n");
        let mut expected = Vec::new();
        for document in text.split(SEPARATOR) {
            let trimmed = document.trim_matches('\n');
            if !trimmed.trim().is_empty() {
                expected.push(trimmed.to_string());
            }
        }
        prop_assert_eq!(text_documents_of(TextDocuments::File, &content), expected);
    }
}

/// Documents of records that are to be no longer than 1000 bytes, and what was left out.
fn short_records_of(
    name: &str,
    content: &str,
    bad_records: BadRecords,
) -> Result<(Vec<String>, u64)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    let options = CorpusOptions {
        bad_records,
        ..options(&path)
    };
    let file = &list_files(&options)?.files[0];
    let mut reader = text::open(file, &Arc::default(), false)?;
    let layout = layout(&mut reader, file, &options)?;
    let (mut found, mut left_out) = (Vec::new(), LeftOut::default());
    let mut sink = |piece: Piece| {
        let Piece::Text(piece, _) = piece else {
            panic!("tokens");
        };
        found.push(piece.to_string());
        Ok(())
    };
    let reading = Reading {
        options: &options,
        meter: &Arc::default(),
        splits: &|_, _| true,
        vocabulary: u32::MAX,
    };
    let mut documents = Documents::new(&reading, &mut sink);
    let mut records = Records {
        file,
        options: &options,
        limit: 1000,
        unit: "line",
        vocabulary: u32::MAX,
        left_out: &mut left_out,
        documents: &mut documents,
    };
    match layout {
        Layout::Json(shape) => json::read(&mut reader, shape, json::Holds::Text, &mut records)?,
        Layout::Table(separator) => csv::read(&mut reader, separator, &mut records)?,
        Layout::Text | Layout::Tokens(_) | Layout::Records(_) => {
            panic!("{name} is read as {layout:?}")
        }
    }
    Ok((found, left_out.count))
}

#[test]
fn a_record_that_is_too_long_is_bad_and_those_after_it_are_not() {
    let long = "long ".repeat(40_000);
    for (name, content, line) in [
        (
            "a.jsonl",
            format!("{{\"text\":\"a\"}}\n{{\"text\":\"{long}\"}}\n{{\"text\":\"b\"}}\n"),
            2,
        ),
        (
            "a.json",
            format!("[{{\"text\":\"a\"}},\n{{\"n\":[{{}},\"{long}\"]}}\n,{{\"text\":\"b\"}}]"),
            2,
        ),
        ("a.csv", format!("id,text\n1,a\n2,{long}\n3,b\n"), 3),
        ("a.csv", format!("id,text\n1,a\n2,\"{long}\n3,b\n"), 3),
        ("a.csv", format!("text,id\na,1\nx,{long}\nb,3\n"), 3),
    ] {
        let error = short_records_of(name, &content, BadRecords::Error)
            .unwrap_err()
            .to_string();
        assert!(error.contains(&format!("{name} line {line}: ")), "{error}");
        assert!(error.contains("1000 B"), "{error}");
        let skipped = short_records_of(name, &content, BadRecords::Skip).unwrap();
        assert_eq!(
            skipped,
            (vec!["a".to_string(), "b".to_string()], 1),
            "{name}"
        );
    }
}

#[test]
fn the_rows_after_a_quote_are_not_counted_as_one_record() {
    let rows: String = (0..500).map(|i| format!("{i},\"row, {i}\"\n")).collect();
    let (documents, bad) =
        short_records_of("a.csv", &format!("id,text\n{rows}"), BadRecords::Skip).unwrap();
    assert_eq!((documents.len(), bad), (500, 0));
}

proptest! {
    /// Against the library that reads tables as a whole.
    #[test]
    fn rows_are_those_of_the_csv_library(parts in proptest::collection::vec(
        prop_oneof!["a", ",", "\"", "\n", "\r", "\"\"", "é", " ", "b,c\n", "\"d\"", "1,\"x\ny\"\n"], 0..40))
    {
        let content = format!("id,text\n{}", parts.concat());
        // Line ends are the same everywhere, within quotes too.
        let unix = content.replace("\r\n", "\n");
        let library: std::result::Result<Vec<String>, _> = ::csv::Reader::from_reader(unix.as_bytes())
            .records()
            .map(|row| row.map(|row| row[1].trim_matches('\n').to_string()))
            .collect();
        match (documents_of("a.csv", content.as_bytes()), library) {
            (Ok(documents), Ok(mut rows)) => {
                rows.retain(|row| !row.trim().is_empty());
                prop_assert_eq!(documents, rows);
            }
            // The library says nothing of quotes.
            (Err(error), Ok(_)) => prop_assert!(error.to_string().contains("a quote (\") is opened here and"), "{}", error),
            (Err(error), Err(_)) => prop_assert!(error.to_string().contains("a.csv line"), "{}", error),
            (Ok(documents), Err(error)) => prop_assert!(false, "{documents:?}: {error}"),
        }
    }

    #[test]
    fn objects_are_found_however_they_are_written(
        texts in proptest::collection::vec("[a-z\"\\\\{}\\[\\],:é🦀 \n]{0,12}x", 1..8), shape in 0..5_usize)
    {
        let objects: Vec<_> = texts
            .iter()
            .map(|text| serde_json::json!({"a": [text, {}, [1.5, null]], "text": text, "z": {"text": 1}}))
            .collect();
        let lines = |pretty: bool, between: &str| {
            let each = objects.iter().map(|object| match pretty {
                true => serde_json::to_string_pretty(object).unwrap(),
                false => object.to_string(),
            });
            each.collect::<Vec<_>>().join(between)
        };
        let content = match shape {
            0 => lines(false, "\n"),
            1 => lines(true, "\n"),
            2 => lines(false, ""),
            3 => format!("[{}]", lines(false, ",")),
            _ => format!("[\n{}\n]\n", lines(true, ",\n")),
        };
        let expected: Vec<String> = texts.iter().map(|text| text.trim_start_matches('\n').to_string()).collect();
        for name in ["a.json", "a.jsonl", "a"] {
            prop_assert_eq!(documents_of(name, content.as_bytes()).unwrap(), expected.clone(), "{}", name);
        }
    }
}
