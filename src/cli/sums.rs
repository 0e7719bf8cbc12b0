//! `aios devices` as several ranks: who has which device, and how fast they add up.

use crate::cli::args::DevicesArgs;
use aios_base::config::{DeviceChoice, TrainConfig};
use aios_base::error::Result;
use aios_base::meter::format_bytes;
use aios_base::numbers::readable;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_device::select;
use aios_distributed::{Launched, World};
use aios_train::ranks;
use serde::Serialize;
use std::time::Instant;

/// Numbers in f32 that are added up.
const SIZES: [usize; 5] = [1 << 10, 1 << 14, 1 << 18, 25 << 18, 1 << 26];
/// How often, after once to warm up.
const ROUNDS: usize = 5;

/// What the ranks came to.
#[derive(Serialize)]
struct Report {
    library: String,
    /// By rank: its host and the device that it would take.
    ranks: Vec<String>,
    sums: Vec<Sum>,
}

/// All ranks add up so many bytes.
#[derive(Serialize)]
struct Sum {
    bytes: usize,
    /// The median, on rank 0.
    seconds: f64,
}

/// List the ranks; with `--check` measure their sums too.
///
/// # Errors
/// None: the process ends as all ranks do.
pub fn run(args: &DevicesArgs, launched: Launched) -> Result<()> {
    ranks::together(&TrainConfig::default(), launched, |world| {
        let device = ranks::device(DeviceChoice::Auto, world)?;
        let own = select(&device)?.adapter.in_words();
        let devices = world.gather(&own)?;
        let sums = match args.check {
            true => SIZES
                .map(|numbers| sum(world, numbers))
                .into_iter()
                .collect::<Result<_>>()?,
            false => Vec::new(),
        };
        if !world.is_first() {
            return Ok(());
        }
        let hosts = world.hosts().into_iter().zip(devices);
        let report = Report {
            library: world.library().to_string(),
            ranks: hosts
                .map(|(host, device)| format!("{host}, {device}"))
                .collect(),
            sums,
        };
        let text = match args.json {
            true => to_json_line(&report)?,
            false => in_words(&report),
        };
        write_stdout(text.as_bytes())
    })
    .map(drop)
}

fn sum(world: &World, numbers: usize) -> Result<Sum> {
    let mut seconds = Vec::new();
    for _ in 0..=ROUNDS {
        world.barrier()?;
        let values = vec![1.0; numbers];
        let started = Instant::now();
        world.all_reduce(values).wait()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    Ok(Sum {
        bytes: 4 * numbers,
        seconds: seconds[ROUNDS / 2],
    })
}

fn in_words(report: &Report) -> String {
    let ranks = report.ranks.len();
    let mut text = format!("{ranks} ranks by {}\n", report.library);
    for (rank, place) in report.ranks.iter().enumerate() {
        text += &format!("  rank {rank}  {place}\n");
    }
    if !report.sums.is_empty() {
        text += "sums over all ranks\n";
    }
    for Sum { bytes, seconds } in &report.sums {
        let speed = readable(*bytes as f64 / seconds / 1e9, 3);
        let milliseconds = readable(1e3 * seconds, 3);
        text += &format!(
            "{:>12}  {milliseconds} ms  {speed} GB/s\n",
            format_bytes(*bytes as u64)
        );
    }
    text
}
