//! Several ranks compute what one does.

use super::jobs::{Job, assert_near};
use crate::common::lab::{Lab, assert_same_brain, float_tensors, tensors};
use crate::decoders::{Tiny, folder, write_rows};

/// Ten steps of eight sequences, with evaluations.
const STEPS: &str = "--steps 10 --eval-split 0.2 --eval-every 5 --save-every 4";

fn of_one(lab: &Lab, flags: &str) -> Vec<f64> {
    let flags = format!("--batch-size 8 {STEPS} {flags}");
    lab.train("one", &flags).steps("loss")
}

#[test]
fn two_and_four_ranks_have_the_losses_of_one() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let whole = lab.train("whole", &format!("--batch-size 8 {STEPS}"));
    for (ranks, split, flags) in [
        (2, "--batch-size 4", ""),
        (2, "--batch-size 2 --gradient-accumulation-steps 2", ""),
        (4, "--batch-size 2", ""),
        (2, "--batch-size 4", "--shard-optimizer"),
        (4, "--batch-size 2", "--shard-optimizer"),
    ] {
        let name = format!("{ranks}{}{}", split.len(), flags.len());
        let events = job.train(ranks, &name, &format!("{split} {STEPS} {flags}"));
        for field in ["loss", "grad_norm"] {
            let what = format!("{field} of {ranks} ranks {split} {flags}");
            assert_near(&what, &events.steps(field), &whole.steps(field), 1e-5);
        }
        // Of the same part of the text, however it is divided.
        if !split.contains("accumulation") {
            let of = |events: &crate::common::lab::Events, field| -> Vec<f64> {
                let all = events.field("eval", field).into_iter();
                all.map(|value| value.as_f64().unwrap()).collect()
            };
            assert_near("eval", &of(&events, "loss"), &of(&whole, "loss"), 1e-5);
            assert_eq!(of(&events, "tokens"), of(&whole, "tokens"));
        }
        assert_eq!(
            events.of("step")[0]["ranks"].as_array().unwrap().len(),
            ranks
        );
    }
}

#[test]
fn parted_8_bit_state_gives_the_same_and_is_saved_as_one() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--use-8bit-optimizer --hidden-size 64";
    let want = of_one(&lab, flags);
    let events = job.train(
        3,
        "parted",
        &format!(
            "--batch-size 2 --gradient-accumulation-steps 1 {STEPS} {flags} --shard-optimizer"
        ),
    );
    assert_eq!(events.steps("loss").len(), want.len());
    let events = job.train(
        2,
        "two",
        &format!("--batch-size 4 {STEPS} {flags} --shard-optimizer"),
    );
    assert_near("loss", &events.steps("loss"), &want, 1e-5);
    let state = |name: &str| tensors(&lab.brain(name).join("optimizer.safetensors"));
    let (one, two) = (state("one"), state("two"));
    assert!(one.keys().eq(two.keys()));
    for (name, bytes) in &one {
        assert_eq!(bytes.len(), two[name].len(), "{name}");
    }
    // Each rank holds half of it.
    let bytes = |name: &str| {
        let events = lab.events(name);
        events.of("start")[0]["optimizer"]["state_bytes"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(bytes("two"), bytes("one") / 2);
}

#[test]
fn an_adapter_learns_the_same_on_two_ranks() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    write_rows(&lab, &Tiny::named("llama").golden);
    let model = folder("llama");
    let arguments = |name: &str, flags: &str| {
        format!(
            "finetune --model {} --dataset-file rows.jsonl --lora-rank 4 --steps 10 --lr 1e-2 --no-amp --device cpu \
             --quiet --bundle-dir brains --brain-name {name} --log-file {name}.jsonl {flags}",
            model.display()
        )
    };
    lab.succeed(&arguments("one", "--batch-size 2"));
    let want = lab.events("one").steps("loss");
    for (name, flags) in [("two", ""), ("parted", "--shard-optimizer")] {
        let output = job.run(2, &arguments(name, &format!("--batch-size 1 {flags}")));
        assert!(output.status.success(), "{output:?}");
        assert_near(name, &lab.events(name).steps("loss"), &want, 1e-5);
        // The weights beside the adapter are rank 0's alone to write.
        let saved = lab.brain(name).join("adapter_model.safetensors");
        let one = lab.brain("one").join("adapter_model.safetensors");
        let (saved, one) = (float_tensors(&saved), float_tensors(&one));
        assert!(saved.keys().eq(one.keys()));
    }
}

#[test]
fn a_job_gives_the_same_bits_each_time() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    for flags in ["", "--shard-optimizer", "--local-steps 3"] {
        let flags = format!("--steps 6 {flags}");
        job.train(2, "a", &flags);
        job.train(2, "b", &flags);
        assert_same_brain(&lab.brain("a"), &lab.brain("b"));
    }
}

