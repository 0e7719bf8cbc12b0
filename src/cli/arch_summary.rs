//! `aios hrm-hf arch-summary`.

use crate::cli::args::ArchSummaryArgs;
use crate::cli::measured::is_decoder;
use aios_base::config::TrainConfig;
use aios_base::error::Result;
use aios_base::meter::format_bytes;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_bundle::Bundle;
use aios_data::{Tokenizer, telling};
use aios_device as backend;
use aios_device::Adapter;
use aios_hf::{CONFIG_FILE, Folder, is_gguf, read_config};
use aios_models::actv1::ModelConfig;
use aios_models::decoder::{DecoderConfig, HfModel, passed_over};
use aios_models::{Architecture, Model};
use aios_plan::Plan;
use aios_plan::estimate::Estimate;
use aios_train::adapting::Adapting;
use aios_train::idle;
use aios_train::saved::Saved;
use serde::Serialize;
use std::path::Path;

/// Parameters and memory of a model.
#[derive(Serialize)]
struct Summary {
    parts: Vec<Part>,
    parameters: usize,
    memory: Estimate,
    activation_bytes_per_token: u64,
    tokens_per_micro_batch: usize,
    checkpointing: bool,
    precision: &'static str,
}

#[derive(Serialize)]
struct Part {
    name: &'static str,
    parameters: usize,
}

/// Describe the model that the flags ask for.
pub fn run(args: ArchSummaryArgs) -> Result<()> {
    let (config, model) = described(&args)?;
    let adapter = backend::select(&config.device)?.adapter;
    idle::warn(&idle::of_step(&config));
    idle::warn(&idle::on_device(&config, adapter.kind));
    let summary = summarize(&config, &model, &adapter)?;
    match args.json {
        true => write_stdout(to_json_line(&summary)?.as_bytes()),
        false => write_stdout(render(&summary).as_bytes()),
    }
}

/// The model that is to be described, and its settings.
fn described(args: &ArchSummaryArgs) -> Result<(TrainConfig, Model)> {
    let config = args.to_config()?;
    let named = Some(&config.model).filter(|model| is_decoder(model));
    let Some(spec) = args.decoder.as_ref().or(named) else {
        let vocabulary = Tokenizer::load(&config.model)?.vocab_size();
        let model = ModelConfig::of(&config, vocabulary).into();
        return Ok((config, model));
    };
    let path = Path::new(spec);
    if Bundle::exists(path) && !path.join(CONFIG_FILE).is_file() {
        let saved = Saved::open(path)?;
        let config = args.over(saved.config)?;
        let model = ModelConfig::of(&config, saved.state.model.vocabulary()).into();
        return Ok((config, model));
    }
    let (json, folder) = match path.is_file() && !is_gguf(path) {
        true => (read_config(path)?, None),
        false => {
            let mut tell = telling(&format!("downloading {spec}"), false);
            let folder = Folder::locate(spec, &mut tell)?;
            (folder.config().clone(), Some(folder))
        }
    };
    idle::warn(&passed_over(&json)?);
    let decoder = DecoderConfig::read(&json)?;
    let mut config = config;
    if args.shape.model.max_seq_len.is_none() {
        config.max_seq_len = config.max_seq_len.min(decoder.max_positions);
    }
    let (length, window) = (config.max_seq_len, config.window_size);
    let adapting = match folder.filter(Folder::is_gguf) {
        // Only its tensors say what they are held in.
        Some(folder) => Adapting::of(&config, &folder)?,
        None => Adapting::described(&config, &json),
    };
    let model = HfModel::of(json, decoder, length, window)?;
    let model = match adapting {
        Some(adapting) => adapting.model(model)?,
        None => model,
    };
    Ok((config, Model::Decoder(model)))
}

fn summarize(config: &TrainConfig, model: &Model, adapter: &Adapter) -> Result<Summary> {
    model.validate()?;
    // Fallbacks are for a run to report.
    let lenient = TrainConfig {
        strict: false,
        ..config.clone()
    };
    let plan = Plan::new(&lenient, adapter, model.attention())?;
    let run = plan.run(config, model);
    let part = |(name, parameters)| Part { name, parameters };
    Ok(Summary {
        parts: model.parts().into_iter().map(part).collect(),
        parameters: model.parts().into_iter().map(|(_, numbers)| numbers).sum(),
        memory: run.estimate(),
        activation_bytes_per_token: run.activations_per_token(),
        precision: plan.precision.as_str(),
        tokens_per_micro_batch: config.batch_size * config.max_seq_len,
        checkpointing: config.gradient_checkpointing,
    })
}

fn render(summary: &Summary) -> String {
    let mut text = String::from("part            parameters       share\n");
    for part in summary.parts.iter().filter(|p| p.parameters > 0) {
        let share = 100.0 * part.parameters as f64 / summary.parameters as f64;
        text += &format!(
            "{:<12} {:>13}  {share:>8.1} %\n",
            part.name, part.parameters
        );
    }
    text += &format!("{:<12} {:>13}\n\n", "total", summary.parameters);
    let m = &summary.memory;
    for (name, bytes) in [
        ("weights", m.weights),
        ("gradients", m.gradients),
        ("optimizer", m.optimizer),
        ("activations", m.activations),
        ("loss", m.loss),
        ("peak", m.total),
    ] {
        text += &format!("{name:<12} {:>13}\n", format_bytes(bytes));
    }
    let checkpointing = if summary.checkpointing { "on" } else { "off" };
    text += &format!(
        "\nactivations take {} a token in {} with gradient checkpointing {checkpointing}; {} tokens a \
         micro-batch\nthe peak is less than the sum: activations, loss and the embedding's gradient are \
         never all there at once\n",
        format_bytes(summary.activation_bytes_per_token),
        summary.precision,
        summary.tokens_per_micro_batch
    );
    text
}
