//! A run that was cut short goes on as if it never had been.

use crate::common::lab::{Events, Lab, Running, assert_same_brain, stderr, tensors};
use std::fs;

/// Twenty steps that take a while, so that there is time to interrupt them; shuffled, with several
/// segments, and with a schedule that depends on the step.
const LONG: &str = "--steps 20 --batch-size 4 --gradient-accumulation-steps 10 \
    --no-linear-dataset --dataset-chunk-size 10 --halt-max-steps 3";

/// Interrupt a run once it is under way, resume it, and compare with a run left alone.
fn compare(flags: &str, interrupt: impl FnOnce(&Lab, Running)) {
    let lab = Lab::new();
    let whole = lab.train("whole", LONG);
    interrupt(&lab, lab.start("cut", &format!("{LONG} {flags}")));
    let until = lab.events("cut").0.len();
    let trainer = fs::read_to_string(lab.brain("cut").join("trainer.json")).unwrap();
    let trainer: serde_json::Value = serde_json::from_str(&trainer).unwrap();
    let saved = trainer["step"].as_u64().unwrap();
    assert!((1..20).contains(&saved), "not interrupted in time: {saved}");

    // Without the flags: the bundle remembers them.
    lab.train("cut", "--resume --batch-size 4");
    let cut = lab.events("cut");
    let resumed = Events(cut.0[until..].to_vec());
    assert_eq!(cut.of("resume")[0]["step"], saved);
    assert_eq!(cut.of("resume")[0]["changed"], serde_json::json!([]));
    for field in ["loss", "ce", "grad_norm", "learning_rate"] {
        let expected = &whole.steps(field)[saved as usize..];
        assert_eq!(resumed.steps(field), expected, "{field}");
    }
    assert_same_brain(&lab.brain("whole"), &lab.brain("cut"));
}

#[test]
fn killed_after_its_checkpoint_of_step_10() {
    compare("--save-every 10", |lab, mut run| {
        run.wait_for("\"event\":\"checkpoint\"");
        run.kill();
        assert_eq!(lab.events("cut").of("checkpoint")[0]["step"], 10);
        assert!(lab.events("cut").of("end").is_empty());
    });
}

#[cfg(unix)]
#[test]
fn ended_by_sigterm() {
    compare("", |lab, mut run| {
        run.wait_for_step(3);
        run.signal("kill -TERM $PID");
        assert_eq!(run.exit_code(), Some(0));
        assert_eq!(lab.events("cut").end()["reason"], "interrupted");
    });
}

#[cfg(unix)]
#[test]
fn ended_by_ctrl_c() {
    compare("", |lab, mut run| {
        run.wait_for_step(3);
        run.signal("kill -INT $PID");
        assert_eq!(run.exit_code(), Some(0));
        assert_eq!(lab.events("cut").end()["reason"], "interrupted");
    });
}

#[test]
fn ended_by_a_stop_file() {
    compare("--stop-file stop", |lab, mut run| {
        run.wait_for_step(3);
        lab.write("stop", "");
        assert_eq!(run.exit_code(), Some(0));
        assert_eq!(lab.events("cut").end()["reason"], "stop_file");
    });
}

/// Killed at no particular moment, again and again, it leaves a bundle that opens.
#[test]
fn killed_at_any_time_the_bundle_stays_whole() {
    let lab = Lab::new();
    let mut flags = "--steps 100000 --save-every 1".to_string();
    let mut done = 0;
    for _ in 1..=5 {
        let mut run = lab.start("a", &flags);
        // Beyond what the round before had logged, so that this one has resumed.
        run.wait_for_step(done + 2);
        run.kill();
        lab.succeed("eval brains/a --file text.txt --device cpu --batches 1");
        flags += " --resume";
        done = *lab.events("a").steps("step").last().unwrap() as u64;
    }
    assert_eq!(lab.events("a").of("resume").len(), 4);
}

#[test]
fn resuming_with_another_batch_is_allowed_and_said() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let changed = "--resume --steps 4 --batch-size 1 --gradient-accumulation-steps 2";
    let output = lab.try_train("a", &format!("{changed} --no-quiet"));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("batch_size: 2 -> 1"), "{text}");
    let events = lab.events("a");
    let changes = events.of("resume")[0]["changed"].to_string();
    assert!(changes.contains("gradient_accumulation_steps: 1 -> 2"));
    assert_eq!(events.steps("step"), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn resuming_a_finished_run_does_nothing() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let model = lab.brain("a").join("model.safetensors");
    let before = tensors(&model);
    let events = lab.train("a", "--resume --steps 2");
    assert_eq!(events.of("step").len(), 2);
    assert_eq!(events.end()["reason"], "done");
    assert!(tensors(&model) == before);
}

#[test]
fn resuming_where_nothing_is_starts_anew() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--resume --steps 1");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("nothing to resume"), "{text}");
}
