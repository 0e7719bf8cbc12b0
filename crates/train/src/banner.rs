//! What the user reads before the first step.

use aios_base::config::{LrSchedule, TrainConfig, WeightsDtype};
use aios_base::meter::format_bytes;
use aios_base::numbers::readable;
use aios_base::terminal;
use aios_device::{Selection, device_memory};
use aios_models::decoder::{Adapted, HfModel};
use aios_models::{Architecture, Model};
use aios_nn::ParamInfo;
use aios_plan::Plan;
use aios_plan::estimate::Estimate;
use indicatif::HumanCount;

/// How long a run is, beside its steps.
pub struct Length {
    /// Passes over the dataset that its steps were made of.
    pub epochs: Option<f64>,
    /// Sequences of a pass.
    pub sequences: u64,
}

impl Length {
    /// In words, of a run with these settings.
    fn of(&self, config: &TrainConfig) -> String {
        let steps = match config.steps {
            1 => "1 step".to_string(),
            steps => format!("{} steps", HumanCount(steps)),
        };
        let cycle = match config.iterate {
            true => ", again and again",
            false => "",
        };
        let passes = |epochs: f64| match epochs {
            1.0 => "1 epoch".to_string(),
            _ => format!("{epochs} epochs"),
        };
        let sequences = HumanCount(self.sequences);
        match self.epochs {
            Some(epochs) => format!(
                "{} = {steps}{cycle} ({sequences} sequences an epoch)",
                passes(epochs)
            ),
            None => {
                let seen = config.steps as f64 * config.effective_batch() as f64;
                let epochs = readable(seen / self.sequences as f64, 2);
                format!("{steps} = {epochs} epochs{cycle} ({sequences} sequences an epoch)")
            }
        }
    }
}

/// What is trained, what it starts from, and its tokenizer.
fn family(config: &TrainConfig, model: &Model) -> String {
    let name = match model {
        Model::ActV1(_) => "HRM ACT-v1".to_string(),
        Model::Decoder(decoder) => decoder.model_type().to_string(),
    };
    let origin = match (&config.pretrained, &config.student_init) {
        (_, Some(weights)) => format!(" with the weights of {}", weights.display()),
        (Some(pretrained), None) => format!(" of {pretrained}"),
        (None, None) => String::new(),
    };
    match config.pretrained.as_ref() == Some(&config.model) {
        true => format!("{name}{origin}"),
        false => format!("{name}{origin}, tokenizer {}", config.model),
    }
}

/// What is trained beside a frozen model, and how that is held.
fn adapter(model: &HfModel) -> Option<String> {
    let Adapted { lora, .. } = model.adapted()?;
    let kind = match (lora.dora, lora.rslora) {
        (true, _) => "DoRA",
        (false, true) => "rsLoRA",
        (false, false) => "LoRA",
    };
    let whole = match lora.whole.is_empty() {
        true => String::new(),
        false => format!(", and {} as a whole", lora.whole.join(", ")),
    };
    let dropout = match lora.dropout == 0.0 {
        true => String::new(),
        false => format!(", dropout {}", lora.dropout),
    };
    let fixed = model.parameters().into_iter().filter(|info| !info.trained);
    let fixed: Vec<ParamInfo> = fixed.collect();
    let numbers: usize = fixed.iter().map(ParamInfo::elements).sum();
    let mut formats: Vec<&str> = Vec::new();
    // Vectors are few, and in f32 whatever the rest is in.
    for info in fixed.iter().filter(|info| info.shape.len() > 1) {
        let format = info.storage.as_str();
        if !formats.contains(&format) {
            formats.push(format);
        }
    }
    Some(format!(
        "{kind} of rank {}, alpha {}{dropout}, on {} linear layers{whole}; {:.1} M frozen in {}",
        lora.rank,
        lora.alpha,
        model.adapted_modules().len(),
        numbers as f64 / 1e6,
        formats.join(" and ")
    ))
}

