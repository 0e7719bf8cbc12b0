//! A step gives the same update however it is split into micro-batches.

use crate::common::lab::{Lab, float_tensors};
use crate::common::{assert_close, relative_difference};
use aios_base::config::HaltReward;
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_engine::optimizer::AdamW;
use aios_models::actv1::{ActV1, ModelConfig, PosEncodings, Supervisor};
use aios_models::{Denominators, Recipe, StepPart};
use aios_nn::Visit;
use aios_nn::watch::Unwatched;
use aios_tensor::{CpuBackend, floats};

const SEQ: usize = 16;
const VOCABULARY: usize = 40;
const SEQUENCES: usize = 8;
const STEPS: u64 = 3;

fn model() -> ActV1<CpuBackend> {
    let shape = ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 32,
        num_heads: 2,
        expansion: 2.0,
        h_layers: 1,
        l_layers: 1,
        h_cycles: 2,
        l_cycles: 2,
        pos_encodings: PosEncodings::Rope,
        tie_embeddings: false,
        max_seq_len: SEQ,
        window_size: 0,
        causal: true,
    };
    ActV1::init(&shape, 3, &Default::default()).unwrap()
}

/// The sequences of a step, the first with one token to predict and the last with all of them.
fn sequence(step: u64, number: usize) -> (Vec<i32>, Vec<i32>) {
    let id = |i: usize| ((i * i * 3 + i * 7 + number * 11 + step as usize) % VOCABULARY) as i32;
    let mut labels: Vec<i32> = (1..=SEQ).map(id).collect();
    labels[(2 * number + 1).min(SEQ)..].fill(IGNORE);
    ((0..SEQ).map(id).collect(), labels)
}

fn micro_batches(step: u64, size: usize) -> Vec<MicroBatch> {
    let micro_batch = |first: usize| {
        let mut batch = MicroBatch {
            seq: SEQ,
            first_sequence: first as u64,
            ..MicroBatch::default()
        };
        for number in first..first + size {
            let (inputs, labels) = sequence(step, number);
            batch.inputs.extend(inputs);
            batch.labels.extend(labels);
        }
        batch
    };
    (0..SEQUENCES).step_by(size).map(micro_batch).collect()
}

/// What the losses are divided by.
#[derive(Clone, Copy, PartialEq)]
enum Mean {
    /// The step's tokens, as training does.
    OfTheStep,
    /// Each micro-batch's own, which weighs tokens of short sequences more.
    OfMeans,
}

/// Every parameter after a few steps in micro-batches of this size.
fn trained(size: usize, mean: Mean) -> Vec<(String, Vec<f32>)> {
    let model = model();
    let mut optimizer = AdamW::new(model.params().len(), 0.1, 1.0);
    // Explorers are drawn often, so that a draw that depended on the split would show.
    let recipe = Recipe {
        halt_max_steps: 2,
        reward: HaltReward::Accuracy,
        exploration: 0.5,
        ..Recipe::default()
    };
    for step in 1..=STEPS {
        let batches = micro_batches(step, size);
        let all: u64 = batches.iter().map(MicroBatch::valid_tokens).sum();
        let mut grads = model.gradients();
        for batch in &batches {
            let tokens = match mean {
                Mean::OfTheStep => all,
                Mean::OfMeans => batch.valid_tokens() * batches.len() as u64,
            };
            let supervisor = Supervisor {
                model: &model,
                recipe: &recipe,
                part: StepPart {
                    step,
                    denominators: Denominators {
                        tokens,
                        sequences: SEQUENCES as u64,
                    },
                    last: false,
                },
                watch: &Unwatched,
            };
            supervisor.run(batch, &mut grads);
        }
        let update = optimizer.step(&model, grads, 1e-3, 1.0);
        assert!(!update.skipped);
    }
    let params = model.params();
    params
        .iter()
        .map(|p| (p.info.name.clone(), floats(p.value())))
        .collect()
}

#[test]
fn ragged_documents_count_by_their_tokens() {
    let whole = trained(8, Mean::OfTheStep);
    for size in [4, 1] {
        let split = trained(size, Mean::OfTheStep);
        for ((name, a), (_, b)) in whole.iter().zip(&split) {
            assert_close(&format!("{name}, micro-batches of {size}"), b, a, 1e-5);
        }
    }
}

/// The test above means something: on this data a mean of means is another update.
#[test]
fn a_mean_of_means_would_differ() {
    let whole = trained(8, Mean::OfTheStep);
    let means = trained(1, Mean::OfMeans);
    let differences = whole.iter().zip(&means);
    let largest = differences
        .map(|((_, a), (_, b))| relative_difference(b, a))
        .fold(0.0, f32::max);
    assert!(largest > 1e-3, "{largest}");
}

#[test]
fn the_program_gives_the_same_weights_for_8x1_4x2_and_1x8() {
    let lab = Lab::new();
    let train = |name: &str, batch: usize| {
        let flags = format!(
            "--steps 4 --batch-size {batch} --gradient-accumulation-steps {}",
            8 / batch
        );
        lab.train(name, &flags);
        float_tensors(&lab.brain(name).join("model.safetensors"))
    };
    let whole = train("b8", 8);
    for (name, batch) in [("b4", 4), ("b1", 1)] {
        let split = train(name, batch);
        assert!(split.keys().eq(whole.keys()));
        for (tensor, values) in &whole {
            assert_close(&format!("{name} {tensor}"), &split[tensor], values, 1e-5);
        }
    }
}
