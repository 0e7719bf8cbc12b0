//! `aios bench step`: where the time of a training step goes, beside what the processor can do at most.

use crate::bench::device::on_device;
use crate::bench::model::name;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::execution::{Kind, Precision};
use aios_device::Adapter;
use aios_kernels::profile::{Operation, add, record};
use aios_kernels::{peak, team};
use aios_models::Model;
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Instant;

/// What one kind of operation takes of a step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub operation: &'static str,
    pub calls: f64,
    pub seconds: f64,
    pub flops: f64,
    /// Read and written of tensors, each once.
    pub bytes: f64,
}

/// A step, operation by operation.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub benchmark: &'static str,
    pub version: &'static str,
    pub device: String,
    pub threads: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub max_seq_len: usize,
    pub steps: u64,
    /// What products are computed in.
    pub precision: &'static str,
    /// Operations a second of a loop of multiply-adds in that precision on registers, on all threads.
    pub peak_flops_per_second: f64,
    /// Median of the steps.
    pub seconds: f64,
    /// Arithmetic of the products of a step that keeps everything: nothing is computed twice.
    pub model_flops: f64,
    pub rows: Vec<Row>,
}

/// Measure some steps.
///
/// # Errors
/// A device other than the CPU, or memory that is not enough.
pub fn measure(
    config: &TrainConfig,
    model: &Model,
    adapter: &Adapter,
    steps: u64,
) -> Result<Table> {
    if adapter.kind != Kind::Cpu {
        return Err(Error::invalid(format!(
            "aios bench step takes the time of the CPU's kernels, {} has others; use --device cpu",
            adapter.flag()
        )));
    }
    let measured = profiled(config, model, steps)?;
    let (seconds, operations) = (measured.seconds, measured.operations);
    let (precision, peak_flops_per_second) = peak(measured.precision);
    let plain = TrainConfig {
        gradient_checkpointing: false,
        ..config.clone()
    };
    let model_flops = match config.gradient_checkpointing {
        true => arithmetic(&profiled(&plain, model, 1)?.operations),
        false => arithmetic(&operations) / steps as f64,
    };
    Ok(Table {
        benchmark: "step",
        version: env!("CARGO_PKG_VERSION"),
        device: adapter.name.clone(),
        threads: team::threads(),
        model: name(config),
        batch_size: config.batch_size,
        gradient_accumulation_steps: config.gradient_accumulation_steps,
        max_seq_len: config.max_seq_len,
        steps,
        precision,
        peak_flops_per_second,
        seconds,
        model_flops,
        rows: operations.iter().map(|o| Row::of(o, steps)).collect(),
    })
}

/// Some steps.
struct Profiled {
    /// Median of a step.
    seconds: f64,
    /// Of all steps, the longest first.
    operations: Vec<Operation>,
    /// Of the activations.
    precision: Precision,
}

fn profiled(config: &TrainConfig, model: &Model, steps: u64) -> Result<Profiled> {
    on_device(config, model, false, |step| {
        let mut seconds = Vec::new();
        let mut operations = Vec::new();
        step.each(steps, &mut |one| {
            let started = Instant::now();
            let (outcome, own) = record(one);
            seconds.push(started.elapsed().as_secs_f64());
            own.into_iter().for_each(|own| add(&mut operations, own));
            outcome
        })?;
        seconds.sort_by(f64::total_cmp);
        operations.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(Profiled {
            seconds: seconds[seconds.len() / 2],
            operations,
            precision: step.plan.precision,
        })
    })
}

/// What products of activations in such a format are computed in, and at most how fast.
fn peak(precision: Precision) -> (&'static str, f64) {
    let in_bf16 = match precision {
        Precision::Bf16 => peak::flops_per_second_in_bf16(),
        Precision::F32 | Precision::F16 => None,
    };
    match in_bf16 {
        Some(peak) => ("bf16", peak),
        None => ("f32", peak::flops_per_second()),
    }
}

fn arithmetic(operations: &[Operation]) -> f64 {
    operations.iter().map(|o| o.flops as f64).sum()
}

impl Row {
    fn of(operation: &Operation, steps: u64) -> Self {
        let each = |n: u64| n as f64 / steps as f64;
        Self {
            operation: operation.name,
            calls: each(operation.calls),
            seconds: operation.seconds / steps as f64,
            flops: each(operation.flops),
            bytes: each(operation.bytes),
        }
    }
}

impl Table {
    /// Share of the peak that the model's arithmetic is of a step's time.
    pub fn share(&self) -> f64 {
        self.model_flops / self.seconds / self.peak_flops_per_second
    }

    /// As text.
    pub fn render(&self) -> String {
        let mut out = format!(
            "{}, {} threads: at most {:.0} GFLOP/s in {}\n{} x {} x {} tokens\n\n",
            self.device,
            self.threads,
            self.peak_flops_per_second / 1e9,
            self.precision,
            self.gradient_accumulation_steps,
            self.batch_size,
            self.max_seq_len,
        );
        let heading = [
            "operation",
            "calls",
            "ms",
            "share",
            "GFLOP/s",
            "of peak",
            "GB/s",
        ];
        line(&mut out, heading.map(str::to_owned));
        for row in &self.rows {
            let share = 100.0 * row.seconds / self.seconds;
            let rate = row.flops / row.seconds;
            let of_peak = 100.0 * rate / self.peak_flops_per_second;
            let [rate, of_peak] = match row.flops > 0.0 {
                true => [format!("{:.0}", rate / 1e9), format!("{of_peak:.0} %")],
                false => ["-".to_owned(), "-".to_owned()],
            };
            line(
                &mut out,
                [
                    row.operation.to_owned(),
                    format!("{:.0}", row.calls),
                    format!("{:.1}", 1e3 * row.seconds),
                    format!("{share:.1} %"),
                    rate,
                    of_peak,
                    format!("{:.1}", row.bytes / row.seconds / 1e9),
                ],
            );
        }
        let known: f64 = self.rows.iter().map(|row| row.seconds).sum();
        let rest = (self.seconds - known).max(0.0);
        let [ms, share] = [1e3 * rest, 100.0 * rest / self.seconds];
        let [ms, share] = [format!("{ms:.1}"), format!("{share:.1} %")];
        let [calls, rate, of_peak, bytes] = [const { String::new() }; 4];
        let between = "between them".to_owned();
        line(&mut out, [between, calls, ms, share, rate, of_peak, bytes]);
        let _ = write!(
            out,
            "\na step takes {:.0} ms; the model's arithmetic is {:.1} GFLOP, nothing counted twice: {:.0} GFLOP/s, {:.0} % of \
             what the processor can do\n",
            1e3 * self.seconds,
            self.model_flops / 1e9,
            self.model_flops / self.seconds / 1e9,
            100.0 * self.share(),
        );
        out
    }
}

fn line(out: &mut String, cells: [String; 7]) {
    let [name, rest @ ..] = cells;
    let mut text = format!("{name:<22}");
    for (cell, width) in rest.iter().zip([7, 10, 9, 9, 9, 8]) {
        let _ = write!(text, "{cell:>width$}");
    }
    let _ = writeln!(out, "{}", text.trim_end());
}
