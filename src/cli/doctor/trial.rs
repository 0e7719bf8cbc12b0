//! A device at work, in a process of its own: a driver that crashes or hangs is a finding, not the end.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bench::device::on_device;
use crate::bench::process::last_words;
use aios_base::config::{DeviceChoice, PRESETS, Subject, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::execution::Kind;
use aios_base::terminal;
use aios_data::Tokenizer;
use aios_device::{Adapter, Class, select};
use aios_kernels::peak;
use aios_models::Model;
use aios_models::actv1::ModelConfig;
use aios_plan::checks::checks;

/// The longest that one device is tried.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks whether the process has ended.
const PAUSE: Duration = Duration::from_millis(20);
/// Steps that are timed.
const STEPS: u64 = 3;
/// The built-in settings whose training step is timed.
const PRESET: &str = "quickstart";

/// What came of a device.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Trial {
    /// As `--device` takes it.
    pub device: String,
    /// Kinds of work that were compared with the CPU's plain operations.
    pub checks: usize,
    /// What was wrong with some of them.
    pub problems: Vec<String>,
    /// Of a training step of the quickstart's model.
    pub tokens_per_second: Option<f64>,
    /// f32 operations a second of the processor's registers, of the CPU alone.
    pub peak_flops_per_second: Option<f64>,
    /// Why it does not work.
    pub failure: Option<String>,
    /// The time was up before all was known.
    pub unfinished: bool,
}

impl Trial {
    /// Whether nothing speaks against a training there.
    pub fn works(&self) -> bool {
        self.failure.is_none() && self.problems.is_empty()
    }

    fn failed(device: String, why: String) -> Self {
        Self {
            device,
            failure: Some(why),
            ..Self::default()
        }
    }
}

/// Try a device in this process; `tell` is given what is known by then, more and more of it.
///
/// # Errors
/// There is no such device, or what `tell` gives.
pub fn here(choice: &DeviceChoice, tell: &mut dyn FnMut(&Trial) -> Result<()>) -> Result<()> {
    let adapter = select(choice)?.adapter;
    let mut trial = Trial {
        device: adapter.flag(),
        ..Trial::default()
    };
    let device = match aios_backends::open(&adapter.selected) {
        Ok(device) => device,
        Err(error) => return tell(&Trial::failed(trial.device, error.to_string())),
    };
    for (work, check) in checks(&adapter) {
        trial.checks += 1;
        let wrong = device.check(check).err();
        trial
            .problems
            .extend(wrong.map(|why| format!("{work}: {why}")));
        tell(&trial)?;
    }
    if !trial.problems.is_empty() {
        return Ok(());
    }
    trial.peak_flops_per_second = (adapter.kind == Kind::Cpu).then(peak::flops_per_second);
    match speed(choice) {
        Ok(speed) => trial.tokens_per_second = Some(speed),
        Err(error) => trial.failure = Some(error.to_string()),
    }
    tell(&trial)
}

/// Tokens a second of the quickstart's training step.
fn speed(choice: &DeviceChoice) -> Result<f64> {
    let preset = PRESETS.into_iter().find(|preset| preset.name == PRESET);
    let preset = preset.ok_or_else(|| Error::failed(format!("{PRESET} is not built in")))?;
    let config = TrainConfig {
        device: *choice,
        ..TrainConfig::defaults(Subject::Scratch).overlay_preset(preset)?
    };
    let vocabulary = Tokenizer::load(&config.model)?.vocab_size();
    let model = Model::from(ModelConfig::of(&config, vocabulary));
    let measured = on_device(&config, &model, false, |step| step.measure(STEPS))?;
    Ok(measured.tokens_per_second)
}

/// Try a device in another process; `None` for one that no run would take by itself.
pub fn apart(adapter: &Adapter) -> Option<Trial> {
    if adapter.problem.is_some()
        || adapter.class == Class::Software
        || adapter.kind == Kind::Ndarray
    {
        return None;
    }
    let device = adapter.flag();
    terminal::say(&format!(
        "trying {}, at most {} seconds",
        adapter.in_words(),
        PATIENCE.as_secs()
    ));
    Some(ended(&device).unwrap_or_else(|why| Trial::failed(device, why)))
}

/// What the process says of the device.
///
/// # Errors
/// It cannot be started, or watched.
fn ended(device: &str) -> std::result::Result<Trial, String> {
    let program = std::env::current_exe().map_err(|cause| format!("aios is not found: {cause}"))?;
    let mut child = Command::new(program)
        .args(["doctor", "--single", device])
        .env("AIOS_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|cause| format!("aios cannot be started again: {cause}"))?;
    let [out, err] = [drained(child.stdout.take()), drained(child.stderr.take())];
    let status = waited_for(&mut child)?;
    let [out, err] = [out, err].map(|text| text.join().unwrap_or_default());
    Ok(read(device, status, &out, &err))
}

/// The last that was told, and how it ended; a `status` of `None` is that of one that took too long.
fn read(device: &str, status: Option<ExitStatus>, out: &str, err: &str) -> Trial {
    let told = out.lines().rev();
    let trial = told
        .filter_map(|line| serde_json::from_str(line).ok())
        .next();
    let trial = trial.unwrap_or_else(|| Trial {
        device: device.to_string(),
        ..Trial::default()
    });
    let Some(status) = status else {
        return Trial {
            unfinished: true,
            ..trial
        };
    };
    if status.success() {
        return trial;
    }
    let failure = match last_words(err) {
        Some(words) => format!("the trial ended with {status}: {words}"),
        None => format!("the trial ended with {status}"),
    };
    Trial {
        failure: Some(failure),
        ..trial
    }
}

/// A pipe that nobody reads would stop who writes into it.
fn drained(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// `None` if it took too long.
fn waited_for(child: &mut Child) -> std::result::Result<Option<ExitStatus>, String> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) => std::thread::sleep(PAUSE),
            Err(cause) => return Err(format!("the trial cannot be watched: {cause}")),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_tried_and_timed() {
        let mut told = Vec::new();
        here(&DeviceChoice::Cpu, &mut |trial| {
            told.push(trial.clone());
            Ok(())
        })
        .unwrap();
        assert!(told.iter().all(Trial::works), "{told:?}");
        assert_eq!(told[0].checks, 1);
        let timed = told.last().unwrap();
        assert!(timed.checks > 10, "{timed:?}");
        assert!(timed.tokens_per_second.unwrap() > 1.0);
        assert!(timed.peak_flops_per_second.unwrap() > 1e8);
    }

    #[test]
    fn what_was_told_before_the_end_counts() {
        let trial = Trial {
            device: "cuda:0".into(),
            checks: 19,
            ..Trial::default()
        };
        let line = serde_json::to_string(&trial).unwrap() + "\n";
        let late = read("cuda:0", None, &line, "");
        assert!(late.unfinished && late.works());
        assert_eq!(late.checks, 19);
        let silent = read("cuda:0", None, "", "");
        assert!(silent.unfinished && silent.device == "cuda:0");
    }

    #[cfg(unix)]
    #[test]
    fn a_crash_is_a_failure_with_its_last_words() {
        use std::os::unix::process::ExitStatusExt;
        let crash = Some(ExitStatus::from_raw(11));
        let trial = read("wgpu:0", crash, "", "one\nerror: two\n\n");
        assert!(!trial.works());
        let why = trial.failure.unwrap();
        assert!(why.contains("signal: 11") && why.ends_with("two"), "{why}");
    }
}
