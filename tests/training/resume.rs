//! A run that was cut short goes on as if it never had been.

use crate::common::lab::{
    Events, Lab, Running, assert_clear_error, assert_same_brain, stderr, tensors,
};
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
    let output = lab.try_train("a", "--resume --steps 2");
    // There is no next step whose learning rate would jump.
    assert_eq!(stderr(&output), "");
    let events = lab.events("a");
    assert_eq!(events.of("step").len(), 2);
    assert_eq!(events.end()["reason"], "done");
    assert!(tensors(&model) == before);
}

#[test]
fn resuming_where_nothing_is_is_an_error_unless_that_is_fine() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--resume --steps 1");
    assert_clear_error(
        &output,
        1,
        &["nothing to resume in brains/a", "--resume-if-exists"],
    );
    assert!(!lab.brain("a").exists());
    let output = lab.run("train --resume --device cpu --save-dir nowhere");
    assert_clear_error(&output, 1, &["nothing to resume in nowhere"]);
    let output = lab.try_train("a", "--resume-if-exists --steps 1");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("nothing to resume"), "{text}");
    let events = lab.train("a", "--resume-if-exists --steps 2");
    assert_eq!(events.field("resume", "step"), [1]);
    assert_eq!(events.steps("step"), [1.0, 2.0]);
}

/// The tokenizer that lies in the bundle is the one that the run was trained with.
#[test]
fn resuming_needs_no_tokenizer_but_the_bundles() {
    let lab = Lab::new();
    let flags = "--steps 2 --model tok";
    fs::create_dir(lab.path("tok")).unwrap();
    fs::rename(lab.path("tokenizer.json"), lab.path("tok/tokenizer.json")).unwrap();
    lab.train("a", flags);
    fs::remove_dir_all(lab.path("tok")).unwrap();
    for steps in [3, 4] {
        lab.succeed(&format!(
            "train --resume --bundle-dir brains --brain-name a --device cpu --quiet --steps {steps}"
        ));
    }
    assert_eq!(saved_step(&lab, "a"), 4);
}

fn saved_step(lab: &Lab, name: &str) -> u64 {
    let trainer = fs::read_to_string(lab.brain(name).join("trainer.json")).unwrap();
    let trainer: serde_json::Value = serde_json::from_str(&trainer).unwrap();
    trainer["step"].as_u64().unwrap()
}

/// A bundle does not say where text is appended to; it remembers where it was, for reports.
#[test]
fn resuming_writes_no_log_that_only_the_bundle_names() {
    let lab = Lab::new();
    lab.train("a", "--steps 2 --tensorboard events");
    let before = fs::read(lab.path("a.jsonl")).unwrap();
    fs::remove_dir_all(lab.path("events")).unwrap();
    let output =
        lab.run("train --resume --bundle-dir brains --brain-name a --device cpu --quiet --steps 4");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("logged to a.jsonl; give --log-file"),
        "{text}"
    );
    assert!(text.contains("--tensorboard"), "{text}");
    assert_eq!(fs::read(lab.path("a.jsonl")).unwrap(), before);
    assert!(!lab.path("events").exists());
    lab.succeed("report a --bundle-dir brains -o page.html");
    let events = lab.train("a", "--resume --steps 6");
    assert_eq!(events.steps("step"), [1.0, 2.0, 5.0, 6.0]);
}

/// From the rate at the end of a cosine to nearly its beginning.
const LONGER: &str = "--resume --steps 100 --warmup-steps 0 --lr 1e-3";

#[test]
fn a_jump_of_the_learning_rate_is_said_and_can_be_spread() {
    let lab = Lab::new();
    let short = "--steps 10 --warmup-steps 0 --lr 1e-3";
    for name in ["jump", "spread", "cut"] {
        lab.train(name, short);
    }
    let output = lab.try_train("jump", &format!("{LONGER} --steps 100 --stop-file none"));
    let text = stderr(&output);
    assert!(text.contains("from 1.0e-4 to 9.7e-4 in one step"), "{text}");
    assert!(text.contains("--rewarm-steps"), "{text}");
    let jump = lab.events("jump").steps("learning_rate");
    let output = lab.try_train("spread", &format!("{LONGER} --rewarm-steps 8"));
    assert_eq!(stderr(&output), "");
    let spread = lab.events("spread").steps("learning_rate");
    for (i, (jump, spread)) in jump.iter().zip(&spread).enumerate() {
        let share = (i as f64 - 9.0).clamp(0.0, 8.0) / 8.0;
        let want = match i < 10 {
            true => *jump,
            false => 1e-4 + (jump - 1e-4) * share,
        };
        assert!(
            (spread - want).abs() < 1e-9,
            "step {}: {spread}, not {want}",
            i + 1
        );
    }
    // Interrupted in the midst of the rise, and resumed without the flag.
    let first = format!("{LONGER} --rewarm-steps 8 --save-every 3");
    let mut run = lab.start("cut", &first);
    run.wait_for("\"event\":\"checkpoint\",\"step\":12");
    run.kill();
    lab.train("cut", "--resume");
    assert_same_brain(&lab.brain("spread"), &lab.brain("cut"));
}

