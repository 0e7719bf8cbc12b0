//! `aios report` of real runs.

use crate::common::lab::{Lab, stderr};
use std::fs;

#[test]
fn a_run_is_named_by_its_file_its_bundle_or_its_brain() {
    let lab = Lab::new();
    lab.train("a", "--steps 3 --sample-every 2");
    lab.train("b", "--steps 2 --lr 0.5");
    for run in ["a.jsonl", "brains/a", "a --bundle-dir brains"] {
        lab.succeed(&format!("report {run} b.jsonl"));
        let page = fs::read_to_string(lab.path("report.html")).unwrap();
        assert!(page.contains("<title>2 runs</title>"), "{run}");
        assert!(page.contains("[\"lr\",\"0.0002\",\"0.5\"]"), "{run}");
        fs::remove_file(lab.path("report.html")).unwrap();
    }
    lab.succeed("report a.jsonl a.jsonl -o once.html");
    let page = fs::read_to_string(lab.path("once.html")).unwrap();
    assert!(page.contains("<title>a</title>"));
}

#[test]
fn what_cannot_be_reported_is_said() {
    let lab = Lab::new();
    lab.train("a", "--steps 1");
    lab.succeed(&Lab::tiny("silent", "--steps 1").replace("--log-file silent.jsonl", ""));
    lab.write("empty.jsonl", "");
    for (arguments, code, says) in [
        ("report", 2, "RUN"),
        ("report nowhere", 1, "no brain nowhere"),
        ("report a.jsonl nowhere.jsonl", 1, "nowhere.jsonl"),
        ("report empty.jsonl", 1, "no run in empty.jsonl"),
        ("report text.txt", 1, "no run in text.txt"),
        ("report brains/silent", 1, "--log-file"),
        ("report a.jsonl -o a.jsonl", 2, "name another file"),
        ("report a.jsonl -o missing/a.html", 1, "missing/a.html"),
        ("report a.jsonl --port 1", 2, "--watch"),
        ("report a.jsonl --watch -o a.html", 2, "--watch"),
    ] {
        let output = lab.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(says), "{arguments}: {said}");
    }
}
