//! Long sequences in chunks, as a user trains them. The lab's sequences have 16 tokens.

use crate::common::lab::{Lab, assert_clear_error, assert_same_brain, stderr};
use crate::common::{cuda, wgpu};
use aios_device::Selection;

const CHUNKS: &str = "--use-chunked-training --chunk-size 5";

#[track_caller]
fn assert_near(a: &[f64], b: &[f64], tolerance: f64) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < tolerance * b.abs().max(1e-3), "{a} {b}");
    }
}

#[test]
fn the_first_loss_is_the_whole_sequences_and_exact_gradients_keep_it_so() {
    let lab = Lab::new();
    let flags = "--steps 4 --window-size 6 --eval-file text.txt";
    let whole = lab.train("a", flags);
    let exact = lab.train("b", &format!("{flags} {CHUNKS} --chunk-gradients exact"));
    let truncated = lab.train("c", &format!("{flags} {CHUNKS}"));
    assert_near(&exact.steps("loss"), &whole.steps("loss"), 1e-5);
    assert_near(&exact.steps("grad_norm"), &whole.steps("grad_norm"), 1e-4);
    assert_near(
        &truncated.steps("loss")[..1],
        &whole.steps("loss")[..1],
        1e-5,
    );
    assert_ne!(truncated.steps("grad_norm"), whole.steps("grad_norm"));
    let eval = |events: &crate::common::lab::Events| events.of("eval")[0]["loss"].as_f64().unwrap();
    assert_near(&[eval(&exact)], &[eval(&whole)], 1e-5);
    let sequences = |e: &crate::common::lab::Events| e.of("start")[0]["sequences"].clone();
    assert_eq!(sequences(&whole), "whole");
    assert_eq!(sequences(&exact), "in 4 chunks of 5, exact gradients");
    assert_eq!(
        sequences(&truncated),
        "in 4 chunks of 5, gradients truncated"
    );
}

#[test]
fn it_learns_in_chunks() {
    let lab = Lab::new();
    for gradients in ["exact", "truncated"] {
        let flags = format!("--steps 60 --lr 3e-3 --batch-size 4 {CHUNKS}");
        let flags = format!("{flags} --chunk-gradients {gradients}");
        let ce = lab.train(gradients, &flags).steps("ce");
        assert!(
            ce[59] < ce[0] - 1.5,
            "{gradients}: from {} to {}",
            ce[0],
            ce[59]
        );
    }
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one_bit_for_bit() {
    let lab = Lab::new();
    let flags = format!("{CHUNKS} --window-size 6 --no-linear-dataset");
    lab.train("a", &format!("{flags} --steps 6"));
    lab.train("b", &format!("{flags} --steps 6 --stop-file stop"));
    lab.train(
        "c",
        &format!("{flags} --steps 3 --lr-schedule constant --warmup-steps 0"),
    );
    lab.train(
        "d",
        &format!("{flags} --steps 6 --lr-schedule constant --warmup-steps 0"),
    );
    assert_same_brain(&lab.brain("a"), &lab.brain("b"));
    let rest = "--steps 6 --lr-schedule constant --warmup-steps 0 --resume";
    lab.train("c", &format!("{flags} {rest}"));
    assert_same_brain(&lab.brain("c"), &lab.brain("d"));
}

#[test]
fn a_chunk_as_long_as_the_sequence_is_said_to_do_nothing() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--steps 1 --use-chunked-training --chunk-size 16");
    let text = stderr(&output);
    assert!(
        text.contains("--use-chunked-training has no effect"),
        "{text}"
    );
}

#[test]
fn settings_that_make_no_sense_are_errors() {
    let lab = Lab::new();
    let refused = |flags: &str, words: &[&str]| {
        assert_clear_error(&lab.try_train("a", flags), 2, words);
    };
    refused("--use-chunked-training --chunk-size 0", &["--chunk-size"]);
    let exact = format!("{CHUNKS} --no-gradient-checkpointing");
    refused(
        &exact,
        &["--no-gradient-checkpointing", "--chunk-gradients truncated"],
    );
}

