//! What one training step sends to a GPU's runtime: kernels, uploads, waits of the host.
//!
//! cubecl and wgpu say so in their logs, which a child process counts as they come: the settings of cubecl's are a file in its
//! working directory, and hold for the whole process. Nothing depends on widths, but how often a loss of many tokens is sliced.

use crate::common::{lora, wgpu};
use aios_adapters::Frozen;
use aios_base::config::{AmpDtype, Subject, TrainConfig};
use aios_base::storage::{Quantize, Storage};
use aios_device::MemoryMeter;
use aios_models::actv1::ModelConfig;
use aios_models::decoder::{Adapted, HfModel};
use aios_models::{Architecture, Model};
use aios_plan::Plan;
use aios_train::step::TrialStep;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// What a step may send, of which two waits are the counter's and one is the benchmark's.
struct Most {
    launches: usize,
    uploads: usize,
    waits: usize,
}

/// The default model. Some 30 of its launches are for losses and answers that stay on the device until they are read together, which
/// saves as many waits as there were.
const OF_ACTV1: Most = Most {
    launches: 650,
    uploads: 8,
    waits: 6,
};

/// A decoder of the Llama kind with four blocks, whose weights are in NF4, and an adapter beside all of them: 28 linear layers, each
/// with three decoded weights and 13 products, as every block is computed twice. Casts of the adapters stay for all of a step.
const OF_QLORA: Most = Most {
    launches: 800,
    uploads: 8,
    waits: 5,
};

/// Says to a child which step it is: words of [`Kind`].
const KIND: &str = "AIOS_TEST_STEP";

/// Which step is counted.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Kind {
    qlora: bool,
    /// Computed in f16, as a GPU computes in half precision where it may choose.
    half: bool,
}

impl Kind {
    fn step(self) -> (TrainConfig, Model) {
        let (config, model) = match self.qlora {
            false => actv1(),
            true => qlora(),
        };
        let amp_dtype = match self.half {
            false => AmpDtype::Auto,
            true => AmpDtype::F16,
        };
        (
            TrainConfig {
                amp_dtype,
                ..config
            },
            model,
        )
    }
}

/// What cubecl is to log, by the `log` crate.
const SETTINGS: &str = r#"
[profiling.logger]
level = "minimal"
log = "info"
[memory.logger]
level = "full"
log = "info"
"#;

/// Before the figures in the child's output.
const FIGURES: &str = "launches of a step: ";

/// What was sent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Sent {
    /// Launches of each kernel.
    kernels: BTreeMap<String, usize>,
    /// Writes into buffers, those of a kernel's own arguments among them.
    writes: usize,
    /// Buffers for a kernel's own arguments.
    uniforms: usize,
    /// Buffers that something is read back into.
    reads: usize,
    /// Waits for all work.
    syncs: usize,
    /// Pieces of memory taken from the pools.
    buffers: usize,
    /// Times that the pools were emptied, which the test does to see that all before has been counted.
    marks: usize,
}

impl Sent {
    fn launches(&self) -> usize {
        self.kernels.values().sum()
    }

    /// Writes of tensors, and of what kernels written by hand are told.
    fn uploads(&self) -> usize {
        self.writes - self.uniforms
    }

    /// Times that the host waited for the device.
    fn waits(&self) -> usize {
        self.reads + self.syncs
    }

    fn add(&mut self, line: &str) {
        if let Some(kernel) = line.strip_prefix("Executing ") {
            *self.kernels.entry(kernel.into()).or_default() += 1;
            return;
        }
        let count = match line {
            "Queue::write_buffer" | "Queue::create_staging_buffer" => &mut self.writes,
            "Queue::on_submitted_work_done" => &mut self.syncs,
            "Manual memory cleanup ..." => &mut self.marks,
            _ if line.starts_with("[Uniform GPU Memory] Reserved") => &mut self.uniforms,
            _ if line.starts_with("[Staging CPU Memory] Reserved") => &mut self.reads,
            _ if line.starts_with("[Main GPU Memory] Reserved") => &mut self.buffers,
            _ => return,
        };
        *count += 1;
    }
}

/// Counts what is logged.
struct Counter(Mutex<Sent>);

impl Counter {
    fn sent(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap()
    }

    /// Begin to count anew; what was counted.
    fn taken(&self) -> Sent {
        std::mem::take(&mut self.sent())
    }

    /// Wait until everything that was sent before is counted: lines come from a thread of cubecl's, in order.
    fn settle(&self, device: &dyn aios_engine::OpenDevice) {
        device.confirm().unwrap();
        let (before, began) = (self.sent().marks, Instant::now());
        device.release_memory();
        // So that it is done, and not only asked for.
        device.confirm().unwrap();
        while self.sent().marks == before {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "cubecl logs nothing"
            );
            sleep(Duration::from_millis(5));
        }
    }
}

