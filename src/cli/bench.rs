//! `aios bench`.

use crate::bench::{answer, attention, chart, context, memory, step};
use crate::cli::args::{BenchAttentionArgs, BenchContextArgs, BenchMemoryArgs, BenchStepArgs};
use aios_base::config::{ChunkGradients, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_base::waiting::waiting;
use aios_data::telling;
use aios_device::select;
use aios_train::blueprint::Blueprint;
use aios_train::idle;
use serde::Serialize;

/// Steps timed in each row.
const STEPS: u64 = 3;

/// Where the model to measure comes from. One of the Hub is downloaded.
fn blueprint(config: &TrainConfig) -> Result<Blueprint> {
    let mut tell = telling(&format!("downloading {}", config.model), config.quiet);
    Blueprint::of(config, &mut tell)
}

fn vocabulary(config: &TrainConfig, blueprint: &Blueprint) -> Result<usize> {
    let mut tell = telling(&format!("downloading {}", config.model), config.quiet);
    blueprint.vocabulary(config, &mut tell)
}

/// `aios bench memory`: the table, or one of its rows.
pub fn memory(args: BenchMemoryArgs) -> Result<()> {
    let mut config = args.to_config()?;
    let steps = args.steps.unwrap_or(STEPS);
    let blueprint = blueprint(&config)?;
    blueprint.shorten(&mut config);
    let model = blueprint.model(&config, vocabulary(&config, &blueprint)?)?;
    if args.single {
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
    let table = memory::table(&config, &model, &adapter, &args.rows)?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::memory(path, &table)?;
    }
    table.verdict()
}

/// `aios bench step`: one step, operation by operation.
pub fn step(args: BenchStepArgs) -> Result<()> {
    let mut config = args.to_config()?;
    let blueprint = blueprint(&config)?;
    blueprint.shorten(&mut config);
    let model = blueprint.model(&config, vocabulary(&config, &blueprint)?)?;
    let adapter = select(&config.device)?.adapter;
    idle::warn(&idle::of_step(&config));
    idle::warn(&idle::on_device(&config, adapter.kind));
    let steps = args.steps.unwrap_or(STEPS);
    let what = format!("timing {steps} steps, and one without checkpointing");
    let table = waiting(&what, config.quiet, || {
        step::measure(&config, &model, &adapter, steps)
    })?;
    show(args.json, &table, || table.render())
}

/// `aios bench context`: the table, or one of its rows.
pub fn context(args: BenchContextArgs) -> Result<()> {
    let config = args.to_config()?;
    let blueprint = blueprint(&config)?;
    let vocabulary = vocabulary(&config, &blueprint)?;
    if args.single {
        let model = blueprint.model(&config, vocabulary)?;
        return answer(context::single(&config, &model));
    }
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let adapter = select(&config.device)?.adapter;
    let mut seq_lens = match args.seq_lens {
        Some(lengths) => lengths,
        None => doubling(blueprint.longest()),
    };
    seq_lens.sort_unstable();
    let mut models = Vec::new();
    for &max_seq_len in &seq_lens {
        let each = TrainConfig {
            max_seq_len,
            ..config.clone()
        };
        let valid = each
            .validate_model()
            .and_then(|()| blueprint.model(&each, vocabulary));
        models.push(valid.map_err(|error| Error::invalid(format!("--seq-lens: {error}")))?);
    }
    let model = models
        .first()
        .ok_or_else(|| Error::invalid("--seq-lens: there are none"))?;
    // Windows and chunks are what forms differ in, and some lengths may be shorter than either.
    idle::warn(&idle::of_step(&TrainConfig {
        gradient_checkpointing: true,
        window_size: 0,
        use_chunked_training: false,
        chunk_size: TrainConfig::default().chunk_size,
        chunk_gradients: ChunkGradients::Auto,
        ..config.clone()
    }));
    let table = context::table(&config, model, &adapter, &seq_lens, &args.forms)?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::context(path, &table)?;
    }
    table.verdict()
}

/// Lengths from 512 tokens to 32768, each twice the one before, as far as the model was made for them.
fn doubling(longest: Option<usize>) -> Vec<usize> {
    let most = longest.unwrap_or(usize::MAX);
    let lengths = (9..=15).map(|power| 1 << power);
    let lengths: Vec<usize> = lengths.filter(|&length| length <= most).collect();
    match lengths.is_empty() {
        true => vec![most],
        false => lengths,
    }
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
