//! What is frozen costs no gradient, and changes no other.

use super::{Model, Step, gradients, model, named, recipe, run, shape, step};
use aios_base::meter;
use aios_models::Recipe;
use aios_models::actv1::{ModelConfig, PosEncodings};
use aios_nn::Visit;
use aios_tensor::{CpuBackend, LossPath};
use burn::tensor::Tensor;

const EMBEDDING: &str = "embed_tokens.embedding_weight";

fn of(tied: bool) -> ModelConfig {
    ModelConfig {
        tie_embeddings: tied,
        ..shape(PosEncodings::Rope, 0)
    }
}

fn freeze(model: &mut Model, name: &str) {
    let heads = model.lm_head.iter_mut().chain([&mut model.embedding]);
    let found = heads.filter(|param| param.info.name == name);
    found.for_each(|param| param.info.trained = false);
}

/// The gradients of all but the one that is frozen are those of a model without frozen parameters, to the bit.
fn only_this_is_without(tied: bool, frozen: &str, step: &Step) {
    let mut whole = gradients(&mut model(&of(tied)), step);
    whole.retain(|(name, _)| name != frozen);
    let mut partly = model(&of(tied));
    freeze(&mut partly, frozen);
    let (_, mut grads) = run(&mut partly, step);
    assert!(grads.take_waiting().is_empty());
    let of_frozen = |param: &&aios_nn::Param<CpuBackend>| param.info.name == frozen;
    let param = partly.params().into_iter().find(of_frozen).unwrap();
    assert!(grads.get(param).is_none(), "{frozen}");
    assert_eq!(named(&partly, &grads), whole, "{frozen}, tied: {tied}");
}

fn steps() -> [Step; 3] {
    let plain = Recipe {
        loss_path: LossPath::Plain,
        ..recipe()
    };
    let waiting = Recipe {
        embedding_waits: true,
        halt_max_steps: 2,
        ..recipe()
    };
    [recipe(), plain, waiting].map(step)
}

#[test]
fn a_frozen_head_has_no_gradient_and_changes_no_other() {
    for step in steps() {
        only_this_is_without(false, "lm_head.weight", &step);
    }
}

#[test]
fn a_frozen_embedding_has_no_gradient_and_changes_no_other() {
    for step in steps() {
        only_this_is_without(false, EMBEDDING, &step);
        only_this_is_without(true, EMBEDDING, &step);
    }
}

#[test]
fn the_gradient_of_a_frozen_weight_is_not_even_made() {
    let (tokens, vocabulary, hidden) = (8, 20_000, 64);
    let device = Default::default();
    let z = Tensor::<CpuBackend, 2>::ones([tokens, hidden], &device);
    let w = Tensor::<CpuBackend, 2>::ones([vocabulary, hidden], &device);
    let (labels, weights) = (vec![0; tokens], vec![1.0; tokens]);
    let peak = |work: &dyn Fn()| {
        // What products keep for themselves is there from the first on.
        work();
        let before = meter::live_bytes();
        meter::reset_peak();
        work();
        meter::peak_bytes() - before
    };
    for path in [LossPath::FUSED, LossPath::Plain] {
        let trained = peak(&|| drop(path.backward(&z, &w, &labels, &weights, None)));
        let frozen = peak(&|| drop(path.backward_input(&z, &w, &labels, &weights)));
        let gradient = (4 * vocabulary * hidden) as u64;
        assert!(trained >= gradient, "{path:?}: {trained}");
        // Not their difference: what products copy beside it depends on the processor's caches.
        assert!(frozen < gradient, "{path:?}: {frozen} of {trained}");
    }
}
