//! `aios bench`.

use super::args::{BenchAttentionArgs, BenchMemoryArgs};
use super::output::{to_json_line, write_stdout};
use crate::backend;
use crate::bench::{attention, chart, memory};
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::train::setup::model_config;

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
    match args.json {
        true => write_stdout(to_json_line(&table)?.as_bytes()),
        false => write_stdout(table.render().as_bytes()),
    }?;
    if let Some(path) = &args.chart {
        chart::memory(path, &table)?;
    }
    all_measured(table.failed(), table.rows.len())
}

/// `aios bench attention`.
pub fn attention(args: &BenchAttentionArgs) -> Result<()> {
    if let Some(path) = &args.chart {
        chart::check(path)?;
    }
    let table = attention::measure(&args.to_request(), &mut |line| eprintln!("{line}"))?;
    match args.json {
        true => write_stdout(to_json_line(&table)?.as_bytes()),
        false => write_stdout(table.render().as_bytes()),
    }?;
    if let Some(path) = &args.chart {
        chart::attention(path, &table)?;
    }
    all_measured(table.failed(), table.rows.len())
}

fn all_measured(failed: usize, rows: usize) -> Result<()> {
    match failed {
        0 => Ok(()),
        n => Err(Error::failed(format!(
            "{n} of {rows} rows could not be measured: the table says why"
        ))),
    }
}
