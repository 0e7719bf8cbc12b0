//! Logits, loss, gradients and updates of each tiny model.

use super::{Tiny, all, assert_gradient, assert_near};
use crate::common::{DeviceJob, Golden, assert_close, cuda, ndarray, on, run_on, wgpu};
use aios_base::execution::Execution;
use aios_device::Selected;
use aios_engine::optimizer::AdamW;
use aios_models::{Objective, Recipe, StepPart};
use aios_nn::Visit;
use aios_nn::watch::Unwatched;
use aios_tensor::attention::Visible;
use aios_tensor::{AttentionPath, CpuBackend, Ops, floats};

/// Compare with transformers.
struct Folders(Vec<Tiny>);

impl DeviceJob for Folders {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for tiny in &self.0 {
            check::<B>(tiny, &device);
        }
    }
}

fn check<B: Ops>(tiny: &Tiny, device: &B::Device) {
    let (model, batch, golden) = (tiny.on::<B>(device), tiny.batch(), &tiny.golden);
    let name = tiny.name();
    let recipe = Recipe::default();
    let logits = floats(model.logits(&batch, None, &recipe.execution));
    assert_close(
        &format!("{name} logits"),
        &logits,
        &golden.floats("logits"),
        1e-4,
    );

    let mut grads = model.gradients();
    let part = StepPart::whole(1, &batch);
    let sums = model
        .micro_batch(&batch, &recipe, part, &Unwatched, &mut grads)
        .read();
    let want: f64 = golden.text("loss").parse().unwrap();
    assert_near(&format!("{name} loss"), sums.mean_ce(), want, 1e-5);
    for param in model.params().into_iter().filter(|p| p.info.trained) {
        let what = format!("{name} {}", param.info.name);
        let gradient = grads
            .get(param)
            .unwrap_or_else(|| panic!("{what}: no gradient"));
        let want = wanted_gradient(golden, &param.info.name);
        assert_gradient(&what, &floats(gradient.clone()), &want);
    }
    check_updates(tiny, &model);
}

/// HRM-Text's files have as one what transformers has in parts.
fn wanted_gradient(golden: &Golden, name: &str) -> Vec<f32> {
    let parts: &[&str] = match name {
        _ if name.contains("gqkv_proj") => &["gate", "q", "k", "v"],
        _ if name.contains("L_module") || name.contains("H_module") => match name {
            _ if name.contains("gate_up_proj") => &["gate", "up"],
            _ => &[],
        },
        _ => &[],
    };
    let module = |name: &str| match name.contains("_module") {
        true => name.replace(".attn.", ".self_attn."),
        false => name.to_string(),
    };
    if parts.is_empty() {
        return golden.floats(&format!("grad.{}", module(name)));
    }
    let part = |part: &&str| {
        let fused = ["gqkv_proj", "gate_up_proj"];
        let fused = fused.iter().find(|fused| name.contains(**fused)).unwrap();
        let name = name.replace(fused, &format!("{part}_proj"));
        golden.floats(&format!("grad.{}", module(&name)))
    };
    parts.iter().flat_map(part).collect()
}

fn check_updates<B: Ops>(tiny: &Tiny, model: &aios_models::decoder::Decoder<B>) {
    let (batch, recipe) = (tiny.batch(), Recipe::default());
    let mut optimizer = AdamW::<B>::new(model.params().len(), 0.0, 0.0);
    for (step, want) in tiny.golden.floats("adamw_losses").into_iter().enumerate() {
        let mut grads = model.gradients();
        let part = StepPart::whole(step as u64, &batch);
        let sums = model
            .micro_batch(&batch, &recipe, part, &Unwatched, &mut grads)
            .read();
        let what = format!("{} loss of step {}", tiny.name(), step + 1);
        // AdamW's first steps go by the gradient's sign, and HRM-Text runs its stacks eight times: rounding grows there.
        let tolerance = match tiny.name().contains("hrm_text") {
            true => 2e-3,
            false => 1e-3,
        };
        assert_near(&what, sums.mean_ce(), f64::from(want), tolerance);
        optimizer.step(model, grads, 1e-3, 1.0);
    }
}

/// HRM-Text's prompts, whose tokens see each other in both directions.
#[test]
fn prefixes_have_the_logits_of_transformers() {
    let (tiny, device) = (Tiny::named("hrm_text"), Default::default());
    let golden = Golden::open(&tiny.path.join("prefix.safetensors"));
    let (model, batch) = (tiny.on::<CpuBackend>(&device), tiny.batch());
    let lengths: Vec<usize> = golden.ints("prefix").iter().map(|&n| n as usize).collect();
    for path in [AttentionPath::Flash, AttentionPath::Sdpa] {
        let visible = Visible::prefix(&lengths, batch.seq, &device).unwrap();
        let execution = Execution {
            path,
            ..Recipe::default().execution
        };
        let logits = floats(model.logits(&batch, Some(visible), &execution));
        assert_close(
            &format!("{path:?}"),
            &logits,
            &golden.floats("logits"),
            1e-4,
        );
    }
}

/// One of each kind of block.
fn some() -> Folders {
    Folders(["llama", "qwen3", "gemma3", "gpt2"].map(Tiny::named).into())
}

#[test]
fn decoders_on_cpu() {
    on(&Selected::Cpu, Folders(all()));
}

#[test]
fn decoders_on_ndarray() {
    run_on(ndarray(), Folders(all()));
}

#[test]
fn decoders_on_wgpu() {
    run_on(wgpu(), some());
}

#[test]
fn decoders_on_cuda() {
    run_on(cuda(), some());
}
