//! Saving: when it works, when it does not, and which of several is the best.

use crate::state::TrainerState;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::meter::format_bytes;
use aios_base::waiting::waiting_for;
use aios_bundle::{Best, BundleContents, BundleWriter, SaveReport, TensorSource};
use aios_data::Tokenizer;
use aios_engine::Engine;
use aios_hf::FolderFile;
use aios_metrics::appended::Trouble;
use aios_process::split::Split;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long after a save that failed it is tried again, if no other is due before.
const TRY_AGAIN: Duration = Duration::from_secs(60);

/// The checkpoints of a run.
pub struct Checkpoints {
    /// None on ranks that do not write.
    writer: Option<BundleWriter>,
    /// What makes a checkpoint a folder that other programs load.
    folder: Vec<FolderFile>,
    /// Step of the newest one.
    pub step: u64,
    /// Its folder, if there is one.
    path: Option<PathBuf>,
    /// Where an earlier part of the run was logged to: metrics and TensorBoard's files. A bundle remembers it, so that
    /// `aios report` finds it.
    logged: [Option<PathBuf>; 2],
    /// When a save failed for want of a disk, until one works, and when that was spoken of.
    failed: Option<Instant>,
    trouble: Trouble,
    /// The bundle holds another run, to be put aside when this one has something to save.
    starting_over: bool,
}

/// What a checkpoint is made of.
pub struct Contents<'a> {
    pub engine: &'a dyn Engine,
    pub state: &'a TrainerState,
    pub config: &'a TrainConfig,
    /// How steps were to be divided before any back-off.
    pub asked: Split,
    pub tokenizer: &'a Tokenizer,
    /// Called as it is written.
    pub progress: &'a dyn Fn(),
}

impl Checkpoints {
    /// Of a run that begins.
    pub fn new(writer: Option<BundleWriter>, starting_over: bool) -> Self {
        Self {
            writer,
            folder: Vec::new(),
            step: 0,
            path: None,
            logged: [None, None],
            failed: None,
            trouble: Trouble::default(),
            starting_over,
        }
    }

    /// Of a run that goes on from the checkpoint of a step in a folder.
    pub fn resumed(
        writer: Option<BundleWriter>,
        step: u64,
        path: PathBuf,
        logged: [Option<PathBuf>; 2],
    ) -> Self {
        Self {
            step,
            path: Some(path),
            logged,
            ..Self::new(writer, false)
        }
    }

    /// With files that make each of them a folder that other programs load.
    pub fn with_folder(self, folder: Vec<FolderFile>) -> Self {
        Self { folder, ..self }
    }

    /// Whether a save that failed is to be tried again, whatever else is due.
    pub fn is_overdue(&self) -> bool {
        self.failed.is_some_and(|at| at.elapsed() > TRY_AGAIN)
    }

    /// Write one.
    ///
    /// # Errors
    /// [`Error::NotWritten`] if the disk is at fault.
    pub fn save<'a>(&mut self, contents: &Contents<'a>) -> Result<SaveReport> {
        self.set_earlier_run_aside()?;
        let step = contents.state.step;
        let mut config = contents.config.clone();
        contents.asked.apply(&mut config);
        let [log, tensorboard] = self.logged.clone();
        config.log_file = config.log_file.or(log);
        config.tensorboard = config.tensorboard.or(tensorboard);
        let trainer = serde_json::to_value(contents.state)
            .map_err(|cause| Error::failed(format!("cannot record the state: {cause}")))?;
        let progress = contents.progress;
        let fetched = Arc::new(AtomicU64::new(0));
        let noted = |tensors: Vec<TensorSource<'a>>| -> Vec<TensorSource<'a>> {
            let each = tensors.into_iter();
            each.map(|t| noted(t, progress, &fetched)).collect()
        };
        let model = noted(contents.engine.weights());
        let optimizer = noted(contents.engine.optimizer_state());
        let all = (model.len() + optimizer.len()) as u64;
        let writer = writer(&mut self.writer)?;
        let contents = BundleContents {
            step,
            model,
            optimizer,
            trainer,
            config_toml: config.to_toml()?,
            tokenizer: &|dir| contents.tokenizer.save(dir),
            folder: &self.folder,
        };
        let written = Arc::clone(&fetched);
        let so_far = move || (written.load(Ordering::Relaxed), all);
        let saved = waiting_for("saving", config.quiet, so_far, || writer.save(&contents))?;
        self.failed = None;
        if self.trouble.worked().is_some() {
            tracing::warn!("step {step} is saved: saving works again");
        }
        self.step = step;
        self.path = Some(saved.path.clone());
        Ok(saved)
    }

    /// A save in the midst of the run has failed, and there is another one to come.
    pub fn note_failure(&mut self, cause: &str) {
        let now = Instant::now();
        if self.trouble.failed(now).is_some() {
            tracing::warn!(
                "{cause}; training goes on, and saving is tried again in a minute at the latest"
            );
        }
        self.failed = Some(now);
    }

    /// Whether a loss is better than that of the best checkpoint so far, as far as both are of the same text.
    pub fn is_best(&self, loss: f64, evaluated: &str) -> bool {
        let comparable = |best: &Best| !self.starting_over && best.evaluated == evaluated;
        let best = self.writer.as_ref().and_then(BundleWriter::best);
        let best = best.filter(comparable);
        loss.is_finite() && best.is_none_or(|best| loss < best.loss)
    }

    /// Keep the checkpoint of a step as the best one; where it then is, or `None` if there is no checkpoint of it.
    pub fn keep_best(&mut self, best: Best) -> Option<Result<PathBuf>> {
        let checkpoint = self.path.clone().filter(|_| self.step == best.step)?;
        Some(self.writer.as_mut()?.keep_best(&checkpoint, best))
    }

    fn set_earlier_run_aside(&mut self) -> Result<()> {
        if !self.starting_over {
            return Ok(());
        }
        let aside = writer(&mut self.writer)?.set_earlier_run_aside();
        let aside = aside.map_err(|cause| Error::NotWritten(cause.to_string()))?;
        self.starting_over = false;
        if let Some(run) = aside {
            tracing::warn!(
                "the earlier run in this bundle, of {} steps, is kept in {} ({})",
                run.step,
                run.path.display(),
                format_bytes(run.bytes)
            );
        }
        Ok(())
    }
}

fn writer(writer: &mut Option<BundleWriter>) -> Result<&mut BundleWriter> {
    let nobody = || {
        Error::failed("internal error: a rank that does not write was asked to; please report it")
    };
    writer.as_mut().ok_or_else(nobody)
}

/// A tensor whose turn to be written is noted.
fn noted<'a>(
    tensor: TensorSource<'a>,
    progress: &'a dyn Fn(),
    fetched: &Arc<AtomicU64>,
) -> TensorSource<'a> {
    let (fetch, fetched) = (tensor.fetch, Arc::clone(fetched));
    TensorSource {
        fetch: Box::new(move || {
            progress();
            fetched.fetch_add(1, Ordering::Relaxed);
            fetch()
        }),
        ..tensor
    }
}