impl log::Log for Counter {
    fn enabled(&self, _: &log::Metadata) -> bool {
        true
    }

    fn log(&self, record: &log::Record) {
        self.sent().add(&record.args().to_string());
    }

    fn flush(&self) {}
}

static COUNTER: Counter = Counter(Mutex::new(Sent {
    kernels: BTreeMap::new(),
    writes: 0,
    uniforms: 0,
    reads: 0,
    syncs: 0,
    buffers: 0,
    marks: 0,
}));

/// The default model but for its widths.
fn actv1() -> (TrainConfig, Model) {
    let config = TrainConfig {
        hidden_size: 32,
        num_heads: 2,
        max_seq_len: 16,
        batch_size: 2,
        ..TrainConfig::default()
    };
    let model = ModelConfig::of(&config, 301).into();
    (config, model)
}

fn qlora() -> (TrainConfig, Model) {
    let config = TrainConfig {
        max_seq_len: 16,
        batch_size: 2,
        ..TrainConfig::defaults(Subject::Adapter)
    };
    let json = serde_json::json!({
        "model_type": "llama", "vocab_size": 301, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64,
    });
    let model = HfModel::new(json, config.max_seq_len, 0).unwrap();
    let lora = lora(0.0);
    let frozen = Frozen::new(Storage::F32, Some(Quantize::Nf4));
    let model = model.with_adapter(Adapted { lora, frozen }).unwrap();
    (config, Model::Decoder(model))
}

#[test]
#[ignore = "the other test runs it in a process of its own"]
fn counted() {
    let Some(selection) = wgpu() else { return };
    log::set_logger(&COUNTER).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    let adapter = selection.adapter;
    let kind = std::env::var(KIND).map(|kind| serde_json::from_str(&kind).unwrap());
    let (config, model) = kind.unwrap_or_else(|_| Kind::default()).step();
    let device = aios_backends::open(&adapter.selected).unwrap();
    let step = TrialStep {
        config: &config,
        model: &model,
        plan: &Plan::new(&config, &adapter, model.attention()).unwrap(),
        meter: &MemoryMeter::new(adapter.selected),
        device: &*device,
    };
    let mut steps = Vec::new();
    let count = &mut |one: aios_train::step::OneStep| {
        COUNTER.settle(&*device);
        COUNTER.taken();
        let outcome = one();
        COUNTER.settle(&*device);
        steps.push(COUNTER.taken());
        outcome
    };
    step.each(2, count).unwrap();
    println!("{FIGURES}{}", serde_json::to_string(&steps[1]).unwrap());
}

/// The figures of the test above, run by itself.
fn of_a_child(kind: Kind) -> Sent {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cubecl.toml"), SETTINGS).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "--ignored", "--nocapture"])
        .arg("training::launches::counted")
        .env(KIND, serde_json::to_string(&kind).unwrap())
        .current_dir(folder.path());
    let output = child.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    let figures = said.lines().find_map(|line| line.split(FIGURES).nth(1));
    let figures = figures.unwrap_or_else(|| panic!("{said}\n{errors}"));
    serde_json::from_str(figures).unwrap()
}

#[track_caller]
fn assert_sends(kind: Kind, most: Most) {
    if wgpu().is_none() {
        return;
    }
    let sent = of_a_child(kind);
    let mut kernels: Vec<_> = sent.kernels.iter().collect();
    kernels.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    for (kernel, count) in kernels {
        println!("{count:6} {kernel}");
    }
    let (launches, uploads, waits) = (sent.launches(), sent.uploads(), sent.waits());
    println!("{launches} launches, {uploads} uploads, {waits} waits: {sent:?}");
    assert!(launches > 0, "nothing was counted");
    assert!(launches <= most.launches, "{launches} launches");
    assert!(uploads <= most.uploads, "{uploads} uploads");
    assert!(waits <= most.waits, "{waits} waits");
}

const ACTV1: Kind = Kind {
    qlora: false,
    half: false,
};

const QLORA: Kind = Kind {
    qlora: true,
    half: false,
};

#[test]
fn launches_of_a_step_on_wgpu() {
    assert_sends(ACTV1, OF_ACTV1);
}

#[test]
fn launches_of_a_step_in_half_precision_on_wgpu() {
    assert_sends(
        Kind {
            half: true,
            ..ACTV1
        },
        OF_ACTV1,
    );
}

#[test]
fn launches_of_a_step_of_qlora_on_wgpu() {
    assert_sends(QLORA, OF_QLORA);
}

#[test]
fn launches_of_a_step_of_qlora_in_half_precision_on_wgpu() {
    assert_sends(
        Kind {
            half: true,
            ..QLORA
        },
        OF_QLORA,
    );
}
