//! The same training through wgpu; on machines without a GPU on software Vulkan.

use crate::common::{self, lab::Lab};

#[test]
fn losses_with_8bit_state_on_wgpu_are_those_of_the_cpu() {
    if common::wgpu().is_none() {
        return;
    }
    let lab = Lab::new();
    let flags = "--steps 5 --use-8bit-optimizer --strict";
    let cpu = lab.train("cpu", flags);
    let gpu = lab.train("gpu", &format!("{flags} --no-amp --device wgpu"));
    assert_eq!(gpu.of("start")[0]["optimizer"]["kind"], "adamw8bit");
    for (a, b) in cpu.steps("loss").iter().zip(gpu.steps("loss")) {
        assert!((a - b).abs() < 1e-3, "{a} on the CPU, {b} on wgpu");
    }
}

#[test]
fn losses_on_wgpu_are_those_of_the_cpu() {
    if common::wgpu().is_none() {
        return;
    }
    let lab = Lab::new();
    let cpu = lab.train("cpu", "--steps 5");
    let gpu = lab.train("gpu", "--steps 5 --device wgpu --strict --use-flash-attn");
    assert_eq!(gpu.of("start")[0]["backend"], "wgpu");
    assert_eq!(gpu.of("start")[0]["attention"]["path"], "flash-wgsl");
    for (a, b) in cpu.steps("loss").iter().zip(gpu.steps("loss")) {
        assert!((a - b).abs() < 1e-3, "{a} on the CPU, {b} on wgpu");
    }
    for step in gpu.of("step") {
        assert!(step["memory"]["in_use_bytes"].as_u64().unwrap() > 0);
    }
}
