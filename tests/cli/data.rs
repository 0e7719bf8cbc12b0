//! Datasets and tokenizers that cannot be used.

use crate::common::lab::{Lab, assert_clear_error, finish};

#[test]
fn missing_dataset() {
    let output = Lab::new().try_train("a", "--dataset-file nowhere.txt");
    assert_clear_error(&output, 2, &["nowhere.txt", "does not exist", "give"]);
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
