//! `aios bench memory`: the memory of a training step, plain and with each feature.

use crate::bench::device::on_device;
use crate::bench::model::{name, named};
use crate::bench::outcome::{Unmeasured, verdict};
use crate::bench::process::{check_names, in_a_process};
use aios_base::config::TrainConfig;
use aios_base::error::Result;
use aios_base::execution::Kind;
use aios_base::meter::format_bytes;
use aios_base::terminal;
use aios_device::Adapter;
use aios_models::{Architecture, Model};
use aios_plan::estimate::Estimate;
use aios_train::step::Measured;
use serde::{Deserialize, Serialize};

/// Everything off.
const PLAIN: [&str; 6] = [
    "--no-gradient-checkpointing",
    "--no-fused-cross-entropy",
    "--no-amp",
    "--no-8bit-optimizer",
    "--no-flash-attn",
    "--no-tie-embeddings",
];

/// What a row adds to the plain one.
struct Variant {
    name: &'static str,
    adds: Vec<String>,
}

/// A row's outcome, as its process writes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub measured: Measured,
    pub predicted: Estimate,
    pub precision: String,
    pub attention: String,
    pub optimizer_bytes_per_parameter: f64,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub name: String,
    /// What it adds to the plain row.
    pub flags: Vec<String>,
    /// `None` if it was not measured.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    /// Why it was not measured.
    pub error: Option<Unmeasured>,
}

/// All rows, and what they were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub benchmark: &'static str,
    pub version: &'static str,
    pub device: String,
    pub backend: Kind,
    /// Folder, id or config.json of a Hugging Face model; `None` for ACT-v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    pub batch_size: usize,
    pub gradient_accumulation_steps: usize,
    pub max_seq_len: usize,
    pub hidden_size: usize,
    pub rows: Vec<Row>,
}

/// Measure in this process, as the configuration says.
///
/// # Errors
/// A device that is missing or fails, or memory that is not enough.
pub fn single(config: &TrainConfig, model: &Model, steps: u64) -> Result<Outcome> {
    on_device(config, model, false, |step| {
        let (plan, predicted) = (step.plan, step.plan.run(config, model).estimate());
        Ok(Outcome {
            measured: step.measure(steps)?,
            predicted,
            precision: plan.precision_choice.compute.clone(),
            attention: plan.attention.path.clone(),
            optimizer_bytes_per_parameter: predicted.optimizer as f64 / model.trained() as f64,
        })
    })
}

/// Run each row in a process of its own; `only` names some, or none for all.
///
/// # Errors
/// A row that does not exist.
pub fn table(
    config: &TrainConfig,
    model: &Model,
    adapter: &Adapter,
    only: &[String],
) -> Result<Table> {
    let variants = variants(config, adapter);
    let names: Vec<&str> = variants.iter().map(|v| v.name).collect();
    check_names("row", only, &names)?;
    let wanted = |v: &&Variant| only.is_empty() || only.iter().any(|name| name == v.name);
    let rows = variants
        .iter()
        .filter(wanted)
        .map(run)
        .collect::<Result<_>>()?;
    Ok(Table {
        benchmark: "memory",
        version: env!("CARGO_PKG_VERSION"),
        device: adapter.name.clone(),
        backend: adapter.kind,
        model: name(config),
        batch_size: config.batch_size,
        gradient_accumulation_steps: config.gradient_accumulation_steps,
        max_seq_len: config.max_seq_len,
        hidden_size: model.block().hidden,
        rows,
    })
}

