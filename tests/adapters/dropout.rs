//! Dropout of adapters: the same however a step is computed, and only in training.

use super::Adapter;
use super::runs::{assert_adapter_resumes, finetune, loss};
use crate::common::lab::Lab;
use crate::decoders::features::{Form, assert_unchanged, step};
use crate::decoders::{folder, write_rows};
use aios_adapters::Frozen;
use aios_memory::checkpoint::Keep;
use aios_models::decoder::{Adapted, Decoder};
use aios_tensor::CpuBackend;
use serde_json::{Value, json};

/// A golden adapter of which a share is dropped.
fn dropping(set: &str, name: &str, dropout: f64) -> (Adapter, Decoder<CpuBackend>) {
    let adapter = Adapter::open(set, name);
    let model = adapter.model(Frozen::default());
    let mut adapted: Adapted = model.adapted().unwrap().clone();
    adapted.lora.dropout = dropout;
    let model = adapter.base.model().with_adapter(adapted).unwrap();
    let decoder = adapter.on(&model, &Default::default());
    (adapter, decoder)
}

#[test]
fn what_is_dropped_does_not_depend_on_how_a_step_is_divided() {
    for (set, name) in [
        ("a", "lora_llama"),
        ("b", "dora_gpt2"),
        ("a", "lora_hrm_text"),
    ] {
        let (adapter, mut model) = dropping(set, name, 0.3);
        assert_unchanged(name, &mut model, &adapter.batch());
    }
}

#[test]
fn what_is_computed_again_is_dropped_again_bit_for_bit() {
    let (adapter, mut model) = dropping("a", "lora_llama", 0.3);
    let batch = adapter.batch();
    let kept = step(&mut model, &batch, &Form::PLAIN);
    for keep in [Keep::EACH_INPUT, Keep::Inputs { every: 2 }] {
        let mut form = Form::PLAIN;
        form.decoration.keep = keep;
        assert!(step(&mut model, &batch, &form) == kept, "{keep:?}");
    }
}

#[test]
fn dropping_nothing_changes_no_bit_and_dropping_something_does() {
    let of = |dropout| {
        let (adapter, mut model) = dropping("b", "dora_gpt2", dropout);
        step(&mut model, &adapter.batch(), &Form::PLAIN)
    };
    let adapter = Adapter::open("b", "dora_gpt2");
    let mut plain = adapter.on(&adapter.model(Frozen::default()), &Default::default());
    let plain = step(&mut plain, &adapter.batch(), &Form::PLAIN);
    assert!(of(0.0) == plain);
    assert!(of(0.1) != plain);
}

#[test]
fn a_resumed_run_drops_what_the_uninterrupted_one_does() {
    for (name, flags) in [
        ("lora_llama", "--lora-rank 4 --lora-dropout 0.3"),
        (
            "lora_gpt2",
            "--lora-rank 3 --dora --lora-dropout 0.1 --batch-size 1",
        ),
    ] {
        assert_adapter_resumes(name, flags);
    }
}

#[test]
fn dropout_is_written_and_gone_on_with() {
    let lab = Lab::new();
    write_rows(&lab, &Adapter::open("a", "lora_llama").golden);
    let said = |brain: &str| -> Value {
        let text = std::fs::read(lab.brain(brain).join("adapter_config.json")).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["lora_dropout"].clone()
    };
    finetune(
        &lab,
        "llama",
        "a",
        "--lora-rank 4 --lora-dropout 0.25 --steps 2",
    );
    assert_eq!(said("a"), json!(0.25));
    finetune(&lab, "llama", "b", "--adapter brains/a --steps 2");
    assert_eq!(said("b"), json!(0.25));
    let explicit = "--adapter brains/a --lora-dropout 0.25 --steps 2";
    let explicit = finetune(&lab, "llama", "c", explicit).steps("loss");
    assert_eq!(explicit, lab.events("b").steps("loss"));
    finetune(
        &lab,
        "llama",
        "d",
        "--adapter brains/a --lora-dropout 0 --steps 2",
    );
    assert_eq!(said("d"), json!(0));
    assert_ne!(explicit, lab.events("d").steps("loss"));
    // Scores are the same bits, whatever was dropped in training.
    let dropping = loss(&lab, "brains/a");
    let text = std::fs::read_to_string(lab.brain("a").join("adapter_config.json")).unwrap();
    let copy = lab.path("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("adapter_config.json"), text.replace("0.25", "0")).unwrap();
    let file = "adapter_model.safetensors";
    std::fs::copy(lab.brain("a").join(file), copy.join(file)).unwrap();
    let base = folder("llama");
    let applied = format!("--model {} --adapter copy", base.display());
    assert_eq!(dropping, loss(&lab, &applied));
}
