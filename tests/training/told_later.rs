//! Losses, answers and norms that stay on a device until a step is complete, against those that are read at once.

use crate::common::{assert_close, ndarray};
use aios_base::config::HaltReward;
use aios_base::execution::{Chunking, Execution, Place};
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_bundle::TensorSource;
use aios_device::Selected;
use aios_engine::{
    Denominators, Engine, LossSums, Recipe, Settings, StepPart, Unobserved, Update, Weights,
};
use aios_models::Model;
use aios_models::actv1::{ModelConfig, PosEncodings};
use aios_tensor::{AttentionPath, LossPath, Precision};

const SEQ: usize = 8;

fn engine(selected: &Selected) -> Box<dyn Engine> {
    let model = Model::ActV1(ModelConfig {
        vocab_size: 50,
        hidden_size: 32,
        num_heads: 2,
        expansion: 1.0,
        h_layers: 1,
        l_layers: 1,
        h_cycles: 1,
        l_cycles: 1,
        pos_encodings: PosEncodings::Rope,
        tie_embeddings: false,
        max_seq_len: SEQ,
        window_size: 0,
        causal: true,
    });
    let settings = Settings {
        weight_decay: 0.1,
        grad_clip: 1.0,
        ..Settings::fixed(&model, SEQ, Chunking::Off)
    };
    let device = aios_backends::open(selected).unwrap();
    device.model(&settings, Weights::Seed(1)).unwrap()
}

/// Three sequences, of which one ends early.
fn batch() -> MicroBatch {
    let mut number = 0;
    MicroBatch::of(3, SEQ, &mut |inputs, labels| {
        let at = |i: usize| (7 * number + 3 * i as i32) % 50;
        let end = if number == 1 { 5 } else { SEQ };
        inputs.extend((0..SEQ).map(at));
        labels.extend((0..SEQ).map(|i| if i < end { at(i + 1) } else { IGNORE }));
        number += 1;
        Vec::new()
    })
    .unwrap()
}

/// A step in micro-batches of two sequences and one.
fn step(engine: &mut dyn Engine, number: u64, loss_scale: f64) -> (LossSums, Update) {
    let batch = batch();
    let recipe = Recipe {
        halt_max_steps: 3,
        reward: HaltReward::Accuracy,
        exploration: 0.5,
        execution: Execution {
            chunking: Chunking::Off,
            place: Place::Device,
            path: AttentionPath::Sdpa,
            precision: Precision::F32,
        },
        // Slices of three tokens.
        loss_path: LossPath::Fused { slice_bytes: 600 },
        embedding_waits: true,
        loss_scale,
        seed: 3,
    };
    engine.prepare().unwrap();
    let mut left = batch.split(2).peekable();
    while let Some(own) = left.next() {
        let part = StepPart {
            step: number,
            denominators: Denominators::of(std::slice::from_ref(&batch)),
            last: left.peek().is_none(),
        };
        engine
            .micro_batch(&own, &recipe, part, &Unobserved)
            .unwrap();
    }
    let sums = engine.losses().unwrap();
    (sums, engine.update(1e-2, loss_scale).unwrap())
}

fn weights(engine: &dyn Engine) -> Vec<(String, Vec<f32>)> {
    let of = |source: TensorSource| {
        let bytes = (source.fetch)().unwrap();
        let floats = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
        (source.name, floats.collect())
    };
    engine.weights().into_iter().map(of).collect()
}

#[test]
fn steps_told_later_are_those_told_at_once() {
    let Some(selection) = ndarray() else { return };
    let mut later = engine(&selection.adapter.selected);
    let mut at_once = engine(&Selected::Cpu);
    for number in 1..=4 {
        let (got, got_update) = step(&mut *later, number, 4.0);
        let (want, want_update) = step(&mut *at_once, number, 4.0);
        let counts = |s: &LossSums| [s.tokens, s.segments, s.halt_count, s.go_on_count];
        assert_eq!(counts(&got), counts(&want), "step {number}");
        let numbers = |s: &LossSums, u: &Update| {
            [s.ce, s.halt, s.go_on, u.grad_norm].map(|number| number as f32)
        };
        let [got, want] = [numbers(&got, &got_update), numbers(&want, &want_update)];
        assert_close(&format!("sums of step {number}"), &got, &want, 1e-4);
        assert!(!got_update.skipped && !want_update.skipped);
    }
    for ((name, got), (_, want)) in weights(&*later).iter().zip(&weights(&*at_once)) {
        assert_close(name, got, want, 1e-3);
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_where_it_is_told_later() {
    let Some(selection) = ndarray() else { return };
    let mut engine = engine(&selection.adapter.selected);
    step(&mut *engine, 1, 1.0);
    let (before, updates) = (weights(&*engine), engine.updates());
    let (sums, update) = step(&mut *engine, 2, f64::INFINITY);
    assert!(update.skipped && sums.ce.is_finite());
    assert!(before == weights(&*engine) && updates == engine.updates());
    // Nothing of the step is left.
    let (_, update) = step(&mut *engine, 3, 1.0);
    assert!(!update.skipped && update.grad_norm.is_finite());
}
