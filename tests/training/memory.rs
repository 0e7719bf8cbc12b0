//! Memory that runs out: the micro-batch shrinks, the result stays, and nothing is lost.

use crate::common::lab::{
    Events, Lab, assert_clear_error, assert_same_brain, float_tensors, stderr,
};
use crate::common::{assert_close, program};
use std::path::Path;

/// Sequences long enough that activations are most of the memory.
const LARGE: &str = "--steps 4 --batch-size 8 --max-seq-len 128 --hidden-size 64 --lr 1e-3 \
    --no-gradient-checkpointing --dataset-file big.txt";

fn lab() -> Lab {
    let lab = Lab::new();
    lab.write(
        "big.txt",
        "All work and no play makes Jack a dull boy. ".repeat(400),
    );
    lab
}

/// Bytes that the prediction says a micro-batch of this size takes.
fn predicted(lab: &Lab, batch: usize) -> u64 {
    let shape = "--model tokenizer.json --num-heads 2 --h-layers 1 --l-layers 1 --device cpu \
        --max-seq-len 128 --hidden-size 64 --no-gradient-checkpointing --no-amp";
    let accumulation = 8 / batch;
    let summary = lab.succeed(&format!(
        "hrm-hf arch-summary --json {shape} --batch-size {batch} \
         --gradient-accumulation-steps {accumulation}"
    ));
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    summary["memory"]["total"].as_u64().unwrap()
}

#[track_caller]
fn assert_same_result(a: &Path, b: &Path) {
    let (a, b) = (a.join("model.safetensors"), b.join("model.safetensors"));
    let (a, b) = (float_tensors(&a), float_tensors(&b));
    assert!(a.keys().eq(b.keys()));
    for (name, values) in &a {
        // AdamW divides by the size of a gradient: where there is hardly one, its rounding is a share of the update.
        assert_close(name, &b[name], values, 3e-5);
    }
}

/// The batch sizes of the steps.
fn batches(events: &Events) -> Vec<f64> {
    events.steps("batch_size")
}

#[test]
fn what_is_predicted_not_to_fit_is_never_tried() {
    let lab = lab();
    lab.train("whole", LARGE);
    let limit = predicted(&lab, 4) + 1000;
    assert!(limit < predicted(&lab, 8));
    let small = lab.train("small", &format!("{LARGE} --memory-limit {limit}"));
    let back_off = small.of("oom_backoff");
    let first = back_off[0];
    assert_eq!((&first["from"], &first["step"]), (&8.into(), &0.into()));
    assert!(first["reason"].as_str().unwrap().contains("--memory-limit"));
    let sizes = batches(&small);
    assert!(sizes.iter().all(|&size| size <= 4.0), "{sizes:?}");
    assert_eq!(small.of("step").len(), 4);
    assert_same_result(&lab.brain("whole"), &lab.brain("small"));
}

/// A narrow model with so many words that the loss's slices are most of what a step takes beside it.
const WORDS: usize = 30_000;
const WORDY: &str = "--model words.json --dataset-file words.txt --hidden-size 16 --num-heads 2 \
    --batch-size 2 --max-seq-len 128 --lr 1e-3 --lr-schedule constant --warmup-steps 0";

fn wordy_lab() -> Lab {
    let lab = Lab::new();
    let end = "<|endoftext|>";
    let mut vocabulary: serde_json::Map<_, _> = (0..WORDS - 1)
        .map(|i| (format!("w{i}"), i.into()))
        .collect();
    vocabulary.insert(end.to_string(), (WORDS - 1).into());
    let special = serde_json::json!({
        "id": WORDS - 1, "content": end, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"},
    });
    lab.write("words.json", tokenizer.to_string());
    let words: Vec<String> = (0..4000).map(|i| format!("w{}", i * i % 977)).collect();
    lab.write("words.txt", words.join(" "));
    lab
}

/// Bytes that a wordy step takes with slices that are as large as they may be.
fn wordy_bytes(lab: &Lab) -> u64 {
    let whole = lab.train("whole", &format!("{WORDY} --steps 1"));
    whole.of("step")[0]["memory"]["peak_bytes"]
        .as_u64()
        .unwrap()
}

