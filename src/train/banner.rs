//! What the user reads before the first step.

use super::plan::Plan;
use crate::backend::{Selection, device_memory};
use crate::config::TrainConfig;
use crate::memory::estimate::Estimate;
use crate::memory::meter::format_bytes;
use crate::model::ModelConfig;

/// Print the banner to standard error.
pub fn print(
    config: &TrainConfig,
    selection: &Selection,
    plan: &Plan,
    model: &ModelConfig,
    estimate: &Estimate,
) {
    let adapter = &selection.adapter;
    let (attention, precision) = (&plan.attention, &plan.precision);
    let checkpointing = if config.gradient_checkpointing {
        "on"
    } else {
        "off"
    };
    let sequences = config.effective_batch();
    let window = match config.window() {
        Some(window) => format!(", window {window}"),
        None => String::new(),
    };
    let lines = [
        (
            "device",
            format!("{} {} ({})", adapter.flag(), adapter.name, selection.reason),
        ),
        (
            "attention",
            format!("{}{window} ({})", attention.path, attention.reason),
        ),
        (
            "precision",
            format!("{} ({})", precision.compute, precision.reason),
        ),
        (
            "optimizer",
            format!("adamw, {} of state", format_bytes(estimate.optimizer)),
        ),
        ("checkpointing", checkpointing.to_string()),
        (
            "parameters",
            format!("{:.1} M", model.parameters() as f64 / 1e6),
        ),
        ("memory", memory(selection, estimate)),
        (
            "batch",
            format!(
                "{} x {} = {sequences} sequences of {} tokens a step",
                config.batch_size, config.gradient_accumulation_steps, config.max_seq_len
            ),
        ),
        ("bundle", config.bundle_path().display().to_string()),
    ];
    let text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:>14}  {value}\n"))
        .collect();
    eprint!("{text}");
}

fn memory(selection: &Selection, estimate: &Estimate) -> String {
    let free = match device_memory(&selection.adapter).free_bytes {
        Some(free) => format!("{} free", format_bytes(free)),
        None => "free memory unknown".to_string(),
    };
    format!(
        "about {} needed (weights {}, gradients {}, optimizer {}, activations {}, loss {}), {free}",
        format_bytes(estimate.total),
        format_bytes(estimate.weights),
        format_bytes(estimate.gradients),
        format_bytes(estimate.optimizer),
        format_bytes(estimate.activations),
        format_bytes(estimate.loss),
    )
}

/// Say it loudly if the prediction is beyond what is free.
pub fn warn_if_too_large(selection: &Selection, estimate: &Estimate) {
    if let Some(free) = device_memory(&selection.adapter).free_bytes
        && estimate.total > free
    {
        tracing::warn!(
            "about {} will be needed and {} is free: lower --batch-size (raising \
             --gradient-accumulation-steps keeps the result), --max-seq-len or --hidden-size",
            format_bytes(estimate.total),
            format_bytes(free)
        );
    }
}
