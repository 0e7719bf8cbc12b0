//! `aios bench`.

use super::args::{BenchAttentionArgs, BenchContextArgs, BenchMemoryArgs};
use crate::backend;
use crate::bench::{attention, chart, context, memory};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::terminal::{self, to_json_line, write_stdout};
use crate::train::setup::model_config;
use serde::Serialize;

/// Steps timed in each row.
const STEPS: u64 = 3;

/// `aios bench memory`: the table, or one of its rows.
pub fn memory(args: BenchMemoryArgs) -> Result<()> {
    let config = args.to_config()?;
    let steps = args.steps.unwrap_or(STEPS);
    if args.single {
        let model = model_config(&config, Tokenizer::load(&config.model)?.vocab_size());
        let row = memory::single(&config, &model, steps)?;
        return write_stdout(to_json_line(&row)?.as_bytes());
    }
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let adapter = backend::select(&config.device)?.adapter;
    let table = memory::table(&config, &adapter, &args.rows)?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::memory(path, &table)?;
    }
    all_measured(table.failed(), table.rows.len())
}

/// `aios bench context`: the table, or one of its rows.
pub fn context(args: BenchContextArgs) -> Result<()> {
    let config = args.to_config()?;
    if args.single {
        let model = model_config(&config, Tokenizer::load(&config.model)?.vocab_size());
        return write_stdout(to_json_line(&context::single(&config, &model)?)?.as_bytes());
    }
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let adapter = backend::select(&config.device)?.adapter;
    let doubling = || (9..=15).map(|power| 1 << power).collect();
    let mut seq_lens = args.seq_lens.unwrap_or_else(doubling);
    seq_lens.sort_unstable();
    let table = context::table(&config, &adapter, &seq_lens, &args.forms)?;
    show(args.json, &table, || table.render())?;
    if let Some(path) = &args.chart {
        chart::context(path, &table)?;
    }
    match table.failed() {
        0 => Ok(()),
        n => Err(Error::failed(format!(
            "{n} forms could not be measured at any length: the table says why"
        ))),
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
    all_measured(table.failed(), table.rows.len())
}

fn show(json: bool, table: &impl Serialize, render: impl FnOnce() -> String) -> Result<()> {
    let text = match json {
        true => to_json_line(table)?,
        false => render(),
    };
    write_stdout(text.as_bytes())
}

fn all_measured(failed: usize, rows: usize) -> Result<()> {
    match failed {
        0 => Ok(()),
        n => Err(Error::failed(format!(
            "{n} of {rows} rows could not be measured: the table says why"
        ))),
    }
}