#[test]
fn a_resumed_job_is_the_uninterrupted_one() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    for (i, flags) in [
        "",
        "--shard-optimizer --use-8bit-optimizer",
        "--local-steps 2",
    ]
    .into_iter()
    .enumerate()
    {
        let (whole, parts) = (format!("whole{i}"), format!("parts{i}"));
        let schedule = "--lr-schedule constant --warmup-steps 0";
        job.train(2, &whole, &format!("--steps 8 {schedule} {flags}"));
        job.train(2, &parts, &format!("--steps 4 {schedule} {flags}"));
        job.train(2, &parts, "--steps 8 --resume");
        assert_same_brain(&lab.brain(&whole), &lab.brain(&parts));
    }
}

/// The same command, whatever the number of ranks, as a scheduler starts it again: a step keeps its sequences.
#[test]
fn the_same_command_keeps_a_step_on_any_number_of_ranks() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--batch-size 6 --resume-if-exists --lr-schedule constant --warmup-steps 0";
    lab.train("whole", &format!("{flags} --steps 10"));
    lab.train("a", &format!("{flags} --steps 2"));
    for (ranks, steps) in [(3, 4), (3, 6), (2, 8), (3, 10)] {
        job.train(ranks, "a", &format!("{flags} --steps {steps}"));
    }
    let (whole, parts) = (lab.events("whole"), lab.events("a"));
    assert_eq!(parts.steps("tokens"), whole.steps("tokens"));
    assert_near("loss", &parts.steps("loss"), &whole.steps("loss"), 1e-5);
    // Other flags are another step.
    job.train(2, "a", &format!("{flags} --steps 11 --batch-size 4"));
    let tokens = lab.events("a").steps("tokens");
    assert_eq!(tokens[10], tokens[0] * 8.0 / 6.0);
}

/// A run that shared its moments goes on by `--local-steps` with them on all ranks.
#[test]
fn shared_moments_are_those_of_each_rank_by_itself() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--lr-schedule constant --warmup-steps 0";
    job.train(2, "a", &format!("{flags} --steps 20"));
    job.train(
        2,
        "a",
        &format!("{flags} --steps 21 --resume --local-steps 1"),
    );
    let state = float_tensors(&lab.brain("a").join("optimizer.safetensors"));
    let norm = |name: &str| state[name].iter().map(|v| v * v).sum::<f32>().sqrt();
    let name = "H_level.layers.0.mlp.down_proj.weight.v";
    let (first, second) = (norm(name), norm(&format!("rank1.{name}")));
    assert!((first - second).abs() < 0.2 * first, "{first} {second}");
}

/// As on machines that share no disk: rank 1 looks for the bundle where nothing is.
#[test]
fn a_rank_that_does_not_see_the_bundle_gets_a_copy() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let schedule = "--lr-schedule constant --warmup-steps 0 --shard-optimizer";
    job.train(2, "whole", &format!("--steps 6 {schedule}"));
    job.train(2, "parts", &format!("--steps 3 {schedule}"));
    let resume = |folder: &str| {
        format!(
            "train --resume --bundle-dir {folder} --brain-name parts --steps 6 --quiet --device cpu"
        )
    };
    let output = job
        .different(&[&resume("brains"), &resume("elsewhere")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_same_brain(&lab.brain("whole"), &lab.brain("parts"));
    assert!(!lab.path("elsewhere").exists());
}

#[test]
fn another_number_of_ranks_goes_on_with_the_same_batches() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let schedule = "--lr-schedule constant --warmup-steps 0";
    let whole = lab.train("whole", &format!("--batch-size 8 --steps 8 {schedule}"));
    let flags = format!("--batch-size 2 --steps 4 {schedule} --shard-optimizer");
    job.train(4, "parts", &flags);
    let two = lab.run("train --resume --bundle-dir brains --brain-name parts --steps 6 --quiet --device cpu --log-file parts.jsonl");
    assert!(two.status.success(), "{two:?}");
    // Flags that ask for another micro-batch ask for another step.
    let output = job.run(
        2,
        "train --resume --bundle-dir brains --brain-name parts --steps 8 --quiet --device cpu --log-file parts.jsonl",
    );
    assert!(output.status.success(), "{output:?}");
    let parts = lab.events("parts");
    assert_near("loss", &parts.steps("loss"), &whole.steps("loss"), 1e-5);
    assert_eq!(parts.of("resume").len(), 2);
    assert_eq!(parts.steps("tokens"), whole.steps("tokens"));
}