fn variants(config: &TrainConfig, adapter: &Adapter) -> Vec<Variant> {
    let half = ["bf16", "f16"].into_iter().find(|half| adapter.holds(half));
    let amp = half.map(|half| format!("--amp --amp-dtype {half}"));
    let flash = Some("--use-flash-attn".to_string());
    let checkpointing = Some("--gradient-checkpointing".to_string());
    let fused = Some("--fused-cross-entropy".to_string());
    let eight = Some("--use-8bit-optimizer".to_string());
    let sequences = config.effective_batch();
    let one = (config.batch_size > 1)
        .then(|| format!("--batch-size 1 --gradient-accumulation-steps {sequences}"));
    let all = [&checkpointing, &fused, &amp, &eight, &flash];
    let all: String = all.into_iter().flatten().map(|f| format!("{f} ")).collect();
    let defaults = [&checkpointing, &fused, &flash];
    let defaults: String = defaults
        .into_iter()
        .flatten()
        .map(|f| format!("{f} "))
        .collect();
    // A Hugging Face model says itself whether it has one table.
    let tied = (!config.trains_decoder()).then(|| "--tie-embeddings".to_string());
    let all_in_ones = one.as_ref().map(|one| format!("{all}{one}"));
    [
        ("plain", Some(String::new())),
        ("checkpointing", checkpointing),
        ("fused-loss", fused),
        ("amp", amp),
        ("adamw8bit", eight),
        ("flash", flash),
        ("tied", tied),
        ("accumulation", one),
        ("defaults", Some(defaults)),
        ("all", Some(all)),
        ("all-accumulation", all_in_ones),
    ]
    .into_iter()
    .filter_map(|(name, adds)| {
        let adds = adds?.split_whitespace().map(str::to_string).collect();
        Some(Variant { name, adds })
    })
    .collect()
}

fn run(variant: &Variant) -> Result<Row> {
    terminal::say(&format!("measuring {} ...", variant.name));
    let flags = PLAIN
        .map(String::from)
        .into_iter()
        .chain(variant.adds.clone());
    let outcome: Result<Outcome, _> = in_a_process(flags)?;
    Ok(Row {
        name: variant.name.to_string(),
        flags: variant.adds.clone(),
        error: outcome.as_ref().err().cloned(),
        outcome: outcome.ok(),
    })
}

impl Table {
    /// Whether it was a success.
    ///
    /// # Errors
    /// Rows that failed, or not a single one that was measured.
    pub fn verdict(&self) -> Result<()> {
        verdict(self.rows.iter().map(|row| row.error.as_ref()))
    }

    /// The plain row's peak and speed, if it was measured.
    fn plain(&self) -> Option<&Measured> {
        let plain = self.rows.iter().find(|row| row.name == "plain")?;
        Some(&plain.outcome.as_ref()?.measured)
    }

    /// As a table in Markdown, with what it was measured on above and what the columns mean below.
    pub fn render(&self) -> String {
        let mut text = format!(
            "{}{}, {} x {} x {} tokens a step, hidden size {}\n\n",
            self.device,
            named(&self.model),
            self.gradient_accumulation_steps,
            self.batch_size,
            self.max_seq_len,
            self.hidden_size
        );
        text += "| row | weights | gradients | optimizer | activations | loss | peak | of plain | \
                 predicted | tokens/s | of plain |\n";
        text += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        for row in &self.rows {
            text += &self.line(row);
        }
        text + "\neach purpose at its own largest; the peak is the worst moment of a step, when they \
                are not all there\n"
    }

    fn line(&self, row: &Row) -> String {
        let Some(Outcome {
            measured: m,
            predicted,
            ..
        }) = &row.outcome
        else {
            let error = row.error.as_ref().map_or("", |error| &error.why);
            return format!("| {} | {error} |\n", row.name);
        };
        let mib = |bytes: u64| format!("{:.0} MiB", bytes as f64 / (1 << 20) as f64);
        let ratio = |part: f64, whole: Option<f64>| {
            whole.map_or("-".to_string(), |whole| format!("{:.2}", part / whole))
        };
        let plain = self.plain();
        let off = 100.0 * (predicted.total as f64 / m.peak as f64 - 1.0);
        [
            row.name.clone(),
            mib(m.weights),
            mib(m.gradients),
            mib(m.optimizer),
            mib(m.activations),
            m.loss.map_or("-".to_string(), mib),
            mib(m.peak),
            ratio(m.peak as f64, plain.map(|p| p.peak as f64)),
            format!("{} ({off:+.0} %)", format_bytes(predicted.total)),
            format!("{:.0}", m.tokens_per_second),
            ratio(m.tokens_per_second, plain.map(|p| p.tokens_per_second)),
        ]
        .iter()
        .map(|cell| format!("| {cell} "))
        .collect::<String>()
            + "|\n"
    }
}
