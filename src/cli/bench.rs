//! `aios bench`.

use crate::bench::{answer, attention, chart, context, memory};
use crate::cli::args::{BenchAttentionArgs, BenchContextArgs, BenchMemoryArgs};
use aios_base::config::{ChunkGradients, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_data::Tokenizer;
use aios_device::select;
use aios_models::Model;
use aios_models::actv1::ModelConfig;
use aios_train::idle;
use serde::Serialize;

/// Steps timed in each row.
const STEPS: u64 = 3;

fn model(config: &TrainConfig) -> Result<Model> {
    let vocabulary = Tokenizer::load(&config.model)?.vocab_size();
    Ok(ModelConfig::of(config, vocabulary).into())
}

/// `aios bench memory`: the table, or one of its rows.
pub fn memory(args: BenchMemoryArgs) -> Result<()> {
    let config = args.to_config()?;
    let steps = args.steps.unwrap_or(STEPS);
    if args.single {
        let model = model(&config)?;
        return answer(memory::single(&config, &model, steps));
    }
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let adapter = select(&config.device)?.adapter;
    // Some rows have what these need.
    idle::warn(&idle::of_step(&TrainConfig {
        use_8bit_optimizer: true,
        gradient_checkpointing: true,
        amp: None,
        ..config.clone()
    }));
    idle::warn(&idle::on_device(&config, adapter.kind));
    let table = memory::table(&config, &adapter, &args.rows)?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::memory(path, &table)?;
    }
    table.verdict()
}

/// `aios bench context`: the table, or one of its rows.
pub fn context(args: BenchContextArgs) -> Result<()> {
    let config = args.to_config()?;
    if args.single {
        let model = model(&config)?;
        return answer(context::single(&config, &model));
    }
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let adapter = select(&config.device)?.adapter;
    let doubling = || (9..=15).map(|power| 1 << power).collect();
    let mut seq_lens = args.seq_lens.unwrap_or_else(doubling);
    seq_lens.sort_unstable();
    for &max_seq_len in &seq_lens {
        let each = TrainConfig {
            max_seq_len,
            ..config.clone()
        };
        let valid = each.validate_model();
        valid.map_err(|error| Error::invalid(format!("--seq-lens: {error}")))?;
    }
    // Windows and chunks are what forms differ in, and some lengths may be shorter than either.
    idle::warn(&idle::of_step(&TrainConfig {
        gradient_checkpointing: true,
        window_size: 0,
        use_chunked_training: false,
        chunk_size: TrainConfig::default().chunk_size,
        chunk_gradients: ChunkGradients::Auto,
        ..config.clone()
    }));
    let table = context::table(&config, &adapter, &seq_lens, &args.forms)?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::context(path, &table)?;
    }
    table.verdict()
}

/// `aios bench attention`.
pub fn attention(args: &BenchAttentionArgs) -> Result<()> {
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let table = attention::measure(&args.to_request(), &mut |line| terminal::say(&line))?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::attention(path, &table)?;
    }
    table.verdict()
}

fn show(json: bool, table: &impl Serialize, render: impl FnOnce() -> String) -> Result<()> {
    let text = match json {
        true => to_json_line(table)?,
        false => render(),
    };
    write_stdout(text.as_bytes())
}
