//! A frozen model costs no gradient and no state, and takes what its format takes.

use super::Adapter;
use aios_adapters::Frozen;
use aios_base::config::{DeviceChoice, TrainConfig};
use aios_base::meter;
use aios_base::storage::{Quantize, Storage};
use aios_device::select;
use aios_engine::optimizer::AdamW;
use aios_models::decoder::{Adapted, Decoder, HfModel};
use aios_models::{Architecture, Model, Objective, Recipe, StepPart};
use aios_nn::watch::Unwatched;
use aios_nn::{Init, ParamInfo, Visit};
use aios_plan::Plan;
use aios_tensor::CpuBackend;
use aios_train::recipe::checkpoint_bytes;

#[test]
fn a_frozen_model_has_neither_gradients_nor_state() {
    let adapter = Adapter::open("a", "lora_llama");
    let device = Default::default();
    let model = adapter.on::<CpuBackend>(&adapter.model(Frozen::default()), &device);
    let batch = adapter.batch();
    let mut grads = model.gradients();
    let part = StepPart::whole(1, &batch);
    model.micro_batch(&batch, &Recipe::default(), part, &Unwatched, &mut grads);
    let mut optimizer = AdamW::<CpuBackend>::new(model.params().len(), 0.0, 0.0);
    optimizer.step(&model, grads, 1e-2, 1.0);
    let trained = adapter.model(Frozen::default()).trained() as u64;
    assert_eq!(optimizer.state_bytes(), 8 * trained);
}

#[test]
fn a_save_takes_the_adapter_alone() {
    let adapter = Adapter::open("a", "lora_llama");
    let model = adapter.model(Frozen::default());
    let trained = model.trained() as u64;
    let device = select(&DeviceChoice::Cpu).unwrap().adapter;
    let plan = Plan::new(&TrainConfig::default(), &device, model.attention()).unwrap();
    assert_eq!(
        checkpoint_bytes(&plan, &Model::Decoder(model)),
        12 * trained
    );
}

/// A model that is large enough to see on the meter.
fn wide(frozen: Frozen) -> HfModel {
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": 300, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": false,
    });
    let lora = Adapter::open("a", "lora_llama");
    let lora = lora
        .model(Frozen::default())
        .adapted()
        .unwrap()
        .lora
        .clone();
    let model = HfModel::new(json, 16, 0).unwrap();
    model.with_adapter(Adapted { lora, frozen }).unwrap()
}

#[test]
fn a_frozen_weight_takes_what_its_format_takes() {
    let of = |storage, quantize| {
        let model = wide(Frozen::new(storage, quantize));
        let source = &mut |info: &ParamInfo, _: Init| {
            Ok((0..info.elements())
                .map(|i| (i as f32).sin())
                .collect::<Vec<_>>()
                .into())
        };
        let mut build = || Decoder::<CpuBackend>::build(&model, 16, &Default::default(), source);
        // What is made once stays.
        drop(build());
        let before = meter::live_bytes();
        let built = build().unwrap();
        let taken = meter::live_bytes() - before;
        drop(built);
        let said = 4 * model.trained() as u64 + model.fixed_bytes(true);
        // Names, shapes and what a tensor is beside its numbers.
        assert!(
            taken.abs_diff(said) < said / 50 + (60 << 10),
            "{storage:?} {quantize:?}: {taken}, said {said}"
        );
        taken
    };
    let f32 = of(Storage::F32, None);
    let bf16 = of(Storage::Bf16, None);
    let nf4 = of(Storage::Bf16, Some(Quantize::Nf4));
    assert!(10 * bf16 < 6 * f32, "{bf16} {f32}");
    assert!(10 * nf4 < 4 * bf16, "{nf4} {bf16}");
}