/// Bytes of the slices that a bundle was saved with.
fn slices(lab: &Lab, name: &str) -> serde_json::Value {
    let state = std::fs::read(lab.brain(name).join("trainer.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    state["loss_slice_bytes"].clone()
}

#[test]
fn under_a_limit_the_losss_slices_shrink_before_the_batch_does() {
    let lab = wordy_lab();
    let limit = wordy_bytes(&lab) - (6 << 20);
    let flags = format!("{WORDY} --steps 3");
    lab.train("free", &flags);
    let limited = lab.train("limited", &format!("{flags} --memory-limit {limit}"));
    let back_off = limited.of("oom_backoff");
    assert_eq!(back_off.len(), 1, "{back_off:?}");
    assert_eq!(
        (&back_off[0]["from"], &back_off[0]["to"]),
        (&2.into(), &2.into())
    );
    let reason = back_off[0]["reason"].as_str().unwrap();
    assert!(reason.contains("slices of 20.00 MiB"), "{reason}");
    for step in limited.of("step") {
        assert!(step["memory"]["peak_bytes"].as_u64().unwrap() <= limit);
    }
    assert_eq!(slices(&lab, "limited"), 20 << 20);
    assert_same_result(&lab.brain("free"), &lab.brain("limited"));
}

#[test]
fn a_resume_has_the_slices_of_the_run_and_so_its_numbers() {
    let lab = wordy_lab();
    let limit = wordy_bytes(&lab) - (6 << 20);
    let flags = format!("{WORDY} --memory-limit {limit}");
    lab.train("uncut", &format!("{flags} --steps 4"));
    lab.train("cut", &format!("{flags} --steps 2"));
    lab.train("cut", &format!("{flags} --steps 4 --resume"));
    assert_same_brain(&lab.brain("uncut"), &lab.brain("cut"));
    // Also where it was not a limit that made them small.
    lab.train("free", &format!("{WORDY} --steps 2"));
    lab.altered("free", "small", |trainer, _| {
        trainer["loss_slice_bytes"] = (5 << 20).into();
    });
    lab.train("small", &format!("{WORDY} --steps 3 --resume"));
    assert_eq!(slices(&lab, "small"), 5 << 20);
    lab.train(
        "small",
        &format!("{WORDY} --steps 4 --resume --memory-limit 1GiB"),
    );
    assert_eq!(slices(&lab, "small"), 40 << 20);
}

/// What is refused although it was predicted to fit.
#[test]
fn after_a_refusal_the_slices_shrink_first() {
    let lab = wordy_lab();
    let summary = lab.succeed(&format!(
        "hrm-hf arch-summary --json --device cpu --no-amp --h-layers 1 --l-layers 1 {}",
        WORDY
            .replace("--dataset-file words.txt ", "")
            .split(" --lr")
            .next()
            .unwrap()
    ));
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    let predicted = summary["memory"]["total"].as_u64().unwrap();
    let used = wordy_bytes(&lab);
    assert!(predicted + 1000 < used, "{predicted} {used}");
    let limited = lab.train(
        "a",
        &format!("{WORDY} --steps 2 --memory-limit {}", predicted + 1000),
    );
    let back_off = limited.of("oom_backoff");
    assert_eq!(back_off.len(), 1, "{back_off:?}");
    assert_eq!(
        (&back_off[0]["to"], &back_off[0]["step"]),
        (&2.into(), &1.into())
    );
    let reason = back_off[0]["reason"].as_str().unwrap();
    assert!(reason.contains("out of memory") && reason.contains("slices of 20.00 MiB"));
}

/// The heap holds more than the step, such as the tokenizer, so that there are limits that the
/// prediction keeps and the step does not.
#[test]
fn a_refused_buffer_redoes_the_step_in_halves() {
    let lab = lab();
    let whole = lab.train("whole", LARGE);
    let peak = whole.of("step")[1]["memory"]["peak_bytes"]
        .as_u64()
        .unwrap();
    let limit = predicted(&lab, 8) + 1000;
    assert!(limit < peak, "{limit} predicted, {peak} used");
    let small = lab.train("small", &format!("{LARGE} --memory-limit {limit}"));
    let back_off = small.of("oom_backoff");
    assert_eq!(back_off.len(), 1, "{back_off:?}");
    let expected = [("from", 8), ("to", 4), ("accumulation", 2)];
    for (field, value) in expected {
        assert_eq!(back_off[0][field], value);
    }
    assert!(
        back_off[0]["reason"]
            .as_str()
            .unwrap()
            .contains("out of memory")
    );
    assert_eq!(small.steps("step"), [1.0, 2.0, 3.0, 4.0]);
    assert_same_result(&lab.brain("whole"), &lab.brain("small"));
}

/// No limit of ours but the system's: the process has no address space left.
#[cfg(target_os = "linux")]
#[test]
fn when_the_system_refuses_memory_the_step_is_redone_in_parts() {
    let lab = lab();
    let many = LARGE.replace("--steps 4 --batch-size 8", "--steps 2 --batch-size 256");
    lab.train("whole", &many);
    // What the program itself takes of it depends on how it was built.
    let program = std::fs::metadata(program()).unwrap().len() / 1024;
    let output = lab.run_within(program + 410_000, &Lab::tiny("small", &many));
    assert!(output.status.success(), "{}", stderr(&output));
    let small = lab.events("small");
    assert!(!small.of("oom_backoff").is_empty());
    assert_eq!(small.steps("step"), [1.0, 2.0]);
    assert_same_result(&lab.brain("whole"), &lab.brain("small"));
}

#[test]
fn with_one_sequence_it_is_an_error_that_says_what_would_help() {
    let lab = lab();
    let flags = format!("{LARGE} --memory-limit 3MiB");
    let output = lab.try_train("a", &flags);
    let advice = [
        "--memory-limit",
        "--gradient-checkpointing would save",
        "--max-seq-len 64",
    ];
    assert_clear_error(&output, 1, &advice);
}

#[test]
fn a_limit_that_is_too_low_leaves_the_last_checkpoint_as_it_was() {
    let lab = lab();
    lab.train("a", LARGE);
    let before = float_tensors(&lab.brain("a").join("model.safetensors"));
    let resume = LARGE.replace("--steps 4", "--resume --steps 6");
    let output = lab.try_train("a", &format!("{resume} --memory-limit 3MiB"));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(float_tensors(&lab.brain("a").join("model.safetensors")) == before);
    lab.train("a", &resume);
}

#[test]
fn a_resume_with_the_same_flags_has_the_same_steps() {
    let lab = lab();
    let limit = predicted(&lab, 4) + 1000;
    let flags = format!("{LARGE} --memory-limit {limit}");
    lab.train("a", &flags);
    let resumed = flags.replace("--steps 4", "--resume --steps 6");
    let events = lab.train("a", &resumed);
    let tokens = events.steps("tokens");
    assert_eq!(tokens, [tokens[0]; 6]);
    let saved = std::fs::read_to_string(lab.brain("a").join("config.toml")).unwrap();
    assert!(saved.contains("\nbatch_size = 8\n"), "{saved}");
}

#[test]
fn a_full_host_halves_the_batch() {
    let lab = lab();
    // Some of the host's memory is always in use, so that one percent is too much.
    let events = lab.train("a", &format!("{LARGE} --sys-mem-cap-pct 1"));
    let reason = events.of("oom_backoff")[0]["reason"].as_str().unwrap();
    assert!(reason.contains("of the host's memory"), "{reason}");
    assert_eq!(batches(&events)[0], 4.0);
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let lab = lab();
    for (flags, words) in [
        ("--memory-limit much", ["memory-limit", "6GiB"]),
        ("--memory-limit 0", ["memory-limit", "6GiB"]),
        ("--sys-mem-cap-pct 101", ["sys-mem-cap-pct", "percentage"]),
    ] {
        let output = lab.try_train("a", flags);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        for word in words {
            assert!(stderr(&output).contains(word), "{}", stderr(&output));
        }
    }
}
