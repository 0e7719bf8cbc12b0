//! The commands that do not train.

use crate::common::lab::{Lab, assert_clear_error, stderr};
use crate::common::root;
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

/// As scripts/what_fits asks for them.
#[test]
fn well_known_models_have_the_parameters_that_their_names_say() {
    let known = [
        ("Qwen3-0.6B", 0.6e9),
        ("Llama-3.2-1B", 1.24e9),
        ("Llama-3.1-8B", 8.03e9),
        ("Qwen3-14B", 14.8e9),
    ];
    for (name, parameters) in known {
        let file = root().join(format!("bench/models/{name}.json"));
        let flags = "--quantize nf4 --batch-size 1 --max-seq-len 2048 --device cpu --json";
        let found = json(&format!("hrm-hf arch-summary {} {flags}", file.display()));
        let parts = found["parts"].as_array().unwrap().iter();
        let own = parts.filter(|part| part["name"] != "adapter");
        let own: f64 = own.map(|part| part["parameters"].as_f64().unwrap()).sum();
        assert!((own / parameters - 1.0).abs() < 0.02, "{name}: {own}");
        assert!(
            found["memory"]["total"].as_f64().unwrap() < 1.3 * parameters + 2e9,
            "{name}"
        );
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
    assert!(extra("forward", "sdpa", 128) > 2 * 128 * 128 * 4);
    assert!(extra("forward+backward", "sdpa", 128) > 2 * 2 * 128 * 128 * 4);
    assert!(extra("forward", "flash", 4096) < 2 * 4096 * 4096 * 4 / 20);
    assert!(table["growth"].as_array().unwrap().len() == 8);
    let chart = std::fs::read_to_string(lab.path("attention.svg")).unwrap();
    assert!(chart.contains("flash") && chart.contains("tokens"));
}

#[test]
fn a_step_is_taken_apart_into_operations() {
    let lab = Lab::new();
    let sizes = "--batch-size 2 --max-seq-len 16 --steps 1 --json";
    let table = |flags: &str| -> Value {
        let line = format!("bench step {TINY_MODEL} {sizes} {flags}");
        serde_json::from_str(&lab.succeed(&line)).unwrap()
    };
    let plain = table("--no-gradient-checkpointing");
    let rows = plain["rows"].as_array().unwrap();
    let sum =
        |rows: &[Value], of: &str| -> f64 { rows.iter().map(|r| r[of].as_f64().unwrap()).sum() };
    for name in [
        "linear",
        "linear, weight gradient",
        "attention",
        "head and loss",
        "AdamW",
    ] {
        assert!(rows.iter().any(|row| row["operation"] == name), "{name}");
    }
    assert!(sum(rows, "seconds") <= plain["seconds"].as_f64().unwrap());
    assert_eq!(plain["model_flops"], sum(rows, "flops"));

    // What is computed twice is in the operations' own arithmetic alone.
    let again = table("--gradient-checkpointing");
    assert_eq!(again["model_flops"], plain["model_flops"]);
    assert!(sum(again["rows"].as_array().unwrap(), "flops") > sum(rows, "flops"));

    let other = lab.run(&format!("bench step --device ndarray {sizes}"));
    assert_clear_error(&other, 2, &["--device cpu"]);
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

const TINY_MODEL: &str =
    "--device cpu --model tokenizer.json --hidden-size 32 --num-heads 2 --h-layers 1 --l-layers 1";

/// What does not fit is no failure, unless nothing else is left.
#[test]
fn benches_agree_on_what_failed() {
    let lab = Lab::new();
    for bench in [
        "attention --device cpu --seq-lens 64 --head-dims 16 --heads 2",
        &format!("context {TINY_MODEL} --seq-lens 64 --forms plain,flash"),
        &format!("memory {TINY_MODEL} --max-seq-len 64 --rows plain,all --steps 1"),
    ] {
        let output = lab.run(&format!("bench {bench} --memory-limit 1KiB"));
        assert_clear_error(&output, 1, &["nothing was measured: does not fit"]);
        let table = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(table.contains("does not fit"), "{table}");
    }
    let line = format!("bench context {TINY_MODEL} --seq-lens 64,16777216 --forms plain --json");
    let table: Value = serde_json::from_str(&lab.succeed(&line)).unwrap();
    let error = table["rows"][1]["error"].as_str().unwrap();
    assert!(error.starts_with("does not fit: about"), "{table}");
    assert!(table["rows"][0]["peak"].is_number() && table["rows"][0]["error"].is_null());
}

/// A Hugging Face model among the golden ones.
fn decoder(name: &str) -> String {
    let folder = root().join("tests/golden/decoders/a").join(name);
    folder.display().to_string()
}

#[test]
fn a_step_of_a_hugging_face_model_is_measured() {
    let lab = Lab::new();
    for name in ["llama", "gpt2"] {
        let line = format!(
            "bench memory --device cpu --model {} --batch-size 2 --max-seq-len 64 --steps 1 --rows plain,all --json",
            decoder(name)
        );
        let table: Value = serde_json::from_str(&lab.succeed(&line)).unwrap();
        assert_eq!(table["model"], decoder(name));
        let rows = [0, 1].map(|row| &table["rows"][row]["measured"]);
        let [plain, all] = rows.map(|row| row["last_loss"].as_f64().unwrap());
        // The same but for rounding to bf16 and 8 bits.
        assert!((plain - all).abs() < 0.05, "{name}: {table}");
        for part in ["optimizer", "activations", "peak"] {
            let [plain, all] = rows.map(|row| row[part].as_u64().unwrap());
            assert!(all < plain, "{name}, {part}: {table}");
        }
    }
}

#[test]
fn a_hugging_face_model_is_measured_over_the_length_by_its_config_alone() {
    let lab = Lab::new();
    let config = format!("--model-config {}/config.json", decoder("gemma3"));
    let line = format!(
        "bench context --device cpu {config} --seq-lens 64,32 --window-size 16 --chunk-size 24 --json --chart context.svg"
    );
    let table: Value = serde_json::from_str(&lab.succeed(&line)).unwrap();
    let rows = table["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 5, "{table}");
    assert!(rows.iter().all(|row| row["peak"].is_number()), "{table}");
    assert!(lab.path("context.svg").is_file());
    let shown = lab.succeed(&format!(
        "bench context --device cpu {config} --seq-lens 32 --forms flash"
    ));
    assert!(
        shown.contains("config.json, sequences a step: 1, hidden size"),
        "{shown}"
    );
}

#[test]
fn benches_refuse_what_is_not_of_their_model() {
    let lab = Lab::new();
    let gpt2 = decoder("gpt2");
    for (flags, words) in [
        (
            format!("memory --model {gpt2} --hidden-size 32"),
            "--hidden-size is for ACT-v1",
        ),
        (
            format!("context --model {gpt2} --tie-embeddings"),
            "--tie-embeddings is for ACT-v1",
        ),
        (
            format!("context --model {gpt2} --seq-lens 64,129"),
            "positions for 128 tokens only",
        ),
        (
            format!("memory --model {gpt2} --model-config {gpt2}"),
            "cannot be used with",
        ),
        (
            format!("memory --model {gpt2} --rows tied"),
            "there is no row `tied`",
        ),
    ] {
        let output = lab.run(&format!("bench {flags} --device cpu"));
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{flags}: {text}");
        assert!(text.contains(words), "{flags}: {text}");
    }
    let missing = lab.run("bench memory --model-config nowhere.json --device cpu");
    assert_clear_error(&missing, 1, &["nowhere.json"]);
}

#[test]
fn sizes_that_are_no_numbers_are_bad_arguments_everywhere() {
    let lab = Lab::new();
    let huge = "99999999999999999999999";
    let most = u64::MAX.to_string();
    for command in [
        "bench attention --device cpu --seq-lens",
        "bench attention --device cpu --head-dims",
        "bench attention --device cpu --memory-limit",
        "bench context --device cpu --seq-lens",
        "bench context --device cpu --memory-limit",
        "bench memory --device cpu --max-seq-len",
        "bench memory --device cpu --hidden-size",
        "hrm-hf arch-summary --hidden-size",
        "train --dataset-file text.txt --memory-limit",
        "train --dataset-file text.txt --max-seq-len",
    ] {
        for size in [huge, &most, "1.5.", "-1", "0"] {
            let output = lab.run(&format!("{command} {size}"));
            let said = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{command} {size}: {said}");
        }
    }
}

#[cfg(unix)]
#[test]
fn charts_and_manual_pages_know_links_to_nothing() {
    let lab = Lab::new();
    lab.shell("ln -s nowhere broken; ln -s nowhere broken.svg; mkfifo pipe.svg");
    let bench = "bench attention --device cpu --seq-lens 16 --head-dims 16 --heads 1 --chart";
    let says = "link to nowhere, which is missing";
    for line in [
        "man --dir broken",
        &format!("{bench} broken.svg"),
        &format!("{bench} broken/a.svg"),
    ] {
        assert_clear_error(&lab.run(line), 1, &["broken", says]);
    }
    assert!(lab.path("broken.svg").is_symlink(), "the link is gone");
    let output = lab.run(&format!("{bench} pipe.svg"));
    assert_clear_error(&output, 2, &["pipe.svg", "is no file"]);
}

/// A prompt and a text with a million spaces between two words: more than a backtracking regular expression can take.
#[test]
fn gpt2_takes_a_million_spaces() {
    let lab = Lab::new();
    let text = format!("one{}two", " ".repeat(1_100_000));
    lab.write(
        "spaces.jsonl",
        serde_json::json!({ "text": text }).to_string() + "\n",
    );
    let flags = "--model gpt2 --dataset-file spaces.jsonl --steps 1";
    lab.train("a", flags);
    let line = "generate brains/a --device cpu --prompt - --max-new-tokens 1 --json";
    let mut command = assert_cmd::Command::from_std(lab.command(line));
    let output = command.write_stdin(text.as_str()).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(answer["prompt"] == text);
}

#[test]
fn a_perplexity_is_no_wall_of_digits() {
    let lab = Lab::new();
    lab.train("a", "--steps 3 --lr 10 --warmup-steps 0");
    let shown = lab.succeed("eval brains/a --file text.txt --device cpu");
    let words: Vec<&str> = shown.split_whitespace().collect();
    assert!(words.iter().all(|word| word.len() < 14), "{shown}");
    let json = lab.succeed("eval brains/a --file text.txt --device cpu --json");
    let score: Value = serde_json::from_str(&json).unwrap();
    let (loss, perplexity) = (score["loss"].as_f64().unwrap(), &score["perplexity"]);
    assert!(loss > 20.0, "{json}");
    assert_eq!(perplexity.is_null(), loss > 709.7, "{json}");
}

/// On a terminal that cannot draw a bar, progress comes as lines; `script` makes a terminal.
#[cfg(target_os = "linux")]
#[test]
fn a_terminal_without_a_cursor_gets_lines() {
    let lab = Lab::new();
    let tiny = Lab::tiny("a", "--steps 3").replace("--quiet ", "");
    let program = lab.command(&tiny);
    let aios = program.get_program().to_string_lossy();
    for (term, bar) in [
        ("unset TERM", false),
        ("TERM=dumb", false),
        ("TERM=xterm", true),
    ] {
        for size in ["cols 80 rows 24", "cols 1 rows 1", "cols 0 rows 0"] {
            let line = format!("{term}; stty {size}; {aios} {tiny}");
            let mut script = std::process::Command::new("script");
            script
                .args(["-qec", &line, "/dev/null"])
                .env("TERM", "xterm");
            script.stdin(std::process::Stdio::null());
            // Not every machine has it.
            let Ok(output) = lab.like(script, &program).output() else {
                return;
            };
            let shown = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{line}: {shown}");
            assert!(shown.contains("step 3 is saved"), "{line}: {shown}");
            assert_eq!(shown.contains("step 1/3"), !bar, "{line}: {shown}");
            assert_eq!(shown.contains('\u{1b}'), bar, "{line}: {shown}");
        }
    }
}
