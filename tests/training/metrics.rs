//! The metrics file and what it says about features that fell back.

use crate::common::lab::{Events, Lab, assert_clear_error, stderr};
use aios_kernels::matmul::bf16;
use serde_json::Value;

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[track_caller]
fn assert_keys(value: &Value, expected: &str) {
    let mut expected: Vec<&str> = expected.split_whitespace().collect();
    let mut keys = keys(value);
    keys.sort_unstable();
    expected.sort_unstable();
    assert_eq!(keys, expected);
}

fn run(lab: &Lab) -> Events {
    lab.train(
        "a",
        "--steps 4 --save-every 2 --eval-file text.txt --eval-every 2 --eval-batches 2 \
         --sample-every 4 --amp",
    )
}

#[test]
fn events_come_in_order() {
    let events = run(&Lab::new());
    let names: Vec<&str> = events
        .0
        .iter()
        .map(|e| e["event"].as_str().unwrap())
        .collect();
    // Where the CPU has no instructions for bf16.
    let falls_back = if bf16::unit().is_none() {
        "fallback "
    } else {
        ""
    };
    let expected = format!(
        "start {falls_back}step step checkpoint eval step step operations checkpoint eval sample end"
    );
    assert_eq!(names.join(" "), expected);
}

#[test]
fn every_line_has_the_fields_of_its_event() {
    let events = run(&Lab::new());
    for event in &events.0 {
        let fields = match event["event"].as_str().unwrap() {
            "start" => {
                "device backend attention precision optimizer checkpointing sequences parameters tokenizer \
                 config version"
            }
            "step" => {
                "step epoch loss ce q_halt_loss q_continue_loss learning_rate grad_norm tokens trained_tokens \
                 tokens_per_second seconds batch_size gradient_accumulation_steps loss_scale \
                 segments skipped memory"
            }
            "eval" => "step loss perplexity bits_per_byte tokens seconds",
            "checkpoint" => "step path bytes seconds",
            "fallback" => "feature wanted used reason",
            "sample" => "step text",
            "operations" => "step steps seconds operations",
            "end" => "reason step loss tokens seconds skipped_steps peak_bytes host_peak_bytes",
            other => panic!("unknown event {other}"),
        };
        assert_keys(event, &format!("event time {fields}"));
    }
    let start = events.of("start")[0];
    assert_keys(&start["attention"], "path reason");
    assert_keys(&start["precision"], "compute reason");
    assert_keys(
        &start["optimizer"],
        "kind state_bytes state_bytes_per_parameter",
    );
    let memory = "in_use_bytes reserved_bytes peak_bytes host_peak_bytes by_purpose";
    assert_keys(&events.of("step")[0]["memory"], memory);
    assert_keys(
        &events.of("step")[0]["memory"]["by_purpose"],
        "weights_bytes optimizer_bytes gradients_bytes activations_bytes other_bytes",
    );
    let operations = &events.of("operations")[0]["operations"];
    assert_keys(&operations[0], "name calls seconds");
}

#[test]
fn figures_agree_with_each_other() {
    let events = run(&Lab::new());
    for step in events.of("step") {
        let number = |field: &str| step[field].as_f64().unwrap();
        let halting = number("q_halt_loss") + number("q_continue_loss");
        assert!((number("loss") - number("ce") - 0.5 * halting).abs() < 1e-9);
        let rate = number("tokens") / number("seconds");
        assert!((number("tokens_per_second") / rate - 1.0).abs() < 1e-6);
        assert_eq!(number("tokens"), 32.0);
        let memory = |field: &str| step["memory"][field].as_u64().unwrap();
        assert!(memory("in_use_bytes") > 0);
        assert!(memory("peak_bytes") >= memory("in_use_bytes"));
    }
    let start = events.of("start")[0];
    assert_eq!(start["tokenizer"], "tokenizer.json");
    assert_eq!(start["optimizer"]["state_bytes_per_parameter"], 8.0);
    let eval = events.of("eval")[0];
    let perplexity = eval["loss"].as_f64().unwrap().exp();
    assert!((eval["perplexity"].as_f64().unwrap() / perplexity - 1.0).abs() < 1e-9);
}

