//! A training process that dies, and the one that watches over it.

use crate::common::assert_close;
use crate::common::lab::{Lab, Running, assert_clear_error, assert_same_brain, float_tensors};
use std::fs;
use std::os::unix::process::CommandExt;

/// Steps that take some ten milliseconds each, so that there is time to kill it between two of them.
const SLOW: &str = "--no-linear-dataset --dataset-chunk-size 10 --halt-max-steps 8 \
    --max-seq-len 64 --halt-exploration 1";

fn slow(flags: &str) -> String {
    format!("{SLOW} {flags}")
}

/// Run as `start` does, with its temporary files in the lab.
fn start<'a>(lab: &'a Lab, name: &str, flags: &str) -> Running<'a> {
    fs::create_dir_all(lab.path("tmp")).unwrap();
    let mut command = lab.command(&Lab::tiny(name, &slow(flags)));
    // A group of its own, as a terminal gives it.
    command.env("TMPDIR", lab.path("tmp")).process_group(0);
    lab.start_command(name, command)
}

#[track_caller]
fn assert_nothing_left(lab: &Lab) {
    let left: Vec<_> = fs::read_dir(lab.path("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Up to what adding up the same numbers in another order makes of them, steps later.
#[track_caller]
fn assert_same_weights(lab: &Lab, a: &str, b: &str) {
    let weights = |name| float_tensors(&lab.brain(name).join("model.safetensors"));
    let (a, b) = (weights(a), weights(b));
    assert!(a.keys().eq(b.keys()));
    for (name, values) in &a {
        assert_close(name, values, &b[name], 3e-5);
    }
}

/// Kill it once it has saved, at a batch of 4.
fn survives(signal: &str, words: &str) {
    let lab = Lab::new();
    let flags = "--steps 16 --batch-size 4 --save-every 5";
    lab.train("whole", &slow(flags));
    let mut run = start(&lab, "a", flags);
    run.wait_for_step(7);
    run.signal_trainer(signal);
    let output = run.output();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    for words in [words, "in step ", "--batch-size 2", "computed again"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let events = lab.events("a");
    let backoff = events.of("oom_backoff");
    assert_eq!(backoff.len(), 1);
    for (field, value) in [("from", 4), ("to", 2), ("accumulation", 2)] {
        assert_eq!(backoff[0][field], value, "{field}");
    }
    assert!(backoff[0]["step"].as_u64().unwrap() >= 7);
    assert!(backoff[0]["reason"].as_str().unwrap().contains(words));
    assert_eq!(events.of("resume").len(), 1);
    let from = &events.of("resume")[0]["step"];
    assert!(*from == 5 || *from == 10, "{from}");
    assert!(
        text.contains(&format!("checkpoint of step {from}")),
        "{text}"
    );
    assert_eq!(events.end()["reason"], "done");
    assert_eq!(events.steps("step").last(), Some(&16.0));
    assert_same_weights(&lab, "a", "whole");
    assert_nothing_left(&lab);
}

#[test]
fn killed_as_by_the_system_it_goes_on_with_half_the_batch() {
    survives("KILL", "SIGKILL");
}

#[test]
fn aborted_as_by_an_allocator_it_goes_on_with_half_the_batch() {
    survives("ABRT", "SIGABRT");
}

/// A fault, which less memory does not mend.
#[test]
fn a_crash_in_the_same_step_again_is_reported_as_one() {
    let lab = Lab::new();
    lab.write("big.txt", "All work and no play. ".repeat(20000));
    let flags = "--dataset-file big.txt --steps 9 --batch-size 1024";
    let mut run = start(&lab, "a", flags);
    run.wait_for("\"event\":\"start\"");
    // Until it is in its first step, which takes far longer.
    let moment = std::time::Duration::from_millis(500);
    std::thread::sleep(moment);
    // Of the faults, the one that the standard library does not look at first.
    run.signal_trainer("FPE");
    run.wait_for("\"event\":\"oom_backoff\"");
    run.wait_for("\"batch_size\":512,");
    std::thread::sleep(moment);
    run.signal_trainer("FPE");
    let output = run.output();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("with --batch-size 512"), "{text}");
    let error = text.lines().last().unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for words in ["SIGFPE", "in step 1", "not lack of memory", "report it"] {
        assert!(error.contains(words), "{words}: {text}");
    }
    assert!(!error.contains("--max-seq-len"), "{text}");
    assert_nothing_left(&lab);
}

#[test]
fn before_its_first_save_it_starts_over_and_never_from_another_run() {
    let lab = Lab::new();
    let flags = "--steps 8 --batch-size 4 --save-every 0";
    let smaller = "--batch-size 2 --gradient-accumulation-steps 2";
    lab.train("whole", &slow(&format!("{flags} {smaller}")));
    lab.train("a", &slow("--steps 3 --seed 9"));
    let before = lab.events("a").0.len();
    let mut run = start(&lab, "a", flags);
    run.wait_for_step(4);
    run.signal_trainer("KILL");
    let output = run.output();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("starting again at step 0"), "{text}");
    let mut events = lab.events("a");
    events.0.drain(..before);
    assert!(events.of("resume").is_empty());
    assert_eq!(events.of("oom_backoff").len(), 1);
    assert_eq!(events.field("checkpoint", "step"), [8]);
    let steps = events.steps("step");
    assert_eq!(steps[steps.len() - 8..], [1., 2., 3., 4., 5., 6., 7., 8.]);
    assert_same_brain(&lab.brain("a"), &lab.brain("whole"));
    // What the other run had saved is still there.
    assert!(lab.brain("a").join("checkpoints/earlier-run").is_dir());
}

/// The run's own flag says what to go on from, as long as it has saved nothing itself.
#[test]
fn a_resumed_run_is_resumed_again() {
    let lab = Lab::new();
    lab.train("a", &slow("--steps 3 --gradient-accumulation-steps 3"));
    let mut run = start(&lab, "a", "--resume --steps 12 --save-every 0");
    run.wait_for_step(7);
    run.signal_trainer("KILL");
    assert_eq!(run.exit_code(), Some(0));
    let events = lab.events("a");
    assert_eq!(events.field("resume", "step"), [3, 3]);
    // Only the bundle knows the three micro-batches.
    assert_eq!(events.field("oom_backoff", "accumulation"), [6]);
}

#[test]
fn one_sequence_that_does_not_fit_is_an_error_and_the_checkpoint_is_whole() {
    let lab = Lab::new();
    let mut run = start(&lab, "a", "--steps 100000 --batch-size 1 --save-every 5");
    run.wait_for("\"event\":\"checkpoint\"");
    run.signal_trainer("KILL");
    let output = run.output();
    let words = [
        "SIGKILL",
        "--batch-size 1",
        "--max-seq-len",
        "--use-8bit-optimizer",
        "--hidden-size",
        "checkpoint of step ",
        "--resume",
    ];
    assert_clear_error(&output, 1, &words);
    assert!(lab.events("a").of("oom_backoff").is_empty());
    lab.succeed("eval brains/a --file text.txt --device cpu --batches 1");
    assert_nothing_left(&lab);
}

#[test]
fn nobody_trains_on_when_the_parent_is_killed() {
    let lab = Lab::new();
    let mut run = start(&lab, "a", "--steps 100000");
    run.wait_for_step(2);
    // Waits until the bundle's lock is free.
    run.kill();
    let count = || lab.events("a").of("step").len();
    let steps = count();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(count(), steps);
    assert_nothing_left(&lab);
}

#[test]
fn a_request_to_the_parent_alone_saves() {
    let lab = Lab::new();
    let mut run = start(&lab, "a", "--steps 100000");
    run.wait_for_step(2);
    run.signal("kill -TERM $PID");
    assert_eq!(run.exit_code(), Some(0));
    let events = lab.events("a");
    assert_eq!(events.end()["reason"], "interrupted");
    assert_eq!(events.of("checkpoint").len(), 1);
    assert_nothing_left(&lab);
}

#[test]
fn two_requests_to_the_parent_alone_leave_at_once() {
    let lab = Lab::new();
    lab.write("big.txt", "All work and no play. ".repeat(20000));
    // The second one comes while a micro-batch computes, which takes far longer.
    let flags = "--dataset-file big.txt --steps 9 --batch-size 1024";
    let mut run = start(&lab, "a", flags);
    run.wait_for("\"event\":\"start\"");
    run.signal("sleep 0.3; kill -TERM $PID; sleep 0.1; kill -TERM $PID");
    assert_eq!(run.exit_code(), Some(130));
    lab.wait_until_unused("a");
    assert!(lab.events("a").of("end").is_empty());
    assert_nothing_left(&lab);
}

/// A terminal's Ctrl-C reaches both processes.
#[test]
fn one_ctrl_c_in_a_terminal_is_one_wish() {
    let lab = Lab::new();
    for name in ["a", "b", "c"] {
        let mut run = start(&lab, name, "--steps 100000");
        run.wait_for_step(1);
        run.signal("kill -INT -$PID");
        let output = run.output();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert_eq!(text.matches("stopping").count(), 1, "{text}");
    }
}

#[test]
fn without_supervision_there_is_one_process() {
    let lab = Lab::new();
    let mut run = start(&lab, "a", "--steps 100000 --no-supervise");
    run.wait_for_step(2);
    run.signal(&format!(
        "test $PID = {}; kill -KILL $PID",
        lab.trainer("a")
    ));
    assert_eq!(run.exit_code(), None);
    assert_nothing_left(&lab);
}

#[test]
fn bad_arguments_are_found_before_a_child_is_started() {
    let lab = Lab::new();
    for flags in ["--lr 0", "--config none.toml", "--resume-if-exists --lr 0"] {
        let output = lab.try_train("a", flags);
        assert_clear_error(&output, 2, &[]);
    }
    assert!(!lab.brain("a").exists());
}

/// The child and its parent are killed together: the next start removes what they left.
#[test]
fn what_a_killed_group_leaves_is_swept_at_the_next_start() {
    let lab = Lab::new();
    let mut run = start(&lab, "a", "--steps 100000");
    run.wait_for_step(2);
    run.signal("kill -KILL -$PID");
    assert_eq!(run.exit_code(), None);
    lab.wait_until_unused("a");
    let left = || fs::read_dir(lab.path("tmp")).unwrap().count();
    assert_eq!(left(), 1);
    assert_eq!(start(&lab, "b", "--steps 1").exit_code(), Some(0));
    assert_eq!(left(), 0);
}
