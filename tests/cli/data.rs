//! Datasets and tokenizers that cannot be used.

use crate::common::lab::{Lab, assert_clear_error, finish, stderr};
use crate::common::root;
use std::fs;

#[test]
fn missing_dataset() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--dataset-file nowhere.txt --tensorboard tb");
    assert_clear_error(&output, 2, &["nowhere.txt", "does not exist", "give"]);
    for made in ["brains", "tb", "a.jsonl"] {
        assert!(!lab.path(made).exists(), "{made}");
    }
}

#[test]
fn nothing_is_made_for_a_model_or_a_text_that_cannot_be_read() {
    let lab = Lab::new();
    lab.write("empty.txt", "");
    for flags in ["--model nowhere", "--dataset-file empty.txt"] {
        let output = lab.try_train("a", &format!("{flags} --tensorboard tb"));
        assert_clear_error(&output, 1, &[]);
        for made in ["brains", "tb", "a.jsonl"] {
            assert!(!lab.path(made).exists(), "{flags}: {made}");
        }
    }
}

#[test]
fn no_dataset_at_all() {
    let output = Lab::new().run("train");
    assert_clear_error(&output, 2, &["--dataset-file"]);
}

#[test]
fn empty_dataset() {
    let lab = Lab::new();
    lab.write("empty.txt", "");
    let output = lab.try_train("a", "--dataset-file empty.txt");
    assert_clear_error(&output, 1, &["empty.txt", "is empty"]);
}

#[test]
fn binary_dataset() {
    let lab = Lab::new();
    lab.write("binary.txt", [b'a', 0, 159, 146, 150].repeat(100));
    let output = lab.try_train("a", "--dataset-file binary.txt");
    assert_clear_error(&output, 1, &["binary.txt"]);
}

#[test]
fn dataset_that_only_claims_to_be_gzip() {
    let lab = Lab::new();
    lab.write("text.txt.gz", "plain text");
    let output = lab.try_train("a", "--dataset-file text.txt.gz");
    assert_clear_error(&output, 1, &["cannot read", "text.txt.gz"]);
}

/// A file that exists and cannot be read, even by root.
#[cfg(target_os = "linux")]
#[test]
fn unreadable_dataset() {
    let output = Lab::new().try_train("a", "--dataset-file /proc/self/mem");
    assert_clear_error(&output, 1, &["/proc/self/mem"]);
}

#[test]
fn dataset_shorter_than_a_window() {
    let lab = Lab::new();
    lab.write("short.txt", "Hello.");
    let output = lab.try_train("a", "--dataset-file short.txt");
    // Six bytes and the end of the text: six inputs have a target.
    assert_clear_error(&output, 1, &["too short", "7 tokens", "--max-seq-len 6"]);
    lab.train("a", "--dataset-file short.txt --max-seq-len 6 --steps 1");
}

#[test]
fn evaluation_file_that_is_missing() {
    let output = Lab::new().try_train("a", "--eval-file nowhere.txt");
    assert_clear_error(&output, 2, &["nowhere.txt"]);
}

#[test]
fn unknown_hub_model_offline() {
    let output = Lab::new().try_train("a", "--model no-one/nothing");
    assert_clear_error(&output, 1, &["no-one/nothing", "HF_HUB_OFFLINE", "gpt2"]);
}

#[test]
fn unknown_hub_model_without_a_network() {
    let lab = Lab::new();
    let mut command = lab.command(&Lab::tiny("a", "--model no-one/nothing"));
    // Nothing listens there, so that the connection is refused at once.
    command
        .env_remove("HF_HUB_OFFLINE")
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("NO_PROXY", "127.0.0.1")
        .env("no_proxy", "127.0.0.1");
    let output = finish(command);
    assert_clear_error(&output, 1, &["no-one/nothing", "network", "gpt2"]);
}

#[test]
fn tokenizer_that_is_none() {
    let lab = Lab::new();
    lab.write("bad.json", "{}");
    let output = lab.try_train("a", "--model bad.json");
    assert_clear_error(&output, 1, &["bad.json", "not a tokenizer"]);
    let output = lab.try_train("a", "--model no/such/path");
    assert_clear_error(&output, 2, &["no/such/path", "gpt2"]);
}

