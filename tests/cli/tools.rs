//! The commands that do not train.

use crate::common::lab::Lab;
use serde_json::Value;

fn json(line: &str) -> Value {
    serde_json::from_str(&Lab::new().succeed(line)).unwrap()
}

#[test]
fn version_and_help() {
    let lab = Lab::new();
    let version = format!("aios {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(lab.succeed("--version"), version);
    for line in ["--help", "train --help", "hrm-hf train-actv1 --help"] {
        assert!(lab.succeed(line).contains("Usage: aios"), "{line}");
    }
}

#[test]
fn completions_for_every_shell() {
    let lab = Lab::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = lab.succeed(&format!("completions {shell}"));
        assert!(script.contains("gradient-checkpointing"), "{shell}");
    }
}

#[test]
fn manual_pages() {
    let lab = Lab::new();
    assert!(lab.succeed("man").contains(".TH aios 1"));
    lab.succeed("man --dir share/man1");
    assert!(lab.path("share/man1/aios-generate.1").is_file());
}

#[test]
fn summary_of_the_default_model() {
    let summary = json("hrm-hf arch-summary --json");
    let (hidden, inner, vocabulary) = (512_u64, 768, 50257);
    let block = 4 * hidden * hidden + 3 * hidden * inner;
    let parameters = 2 * vocabulary * hidden + 4 * block + 2 * hidden + 2;
    assert_eq!(summary["parameters"], parameters);
    let parts = summary["parts"].as_array().unwrap();
    let sum: u64 = parts
        .iter()
        .map(|p| p["parameters"].as_u64().unwrap())
        .sum();
    assert_eq!(sum, parameters);
    // Four bytes a weight and a gradient, eight of optimizer state; besides the weights the fixed
    // carry and the rotary table of 128 positions.
    let memory = &summary["memory"];
    let fixed = 8 * hidden + 4 * 128 * 64;
    for (what, bytes, extra) in [
        ("weights", 4, fixed),
        ("gradients", 4, 0),
        ("optimizer", 8, 0),
    ] {
        let wanted = bytes * parameters + extra;
        assert_eq!(memory[what].as_u64(), Some(wanted), "{what}");
    }
    assert!(memory["total"].as_u64() > memory["optimizer"].as_u64());
    assert!(summary["activation_bytes_per_token"].as_u64().unwrap() > 0);
}

#[test]
fn summary_counts_learned_positions() {
    let plain = json("hrm-hf arch-summary --json");
    let learned = json("hrm-hf arch-summary --json --pos-encodings learned");
    let count = |summary: &Value| summary["parameters"].as_u64().unwrap();
    assert_eq!(count(&learned) - count(&plain), 128 * 512);
}

#[test]
fn summary_for_people_has_the_total() {
    let text = Lab::new().succeed("hrm-hf arch-summary");
    assert!(
        text.contains("60377090") && text.contains("total"),
        "{text}"
    );
}

#[test]
fn devices_as_json_and_as_a_table() {
    let report = json("devices --json");
    let adapters = report["adapters"].as_array().unwrap();
    assert!(adapters.iter().any(|a| a["kind"] == "cpu"), "{report}");
    assert!(report["picked"].is_string() && report["reason"].is_string());
    let table = Lab::new().succeed("devices");
    assert!(table.contains("DEVICE") && table.contains("cpu"), "{table}");
}
