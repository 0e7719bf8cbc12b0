//! Every variant of every WGSL kernel, validated and translated to what Vulkan, Metal and DX12 take,
//! within the limits of adapters that are not in the machine.

#[allow(dead_code)]
#[path = "../../../crates/tensor/src/gpu/flash_wgsl.rs"]
mod flash_wgsl;
#[allow(dead_code)]
#[path = "../../../crates/tensor/src/gpu/ggml.rs"]
mod ggml;
#[allow(dead_code)]
#[path = "../../../crates/tensor/src/gpu/row_texts.rs"]
mod row_texts;
#[allow(dead_code)]
#[path = "../../../crates/tensor/src/gpu/source.rs"]
mod source;
#[allow(dead_code)]
#[path = "../../../crates/tensor/src/gpu/tiles.rs"]
mod tiles;
#[path = "../../../crates/tensor/src/gpu/wgsl.rs"]
mod wgsl;

use flash_wgsl::{Device, Variant};
use naga::back::{hlsl, msl, spv};
use naga::proc::Layouter;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module};
use source::{Entry, Kernel, Part};

const ADAPTERS: [(&str, Device); 6] = [
    ("Apple", device(32 << 10, 1024, true)),
    ("AMD", device(64 << 10, 1024, true)),
    ("Intel", device(32 << 10, 1024, true)),
    ("NVIDIA", device(48 << 10, 1024, true)),
    ("mobile", device(32 << 10, 512, false)),
    ("the least that WebGPU allows", device(16 << 10, 256, false)),
];

const fn device(workgroup_bytes: usize, threads: usize, subgroups: bool) -> Device {
    Device {
        workgroup_bytes,
        threads,
        subgroups,
    }
}

fn validated(kernel: &Kernel) -> (Module, ModuleInfo) {
    let text = kernel.wgsl_text();
    let constants = &kernel.constants;
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{constants:?}: {}", e.emit_to_string(&text)));
    let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let validator = validator
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .subgroup_operations(naga::valid::SubgroupOperationSet::all());
    let info = validator
        .validate(&module)
        .unwrap_or_else(|e| panic!("{constants:?}: {}", e.emit_to_string(&text)));
    (module, info)
}

/// What all variables in workgroup memory take together.
fn workgroup_bytes(module: &Module) -> usize {
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let variables = module.global_variables.iter().map(|(_, variable)| variable);
    variables
        .filter(|variable| variable.space == AddressSpace::WorkGroup)
        .map(|variable| layouter[variable.ty].to_stride() as usize)
        .sum()
}

fn bindings(module: &Module) -> usize {
    let variables = module.global_variables.iter();
    variables.filter(|(_, v)| v.binding.is_some()).count()
}

fn translate(kernel: &Kernel, module: &Module, info: &ModuleInfo) {
    let spv = spv::write_vec(module, info, &spv::Options::default(), None).unwrap();
    assert!(!spv.is_empty());
    let options = msl::Options {
        lang_version: (2, 4),
        ..msl::Options::default()
    };
    let (metal, _) = msl::write_string(module, info, &options, &Default::default()).unwrap();
    assert!(metal.contains(kernel.name), "{metal}");
    let options = hlsl::Options {
        shader_model: hlsl::ShaderModel::V6_2,
        ..hlsl::Options::default()
    };
    let mut text = String::new();
    let pipeline = hlsl::PipelineOptions::default();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .unwrap();
    assert!(text.contains(kernel.name), "{text}");
}

fn check_adapters(half: bool, ranges: bool) {
    for (name, device) in ADAPTERS {
        for head_dim in [16, 32, 40, 64, 80, 96, 128, 136, 192, 256] {
            let variant = Variant {
                head_dim,
                half,
                ranges,
                device,
            };
            for entry in Entry::ALL {
                let case = format!("{} of {head_dim} on {name}", entry.name());
                let Some(stage) = variant.stage(entry) else {
                    // Such heads in f32 take more than 16 KiB.
                    assert!(
                        head_dim > 224 && !half && device.workgroup_bytes < 32 << 10,
                        "{case}"
                    );
                    continue;
                };
                let kernel = stage.kernel;
                let (module, info) = validated(&kernel);
                let bytes = workgroup_bytes(&module);
                assert!(bytes <= device.workgroup_bytes, "{case}: {bytes} bytes");
                assert!(kernel.threads as usize <= device.threads, "{case}");
                // What WebGPU grants everywhere.
                assert!(bindings(&module) <= 8, "{case}");
                translate(&kernel, &module, &info);
            }
        }
    }
}

#[test]
fn flash_attention_in_f32() {
    check_adapters(false, false);
}

#[test]
fn flash_attention_in_f16() {
    check_adapters(true, false);
}

#[test]
fn flash_attention_of_ranges_in_f32() {
    check_adapters(false, true);
}

#[test]
fn flash_attention_of_ranges_in_f16() {
    check_adapters(true, true);
}

/// A kernel without variants.
fn check_alone(name: &'static str, wgsl: &'static [Part], threads: u32) {
    check(&Kernel {
        name,
        constants: vec![],
        wgsl,
        cuda: &[],
        threads,
        cuda_shared_bytes: 0,
    });
}

fn check(kernel: &Kernel) {
    let (module, info) = validated(kernel);
    // What WebGPU grants everywhere; the other is launched where there are more.
    let most = if kernel.name == "adamw_of_four" { 17 } else { 8 };
    assert!(bindings(&module) <= most, "{}", kernel.name);
    translate(kernel, &module, &info);
}

#[test]
fn adamw_8bit() {
    let text = const { &[Part::new(include_str!("../../../shaders/adamw_8bit.wgsl"))] };
    check_alone("adamw_8bit", text, 64);
}

#[test]
fn ggml_dense() {
    for half in [0, 1] {
        for (name, bytes) in [("Q4_0", 18), ("Q4_1", 20), ("Q5_0", 22), ("Q8_0", 34)] {
            check(&ggml::kernel(name, 32, bytes, half));
        }
        for (name, bytes) in [("Q4_K", 144), ("Q5_K", 176), ("Q6_K", 210)] {
            check(&ggml::kernel(name, 256, bytes, half));
        }
    }
}

#[test]
fn rows_of_elements() {
    for texts in row_texts::ALL {
        for (half, quads) in [(false, false), (false, true), (true, false), (true, true)] {
            let format = u32::from(half);
            check(&texts.kernel(row_texts::Elements { format, quads }));
        }
    }
}

#[test]
fn a_kernel_that_is_wrong_is_told() {
    let kernel = Kernel {
        name: "wrong",
        constants: vec![],
        wgsl: const {
            &[Part::new(
                "@compute @workgroup_size(1) fn wrong() { let x: u32 = 1.0; }",
            )]
        },
        cuda: &[],
        threads: 1,
        cuda_shared_bytes: 0,
    };
    assert!(std::panic::catch_unwind(|| validated(&kernel)).is_err());
}
