//! What a run depends on: the seed, and nothing that changes from run to run.

use crate::common::lab::{Lab, assert_same_brain};

#[test]
fn the_same_seed_gives_the_same_run() {
    let lab = Lab::new();
    let flags = "--steps 6 --no-linear-dataset --seed 4";
    let (a, b) = (lab.train("a", flags), lab.train("b", flags));
    assert_eq!(a.steps("loss"), b.steps("loss"));
    assert_same_brain(&lab.brain("a"), &lab.brain("b"));
}

#[test]
fn another_seed_gives_another_run() {
    let lab = Lab::new();
    let a = lab.train("a", "--steps 3 --seed 4");
    let b = lab.train("b", "--steps 3 --seed 5");
    let pairs = a.steps("loss").into_iter().zip(b.steps("loss"));
    for (a, b) in pairs {
        assert_ne!(a, b);
    }
}

#[test]
fn both_names_of_the_command_do_the_same() {
    let lab = Lab::new();
    let short = lab.train("a", "--steps 2");
    let line = Lab::tiny("b", "--steps 2").replacen("train", "hrm-hf train-actv1", 1);
    lab.succeed(&line);
    assert_eq!(short.steps("loss"), lab.events("b").steps("loss"));
}

#[test]
fn checkpointing_does_not_change_the_run() {
    let lab = Lab::new();
    lab.train("a", "--steps 4 --gradient-checkpointing");
    let b = lab.train("b", "--steps 4 --no-gradient-checkpointing");
    assert_eq!(b.of("start")[0]["checkpointing"], false);
    assert_same_brain(&lab.brain("a"), &lab.brain("b"));
}
