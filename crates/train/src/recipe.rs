//! From a plan to what an engine is asked for.

use aios_base::config::TrainConfig;
use aios_engine::{Recipe, Settings};
use aios_models::{Architecture, Model};
use aios_nn::ParamInfo;
use aios_plan::Plan;

/// How the segments of a step of this model are run.
pub fn recipe(
    plan: &Plan,
    config: &TrainConfig,
    model: &dyn Architecture,
    loss_scale: f64,
) -> Recipe {
    Recipe {
        halt_max_steps: config.halt_max_steps,
        reward: config.halt_reward,
        exploration: config.halt_exploration,
        execution: plan.execution(),
        loss_path: plan.loss_path,
        embedding_waits: plan.run(config, model).embedding_waits(),
        loss_scale,
        seed: config.seed,
    }
}

/// Bytes of a save, weights and optimizer state: of an adapter alone, where the model beside it is frozen.
pub fn checkpoint_bytes(plan: &Plan, model: &Model) -> u64 {
    let weights = ParamInfo::bytes_in(plan.weights, &model.saved());
    weights + plan.moments.state_bytes(&model.parameters())
}

/// The model and its optimizer.
pub fn settings(plan: &Plan, config: &TrainConfig, model: &Model) -> Settings {
    Settings {
        trains: true,
        weights: plan.weights,
        rounding_seed: config.seed,
        moments: plan.moments,
        weight_decay: config.weight_decay,
        grad_clip: config.grad_clip,
        decoration: plan.decoration,
        ..Settings::fixed(model, model.max_seq_len(), plan.decoration.chunking)
    }
}
