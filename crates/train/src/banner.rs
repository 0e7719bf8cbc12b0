//! What the user reads before the first step.

use aios_base::config::TrainConfig;
use aios_base::meter::format_bytes;
use aios_base::terminal;
use aios_device::{Selection, device_memory};
use aios_models::actv1::ModelConfig;
use aios_plan::Plan;
use aios_plan::estimate::Estimate;

/// Print the banner to standard error.
pub fn print(
    config: &TrainConfig,
    selection: &Selection,
    plan: &Plan,
    model: &ModelConfig,
    estimate: &Estimate,
) {
    let adapter = &selection.adapter;
    let (attention, precision) = (&plan.attention, &plan.precision_choice);
    let checkpointing = match (config.gradient_checkpointing, config.checkpoint_every) {
        (false, _) => "off".to_string(),
        (true, 1) => "on, each block".to_string(),
        (true, every) => format!("on, every {every} blocks"),
    };
    let tied = match model.tie_embeddings {
        true => ", embedding and head tied",
        false => "",
    };
    let loss = match config.fused_cross_entropy {
        true => "fused with the head, over slices of tokens",
        false => "plain, all logits at once",
    };
    let sequences = config.effective_batch();
    let window = match config.window() {
        Some(window) if window < config.max_seq_len => format!(", window {window}"),
        Some(window) => format!(", window {window} covers the whole sequence"),
        None => String::new(),
    };
    let lines = [
        ("device", format!("{} {}", adapter.flag(), adapter.name)),
        ("", selection.reason.clone()),
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
            format!(
                "{}, {} of state",
                plan.moments.name(),
                format_bytes(estimate.optimizer)
            ),
        ),
        ("checkpointing", checkpointing),
        ("sequences", plan.sequences(config)),
        ("loss", loss.to_string()),
        (
            "parameters",
            format!("{:.1} M{tied}", model.parameter_count() as f64 / 1e6),
        ),
        ("memory", memory(config, selection, estimate)),
        ("", parts(estimate)),
        (
            "batch",
            format!(
                "{} x {} = {sequences} sequence{} of {} tokens a step",
                config.batch_size,
                config.gradient_accumulation_steps,
                if sequences == 1 { "" } else { "s" },
                config.max_seq_len
            ),
        ),
        ("bundle", config.bundle_path().display().to_string()),
    ];
    let text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:>14}  {value}\n"))
        .collect();
    terminal::say(text.trim_end());
}

fn memory(config: &TrainConfig, selection: &Selection, estimate: &Estimate) -> String {
    let free = match device_memory(&selection.adapter).free_bytes {
        Some(free) => format!("{} free", format_bytes(free)),
        None => "free memory unknown".to_string(),
    };
    let limit = match config.memory_limit {
        Some(limit) => format!(", limited to {limit}"),
        None => String::new(),
    };
    let peak = format_bytes(estimate.total);
    format!("about {peak} at the peak, {free}{limit}")
}

/// The parts, each at its own largest; they are not all there at once.
fn parts(estimate: &Estimate) -> String {
    [
        ("weights", estimate.weights),
        ("gradients", estimate.gradients),
        ("optimizer", estimate.optimizer),
        ("activations", estimate.activations),
        ("loss", estimate.loss),
    ]
    .map(|(name, bytes)| format!("{name} {}", format_bytes(bytes)))
    .join(", ")
}
