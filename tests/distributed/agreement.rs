//! What all ranks do because one has to.

use super::jobs::Job;
use crate::common::lab::{Lab, stderr};

#[test]
fn one_rank_with_little_memory_makes_all_parts_smaller() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--steps 4 --batch-size 8 --max-seq-len 64";
    let plain = job.train(2, "plain", flags);
    let peak = plain.of("step")[3]["ranks"][1]["host_peak_bytes"]
        .as_u64()
        .unwrap();
    // Weights, gradients and state are a part of it that stays.
    let tight = Lab::tiny("tight", flags) + &format!(" --memory-limit {}", peak * 3 / 4);
    let output = job
        .different(&[&Lab::tiny("tight", flags), &tight])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let events = lab.events("tight");
    let split = |field: &str| events.steps(field).last().copied().unwrap();
    assert!(split("batch_size") < 8.0);
    assert_eq!(
        split("batch_size") * split("gradient_accumulation_steps"),
        8.0
    );
    super::jobs::assert_near("loss", &events.steps("loss"), &plain.steps("loss"), 1e-5);
}

#[test]
fn a_stop_file_stops_all_and_saves() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--steps 100000 --save-every 100000 --stop-file stop --shard-optimizer";
    let mut run = lab.start_command("a", job.command(2, &Lab::tiny("a", flags)));
    run.wait_for_step(5);
    lab.write("stop", "");
    let output = run.output();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let events = lab.events("a");
    assert_eq!(events.end()["reason"], "stop_file");
    let saved = events.of("checkpoint").last().unwrap()["step"]
        .as_u64()
        .unwrap();
    assert_eq!(Some(saved as f64), events.steps("step").last().copied());
}

/// With `--local-steps`, it stops in the midst of a round, which all then end early.
#[test]
fn ranks_on_their_own_meet_before_they_stop() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--steps 100000 --save-every 10 --stop-file stop --local-steps 1000";
    let mut run = lab.start_command("a", job.command(2, &Lab::tiny("a", flags)));
    run.wait_for_step(15);
    assert!(lab.events("a").of("checkpoint").is_empty());
    lab.write("stop", "");
    let output = run.output();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(lab.events("a").of("checkpoint").len(), 1);
}

#[test]
fn saves_on_the_way_wait_for_an_exchange() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--steps 10 --local-steps 4 --save-every 3 --eval-split 0.2 --eval-every 5";
    let events = job.train(2, "a", flags);
    let steps = |kind: &str| -> Vec<u64> {
        let all = events.field(kind, "step").into_iter();
        all.map(|step| step.as_u64().unwrap()).collect()
    };
    assert_eq!(steps("checkpoint"), [4, 8, 10]);
    assert_eq!(steps("eval"), [8, 10]);
}

#[test]
fn with_another_number_of_ranks_their_moments_start_anew() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    job.train(2, "a", "--steps 4 --local-steps 2 --batch-size 3");
    let resume = "train --resume --bundle-dir brains --brain-name a --steps 8 --quiet --device cpu --log-file a.jsonl";
    let output = job.run(3, resume);
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("moments start anew"), "{said}");
    let sizes = lab.events("a").steps("batch_size");
    assert_eq!(sizes, [3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0]);
}