/// A trainer that is stopping and one that resumes at the same moment: the second waits, and goes on from what the first
/// one saved last.
#[cfg(unix)]
#[test]
fn resuming_while_another_stops_mixes_nothing() {
    let lab = Lab::new();
    let flags = format!("{LONG} --save-every 3");
    lab.train("whole", &flags);
    for round in 0..4 {
        let name = format!("race{round}");
        let mut run = lab.start(&name, &flags);
        run.wait_for("\"event\":\"checkpoint\",\"step\":6");
        run.signal("kill -TERM $PID");
        lab.train(&name, "--resume --batch-size 4");
        assert_eq!(run.exit_code(), Some(0));
        assert_same_brain(&lab.brain("whole"), &lab.brain(&name));
    }
}

#[test]
fn the_checkpoint_of_the_best_evaluation_is_kept() {
    let lab = Lab::new();
    lab.write(
        "eval.txt",
        "Quite other words than those of the training text, again and again.\n".repeat(20),
    );
    let flags =
        "--steps 60 --eval-file eval.txt --eval-every 5 --lr 3e-2 --keep-best --save-every 0";
    let events = lab.train("a", flags);
    let losses = events.field("eval", "loss");
    let losses: Vec<f64> = losses.iter().map(|loss| loss.as_f64().unwrap()).collect();
    let steps = events.field("eval", "step");
    let best = (0..losses.len())
        .min_by(|a, b| losses[*a].total_cmp(&losses[*b]))
        .unwrap();
    let folder = format!("checkpoints/best-step-{:06}", steps[best].as_u64().unwrap());
    let kept: Vec<_> = fs::read_dir(lab.brain("a").join("checkpoints"))
        .unwrap()
        .collect();
    assert!(lab.brain("a").join(&folder).is_dir(), "{folder}: {kept:?}");
    let line = format!(
        "eval brains/a/{folder} --file eval.txt --batches 10 --batch-size 2 --device cpu --json"
    );
    let score: serde_json::Value = serde_json::from_str(&lab.succeed(&line)).unwrap();
    let loss = score["loss"].as_f64().unwrap();
    assert!(
        (loss - losses[best]).abs() < 1e-4,
        "{loss} {}",
        losses[best]
    );
    // A later run only replaces it by a better one.
    lab.train("a", &format!("{flags} --resume --steps 65"));
    let worse = lab
        .events("a")
        .field("eval", "loss")
        .last()
        .unwrap()
        .as_f64()
        .unwrap()
        > losses[best];
    assert_eq!(lab.brain("a").join(&folder).is_dir(), worse);
}

/// Losses of different texts say nothing of each other.
#[test]
fn the_best_evaluation_is_another_one_when_the_text_is() {
    let lab = Lab::new();
    let text = fs::read_to_string(lab.path("text.txt")).unwrap();
    lab.write("easy.txt", text);
    lab.write("hard.txt", "Zyx wvu qpo 975 {}[] tsr!\n".repeat(40));
    let flags = "--eval-every 5 --keep-best --save-every 0";
    lab.train("a", &format!("{flags} --steps 10 --eval-file easy.txt"));
    lab.train(
        "a",
        &format!("{flags} --steps 15 --eval-file hard.txt --resume"),
    );
    let events = lab.events("a");
    let losses = events.field("eval", "loss");
    let loss = |at: usize| losses[at].as_f64().unwrap();
    assert!(loss(2) > loss(1), "{losses:?}");
    assert!(lab.brain("a").join("checkpoints/best-step-000015").is_dir());
}

/// What is evaluated on is neither trained on nor another text afterwards.
#[test]
fn a_share_that_is_held_out_stays_the_same() {
    let lab = Lab::new();
    let flags = "--eval-split 0.2 --eval-every 2 --no-linear-dataset --lr-schedule constant --warmup-steps 1";
    let whole = lab.train("whole", &format!("{flags} --steps 6"));
    lab.train("cut", &format!("{flags} --steps 4"));
    lab.train("cut", "--resume --steps 6");
    let cut = lab.events("cut");
    assert_eq!(cut.field("eval", "step"), [2, 4, 6]);
    assert_eq!(cut.field("eval", "loss"), whole.field("eval", "loss"));
    assert_eq!(cut.field("eval", "tokens"), whole.field("eval", "tokens"));
    assert_same_brain(&lab.brain("whole"), &lab.brain("cut"));
    let text = stderr(&lab.try_train("cut", "--resume --steps 7 --eval-split 0.3"));
    let words = "without what --eval-split 0.2 by seed 0 holds out and is the dataset without what --eval-split 0.3";
    assert!(text.contains(words), "{text}");
}
