//! The heap meter against the prediction, and what gradient checkpointing saves. On the CPU every
//! tensor is on the heap, so these figures are exact.

use aios::backend::CpuBackend;
use aios::config::{HaltReward, TrainConfig};
use aios::memory::checkpoint::Keep;
use aios::memory::estimate::{Estimate, Run};
use aios::memory::meter::{live_bytes, peak_bytes, reset_peak};
use aios::memory::moments::Moments;
use aios::model::{ActV1, ModelConfig};
use aios::ops::{AttentionPath, CPU_SLICE_BYTES};
use aios::train::optimizer::AdamW;
use aios::train::setup::model_config;
use aios::train::supervision::{Denominators, MicroBatch, Recipe, Supervisor};

const BATCH: usize = 4;
const SEQ: usize = 128;
const EIGHT_BIT: Moments = Moments::EightBit {
    f32_embedding: false,
};

fn model() -> ModelConfig {
    let config = TrainConfig {
        hidden_size: 128,
        num_heads: 2,
        max_seq_len: SEQ,
        ..TrainConfig::default()
    };
    model_config(&config, 1000)
}

fn estimate(model: &ModelConfig, keep: Keep, moments: Moments) -> Estimate {
    Run {
        model,
        batch_size: BATCH,
        seq_len: SEQ,
        accumulation: 1,
        halt_max_steps: 2,
        keep,
        path: AttentionPath::Flash,
        moments,
        slice_bytes: CPU_SLICE_BYTES,
        slice_buffers: 1,
    }
    .estimate()
}

/// Bytes at the peak of a step, once the optimizer has its state.
fn measure(shape: &ModelConfig, keep: Keep, moments: Moments) -> u64 {
    let before = live_bytes();
    let device = Default::default();
    let mut model = ActV1::<CpuBackend>::init(shape, 0, &device).unwrap();
    let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0).with_moments(moments);
    let tokens = BATCH * SEQ;
    let ids: Vec<i32> = (0..=tokens as i32).map(|i| i * 37 % 1000).collect();
    let batch = MicroBatch {
        inputs: ids[..tokens].to_vec(),
        labels: ids[1..].to_vec(),
        seq: SEQ,
        first_sequence: 0,
    };
    let recipe = Recipe {
        halt_max_steps: 2,
        reward: HaltReward::Accuracy,
        exploration: 1.0,
        keep,
        path: AttentionPath::Flash,
        seed: 0,
    };
    for step in 1..=2 {
        reset_peak();
        let mut grads = model.gradients();
        let supervisor = Supervisor {
            model: &model,
            recipe: &recipe,
            denominators: Denominators::of(std::slice::from_ref(&batch)),
            step,
        };
        supervisor.run(&batch, &mut grads);
        optimizer.step(&mut model, grads, 1e-4);
    }
    peak_bytes() - before
}

#[test]
fn prediction_is_within_a_tenth_of_the_measured_peak() {
    let shape = model();
    for (keep, moments) in [
        (Keep::Everything, Moments::F32),
        (Keep::Inputs, Moments::F32),
        (Keep::Inputs, EIGHT_BIT),
    ] {
        let predicted = estimate(&shape, keep, moments).total;
        let measured = measure(&shape, keep, moments);
        let ratio = predicted as f64 / measured as f64;
        assert!(
            (0.9..1.1).contains(&ratio),
            "{keep:?}, {moments:?}: {predicted} predicted, {measured} measured"
        );
    }
}

#[test]
fn checkpointing_lowers_the_peak_by_what_the_tapes_kept() {
    let shape = model();
    let fixed = 16 * shape.parameters() as u64;
    let activations = |keep| measure(&shape, keep, Moments::F32).saturating_sub(fixed);
    let (all, inputs) = (activations(Keep::Everything), activations(Keep::Inputs));
    assert!(
        inputs * 10 < all * 6,
        "{inputs} bytes with checkpointing, {all} without"
    );
}

#[test]
fn state_in_8_bits_lowers_the_peak_by_what_it_saves() {
    let shape = model();
    let peak = |moments| measure(&shape, Keep::Inputs, moments);
    let saved = peak(Moments::F32) - peak(EIGHT_BIT);
    let promised = Moments::F32.state_bytes(&shape) - EIGHT_BIT.state_bytes(&shape);
    assert!(
        saved * 100 >= promised * 95,
        "{saved} bytes saved, {promised} promised"
    );
}
