//! Documents that are packed into one sequence: the losses and gradients of each alone.

use super::features::{Form, Model, step, step_of};
use super::{Tiny, assert_near};
use crate::common::relative_difference;
use aios_base::execution::Chunking;
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_memory::Decoration;
use aios_memory::checkpoint::Keep;
use aios_models::decoder::HfModel;
use aios_tensor::AttentionPath;
use serde_json::json;

/// Learned positions, windows, rotary tables, grouped heads, tables that change with the length, cycles.
const NAMES: [&str; 5] = ["llama", "gemma3", "gpt2", "phi3", "hrm_text"];

/// Documents of these lengths out of the golden data, the last token of each without a label.
fn documents(tiny: &Tiny, lengths: &[usize]) -> Vec<(Vec<i32>, Vec<i32>)> {
    let batch = tiny.batch();
    let mut at = 0;
    let documents = lengths.iter().map(|&length| {
        let inputs = batch.inputs[at..at + length].to_vec();
        let mut labels = batch.labels[at..at + length].to_vec();
        labels[length - 1] = IGNORE;
        at += length;
        (inputs, labels)
    });
    documents.collect()
}

/// Sequences of so many of the documents each, side by side.
fn packed(documents: &[(Vec<i32>, Vec<i32>)], together: &[usize]) -> MicroBatch {
    let mut left = documents.iter();
    let mut groups = together.iter();
    let batch = MicroBatch::of(together.len(), 64, &mut |inputs, labels| {
        let start = inputs.len();
        let group = left.by_ref().take(*groups.next().unwrap());
        let ends = group.map(|(own_inputs, own_labels)| {
            inputs.extend(own_inputs);
            labels.extend(own_labels);
            inputs.len() - start
        });
        ends.collect()
    });
    batch.unwrap()
}

fn forms() -> Vec<Form> {
    let flash = Form {
        path: AttentionPath::Flash,
        ..Form::PLAIN
    };
    let kept = Decoration {
        keep: Keep::EACH_INPUT,
        ..Form::PLAIN.decoration
    };
    vec![
        Form::PLAIN,
        flash,
        Form {
            decoration: kept,
            size: 1,
            ..flash
        },
        Form::chunked(Chunking::Exact { size: 9 }),
    ]
}

/// Compares losses and gradients of documents that are packed with those of each by itself, unpadded.
fn compare(name: &str, tiny: &Tiny, mut model: Model) {
    let documents = documents(tiny, &[11, 1, 5, 9, 7, 2]);
    let alone: Vec<MicroBatch> = documents
        .iter()
        .map(|document| packed(std::slice::from_ref(document), &[1]))
        .collect();
    let (loss, grads) = step_of(&mut model, alone, &Form::PLAIN);
    let batch = packed(&documents, &[3, 2, 1]);
    assert!(batch.is_packed());
    for form in forms() {
        let what = format!("{name} {form:?}");
        let (own, found) = step(&mut model, &batch, &form);
        assert_near(&what, own, loss, 1e-5);
        for (found, want) in found.iter().zip(&grads) {
            let off = relative_difference(found, want);
            assert!(off <= 2e-5, "{what}: a gradient is off by {off:e}");
        }
    }
}

#[test]
fn packed_documents_have_the_losses_and_gradients_of_each_alone() {
    for name in NAMES {
        let tiny = Tiny::named(name);
        let model = tiny.on(&Default::default());
        compare(name, &tiny, model);
    }
}

/// Documents on both sides of a length at which the frequencies change.
#[test]
fn packed_documents_have_the_rotary_tables_of_their_lengths() {
    let tiny = Tiny::named("phi3");
    let mut config = tiny.model().config().clone();
    let pairs = config["hidden_size"].as_u64().unwrap()
        / config["num_attention_heads"].as_u64().unwrap()
        / 2;
    let share = config["partial_rotary_factor"].as_f64().unwrap_or(1.0);
    let pairs = (pairs as f64 * share) as usize;
    config["original_max_position_embeddings"] = json!(8);
    config["rope_scaling"] = json!({
        "type": "longrope", "short_factor": vec![1.0; pairs], "long_factor": vec![3.0; pairs],
    });
    let model = HfModel::new(config, tiny.batch().seq, 0).unwrap();
    let model = tiny.built(&model, &Default::default());
    compare("phi3, longrope", &tiny, model);
}