/// Print the banner to standard error.
pub fn print(
    config: &TrainConfig,
    selection: &Selection,
    plan: &Plan,
    model: &Model,
    estimate: &Estimate,
    length: &Length,
    ranks: Vec<String>,
) {
    let device = &selection.adapter;
    let (attention, precision) = (&plan.attention, &plan.precision_choice);
    let checkpointing = match (config.gradient_checkpointing, config.checkpoint_every) {
        (false, _) => "off".to_string(),
        (true, 1) => "on, each block".to_string(),
        (true, every) => format!("on, every {every} blocks"),
    };
    let tied = match model.is_tied() {
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
    let mut lines = vec![
        ("device", format!("{} {}", device.flag(), device.name)),
        ("", selection.reason.clone()),
        (
            "attention",
            format!("{}{window} ({})", attention.path, attention.reason),
        ),
        (
            "precision",
            format!(
                "{} ({}){}",
                precision.compute,
                precision.reason,
                held_in(plan.weights)
            ),
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
        ("model", family(config, model)),
        (
            "parameters",
            format!("{:.1} M{tied}", model.trained() as f64 / 1e6),
        ),
        ("memory", memory(config, selection, estimate)),
        ("", parts(estimate)),
        (
            "batch",
            format!(
                "{}{} x {} = {sequences} sequence{} of {} tokens a step",
                of_ranks(config.ranks),
                config.batch_size,
                config.gradient_accumulation_steps,
                if sequences == 1 { "" } else { "s" },
                config.max_seq_len
            ),
        ),
        ("length", length.of(config)),
        ("learning rate", learning_rate(config)),
        ("bundle", config.bundle_path().display().to_string()),
    ];
    if let Some(adapter) = model.as_decoder().and_then(adapter) {
        let after = lines.iter().position(|(name, _)| *name == "parameters");
        lines.insert(after.map_or(0, |at| at + 1), ("adapter", adapter));
    }
    for (i, line) in ranks.into_iter().enumerate() {
        lines.insert(2 + i, (if i == 0 { "ranks" } else { "" }, line));
    }
    let text: String = lines
        .iter()
        .map(|(name, value)| format!("{name:>14}  {value}\n"))
        .collect();
    terminal::say(text.trim_end());
}

/// Before the batch of each of several ranks.
fn of_ranks(ranks: usize) -> String {
    match ranks {
        1 => String::new(),
        ranks => format!("{ranks} ranks x "),
    }
}

/// Of weights that are not in f32.
fn held_in(weights: WeightsDtype) -> &'static str {
    match weights {
        WeightsDtype::F32 => "",
        WeightsDtype::Bf16 => ", weights in bf16, updates rounded stochastically",
    }
}

fn learning_rate(config: &TrainConfig) -> String {
    let warm_up = match config.warmup() {
        0 => String::new(),
        1 => ", warm-up over 1 step".to_string(),
        steps => format!(", warm-up over {} steps", HumanCount(steps)),
    };
    let then = match config.lr_schedule {
        LrSchedule::Cosine => "cosine",
        LrSchedule::Constant => "constant",
    };
    let why = config.lr_reason();
    let why = why.map_or(String::new(), |reason| format!(" ({reason})"));
    format!("{:e} at the peak{warm_up}, then {then}{why}", config.lr)
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
    let of = match config.ranks {
        1 => "",
        _ => " of each rank",
    };
    format!("about {peak} at the peak{of}, {free}{limit}")
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

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::config::Subject;

    fn said(epochs: Option<f64>, steps: u64) -> String {
        let config = TrainConfig {
            steps,
            ..TrainConfig::default()
        };
        let length = Length {
            epochs,
            sequences: 3290,
        };
        length.of(&config)
    }

    #[test]
    fn the_learning_rate_is_said_with_the_reason_of_a_default() {
        let mut config = TrainConfig::defaults(Subject::Pretrained);
        let said = learning_rate(&config);
        let rate = "1e-5 at the peak, warm-up over 20 steps, then cosine";
        assert!(
            said.starts_with(&format!("{rate} (default for fine-tuning")),
            "{said}"
        );
        (config.lr, config.warmup_steps) = (3e-4, Some(0));
        config.lr_schedule = LrSchedule::Constant;
        assert_eq!(learning_rate(&config), "3e-4 at the peak, then constant");
    }

    #[test]
    fn a_length_is_said_in_epochs_and_steps() {
        let an_epoch = "(3,290 sequences an epoch)";
        assert_eq!(
            said(Some(3.0), 1234),
            format!("3 epochs = 1,234 steps {an_epoch}")
        );
        assert_eq!(
            said(Some(1.0), 412),
            format!("1 epoch = 412 steps {an_epoch}")
        );
        assert_eq!(
            said(None, 200),
            format!("200 steps = 0.49 epochs {an_epoch}")
        );
    }
}
