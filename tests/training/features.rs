//! The memory features together: every combination computes what the plain run computes.

use crate::common::lab::Lab;
use crate::common::{cuda, wgpu};
use aios_device::Selection;

/// Wide enough that the large tensors have 8-bit state (4096 elements).
const SHAPE: &str = "--hidden-size 64 --batch-size 4 --lr 1e-3 --warmup-steps 0 --no-linear-dataset \
    --lr-schedule constant --no-flash-attn --no-gradient-checkpointing --no-fused-cross-entropy";

/// What each feature adds to the plain run.
const FEATURES: [&str; 5] = [
    "--gradient-checkpointing",
    "--fused-cross-entropy",
    "--amp --amp-dtype HALF",
    "--use-8bit-optimizer",
    "--batch-size 2 --gradient-accumulation-steps 2",
];

fn flags(combination: usize, half: &str) -> String {
    let on = (0..FEATURES.len()).filter(|i| combination >> i & 1 == 1);
    let adds: Vec<&str> = on.map(|i| FEATURES[i]).collect();
    format!("{SHAPE} {}", adds.join(" ")).replace("HALF", half)
}

/// How far the losses of a combination may be from the plain run's, relatively.
fn tolerance(combination: usize) -> f64 {
    let (amp, eight_bit) = (combination & 4 != 0, combination & 8 != 0);
    match (amp, eight_bit) {
        (false, false) => 1e-5,
        (false, true) => 3e-3,
        (true, _) => 1e-2,
    }
}

#[track_caller]
fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got / want - 1.0).abs() <= tolerance,
            "{what}: {got}, plain {want}"
        );
    }
}

/// Three steps, then a resume for two more.
fn losses(lab: &Lab, name: &str, flags: &str) -> Vec<f64> {
    lab.train(name, &format!("{flags} --steps 3"));
    lab.train(name, &format!("{flags} --resume --steps 5"))
        .steps("loss")
}

#[test]
fn all_combinations_on_the_cpu_resume_included() {
    let lab = Lab::new();
    let plain = lab.train("plain", &format!("{} --steps 5", flags(0, "bf16")));
    let plain = plain.steps("loss");
    assert!(plain[4] < plain[0]);
    for combination in 0..1 << FEATURES.len() {
        let flags = flags(combination, "bf16");
        let got = losses(&lab, &format!("c{combination}"), &flags);
        assert_near(&flags, &got, &plain, tolerance(combination));
    }
}

/// Everything at once; without half precision where the adapter has none.
fn all_together(device: Option<Selection>) {
    let Some(device) = device else { return };
    let combination = match device.adapter.dtypes.contains(&"f16") {
        true => 0b11111,
        false => 0b11011,
    };
    let lab = Lab::new();
    let plain = lab.train("plain", &format!("{} --steps 3", flags(0, "f16")));
    let flags = flags(combination, "f16");
    let events = lab.train(
        "all",
        &format!(
            "{flags} --steps 3 --device {}",
            device.adapter.kind.as_str()
        ),
    );
    assert!(
        events.of("fallback").is_empty(),
        "{:?}",
        events.of("fallback")
    );
    let (got, want) = (events.steps("loss"), plain.steps("loss"));
    assert_near(&flags, &got, &want, tolerance(combination));
}

#[test]
fn all_together_on_wgpu() {
    all_together(wgpu());
}

#[test]
fn all_together_on_cuda() {
    all_together(cuda());
}

#[test]
fn groups_of_blocks_are_recomputed_to_the_same_bits() {
    let lab = Lab::new();
    let deep = "--steps 3 --h-layers 3 --l-layers 3 --gradient-checkpointing --checkpoint-every";
    lab.train("a", &format!("{deep} 1"));
    for (name, every) in [("b", 2), ("c", 9)] {
        lab.train(name, &format!("{deep} {every}"));
        crate::common::lab::assert_same_brain(&lab.brain("a"), &lab.brain(name));
    }
}
