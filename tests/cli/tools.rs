//! The commands that do not train.

use crate::common::lab::{Lab, stderr};
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

/// A case that does not fit is a row with the reason, beside those that do.
#[test]
fn attention_is_measured_on_each_path() {
    let lab = Lab::new();
    let line = "bench attention --device cpu --seq-lens 64,128,4096 --head-dims 16 --heads 2 --window 32 \
                --repeats 1 --memory-limit 24MiB --json --chart attention.svg";
    let table: Value = serde_json::from_str(&lab.succeed(line)).unwrap();
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3 * 2 * 2 * 2);
    for row in rows {
        if row["seq_len"] == 4096 && row["path"] == "sdpa" {
            assert!(
                row["error"].as_str().unwrap().starts_with("does not fit"),
                "{row}"
            );
            continue;
        }
        assert!(
            row["ms"].as_f64().unwrap() > 0.0 && row["tflops"].as_f64().unwrap() > 0.0,
            "{row}"
        );
        assert_eq!(
            row["speedup"].is_number(),
            row["path"] == "flash" && row["seq_len"] != 4096
        );
    }
    let extra = |pass: &str, path: &str, seq: u64| {
        let found = rows.iter().find(|row| {
            row["pass"] == pass
                && row["path"] == path
                && row["seq_len"] == seq
                && row["window"] == 0
        });
        found.unwrap()["extra_bytes"].as_u64().unwrap()
    };
    assert!(extra("forward", "sdpa", 128) > 2 * 2 * 128 * 128 * 4);
    assert!(extra("forward", "flash", 4096) < 2 * 4096 * 4096 * 4 / 20);
    assert!(table["growth"].as_array().unwrap().len() == 8);
    let chart = std::fs::read_to_string(lab.path("attention.svg")).unwrap();
    assert!(chart.contains("flash") && chart.contains("tokens"));
}

#[test]
fn attention_bench_refuses_what_makes_no_sense() {
    let lab = Lab::new();
    for (flags, word) in [
        ("--seq-lens 0", "--seq-lens"),
        ("--heads 0", "--heads"),
        ("--paths fast", "flash or sdpa"),
        ("--dtype f8", "bf16"),
        ("--chart nowhere/a.svg", "no folder"),
        ("--chart a.pdf", "PNG"),
    ] {
        let output = lab.run(&format!("bench attention --device cpu {flags}"));
        let text = stderr(&output);
        assert!(
            output.status.code() == Some(2) && text.contains(word),
            "{text}"
        );
    }
}
