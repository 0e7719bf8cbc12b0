//! The optimizer's state in 8 bits: its size, its record, and the ways between the formats.

use crate::common::lab::{Lab, assert_same_brain, tensors};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn optimizer(lab: &Lab, name: &str) -> PathBuf {
    lab.brain(name).join("optimizer.safetensors")
}

/// Bytes of a saved state as it lies on the device, where codes are padded to whole blocks.
fn on_the_device(saved: &BTreeMap<String, Vec<u8>>) -> u64 {
    let padded =
        |(name, bytes): (&String, &Vec<u8>)| match saved.contains_key(&format!("{name}.absmax")) {
            true => bytes.len().next_multiple_of(256) as u64,
            false => bytes.len() as u64,
        };
    saved.iter().map(padded).sum()
}

#[test]
fn the_start_event_has_what_is_allocated() {
    let lab = Lab::new();
    // So wide that hardly any tensor is too small for 8 bits.
    let flags = "--steps 1 --hidden-size 64 --use-8bit-optimizer --strict";
    let events = lab.train("a", flags);
    assert!(events.of("fallback").is_empty());
    let start = &events.of("start")[0]["optimizer"];
    assert_eq!(start["kind"], "adamw8bit");
    let saved = tensors(&optimizer(&lab, "a"));
    assert_eq!(start["state_bytes"], on_the_device(&saved));
    let per_parameter = start["state_bytes_per_parameter"].as_f64().unwrap();
    assert!(per_parameter <= 2.05, "{per_parameter}");
}

#[test]
fn large_tensors_are_saved_as_codes_and_small_ones_in_f32() {
    let lab = Lab::new();
    lab.train("a", "--steps 1 --use-8bit-optimizer");
    let saved = tensors(&optimizer(&lab, "a"));
    let large = "H_level.layers.0.mlp.down_proj.weight";
    assert_eq!(saved[&format!("{large}.m")].len(), 32 * 256);
    assert_eq!(saved[&format!("{large}.v.absmax")].len(), 4 * 32);
    let small = "H_level.layers.0.self_attn.o_proj.weight";
    assert_eq!(saved[&format!("{small}.m")].len(), 4 * 32 * 32);
    assert!(!saved.contains_key(&format!("{small}.m.absmax")));
}

#[test]
fn the_embedding_may_keep_its_state_in_f32() {
    let lab = Lab::new();
    let flags = "--steps 1 --use-8bit-optimizer --f32-embedding-state";
    let events = lab.train("a", flags);
    let saved = tensors(&optimizer(&lab, "a"));
    assert!(!saved.contains_key("embed_tokens.embedding_weight.m.absmax"));
    assert!(saved.contains_key("lm_head.weight.m.absmax"));
    let start = &events.of("start")[0]["optimizer"];
    assert_eq!(start["state_bytes"], on_the_device(&saved));
}

#[test]
fn a_resumed_run_has_the_numbers_of_an_uninterrupted_one() {
    let lab = Lab::new();
    let flags = "--use-8bit-optimizer --lr-schedule constant --warmup-steps 2";
    lab.train("whole", &format!("{flags} --steps 6"));
    lab.train("cut", &format!("{flags} --steps 3"));
    lab.train("cut", "--resume --steps 6");
    assert_same_brain(&lab.brain("whole"), &lab.brain("cut"));
}

/// Train with some flags, go on with others: the saved state before and after.
fn converted(first: &str, second: &str) -> [BTreeMap<String, Vec<u8>>; 2] {
    let lab = Lab::new();
    lab.train("a", &format!("--steps 3 {first}"));
    let before = tensors(&optimizer(&lab, "a"));
    let events = lab.train("a", &format!("--resume --steps 4 {second}"));
    assert_eq!(events.of("resume").len(), 1);
    assert!(events.steps("loss").iter().all(|loss| loss.is_finite()));
    [before, tensors(&optimizer(&lab, "a"))]
}

#[test]
fn f32_state_goes_on_in_8_bits() {
    let [before, after] = converted("", "--use-8bit-optimizer");
    assert!(!before.contains_key("lm_head.weight.m.absmax"));
    assert!(after.contains_key("lm_head.weight.m.absmax"));
}

#[test]
fn state_in_8_bits_goes_on_in_f32() {
    let [before, after] = converted("--use-8bit-optimizer", "--no-8bit-optimizer");
    assert!(before.contains_key("lm_head.weight.m.absmax"));
    assert!(!after.contains_key("lm_head.weight.m.absmax"));
    assert_eq!(
        4 * before["lm_head.weight.m"].len(),
        after["lm_head.weight.m"].len()
    );
}
