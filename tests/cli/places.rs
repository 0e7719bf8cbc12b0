//! Files and folders that cannot be written.

use crate::common::lab::{Lab, assert_clear_error, tensors};
use crate::common::root;

#[test]
fn log_in_a_folder_that_is_a_file() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--log-file text.txt/metrics.jsonl");
    assert_clear_error(&output, 1, &["text.txt"]);
}

#[test]
fn log_that_is_a_folder() {
    let output = Lab::new().try_train("a", "--log-file .");
    assert_clear_error(&output, 1, &["is a directory", "name a file"]);
}

#[cfg(target_os = "linux")]
#[test]
fn log_on_a_full_disk_harms_nothing() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let weights = || tensors(&lab.brain("a").join("model.safetensors"));
    let before = weights();
    for flags in ["", "--resume --steps 4"] {
        let output = lab.try_train("a", &format!("{flags} --log-file /dev/full"));
        assert_clear_error(&output, 1, &["/dev/full", "free some disk space"]);
        assert!(weights() == before, "the weights changed with `{flags}`");
        lab.succeed("eval brains/a --file text.txt --device cpu");
    }
    lab.train("a", "--resume --steps 4");
}

#[test]
fn bundle_directory_that_is_a_file() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--bundle-dir text.txt");
    assert_clear_error(&output, 1, &["text.txt", "--bundle-dir"]);
    let output = lab.try_train("a", "--save-dir text.txt");
    assert_clear_error(&output, 1, &["text.txt"]);
    let original = root().join("tests/data/text.txt");
    let read = |path| std::fs::read(path).unwrap();
    assert!(read(lab.path("text.txt")) == read(original));
}

#[test]
fn stop_file_that_is_there_already() {
    let lab = Lab::new();
    lab.write("stop", "");
    let output = lab.try_train("a", "--stop-file stop");
    assert_clear_error(&output, 2, &["--stop-file stop", "remove it"]);
}

#[test]
fn bundle_that_another_process_trains_into() {
    let lab = Lab::new();
    let mut first = lab.start("a", "--steps 1000000");
    first.wait_for_step(1);
    let output = lab.run(&Lab::tiny("a", "--log-file other.jsonl"));
    assert_clear_error(&output, 1, &["is training into", "--bundle-dir"]);
    first.kill();
}