/// Bytes of a run's text, its documents: from the header of the only token cache.
fn cached(lab: &Lab) -> (u64, u64) {
    let mut caches = std::fs::read_dir(lab.path("cache")).unwrap();
    let bytes = std::fs::read(caches.next().unwrap().unwrap().path()).unwrap();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (number(32), number(24))
}

/// What a tiny run on this file says, and how many documents it finds in it.
#[track_caller]
fn documents(name: &str, contents: impl AsRef<[u8]>, flags: &str) -> (String, u64) {
    let lab = Lab::new();
    lab.write(name, contents);
    let output = lab.try_train("a", &format!("--steps 1 --dataset-file {name} {flags}"));
    assert!(output.status.success(), "{}", stderr(&output));
    (stderr(&output), cached(&lab).1)
}

fn json_lines() -> String {
    (0..200)
        .map(|i| format!("{{\"text\": \"A dog sat by well {i}.\"}}\n"))
        .collect()
}

#[test]
fn json_lines_of_another_name() {
    for name in ["a.ndjson", "a.jsonlines", "a.json"] {
        assert_eq!(documents(name, json_lines(), ""), (String::new(), 200));
    }
    for name in ["a.txt", "a"] {
        let (said, documents) = documents(name, json_lines(), "");
        assert!(said.contains("JSON objects"), "{said}");
        assert_eq!(documents, 200);
    }
    let (said, documents) = documents("a.json", json_lines(), "--text-format text");
    assert_eq!((said.as_str(), documents), ("", 1));
}

#[test]
fn csv_quote_that_never_closes() {
    let lab = Lab::new();
    lab.write("a.csv", "id,text\n1,\"A quote that never ends\n2,b\n");
    let output = lab.try_train("a", "--dataset-file a.csv");
    assert_clear_error(&output, 1, &["a.csv line 2", "quote", "never closed"]);
}

#[test]
fn csv_with_another_separator() {
    let rows: String = (0..50)
        .map(|i| format!("{i};A dog, and cat {i}.\n"))
        .collect();
    let table = format!("id;text\n{rows}");
    assert_eq!(documents("a.csv", &table, ""), (String::new(), 50));
    let output = {
        let lab = Lab::new();
        lab.write("a.csv", &table);
        lab.try_train("a", "--dataset-file a.csv --csv-separator comma")
    };
    assert_clear_error(
        &output,
        1,
        &["a.csv line 1", "no column \"text\"", "--text-field"],
    );
}

#[test]
fn nested_fields() {
    let rows: String = (0..50)
        .map(|i| format!("{{\"a\": {{\"b\": [0, \"A dog and cat {i}.\"]}}}}\n"))
        .collect();
    let found = documents("rows.jsonl", rows, "--text-field a.b.1");
    assert_eq!(found, (String::new(), 50));
}

#[test]
fn bad_records_are_skipped_with_a_word_each_time() {
    let lab = Lab::new();
    lab.write("data.jsonl", json_lines() + "{\"text\": 1}\n{\"text\":\n");
    let flags = "--dataset-file data.jsonl --steps 1";
    let output = lab.try_train("a", flags);
    assert_clear_error(&output, 1, &["data.jsonl line 201", "--bad-records skip"]);
    for words in [
        ["2 bad records", "data.jsonl line 201"],
        ["2 bad records", "cached"],
    ] {
        let output = lab.try_train("a", &format!("{flags} --bad-records skip"));
        assert!(output.status.success(), "{}", stderr(&output));
        for word in words {
            assert!(stderr(&output).contains(word), "{}", stderr(&output));
        }
    }
    assert_eq!(cached(&lab).1, 200);
    lab.write("data.jsonl", "{\"text\": 1}\n");
    let output = lab.try_train("a", &format!("{flags} --bad-records skip"));
    assert_clear_error(&output, 1, &["no good record", "data.jsonl line 1"]);
}

#[test]
fn formats_that_are_no_text() {
    let lab = Lab::new();
    for (name, contents, words) in [
        (
            "a.parquet",
            &b"PAR1\x15\x04\x15\0"[..],
            ["Parquet", "cut off"],
        ),
        ("b.txt", b"PK\x03\x04\x14\0\0\0", ["zip archive", "unpack"]),
        ("c", b"BZh91AY&SY\x01", ["bzip2", "decompress"]),
    ] {
        lab.write(name, contents);
        let output = lab.try_train("a", &format!("--dataset-file {name}"));
        assert_clear_error(&output, 1, &[name, words[0], words[1]]);
    }
}