/// f32 weights and gradients, and two moments; the rest is not known to the byte.
#[test]
fn memory_is_told_apart_by_purpose() {
    let events = run(&Lab::new());
    let weights = 4 * events.of("start")[0]["parameters"].as_u64().unwrap();
    for step in events.of("step") {
        let memory = |field: &str| step["memory"][field].as_u64().unwrap();
        let part = |field: &str| step["memory"]["by_purpose"][field].as_u64().unwrap();
        let near = |bytes: u64, expected: u64| bytes.abs_diff(expected) < expected / 4;
        assert!(near(part("weights_bytes"), weights), "{step}");
        assert!(near(part("gradients_bytes"), weights), "{step}");
        assert!(near(part("optimizer_bytes"), 2 * weights), "{step}");
        assert!(part("activations_bytes") > 0, "{step}");
        let parts = ["weights", "optimizer", "gradients", "activations", "other"];
        let sum: u64 = parts.map(|of| part(&format!("{of}_bytes"))).iter().sum();
        assert!(sum <= memory("peak_bytes"), "{step}");
        assert!(sum > memory("in_use_bytes"), "{step}");
    }
}

#[test]
fn operations_take_no_longer_than_their_steps() {
    let events = run(&Lab::new());
    let told = events.of("operations");
    assert_eq!(told.len(), 1);
    let seconds = |value: &Value| value["seconds"].as_f64().unwrap();
    let operations = told[0]["operations"].as_array().unwrap();
    let sum: f64 = operations.iter().map(seconds).sum();
    assert!(sum > 0.0 && sum <= seconds(told[0]), "{}", told[0]);
    assert!(operations.is_sorted_by(|a, b| seconds(a) >= seconds(b)));
}

#[test]
fn runs_append_to_the_same_file() {
    let lab = Lab::new();
    lab.train("a", "--steps 1");
    let events = lab.train("a", "--steps 1");
    assert_eq!(events.of("end").len(), 2);
}

#[test]
fn json_repeats_the_file_on_standard_output() {
    let lab = Lab::new();
    let output = lab.succeed(&Lab::tiny("a", "--steps 2 --json"));
    assert_eq!(Events::parse(&output).0, lab.events("a").0);
}

#[test]
fn each_step_and_figure_reaches_a_user_without_a_terminal() {
    let output = Lab::new().try_train("a", "--steps 3 --no-quiet --sample-every 3");
    let text = stderr(&output);
    for words in [
        "device  cpu",
        "attention  ",
        "precision  f32",
        "optimizer  adamw",
        "checkpointing  on",
        "parameters  0.1 M",
        "at the peak",
        "2 x 1 = 2 sequences",
        "step 1/3  epoch 0.01  loss",
        "step 3/3  epoch 0.03  loss",
        "sample: ",
        "done: step 3",
        "peak memory",
    ] {
        assert!(text.contains(words), "no `{words}` in: {text}");
    }
}

/// A flag whose feature this device or version lacks: said aloud, recorded, and an error with
/// --strict.
#[track_caller]
fn falls_back(flag: &str, feature: &str) {
    let lab = Lab::new();
    let events = lab.train("a", &format!("--steps 1 {flag}"));
    let fallbacks = events.of("fallback");
    assert_eq!(events.field("fallback", "feature"), [feature]);
    for field in ["wanted", "used", "reason"] {
        assert!(!fallbacks[0][field].as_str().unwrap().is_empty());
    }
    let output = lab.try_train("b", &format!("--steps 1 {flag}"));
    assert!(stderr(&output).contains(feature), "{}", stderr(&output));
    let output = lab.try_train("c", &format!("--steps 1 {flag} --strict"));
    assert_clear_error(&output, 1, &["--strict", feature, "leave out"]);
    assert!(!lab.brain("c").exists(), "a refused run left something");
}

#[test]
fn mixed_precision_falls_back() {
    if bf16::unit().is_none() {
        falls_back("--amp", "mixed precision");
    }
}

#[test]
fn strict_is_content_where_nothing_falls_back() {
    let lab = Lab::new();
    let flags = "--steps 1 --strict --use-flash-attn --use-chunked-training --chunk-size 8";
    assert!(lab.train("a", flags).of("fallback").is_empty());
}