#[test]
fn offload_on_a_cpu_is_said_to_do_nothing() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--steps 1 --cpu-offload --strict");
    let text = stderr(&output);
    assert!(text.contains("--cpu-offload has no effect"), "{text}");
    assert!(output.status.success());
}

#[test]
fn generated_text_goes_beyond_the_longest_sequence() {
    let lab = Lab::new();
    lab.train("a", &format!("--steps 2 {CHUNKS}"));
    let bundle = lab.brain("a");
    let bundle = bundle.display();
    let text = lab.succeed(&format!(
        "generate {bundle} --prompt abcdefgh --max-new-tokens 40 --temperature 0 --json"
    ));
    let text: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(text["tokens"].as_u64().unwrap() > 0);
}

/// With what waits in host memory, on another backend.
fn losses_are_those_of_the_cpu(device: Option<Selection>, gradients: &str) {
    let Some(device) = device else { return };
    let kind = device.adapter.kind.as_str();
    let lab = Lab::new();
    let flags = format!("--steps 2 --window-size 6 {CHUNKS} --chunk-gradients {gradients}");
    let cpu = lab.train("cpu", &flags);
    let gpu = format!("{flags} --cpu-offload --no-amp --device {kind} --strict --use-flash-attn");
    assert_near(
        &lab.train("gpu", &gpu).steps("loss"),
        &cpu.steps("loss"),
        1e-3,
    );
}

#[test]
fn truncated_chunks_on_wgpu_are_those_of_the_cpu() {
    losses_are_those_of_the_cpu(wgpu(), "truncated");
}

#[test]
fn truncated_chunks_on_cuda_are_those_of_the_cpu() {
    losses_are_those_of_the_cpu(cuda(), "truncated");
}

#[test]
fn exact_chunks_on_wgpu_are_those_of_the_cpu() {
    losses_are_those_of_the_cpu(wgpu(), "exact");
}

#[test]
fn exact_chunks_on_cuda_are_those_of_the_cpu() {
    losses_are_those_of_the_cpu(cuda(), "exact");
}

#[test]
fn the_longest_context_is_found_tried_and_trains() {
    let lab = Lab::new();
    let shape =
        "train --device cpu --hidden-size 32 --num-heads 2 --window-size 32 --chunk-size 64";
    let find = format!("{shape} --optimize context --memory-limit 60MiB --json");
    let plan = |more: &str| -> serde_json::Value {
        serde_json::from_str(&lab.succeed(&format!("{find} {more}"))).unwrap()
    };
    let dry = plan("--dry-run");
    assert!(dry["measured"].is_null());
    let with = dry["with"].as_array().unwrap();
    let sizes: Vec<u64> = with.iter().map(|w| w["size"].as_u64().unwrap()).collect();
    assert!(sizes.is_sorted() && sizes.len() >= 3, "{sizes:?}");
    assert!(dry["predicted"].as_u64().unwrap() <= 60 << 20);
    let tried = plan("--chunk-gradients exact --no-amp");
    let peak = tried["measured"]["peak"].as_u64().unwrap();
    assert!(peak <= 60 << 20 && peak > 40 << 20, "{peak}");
}

#[test]
fn what_cannot_be_optimized_is_an_error() {
    let lab = Lab::new();
    let none = lab.run("train --device cpu --optimize context --memory-limit 1MiB");
    assert_clear_error(&none, 1, &["nothing fits", "--hidden-size"]);
    assert_eq!(lab.run("train --dry-run").status.code(), Some(2));
}

#[test]
fn the_largest_batch_is_no_larger_than_an_update() {
    let lab = Lab::new();
    let found = lab.succeed(
        "train --device cpu --hidden-size 32 --num-heads 2 --max-seq-len 64 --batch-size 4 \
         --gradient-accumulation-steps 2 --optimize batch --dry-run",
    );
    assert!(
        found.contains("--batch-size 8 --gradient-accumulation-steps 1"),
        "{found}"
    );
}
