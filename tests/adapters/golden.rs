//! Logits, loss, gradients, updates and merged weights of each adapter.

use super::{Adapter, all};
use crate::common::{DeviceJob, assert_close, cuda, ndarray, on, run_on, wgpu};
use crate::decoders::features::assert_unchanged;
use crate::decoders::{assert_gradient, assert_near};
use aios_adapters::{Frozen, names};
use aios_base::storage::{Quantize, Storage};
use aios_device::Selected;
use aios_engine::optimizer::AdamW;
use aios_hf::{Folder, TensorFile};
use aios_models::{Objective, Recipe, StepPart};
use aios_nn::Visit;
use aios_nn::watch::Unwatched;
use aios_tensor::{Ops, floats};
use aios_train::merge;

/// Compare with PEFT.
struct Adapters(Vec<Adapter>);

impl DeviceJob for Adapters {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for adapter in &self.0 {
            check::<B>(adapter, &device);
        }
    }
}

fn check<B: Ops>(adapter: &Adapter, device: &B::Device) {
    let name = adapter.path.display().to_string();
    let (batch, golden) = (adapter.batch(), &adapter.golden);
    let model = adapter.on::<B>(&adapter.model(Frozen::default()), device);
    let recipe = Recipe::default();
    let logits = floats(model.logits(&batch, None, &recipe.execution));
    let want = golden.floats("logits");
    assert_close(&format!("{name} logits"), &logits, &want, 1e-4);

    let mut grads = model.gradients();
    let part = StepPart::whole(1, &batch);
    let sums = model
        .micro_batch(&batch, &recipe, part, &Unwatched, &mut grads)
        .read();
    let want: f64 = golden.text("loss").parse().unwrap();
    assert_near(&format!("{name} loss"), sums.mean_ce(), want, 1e-5);
    for param in model.params() {
        let what = format!("{name} {}", param.info.name);
        match (param.info.trained, grads.get(param)) {
            (true, Some(gradient)) => {
                let want = golden.floats(&format!("grad.{}", names::in_file(&param.info.name)));
                assert_gradient(&what, &floats(gradient.clone()), &want);
            }
            (trained, gradient) => assert!(!trained && gradient.is_none(), "{what}"),
        }
    }

    let mut optimizer = AdamW::<B>::new(model.params().len(), 0.0, 0.0);
    for (step, want) in golden.floats("adamw_losses").into_iter().enumerate() {
        let mut grads = model.gradients();
        let part = StepPart::whole(step as u64, &batch);
        let sums = model
            .micro_batch(&batch, &recipe, part, &Unwatched, &mut grads)
            .read();
        let what = format!("{name} loss of step {}", step + 1);
        assert_near(&what, sums.mean_ce(), f64::from(want), 1e-3);
        optimizer.step(&model, grads, 1e-2, 1.0);
    }
}

#[test]
fn adapters_on_cpu() {
    on(&Selected::Cpu, Adapters(all()));
}

#[test]
fn adapters_on_ndarray() {
    run_on(ndarray(), Adapters(all()));
}

/// A layer of each kind: on software Vulkan all of them take minutes.
#[test]
fn adapters_on_wgpu() {
    let few = [("a", "lora_llama"), ("b", "dora_gpt2")];
    run_on(
        wgpu(),
        Adapters(few.map(|(set, name)| Adapter::open(set, name)).into()),
    );
}

#[test]
fn adapters_on_cuda() {
    run_on(cuda(), Adapters(all()));
}

#[test]
fn memory_features_change_neither_loss_nor_gradients_of_adapters() {
    for (set, name, quantize) in [
        ("a", "lora_gpt2", None),
        ("b", "dora_llama", Some(Quantize::Nf4)),
        ("b", "whole_llama", None),
        ("a", "lora_hrm_text", Some(Quantize::Q8_0)),
    ] {
        let adapter = Adapter::open(set, name);
        let storage = Storage::Bf16;
        let model = adapter.model(Frozen::new(storage, quantize));
        let mut model = adapter.on(&model, &Default::default());
        assert_unchanged(name, &mut model, &adapter.batch());
    }
}

#[test]
fn merged_weights_are_those_of_peft() {
    for adapter in all() {
        let dir = tempfile::tempdir().unwrap();
        let output = dir.path().join("merged");
        let folder = Folder::open(&adapter.base.path).unwrap();
        merge::write(&folder, &adapter.path, &output).unwrap();
        let merged = TensorFile::open(&output.join("model.safetensors")).unwrap();
        let before = TensorFile::open(&adapter.base.path.join("model.safetensors")).unwrap();
        assert_eq!(merged.names().len(), before.names().len());
        let mut changed = 0;
        for name in merged.names() {
            let found = adapter.golden.has(&format!("merged.{name}"));
            if found {
                let want = adapter.golden.floats(&format!("merged.{name}"));
                let got = merged.read_f32(&name).unwrap();
                assert_close(&name, &got, &want, 2e-6);
                changed += usize::from(got != before.read_f32(&name).unwrap());
            }
        }
        assert!(changed > 0, "{}", adapter.path.display());
        assert_eq!(
            Folder::open(&output).unwrap().config(),
            folder.config(),
            "{}",
            adapter.path.display()
        );
    }
}
