//! Weights in few bits.

use super::Adapter;
use crate::common::{DeviceJob, Golden, assert_close, ndarray, on, root, run_on, wgpu};
use aios_adapters::Frozen;
use aios_base::storage::{Quantize, Storage};
use aios_device::Selected;
use aios_kernels::nf4;
use aios_models::{Objective, Recipe, StepPart};
use aios_nn::Visit;
use aios_nn::watch::Unwatched;
use aios_tensor::{CpuBackend, Ops, Stored, floats};
use burn::tensor::DType;

const NAMES: [&str; 4] = ["square", "wide", "ragged", "outlier"];

fn golden() -> Golden {
    Golden::open(&root().join("tests/golden/adapters/a/nf4.safetensors"))
}

#[test]
fn nf4_has_the_bytes_of_bitsandbytes() {
    let golden = golden();
    let codes: Vec<f32> = serde_json::from_str(golden.text("code")).unwrap();
    assert_eq!(codes, nf4::CODES);
    for name in NAMES {
        let values = golden.floats(name);
        let found = nf4::quantize(&values);
        let mut bytes: Vec<u8> = found.codes.iter().flat_map(|w| w.to_le_bytes()).collect();
        bytes.truncate(values.len().div_ceil(2));
        let want = |part: &str| format!("{name}.{part}");
        assert!(bytes == golden.bytes(&want("packed")), "{name} packed");
        assert!(
            found.absmax == golden.bytes(&want("absmax_u8")),
            "{name} absmax"
        );
        assert_eq!(
            found.nested,
            golden.floats(&want("nested_absmax")),
            "{name}"
        );
        assert_eq!([found.offset][..], golden.floats(&want("offset")), "{name}");
    }
}

/// Decode what bitsandbytes decodes.
struct Decoded;

impl DeviceJob for Decoded {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        let golden = golden();
        for name in NAMES {
            let values = golden.floats(name);
            let dims = [1, values.len()];
            let stored = Stored::<B>::of(&values, dims, Storage::Nf4, &device).unwrap();
            let want = golden.floats(&format!("{name}.dequantized"));
            assert_eq!(floats(stored.dense()), want, "{name}");
        }
    }
}

#[test]
fn nf4_has_the_values_of_bitsandbytes_on_cpu() {
    on(&Selected::Cpu, Decoded);
}

#[test]
fn nf4_has_the_values_of_bitsandbytes_on_ndarray() {
    run_on(ndarray(), Decoded);
}

/// Loss and gradients with the model held in some way.
fn step<B: Ops>(adapter: &Adapter, frozen: Frozen, device: &B::Device) -> (f64, Vec<Vec<f32>>) {
    let model = adapter.on::<B>(&adapter.model(frozen), device);
    let batch = adapter.batch();
    let mut grads = model.gradients();
    let part = StepPart::whole(1, &batch);
    let sums = model
        .micro_batch(&batch, &Recipe::default(), part, &Unwatched, &mut grads)
        .read();
    let trained = model.params().into_iter().filter(|p| p.info.trained);
    let grads = trained.map(|p| floats(grads.get(p).unwrap().clone()));
    (sums.mean_ce(), grads.collect())
}

fn held(storage: Storage, quantize: Option<Quantize>) -> Frozen {
    Frozen::new(storage, quantize)
}

/// The same model, with each weight rounded as it is held, in f32.
fn rounded<B: Ops>(adapter: &Adapter, frozen: Frozen, device: &B::Device) -> (f64, Vec<Vec<f32>>) {
    let short = adapter.on::<CpuBackend>(&adapter.model(frozen), &Default::default());
    let wide = adapter.on::<B>(&adapter.model(Frozen::default()), device);
    for (param, short) in wide.params().into_iter().zip(short.params()) {
        let value = burn::tensor::TensorData::new(floats(short.value()), short.dims());
        let value = burn::tensor::Tensor::from_data(value, device);
        param.change(|_| (value, ()));
    }
    let batch = adapter.batch();
    let mut grads = wide.gradients();
    let part = StepPart::whole(1, &batch);
    let sums = wide
        .micro_batch(&batch, &Recipe::default(), part, &Unwatched, &mut grads)
        .read();
    let trained = wide.params().into_iter().filter(|p| p.info.trained);
    let grads = trained.map(|p| floats(grads.get(p).unwrap().clone()));
    (sums.mean_ce(), grads.collect())
}

struct Held;

impl DeviceJob for Held {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for name in ["lora_llama", "lora_gpt2", "lora_phi3"] {
            let adapter = Adapter::open("a", name);
            for frozen in [
                held(Storage::Bf16, None),
                held(Storage::F16, None),
                held(Storage::Bf16, Some(Quantize::Nf4)),
                held(Storage::F32, Some(Quantize::Q8_0)),
            ] {
                let what = format!("{name} {frozen:?}");
                let (want, wanted) = rounded::<B>(&adapter, frozen.clone(), &device);
                let (loss, grads) = step::<B>(&adapter, frozen, &device);
                assert!((loss - want).abs() < 1e-6, "{what}: {loss} {want}");
                for (got, want) in grads.iter().zip(&wanted) {
                    assert_close(&what, got, want, 1e-6);
                }
            }
        }
    }
}

#[test]
fn a_model_computes_with_what_its_weights_are_rounded_to_on_cpu() {
    on(&Selected::Cpu, Held);
}

#[test]
fn a_model_computes_with_what_its_weights_are_rounded_to_on_ndarray() {
    run_on(ndarray(), Held);
}

/// What the files have in 16 bits takes no more on a device, whether or not it has such a format.
struct HeldInHalves;

impl DeviceJob for HeldInHalves {
    type Output = ();

    fn run<B: Ops>(self, device: B::Device) {
        for name in ["lora_llama", "lora_gpt2"] {
            let adapter = Adapter::open("a", name);
            for storage in [Storage::Bf16, Storage::F16] {
                let frozen = held(storage, None);
                let what = format!("{name} {storage:?}");
                let model = adapter.on::<B>(&adapter.model(frozen.clone()), &device);
                let matrices = model
                    .params()
                    .into_iter()
                    .filter(|p| p.info.shape.len() > 1);
                for param in matrices.filter(|p| !p.info.trained) {
                    let in_halves = param.is_stored() || param.dtype() != DType::F32;
                    assert!(in_halves, "{what}: {}", param.info.name);
                }
                let (want, wanted) = rounded::<B>(&adapter, frozen.clone(), &device);
                let (loss, grads) = step::<B>(&adapter, frozen, &device);
                assert!((loss - want).abs() < 1e-5, "{what}: {loss} {want}");
                for (got, want) in grads.iter().zip(&wanted) {
                    assert_close(&what, got, want, 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_model_in_16_bits_takes_no_more_on_wgpu() {
    run_on(wgpu(), HeldInHalves);
}

#[test]
fn eight_bits_are_near_and_four_are_not_far() {
    let adapter = Adapter::open("a", "lora_llama");
    let device = Default::default();
    let (want, _) = step::<CpuBackend>(&adapter, Frozen::default(), &device);
    for (quantize, bound) in [(Quantize::Q8_0, 1e-2), (Quantize::Nf4, 0.1)] {
        let frozen = held(Storage::F32, Some(quantize));
        let (loss, _) = step::<CpuBackend>(&adapter, frozen, &device);
        assert!((loss - want).abs() < bound, "{quantize:?}: {loss} {want}");
        assert_ne!(loss, want);
    }
}