#[test]
fn hidden_files_of_a_folder() {
    let lab = Lab::new();
    let text = std::fs::read(lab.path("text.txt")).unwrap();
    std::fs::create_dir_all(lab.path("data/.ipynb_checkpoints")).unwrap();
    lab.write("data/a.txt", &text);
    lab.write("data/._a.txt", b"\0\x05\x16\x07");
    lab.write("data/.ipynb_checkpoints/a-checkpoint.txt", &text);
    #[cfg(unix)]
    std::os::unix::fs::symlink("nobody@nowhere.1:2", lab.path("data/#a.txt")).unwrap();
    let output = lab.try_train("a", "--steps 1 --dataset-file data");
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("2 hidden"), "{}", stderr(&output));
    let alone = Lab::new();
    alone.train("a", "--steps 1");
    assert_eq!(cached(&lab), cached(&alone));
}

/// A folder in which one keeps the text, the bundle, the metrics and the board is read as the text alone, also when the
/// run goes on.
#[test]
fn what_a_run_writes_is_no_part_of_its_text() {
    let lab = Lab::new();
    let text = std::fs::read(lab.path("text.txt")).unwrap();
    std::fs::create_dir(lab.path("data")).unwrap();
    lab.write("data/a.txt", text);
    let flags = "--dataset-file data --log-file data/m.jsonl --tensorboard data/board --save-dir data/brain";
    for steps in [1, 2] {
        let resume = if steps == 1 { "" } else { "--resume" };
        let output = lab.try_train("a", &format!("{flags} --steps {steps} {resume}"));
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(
            !stderr(&output).contains("starts over"),
            "{}",
            stderr(&output)
        );
    }
    let alone = Lab::new();
    alone.train("a", "--steps 1");
    assert_eq!(cached(&lab), cached(&alone));
}

#[test]
fn text_with_the_size_and_time_of_before() {
    let lab = Lab::new();
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
    let mut tokens = Vec::new();
    for word in ["old", "new"] {
        lab.write("a.txt", format!("The {word} text is here. ").repeat(50));
        let file = std::fs::File::options()
            .write(true)
            .open(lab.path("a.txt"))
            .unwrap();
        file.set_modified(time).unwrap();
        lab.train("a", "--dataset-file a.txt --steps 1");
        let mut caches = std::fs::read_dir(lab.path("cache")).unwrap();
        tokens.push(std::fs::read(caches.next().unwrap().unwrap().path()).unwrap());
    }
    assert_ne!(tokens[0], tokens[1]);
}

/// A run whose text comes in on standard input; what was piped in.
fn piped(lab: &Lab, text: &[u8], arguments: &str) -> std::process::Output {
    lab.write("piped", text);
    let mut command = lab.command(arguments);
    command.stdin(std::fs::File::open(lab.path("piped")).unwrap());
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let status = child.wait().unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    std::io::Read::read_to_end(&mut child.stdout.take().unwrap(), &mut out).unwrap();
    std::io::Read::read_to_end(&mut child.stderr.take().unwrap(), &mut err).unwrap();
    std::process::Output {
        status,
        stdout: out,
        stderr: err,
    }
}

