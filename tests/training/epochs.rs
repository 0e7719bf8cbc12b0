//! Runs whose length is given in passes over the dataset.

use crate::common::lab::{Events, Lab, assert_clear_error, assert_same_brain, stderr};
use std::fs;

/// The last step is the one that completes the passes.
fn assert_ends_with(events: &Events, epochs: f64) {
    let seen = events.steps("epoch");
    let [.., before, last] = seen[..] else {
        panic!("{seen:?}");
    };
    assert!(before < epochs && epochs <= last, "{before} {last}");
}

fn saved_config(lab: &Lab, name: &str) -> String {
    fs::read_to_string(lab.brain(name).join("config.toml")).unwrap()
}

#[test]
fn epochs_become_steps_and_more_of_them_go_on() {
    let lab = Lab::new();
    let output = lab.try_train("a", "--epochs 0.5 --no-quiet");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    let events = lab.events("a");
    assert_ends_with(&events, 0.5);
    let half = events.steps("step").len();
    assert!(
        text.contains(&format!("0.5 epochs = {half} steps")),
        "{text}"
    );
    // Resolved, so that a resume does not depend on anything else.
    let config = saved_config(&lab, "a");
    assert!(config.contains(&format!("steps = {half}\n")), "{config}");
    assert!(!config.contains("epochs"), "{config}");

    let events = lab.train("a", "--resume --epochs 0.5");
    assert_eq!(events.steps("step").len(), half);
    assert_eq!(events.of("resume")[0]["changed"], serde_json::json!([]));

    let events = lab.train("a", "--resume --epochs 0.75");
    assert_ends_with(&events, 0.75);
    let changed = events.of("resume")[1]["changed"].to_string();
    let steps = events.steps("step").len();
    assert!(
        changed.contains(&format!("steps: {half} -> {steps}")),
        "{changed}"
    );
}

#[test]
fn a_resumed_run_of_epochs_is_the_same() {
    let lab = Lab::new();
    let flags = "--epochs 0.5 --gradient-accumulation-steps 3 --no-linear-dataset";
    lab.train("whole", flags);
    let mut run = lab.start("cut", &format!("{flags} --save-every 2"));
    run.wait_for("\"event\":\"checkpoint\"");
    run.kill();
    lab.train("cut", "--resume");
    assert_same_brain(&lab.brain("whole"), &lab.brain("cut"));
}

#[test]
fn a_file_may_say_epochs_but_not_steps_too() {
    let lab = Lab::new();
    lab.write("run.toml", "epochs = 0.1\n");
    let events = lab.train("a", "--config run.toml");
    assert_ends_with(&events, 0.1);
    let events = lab.train("b", "--config run.toml --steps 2");
    assert_eq!(events.steps("step").len(), 2);
    lab.write("run.toml", "epochs = 0.1\nsteps = 3\n");
    let output = lab.try_train("c", "--config run.toml");
    assert_clear_error(&output, 2, &["run.toml", "`steps` and `epochs`"]);
    let output = lab.try_train("c", "--epochs 0");
    assert_clear_error(&output, 2, &["--epochs is 0"]);
    let output = lab.try_train("c", "--epochs 0.1 --warmup-steps 1000");
    assert_clear_error(&output, 2, &["--warmup-steps 1000", "--epochs 0.1"]);
    assert!(!lab.brain("c").join("manifest.json").exists());
}
