//! Files and folders that cannot be written.

use crate::common::lab::{Lab, assert_clear_error, stderr, tensors};
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

/// A run is worth more than its log.
#[cfg(target_os = "linux")]
#[test]
fn log_on_a_full_disk_ends_nothing() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--log-file /dev/full --steps 20 --save-every 5");
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.matches("WARN").count(), 1, "{text}");
    for words in ["/dev/full", "free some disk space", "training goes on"] {
        assert!(text.contains(words), "{text}");
    }
    let saved = lab.brain("a").join("checkpoints/step-000020");
    assert!(saved.is_dir());
}

/// The log and the bundle are removed under it: both are made anew.
#[cfg(unix)]
#[test]
fn what_is_removed_under_a_run_is_made_anew() {
    let lab = Lab::new();
    let mut run = lab.start("a", "--steps 1000000 --save-every 3");
    run.wait_for_step(7);
    std::fs::rename(lab.path("a.jsonl"), lab.path("a.jsonl.1")).unwrap();
    std::fs::rename(lab.brain("a").join("checkpoints"), lab.path("gone")).unwrap();
    run.wait_for("\"event\":\"checkpoint\"");
    run.signal("kill -TERM $PID");
    let output = run.output();
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for name in ["a.jsonl", "checkpoints"] {
        let words = format!("{name} was removed");
        assert!(text.contains(&words), "{text}");
    }
    assert_eq!(lab.events("a").end()["reason"], "interrupted");
    lab.succeed("eval brains/a --file text.txt --device cpu --batches 1");
}

#[test]
fn log_that_is_something_the_run_reads() {
    let lab = Lab::new();
    lab.write("run.toml", "steps = 1\n");
    lab.write("eval.txt", "Some other words.\n");
    for (flags, words) in [
        ("--log-file text.txt", "--dataset-file"),
        ("--eval-file eval.txt --log-file ./eval.txt", "--eval-file"),
        ("--config run.toml --log-file run.toml", "--config"),
        ("--log-file tokenizer.json", "--model"),
        ("--stop-file stop --log-file stop", "--stop-file"),
    ] {
        let output = lab.try_train("a", flags);
        assert_clear_error(&output, 2, &[words, "--log-file"]);
    }
    let output = lab.try_train("a", "--log-file brains/a/config.toml");
    assert_clear_error(&output, 2, &["of the bundle"]);
    let original = root().join("tests/data/text.txt");
    let read = |path| std::fs::read(path).unwrap();
    assert!(read(lab.path("text.txt")) == read(original));
    assert!(!lab.brain("a").exists());
}

#[test]
fn log_that_is_no_log() {
    let lab = Lab::new();
    lab.write("notes", "to do\n");
    let output = lab.try_train("a", "--log-file notes");
    assert_clear_error(&output, 2, &["notes", "something else than metrics"]);
}

/// Weights and settings of another program, and those that the run is to begin with.
#[test]
fn bundle_directory_that_holds_files_of_others() {
    let lab = Lab::new();
    std::fs::create_dir(lab.path("mine")).unwrap();
    lab.write("mine/config.toml", "# mine\nsteps = 3\n");
    let refused = |flags: &str, name: &str| {
        let output = lab.try_train("a", &format!("--steps 1 --save-dir mine {flags}"));
        assert_clear_error(&output, 2, &["mine", name, "--save-dir"]);
    };
    refused("--config mine/config.toml", "config.toml");
    std::fs::remove_file(lab.path("mine/config.toml")).unwrap();
    lab.train("teacher", "--steps 1");
    let weights = lab.brain("teacher").join("model.safetensors");
    std::fs::copy(&weights, lab.path("mine/model.safetensors")).unwrap();
    refused("--student-init mine/model.safetensors", "model.safetensors");
    assert!(tensors(&lab.path("mine/model.safetensors")) == tensors(&weights));
    assert_eq!(std::fs::read_dir(lab.path("mine")).unwrap().count(), 1);
}

#[cfg(unix)]
#[test]
fn places_that_are_links_to_nothing() {
    let lab = Lab::new();
    for flag in ["--save-dir", "--log-file"] {
        std::os::unix::fs::symlink("no/where", lab.path("link")).unwrap();
        let output = lab.try_train("a", &format!("{flag} link"));
        assert_clear_error(&output, 1, &["link to no/where", "missing"]);
        std::fs::remove_file(lab.path("link")).unwrap();
    }
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
