//! The same training on a GPU; through wgpu, on machines without one, on software Vulkan.

use crate::common::lab::{Events, Lab, assert_clear_error};
use crate::common::{cuda, ndarray, wgpu};
use aios_device::Selection;

/// The device's losses are the CPU's: what its run logged.
fn losses_are_those_of_the_cpu(device: &Selection, flags: &str, flags_there: &str) -> Events {
    let kind = device.adapter.kind.as_str();
    let lab = Lab::new();
    let cpu = lab.train("cpu", flags);
    let gpu = lab.train("gpu", &format!("{flags} {flags_there} --device {kind}"));
    assert_eq!(gpu.of("start")[0]["backend"], kind);
    for (a, b) in cpu.steps("loss").iter().zip(gpu.steps("loss")) {
        assert!((a - b).abs() < 1e-3, "{a} on the CPU, {b} on {kind}");
    }
    gpu
}

fn with_8bit_state(device: Option<Selection>) {
    let Some(device) = device else { return };
    let flags = "--steps 5 --use-8bit-optimizer --strict";
    let gpu = losses_are_those_of_the_cpu(&device, flags, "--no-amp");
    assert_eq!(gpu.of("start")[0]["optimizer"]["kind"], "adamw8bit");
}

fn with_flash_attention(device: Option<Selection>) {
    let Some(device) = device else { return };
    let gpu = losses_are_those_of_the_cpu(&device, "--steps 5", "--strict --use-flash-attn");
    assert_eq!(
        gpu.of("start")[0]["attention"]["path"],
        device.adapter.attention
    );
    for step in gpu.of("step") {
        assert!(step["memory"]["in_use_bytes"].as_u64().unwrap() > 0);
    }
}

#[test]
fn losses_with_8bit_state_on_wgpu_are_those_of_the_cpu() {
    with_8bit_state(wgpu());
}

#[test]
fn losses_with_8bit_state_on_cuda_are_those_of_the_cpu() {
    with_8bit_state(cuda());
}

#[test]
fn losses_on_wgpu_are_those_of_the_cpu() {
    with_flash_attention(wgpu());
}

#[test]
fn losses_on_cuda_are_those_of_the_cpu() {
    with_flash_attention(cuda());
}

#[test]
fn losses_on_ndarray_are_those_of_the_cpu() {
    let Some(device) = ndarray() else { return };
    let flags = "--steps 3 --strict --use-8bit-optimizer --gradient-accumulation-steps 2";
    let events = losses_are_those_of_the_cpu(&device, flags, "");
    assert_eq!(events.of("start")[0]["attention"]["path"], "sdpa");
    assert_eq!(events.of("start")[0]["precision"]["compute"], "f32");
}

/// What the reference has no kernels or formats for falls back, and is said.
#[test]
fn ndarray_falls_back_to_f32_and_sdpa() {
    if ndarray().is_none() {
        return;
    }
    let lab = Lab::new();
    let flags = "--device ndarray --steps 1 --amp --amp-dtype bf16 --bf16-inputs --use-flash-attn";
    let events = lab.train("a", flags);
    let features: Vec<_> = events.field("fallback", "feature");
    assert_eq!(features, ["attention", "mixed precision", "bf16 inputs"]);
    let strict = lab.try_train("b", "--device ndarray --steps 1 --use-flash-attn --strict");
    assert_clear_error(&strict, 1, &["--strict", "attention", "burn-ndarray"]);
}
