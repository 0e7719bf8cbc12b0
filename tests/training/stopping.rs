//! The ways a run ends, and that it goes on until then.

use crate::common::lab::{Events, Lab};

#[cfg(unix)]
#[test]
fn a_second_interrupt_leaves_at_once() {
    let lab = Lab::new();
    lab.write("big.txt", "All work and no play. ".repeat(2000));
    // Both signals come while the second step's one micro-batch computes, which takes far longer.
    let slow =
        "--dataset-file big.txt --steps 9 --batch-size 512 --max-seq-len 64 --halt-max-steps 3";
    let mut command = lab.command(&Lab::tiny("a", slow));
    command.env("RAYON_NUM_THREADS", "1");
    let mut run = lab.start_command("a", command);
    run.wait_for_step(1);
    run.signal("sleep 0.1; kill -INT $PID; sleep 0.1; kill -INT $PID");
    assert_eq!(run.exit_code(), Some(130));
    assert!(lab.events("a").of("end").is_empty());
}

#[test]
fn an_epoch() {
    let lab = Lab::new();
    let count = |events: &Events| events.of("step").len();
    let one = lab.train("a", "--steps 100000 --stop-after-epoch");
    assert_eq!(one.end()["reason"], "epoch_end");
    let tokens = one.end()["tokens"].as_u64().unwrap();
    let size = std::fs::metadata(lab.path("text.txt")).unwrap().len();
    // Bytes are tokens here, less line ends; a last window that is not full is left out.
    assert!(tokens.abs_diff(size) < 100, "{tokens} tokens of {size}");
    assert_eq!(count(&one) as u64, tokens / 32);
    // Half the epoch lies before the offset.
    let windows = tokens / 16;
    let half = format!("--dataset-start-offset {}", windows / 2);
    let half = lab.train("b", &format!("--steps 100000 --stop-after-epoch {half}"));
    assert!(count(&half).abs_diff(count(&one) / 2) <= 1);
}

#[test]
fn iterating_until_a_stop_file_appears() {
    let lab = Lab::new();
    let mut run = lab.start("a", "--steps 3 --iterate --stop-file stop --lr 1e-3");
    run.wait_for_step(7);
    lab.write("stop", "");
    assert_eq!(run.exit_code(), Some(0));
    let events = lab.events("a");
    assert_eq!(events.end()["reason"], "stop_file");
    let saved = events.field("checkpoint", "step");
    assert!(saved.len() >= 3 && saved[..2] == [3, 6], "{saved:?}");
    // Each cycle has its own schedule.
    let rates = events.steps("learning_rate");
    assert_eq!(rates[..3], rates[3..6]);
}

/// A decay that no 32-bit float survives.
#[test]
fn numbers_that_are_not_finite_are_skipped_and_counted() {
    let lab = Lab::new();
    let flags =
        "--steps 60 --weight-decay 1e38 --warmup-steps 2 --grad-clip 0 --lr-schedule constant";
    let output = lab.try_train("a", flags);
    crate::common::lab::assert_clear_error(&output, 1, &["finite", "lower --lr than"]);
    let events = lab.events("a");
    let skipped = events.field("step", "skipped");
    let skipped = skipped.iter().filter(|s| **s == true).count();
    assert!(skipped > 0);
    assert_eq!(events.end()["skipped_steps"], skipped);
    assert_eq!(events.end()["reason"].as_str().unwrap().lines().count(), 1);
}
