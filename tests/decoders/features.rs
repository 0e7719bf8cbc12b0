//! Every memory feature on decoders: the same losses and gradients as plain.

use super::{Tiny, assert_near};
use crate::common::relative_difference;
use aios_base::execution::{Chunking, Execution, Place, Precision};
use aios_base::micro_batch::MicroBatch;
use aios_memory::Decoration;
use aios_memory::checkpoint::Keep;
use aios_models::decoder::{Decoder, HfModel};
use aios_models::{Denominators, Objective, Recipe, StepPart};
use aios_nn::watch::Unwatched;
use aios_nn::{Gradients, Visit};
use aios_tensor::{AttentionPath, CpuBackend, LossPath, floats};

pub(crate) type Model = Decoder<CpuBackend>;

const NAMES: [&str; 4] = ["llama", "gemma3", "gpt2", "hrm_text"];

const PLAIN: Decoration = Decoration {
    keep: Keep::Everything,
    chunking: Chunking::Off,
    place: Place::Device,
    bf16_inputs: false,
};

/// Loss and gradients of the golden data, in micro-batches of so many sequences.
pub(crate) fn step(model: &mut Model, batch: &MicroBatch, form: &Form) -> (f64, Vec<Vec<f32>>) {
    step_of(model, batch.split(form.size).collect(), form)
}

/// The same of these micro-batches.
pub(crate) fn step_of(
    model: &mut Model,
    parts: Vec<MicroBatch>,
    form: &Form,
) -> (f64, Vec<Vec<f32>>) {
    let decoration = form.decoration;
    model.decorate(&|blocks| decoration.around(blocks));
    let recipe = Recipe {
        loss_path: form.loss,
        embedding_waits: parts.len() > 1,
        execution: Execution {
            chunking: decoration.chunking,
            path: form.path,
            precision: form.precision,
            ..Recipe::default().execution
        },
        ..Recipe::default()
    };
    let denominators = Denominators::of(&parts);
    let mut grads: Gradients<CpuBackend> = Objective::gradients(model);
    let (mut loss, mut tokens) = (0.0, 0);
    for (number, micro) in parts.iter().enumerate() {
        let part = StepPart {
            step: 1,
            denominators,
            last: number + 1 == parts.len(),
        };
        let sums = model
            .micro_batch(micro, &recipe, part, &Unwatched, &mut grads)
            .read();
        loss += sums.ce;
        tokens += sums.tokens;
    }
    model.settle(&mut grads);
    let params = model.params().into_iter().filter(|p| p.info.trained);
    let grads = params.map(|p| floats(grads.get(p).expect("trained").clone()));
    (loss / tokens as f64, grads.collect())
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub decoration: Decoration,
    pub loss: LossPath,
    pub path: AttentionPath,
    pub precision: Precision,
    pub size: usize,
}

impl Form {
    pub const PLAIN: Self = Self {
        decoration: PLAIN,
        loss: LossPath::Plain,
        path: AttentionPath::Sdpa,
        precision: Precision::F32,
        size: 2,
    };

    pub fn chunked(chunking: Chunking) -> Self {
        let decoration = Decoration {
            keep: Keep::EACH_INPUT,
            chunking,
            ..PLAIN
        };
        Self {
            decoration,
            path: AttentionPath::Flash,
            ..Self::PLAIN
        }
    }
}

/// Forms that compute the same.
fn exact() -> Vec<Form> {
    let plain = Form::PLAIN;
    let kept = |keep| Form {
        decoration: Decoration { keep, ..PLAIN },
        ..plain
    };
    vec![
        Form {
            path: AttentionPath::Flash,
            ..plain
        },
        kept(Keep::EACH_INPUT),
        kept(Keep::Inputs { every: 2 }),
        Form {
            loss: LossPath::Fused { slice_bytes: 7000 },
            ..plain
        },
        Form { size: 1, ..plain },
        Form::chunked(Chunking::Exact { size: 16 }),
        Form {
            size: 1,
            loss: LossPath::Fused { slice_bytes: 7000 },
            ..Form::chunked(Chunking::Exact { size: 9 })
        },
    ]
}

fn window(tiny: &Tiny, window: usize) -> HfModel {
    let model = tiny.model();
    HfModel::new(model.config().clone(), tiny.batch().seq, window).unwrap()
}

#[test]
fn features_change_neither_loss_nor_gradients() {
    for name in NAMES {
        let tiny = Tiny::named(name);
        for size in [0, 12] {
            let batch = tiny.batch();
            let mut model: Model = tiny.built(&window(&tiny, size), &Default::default());
            assert_unchanged(&format!("{name} window {size}"), &mut model, &batch);
        }
    }
}

/// Every form of a step gives the losses and gradients of the plain one.
#[track_caller]
pub fn assert_unchanged(what: &str, model: &mut Model, batch: &MicroBatch) {
    let (loss, grads) = step(model, batch, &Form::PLAIN);
    for form in exact() {
        let what = format!("{what} {form:?}");
        let (own, found) = step(model, batch, &form);
        assert_near(&what, own, loss, 1e-5);
        for (found, want) in found.iter().zip(&grads) {
            let off = relative_difference(found, want);
            assert!(off <= 1e-4, "{what}: a gradient is off by {off:e}");
        }
    }
}

#[test]
fn truncated_chunks_have_the_losses_of_whole_sequences() {
    for name in NAMES {
        let tiny = Tiny::named(name);
        for size in [0, 12] {
            let batch = tiny.batch();
            let mut model: Model = tiny.built(&window(&tiny, size), &Default::default());
            let (loss, grads) = step(&mut model, &batch, &Form::PLAIN);
            let form = Form::chunked(Chunking::Truncated { size: 15 });
            let (own, found) = step(&mut model, &batch, &form);
            assert_near(&format!("{name} window {size}"), own, loss, 1e-5);
            // Only what reaches earlier chunks through keys and values is left out.
            let cosine = cosine(&found.concat(), &grads.concat());
            assert!(cosine > 0.7, "{name} window {size}: {cosine}");
        }
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let pairs = a.iter().zip(b);
        pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn half_precision_stays_near() {
    for name in NAMES {
        let tiny = Tiny::named(name);
        let batch = tiny.batch();
        let mut model: Model = tiny.on(&Default::default());
        let (loss, grads) = step(&mut model, &batch, &Form::PLAIN);
        for (precision, bound) in [(Precision::Bf16, 3e-2), (Precision::F16, 5e-3)] {
            let form = Form {
                precision,
                path: AttentionPath::Flash,
                ..Form::PLAIN
            };
            let (own, found) = step(&mut model, &batch, &form);
            assert_near(&format!("{name} {precision:?}"), own, loss, bound);
            let cosine = cosine(&found.concat(), &grads.concat());
            // Rounding grows over HRM-Text's eight runs of its stacks.
            assert!(cosine > 0.95, "{name} {precision:?}: {cosine}");
        }
    }
}