#[test]
fn text_from_standard_input() {
    let lab = Lab::new();
    let lines = json_lines();
    let run = |flags: &str| Lab::tiny("a", &format!("--dataset-file - {flags}"));
    for supervised in ["", "--no-supervise"] {
        let output = piped(
            &lab,
            lines.as_bytes(),
            &run(&format!("--steps 1 {supervised}")),
        );
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(cached(&lab).1, 200);
    }
    // Only the tokens are left.
    assert_eq!(std::fs::read_dir(lab.path("cache")).unwrap().count(), 1);
    let resume = "train --quiet --resume --bundle-dir brains --brain-name a --device cpu";
    let output = piped(&lab, lines.as_bytes(), &format!("{resume} --steps 2"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        !stderr(&output).contains("starts over"),
        "{}",
        stderr(&output)
    );
    let other = lines.replace("dog", "cat");
    let output = piped(&lab, other.as_bytes(), &format!("{resume} --steps 3"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("starts over"),
        "{}",
        stderr(&output)
    );
    let eval = "eval --bundle-dir brains --brain-name a --device cpu --file - --json";
    let output = piped(&lab, lines.as_bytes(), eval);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = piped(&lab, b"", &run("--eval-file -"));
    assert_clear_error(&output, 2, &["--dataset-file -", "--eval-file -"]);
    let output = piped(&lab, b"", &run(""));
    assert_clear_error(&output, 1, &["standard input", "empty"]);
}

/// A child that goes on after another one reads the same text.
#[cfg(unix)]
#[test]
fn text_from_standard_input_is_there_for_a_second_child() {
    let lab = Lab::new();
    let text = std::fs::read(lab.path("text.txt")).unwrap();
    lab.write("piped", &text);
    let flags = "--dataset-file - --batch-size 4 --steps 100000 --save-every 10";
    let mut command = lab.command(&Lab::tiny("a", flags));
    command.stdin(std::fs::File::open(lab.path("piped")).unwrap());
    let mut run = lab.start_command("a", command);
    run.wait_for("\"event\":\"checkpoint\"");
    run.signal_trainer("KILL");
    run.wait_for("\"event\":\"oom_backoff\"");
    run.wait_for("\"event\":\"resume\"");
    run.signal("kill -TERM $PID");
    assert_eq!(run.exit_code(), Some(0));
    assert_eq!(std::fs::read_dir(lab.path("cache")).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn a_request_to_stop_while_standard_input_is_read() {
    let lab = Lab::new();
    for supervised in ["", "--no-supervise"] {
        let mut command = lab.command(&Lab::tiny("a", &format!("--dataset-file - {supervised}")));
        let (reader, _writer) = std::io::pipe().unwrap();
        command.stdin(reader);
        let run = lab.start_command("a", command);
        let part = || {
            let entries = std::fs::read_dir(lab.path("cache")).into_iter().flatten();
            entries.count()
        };
        while part() == 0 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // With the handler of signals in place.
        std::thread::sleep(std::time::Duration::from_millis(100));
        run.signal("kill -TERM $PID");
        assert_eq!(run.exit_code(), Some(0));
        assert_eq!(part(), 0);
    }
}

/// One line without an end, far larger when it is decompressed than anybody would wait for.
#[cfg(unix)]
#[test]
fn a_request_to_stop_while_tokenizing() {
    let lab = Lab::new();
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    for _ in 0..1500 {
        std::io::Write::write_all(&mut encoder, &b"the cat ".repeat(1 << 17)).unwrap();
    }
    lab.write("a.zst", encoder.finish().unwrap());
    let mut command = lab.command(&Lab::tiny("a", "--dataset-file a.zst --device cpu"));
    command.stdin(std::process::Stdio::null());
    let run = lab.start_command("a", command);
    let entries = || {
        std::fs::read_dir(lab.path("cache"))
            .into_iter()
            .flatten()
            .count()
    };
    while entries() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let asked = std::time::Instant::now();
    run.signal("kill -TERM $PID");
    assert_eq!(run.exit_code(), Some(0));
    assert!(asked.elapsed() < std::time::Duration::from_secs(20));
    assert_eq!(entries(), 0);
}

/// A tokenizer of words, with whatever the test is about.
fn write_tokenizer(lab: &Lab, parts: &str) {
    std::fs::create_dir_all(lab.path("words")).unwrap();
    lab.write(
        "words/tokenizer.json",
        format!(
            "{{\"version\": \"1.0\", {parts} \"pre_tokenizer\": {{\"type\": \"Whitespace\"}}, \"model\": \
             {{\"type\": \"WordLevel\", \"unk_token\": \"[UNK]\", \"vocab\": {{\"[UNK]\": 0, \"</s>\": 1, \"the\": 2}}}}}}"
        ),
    );
}

#[test]
fn a_tokenizer_whose_end_of_text_is_not_in_its_vocabulary() {
    let lab = Lab::new();
    write_tokenizer(&lab, "");
    lab.write(
        "words/tokenizer_config.json",
        "{\"eos_token\": \"<|eot|>\"}",
    );
    let output = lab.try_train("a", "--model words --steps 1");
    assert!(output.status.success(), "{}", stderr(&output));
    for words in [
        "<|eot|>",
        "not in its vocabulary",
        "\"</s>\" is used",
        "no decoder",
    ] {
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    }
}

#[test]
fn tokenizers_that_the_library_panics_at() {
    let lab = Lab::new();
    for parts in [
        "\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"\"},",
        "\"normalizer\": {\"type\": \"Precompiled\"},",
        "\"decoder\": 3,",
    ] {
        write_tokenizer(&lab, parts);
        let output = lab.try_train("a", "--model words");
        assert_clear_error(&output, 1, &["words", "tokenizer.json"]);
    }
    let json = std::fs::read_to_string(lab.path("tokenizer.json")).unwrap();
    let fixed = json.replace(
        "\"type\": \"ByteLevel\",",
        "\"type\": \"FixedLength\", \"length\": 0,",
    );
    lab.write("words/tokenizer.json", fixed);
    let output = lab.try_train("a", "--model words");
    assert_clear_error(&output, 1, &["words/tokenizer.json"]);
}

#[test]
fn tokens_do_not_depend_on_the_number_of_threads() {
    let mut tokens = Vec::new();
    for threads in ["1", "7"] {
        let lab = Lab::new();
        let text = std::fs::read_to_string(lab.path("text.txt")).unwrap();
        lab.write("long.txt", text.repeat(500));
        let mut command = lab.command(&Lab::tiny("a", "--dataset-file long.txt --steps 1"));
        command.env("RAYON_NUM_THREADS", threads);
        assert!(finish(command).status.success());
        let mut caches = std::fs::read_dir(lab.path("cache")).unwrap();
        tokens.push(std::fs::read(caches.next().unwrap().unwrap().path()).unwrap());
    }
    assert!(tokens[0] == tokens[1]);
}

#[cfg(unix)]
#[test]
fn a_request_to_stop_an_evaluation_while_its_text_is_read() {
    let lab = Lab::new();
    lab.train("a", "--steps 1");
    let entries = || std::fs::read_dir(lab.path("cache")).unwrap().count();
    let mut command = lab.command("eval --bundle-dir brains --brain-name a --device cpu --file -");
    let (reader, _writer) = std::io::pipe().unwrap();
    command.stdin(reader);
    let run = lab.start_command("eval", command);
    while entries() == 1 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    run.signal("kill -TERM $PID");
    assert_eq!(run.exit_code(), Some(130));
    assert_eq!(entries(), 1);
}

/// Of a data set in the Hub's cache the training split is read, whatever else lies there.
#[test]
fn a_data_set_is_taken_from_the_hubs_cache() {
    let lab = Lab::new();
    let repository = lab.path("hub/hub/datasets--o--n");
    let data = repository.join("snapshots/abc/data");
    fs::create_dir_all(&data).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), "abc").unwrap();
    let parquet = root().join("crates/data/testdata/required.parquet");
    fs::copy(parquet, data.join("train-00000-of-00001.parquet")).unwrap();
    fs::write(data.join("test-00000-of-00001.parquet"), "damaged").unwrap();
    lab.train("a", "--steps 1 --dataset-file hf:o/n");
    let output = lab.try_train("a", "--steps 1 --dataset-file hf:o/n:validation");
    assert_clear_error(&output, 2, &["hf:o/n:validation", "which has test, train"]);
    let output = lab.try_train("a", "--steps 1 --dataset-file hf:o/other");
    assert_clear_error(&output, 2, &["datasets--o--other", "hf download"]);
}

/// Rows follow each other in a model that asks at the end of a sequence whether to halt.
#[test]
fn rows_of_tokens_are_trained_on() {
    let lab = Lab::new();
    let ids: Vec<usize> = (0..40).collect();
    lab.write(
        "rows.jsonl",
        format!("{{\"input_ids\": {ids:?}}}\n").repeat(4),
    );
    let events = lab.train("a", "--steps 1 --dataset-file rows.jsonl");
    assert_eq!(events.steps("tokens"), [32.0]);
    lab.write("bad.jsonl", "{\"input_ids\": [1, 257]}\n");
    let output = lab.try_train("a", "--steps 1 --dataset-file bad.jsonl");
    assert_clear_error(&output, 1, &["bad.jsonl line 1: id 257", "vocabulary"]);
}
