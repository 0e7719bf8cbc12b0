//! `aios bench context`: memory and speed of a training step over the length of its sequence, form by
//! form, until each no longer fits.

use crate::bench::device::on_device;
use crate::bench::model::{name, named};
use crate::bench::outcome::{Unmeasured, verdict};
use crate::bench::process::{check_names, in_a_process};
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::execution::Kind;
use aios_base::meter::format_bytes;
use aios_base::terminal;
use aios_device::Adapter;
use aios_models::{Architecture, Model};
use aios_train::step::Trial;
use serde::{Deserialize, Serialize};

/// Window of the forms that have one, unless another is asked for.
const WINDOW: usize = 1024;

/// A way of training long sequences.
struct Form {
    name: &'static str,
    flags: String,
}

/// What a step took, as its process writes it.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Outcome {
    #[serde(flatten)]
    pub trial: Trial,
    pub predicted: u64,
}

/// One form at one length.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub form: &'static str,
    pub max_seq_len: usize,
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
    pub hidden_size: usize,
    pub window_size: usize,
    pub chunk_size: usize,
    pub halt_max_steps: usize,
    pub memory_limit: Option<u64>,
    pub rows: Vec<Row>,
}

/// Measure one step in this process, as the configuration says.
///
/// # Errors
/// A device that is missing or fails, or memory that is not enough.
pub fn single(config: &TrainConfig, model: &Model) -> Result<Outcome> {
    on_device(config, model, true, |step| {
        let trial = step.trial()?;
        if let Some(limit) = config.memory_limit.map(|limit| limit.0)
            && trial.peak > limit
        {
            return Err(Error::OutOfMemory(format!(
                "it took {} of {}",
                format_bytes(trial.peak),
                format_bytes(limit)
            )));
        }
        Ok(Outcome {
            trial,
            predicted: step.plan.run(config, model).estimate().total,
        })
    })
}

/// Run each form at each length in a process of its own; a form that was not measured is not tried at
/// greater lengths.
///
/// # Errors
/// A form that does not exist, or a program that cannot be started.
pub fn table(
    config: &TrainConfig,
    model: &Model,
    adapter: &Adapter,
    seq_lens: &[usize],
    only: &[String],
) -> Result<Table> {
    let window = config.window().unwrap_or(WINDOW);
    let forms = forms(config, adapter.kind, window);
    let names: Vec<&str> = forms.iter().map(|form| form.name).collect();
    check_names("form", only, &names)?;
    let wanted = |form: &&Form| only.is_empty() || only.iter().any(|name| name == form.name);
    let mut rows = Vec::new();
    for form in forms.iter().filter(wanted) {
        for &max_seq_len in seq_lens {
            let row = run(form, max_seq_len)?;
            let ends = row.outcome.is_none();
            rows.push(row);
            if ends {
                break;
            }
        }
    }
    Ok(Table {
        benchmark: "context",
        version: env!("CARGO_PKG_VERSION"),
        device: adapter.name.clone(),
        backend: adapter.kind,
        model: name(config),
        batch_size: config.effective_batch(),
        hidden_size: model.block().hidden,
        window_size: window,
        chunk_size: config.chunk_size,
        halt_max_steps: config.halt_max_steps,
        memory_limit: config.memory_limit.map(|limit| limit.0),
        rows,
    })
}

fn forms(config: &TrainConfig, kind: Kind, window: usize) -> Vec<Form> {
    let whole = "--no-chunked-training --no-cpu-offload";
    let chunks = "--gradient-checkpointing --use-chunked-training";
    let size = config.chunk_size;
    let truncated =
        format!("{chunks} --chunk-size {size} --chunk-gradients truncated --window-size {window}");
    let form = |name, flags| Form { name, flags };
    let mut forms = vec![
        form(
            "plain",
            format!("{whole} --no-flash-attn --no-gradient-checkpointing --window-size 0"),
        ),
        form(
            "flash",
            format!("{whole} --gradient-checkpointing --window-size 0"),
        ),
        form(
            "flash-window",
            format!("{whole} --gradient-checkpointing --window-size {window}"),
        ),
        form(
            "chunked-exact",
            format!(
                "{chunks} --chunk-size {size} --chunk-gradients exact --window-size {window} \
                 --no-cpu-offload"
            ),
        ),
        form("chunked", format!("{truncated} --no-cpu-offload")),
    ];
    // On a CPU everything is in host memory.
    if kind.is_gpu() {
        forms.push(form(
            "chunked-offload",
            format!("{truncated} --cpu-offload"),
        ));
    }
    forms
}

fn run(form: &Form, max_seq_len: usize) -> Result<Row> {
    terminal::say(&format!(
        "measuring {}, {max_seq_len} tokens ...",
        form.name
    ));
    let flags = format!("{} --max-seq-len {max_seq_len}", form.flags);
    let flags = flags.split_whitespace().map(String::from);
    let outcome: Result<Outcome, _> = in_a_process(flags)?;
    Ok(Row {
        form: form.name,
        max_seq_len,
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

    /// As a table in Markdown, with what it was measured on above.
    pub fn render(&self) -> String {
        let limit = match self.memory_limit {
            Some(limit) => format!(", at most {}", format_bytes(limit)),
            None => String::new(),
        };
        let mut text = format!(
            "{}{}{limit}, sequences a step: {}, hidden size {}, window {}, chunks of {}\n\n",
            self.device,
            named(&self.model),
            self.batch_size,
            self.hidden_size,
            self.window_size,
            self.chunk_size
        );
        text += "| form | tokens | peak | predicted | tokens/s |\n";
        text += "| --- | ---: | ---: | ---: | ---: |\n";
        text.extend(self.rows.iter().map(line));
        text
    }
}

fn line(row: &Row) -> String {
    let head = format!("| {} | {} ", row.form, row.max_seq_len);
    let Some(Outcome { trial, predicted }) = row.outcome else {
        let error = row.error.as_ref().map_or("", |error| &error.why);
        return format!("{head}| {error} |\n");
    };
    let off = 100.0 * (predicted as f64 / trial.peak as f64 - 1.0);
    format!(
        "{head}| {:.0} MiB | {} ({off:+.0} %) | {:.0} |\n",
        trial.peak as f64 / f64::from(1 << 20),
        format_bytes(predicted),
        trial.tokens_per_second
    )
}
