//! Rotary tables that change with the length: reading in parts gives what reading at once gives.

use super::Tiny;
use crate::common::assert_close;
use aios_base::execution::{Chunking, Execution, Place};
use aios_models::decoder::{Decoder, HfModel};
use aios_models::{Objective, Reading};
use aios_tensor::{AttentionPath, CpuBackend, Ops, Precision, floats};
use serde_json::{Value, json};

type Model = Decoder<CpuBackend>;

/// Phi-3's golden model with such rotary embeddings, made for 8 tokens.
fn phi3(described: Value) -> Model {
    let tiny = Tiny::named("phi3");
    let mut config = tiny.model().config().clone();
    config["rope_scaling"] = described;
    config["original_max_position_embeddings"] = json!(8);
    let model = HfModel::new(config, 32, 0).unwrap();
    tiny.built(&model, &Default::default())
}

fn longrope() -> Model {
    let factors = |first: f64| [first, 1.5, 2.0, 3.0];
    phi3(json!({"type": "longrope", "short_factor": factors(1.0), "long_factor": factors(4.0)}))
}

const READING: Reading = Reading {
    segments: 1,
    execution: Execution {
        chunking: Chunking::Off,
        place: Place::Device,
        path: AttentionPath::Flash,
        precision: Precision::F32,
    },
};

const IDS: [i32; 12] = [3, 14, 15, 92, 65, 35, 89, 79, 32, 38, 46, 26];

fn head(model: &Model, states: burn::tensor::Tensor<CpuBackend, 2>) -> Vec<f32> {
    let last = states.dims()[0] - 1;
    let states = states.narrow(0, last, 1);
    floats(CpuBackend::linear_forward(&states, &model.head().value()))
}

/// Logits after a sequence that is read at once.
fn at_once(model: &Model, ids: &[i32]) -> Vec<f32> {
    let mut reader = model.reader(&READING);
    reader.expect(ids.len());
    head(model, reader.read(ids, true))
}

#[test]
fn longrope_turns_all_keys_anew_where_its_table_changes() {
    let model = longrope();
    let mut reader = model.reader(&READING);
    for length in 5..=IDS.len() {
        reader.expect(length);
        // As after a prompt of 5 tokens; at 9 tokens all are read again.
        let unread = reader.position();
        assert_eq!(unread == 0, [5, 9].contains(&length), "{length}");
        let logits = head(&model, reader.read(&IDS[unread..length], false));
        let want = at_once(&model, &IDS[..length]);
        assert_close(&format!("{length} tokens"), &logits, &want, 1e-5);
    }
}

#[test]
fn a_prompt_read_in_parts_has_one_table() {
    let model = longrope();
    let mut reader = model.reader(&READING);
    reader.expect(IDS.len());
    reader.read(&IDS[..6], false);
    let logits = head(&model, reader.read(&IDS[6..], false));
    assert_close("in parts", &logits, &at_once(&model, &IDS), 1e-5);
}

/// Whatever length the model is made for.
#[test]
fn dynamic_tables_go_by_the_length_at_hand() {
    let tiny = Tiny::named("llama");
    let mut config = tiny.model().config().clone();
    config["rope_scaling"] = json!({"type": "dynamic", "factor": 4.0});
    config["max_position_embeddings"] = json!(8);
    let of = |positions: usize, ids: &[i32]| {
        let model = HfModel::new(config.clone(), positions, 0).unwrap();
        at_once(&tiny.built(&model, &Default::default()), ids)
    };
    for length in [6, 8, 9, 12] {
        let ids = &IDS[..length];
        assert_close("logits", &of(length, ids), &of(30, ids), 1e-6);
    }
    let mut without = config.clone();
    without["rope_scaling"] = Value::Null;
    let model = HfModel::new(without, 30, 0).unwrap();
    let plain: Model = tiny.built(&model, &Default::default());
    assert_close(
        "short",
        &of(30, &IDS[..8]),
        &at_once(&plain, &IDS[..8]),
        1e-6,
    );
}
