//! Everything before the first step: configuration, files, device, data and model.

use super::appended::Trouble;
use super::backoff::Split;
use super::bundle::{Bundle, BundleWriter, Lock};
use super::metrics::{Event, MetricsLog, OptimizerChoice, Start};
use super::optimizer::AdamW;
use super::plan::Plan;
use super::process::{Status, Supervised};
use super::progress::Progress;
use super::resume::{self, Resolved, Resumption};
use super::state::TrainerState;
use super::stop::{self, StopSignal};
use super::trainer::Trainer;
use super::{fit, places, saved, weights};
use crate::backend::{self, DeviceJob, Kind, MemoryMeter, Selection, confirmed};
use crate::cli::train_flags::TrainFlags;
use crate::config::{AmpDtype, ChunkGradients, TrainConfig};
use crate::data::{BatchOptions, Batches, CorpusOptions, TokenCache, Tokenizer, telling};
use crate::error::{Error, Result, shown};
use crate::memory::chunking::Chunking;
use crate::memory::meter;
use crate::memory::precision::LossScaler;
use crate::model::{ActV1, ModelConfig};
use crate::ops::Ops;
use crate::terminal;
use std::path::Path;
use std::sync::Arc;

/// Train in this process as the flags say, and as a process that watches over this one says.
///
/// # Errors
/// Bad arguments (exit code 2), or whatever stopped the training (exit code 1); what was saved
/// before is intact.
pub fn run(flags: &TrainFlags, supervised: Supervised) -> Result<()> {
    let restart = supervised.restart();
    stop::nothing_at_stake(0, || terminal::say("stopped: nothing was trained"));
    let Resolved {
        mut config,
        lock,
        resumed,
    } = resume::resolve(flags, restart)?;
    warn_of_idle_settings(&config);
    let asked = Split::of(&config);
    if let Some(restart) = restart {
        restart.split().apply(&mut config);
    }
    let began_at = resumed
        .as_ref()
        .map_or(0, |resumed| resumed.saved.state.step);
    supervised.report(&Status::beginning(&config, began_at));
    let stop = match restart {
        None => StopSignal::install(config.stop_file.clone())?,
        Some(_) => StopSignal::install_again(config.stop_file.clone())?,
    };
    places::check(&config, flags.config.as_deref())?;
    let selection = backend::select(&config.device)?;
    let mut plan = Plan::new(&config, &selection.adapter)?;
    plan.slice_at_most(resumed.as_ref().and_then(|resumed| resumed.slice_bytes));
    // Whatever the process before died of, it was too much.
    plan.slice_at_most(restart.map(|_| fit::QUICK_SLICE));
    if config.cpu_offload && plan.kind == Kind::Cpu {
        tracing::warn!("--cpu-offload has no effect: on a CPU everything is in host memory");
    }
    let lock = match lock {
        Some(lock) => lock,
        None => Lock::acquire(&config.bundle_path())?,
    };
    let mut log = MetricsLog::open(config.log_file.as_deref())?
        .with_stdout(config.json)
        .with_tensorboard(config.tensorboard.as_deref())?;
    if let Some(restart) = restart {
        log.write(&restart.event());
    }
    let writer = BundleWriter::new(lock, config.keep_checkpoints, &saved::check)?;
    let mut tell = telling(&format!("downloading {}", config.model), config.quiet);
    let mut watch = |done, all| {
        tell(done, all)?;
        stop.check()
    };
    let tokenizer = match &resumed {
        Some(resumed) => resumed.tokenizer(&config, &mut watch)?,
        None => Tokenizer::load_watched(&config.model, &mut watch)?,
    };
    if let Some(resumed) = &resumed {
        resumed.check(&config, &tokenizer)?;
    }
    let dataset = config.dataset_file.as_deref().unwrap_or(Path::new(""));
    let cache = tokens(&config, dataset, &tokenizer, &supervised, &stop)?;
    let eval = match &config.eval_file {
        Some(path) => Some(tokens(&config, path, &tokenizer, &supervised, &stop)?),
        None => None,
    };
    tokenizer.release();
    let mut batches = Batches::new(cache, batch_options(&config))?;
    if let Some(resumed) = &resumed {
        let device = &selection.adapter.name;
        resumed.announce(&config, &mut batches, &mut log, device)?;
    }
    stop.check()?;
    selection.adapter.selected.open()?;
    let device = selection.adapter.selected.clone();
    let kind = plan.kind;
    let ended = device.run(Job {
        asked,
        config,
        selection,
        plan,
        log,
        writer,
        tokenizer,
        batches,
        eval,
        stop,
        supervised,
        resumed,
    });
    ended.map_err(|error| match error {
        // The CPU does not fail by itself: this is a mistake of the program's.
        Error::Device(cause) if kind == Kind::Cpu => {
            Error::failed(format!("internal error: {cause}; please report it"))
        }
        error => error,
    })
}

/// Settings that only do something together with another one.
fn warn_of_idle_settings(config: &TrainConfig) {
    for (idle, setting, without) in [
        (
            config.f32_embedding_state && !config.use_8bit_optimizer,
            "--f32-embedding-state",
            "--use-8bit-optimizer",
        ),
        (
            config.checkpoint_every > 1 && !config.gradient_checkpointing,
            "--checkpoint-every",
            "--gradient-checkpointing",
        ),
        (
            config.amp == Some(false) && config.amp_dtype != AmpDtype::Auto,
            "--amp-dtype",
            "--amp",
        ),
        (
            config.rewarm_steps.is_some() && !config.resumes(),
            "--rewarm-steps",
            "--resume",
        ),
        (
            config.keep_best && config.eval_file.is_none(),
            "--keep-best",
            "--eval-file",
        ),
        (
            config.chunk_gradients != ChunkGradients::Auto && !config.use_chunked_training,
            "--chunk-gradients",
            "--use-chunked-training",
        ),
        (
            config.chunk_size != TrainConfig::default().chunk_size && !config.use_chunked_training,
            "--chunk-size",
            "--use-chunked-training",
        ),
    ] {
        if idle {
            tracing::warn!("{setting} has no effect without {without}");
        }
    }
    if config.use_chunked_training && config.chunking() == Chunking::Off {
        tracing::warn!(
            "--use-chunked-training has no effect: sequences of {} tokens are no longer than a chunk \
             (--chunk-size {})",
            config.max_seq_len,
            config.chunk_size
        );
    }
}

fn batch_options(config: &TrainConfig) -> BatchOptions {
    BatchOptions {
        seq_len: config.max_seq_len,
        shuffle: !config.linear_dataset,
        chunk_windows: config.dataset_chunk_size,
        start_offset: config.dataset_start_offset,
        seed: config.seed,
    }
}

/// The tokens of a text, made now or taken from the cache.
fn tokens(
    config: &TrainConfig,
    path: &Path,
    tokenizer: &Tokenizer,
    supervised: &Supervised,
    stop: &StopSignal,
) -> Result<Arc<TokenCache>> {
    let options = CorpusOptions {
        stdin: supervised.stdin(path)?,
        ..config.corpus(path)
    };
    let mut tell = telling(&format!("tokenizing {}", shown(path)), config.quiet);
    let cache = TokenCache::open_or_build(&options, tokenizer, &mut |done, all| {
        tell(done, all)?;
        stop.check()
    })?;
    Ok(Arc::new(cache))
}

/// What is left to do once the backend is a type.
struct Job {
    /// How steps were to be divided before any back-off.
    asked: Split,
    config: TrainConfig,
    selection: Selection,
    plan: Plan,
    log: MetricsLog,
    writer: BundleWriter,
    tokenizer: Tokenizer,
    batches: Batches,
    eval: Option<Arc<TokenCache>>,
    stop: StopSignal,
    supervised: Supervised,
    resumed: Option<Resumption>,
}

impl DeviceJob for Job {
    type Output = Result<()>;

    fn run<B: Ops>(mut self, device: B::Device) -> Result<()> {
        let shape = model_config(&self.config, self.tokenizer.vocab_size());
        let limit = self.config.memory_limit.map(|limit| limit.0);
        if self.plan.kind == Kind::Cpu {
            meter::set_limit(limit);
        } else if !self.config.quiet {
            terminal::say("compiling kernels for this device: the first step takes longer");
        }
        self.plan.check_device::<B>(&self.config, &device)?;
        self.plan.warm_up();
        self.start(&shape)?;
        let checkpoint = 4 * shape.parameters() as u64 + self.plan.moments.state_bytes(&shape);
        self.writer
            .require_room(checkpoint, self.config.keep_best)?;
        let advised = |error| match error {
            Error::OutOfMemory(cause) => {
                let advice = fit::advice(&self.plan, &self.config, &shape, limit);
                Error::failed(format!("{cause}, for the model alone: {advice}"))
            }
            other => other,
        };
        let model = confirmed::<B, _>(&device, || self.model::<B>(&shape, &device));
        let model = model.map_err(advised)??;
        let optimizer = confirmed::<B, _>(&device, || self.optimizer(&model));
        let optimizer = optimizer.map_err(advised)??;
        let scaler = self.scaler();
        let state = TrainerState {
            loss_scale: scaler.scale(),
            loss_scaled: scaler.adapts(),
            good_steps: scaler.good_steps(),
            ..self.state(shape, &self.tokenizer)
        };
        let starting_over = self.resumed.is_none() && Bundle::exists(&self.config.bundle_path());
        if starting_over {
            tracing::warn!(
                "starting at step 0 in a bundle that holds another run, which will be kept beside \
                 the new one; --resume would go on with it"
            );
        }
        let (steps, quiet) = (self.config.steps, self.config.quiet);
        let progress = Progress::new(steps.max(state.step), state.step, quiet);
        let mut trainer = Trainer {
            meter: MemoryMeter::new(self.selection.adapter.selected.clone()),
            asked: self.asked,
            config: self.config,
            plan: self.plan,
            log: self.log,
            writer: self.writer,
            tokenizer: self.tokenizer,
            batches: self.batches,
            eval: self.eval,
            stop: self.stop,
            supervised: self.supervised,
            device,
            model,
            optimizer,
            scaler,
            began_at: state.step,
            saved_step: state.step,
            saved_path: self
                .resumed
                .as_ref()
                .map(|r| r.saved.bundle.path().to_path_buf()),
            save_failed: None,
            save_trouble: Trouble::default(),
            started: std::time::Instant::now(),
            logged: self
                .resumed
                .as_ref()
                .map(Resumption::logged)
                .unwrap_or_default(),
            state,
            progress,
            last_loss: f64::NAN,
            skipped_in_a_row: 0,
            tokens_before: 0,
            starting_over,
            device_failed: false,
            after_a_death: 0,
            steps_alike: 0,
        };
        trainer.note_form();
        trainer.run()
    }
}

impl Job {
    fn model<B: Ops>(&self, shape: &ModelConfig, device: &B::Device) -> Result<ActV1<B>> {
        if let Some(resumed) = &self.resumed {
            return weights::load(shape, &mut resumed.saved.bundle.model_tensors()?, device);
        }
        match &self.config.student_init {
            Some(path) => weights::load(shape, &mut weights::open(path)?, device),
            None => ActV1::init(shape, self.config.seed, device),
        }
    }

    fn optimizer<B: Ops>(&self, model: &ActV1<B>) -> Result<AdamW<B>> {
        let mut optimizer = self.plan.optimizer(&self.config, model);
        if let Some(resumed) = &self.resumed {
            optimizer.updates = resumed.saved.state.updates;
            let mut file = resumed.saved.bundle.optimizer_tensors()?;
            optimizer.restore(model, |name| match file.shape(name) {
                Some(_) => file.read(name).map(Some),
                None => Ok(None),
            })?;
        }
        optimizer.prepare(model);
        Ok(optimizer)
    }

    /// The state to begin with: the saved one, or step 0.
    fn state(&self, model: ModelConfig, tokenizer: &Tokenizer) -> TrainerState {
        let fresh = TrainerState {
            format: TrainerState::FORMAT,
            step: 0,
            updates: 0,
            skipped_steps: 0,
            tokens: 0,
            loss_scale: 1.0,
            loss_scaled: false,
            good_steps: 0,
            loss_slice_bytes: 0,
            seed: self.config.seed,
            data: self.batches.position(),
            model,
            tokenizer_fingerprint: tokenizer.fingerprint().to_string(),
            batch_size: self.config.batch_size,
            gradient_accumulation_steps: self.config.gradient_accumulation_steps,
            device: self.selection.adapter.name.clone(),
            rewarm: self
                .resumed
                .as_ref()
                .and_then(|resumed| resumed.rewarm(&self.config)),
        };
        match &self.resumed {
            None => fresh,
            Some(resumed) => TrainerState {
                step: resumed.saved.state.step,
                updates: resumed.saved.state.updates,
                skipped_steps: resumed.saved.state.skipped_steps,
                tokens: resumed.saved.state.tokens,
                ..fresh
            },
        }
    }

    /// The loss scale to begin with.
    fn scaler(&self) -> LossScaler {
        let precision = self.plan.precision;
        match &self.resumed {
            Some(resumed) if resumed.saved.state.loss_scaled => {
                let state = &resumed.saved.state;
                LossScaler::restored(precision, state.loss_scale, state.good_steps)
            }
            _ => LossScaler::new(precision),
        }
    }

    /// A batch that fits, banner, fallbacks and the `start` event.
    fn start(&mut self, shape: &ModelConfig) -> Result<()> {
        let parameters = shape.parameters() as u64;
        let kind = self.selection.adapter.kind;
        let smaller = fit::batch(&mut self.config, &self.selection, &mut self.plan, shape)?;
        let estimate = self.plan.run(&self.config, shape).estimate();
        if !self.config.quiet {
            super::banner::print(&self.config, &self.selection, &self.plan, shape, &estimate);
        }
        self.log.write(&Event::Start(Box::new(Start {
            device: self.selection.adapter.name.clone(),
            backend: kind.as_str().to_string(),
            attention: self.plan.attention.clone(),
            precision: self.plan.precision_choice.clone(),
            optimizer: OptimizerChoice {
                kind: self.plan.moments.name().to_string(),
                state_bytes: estimate.optimizer,
                state_bytes_per_parameter: estimate.optimizer as f64 / parameters as f64,
            },
            checkpointing: self.config.gradient_checkpointing,
            sequences: self.plan.sequences(&self.config),
            parameters,
            tokenizer: self.tokenizer.name().to_string(),
            config: serde_json::to_value(&self.config).map_err(|cause| {
                Error::failed(format!("cannot record the configuration: {cause}"))
            })?,
            version: env!("CARGO_PKG_VERSION").to_string(),
        })));
        for fallback in &self.plan.fallbacks {
            let (wanted, used) = (&fallback.wanted, &fallback.used);
            tracing::warn!(
                "{}: {used} instead of {wanted}: {}",
                fallback.feature,
                fallback.reason
            );
            self.log.write(&Event::Fallback(fallback.clone()));
        }
        if let Some(smaller) = smaller {
            fit::say(&smaller);
            self.log.write(&Event::OomBackoff(smaller));
        }
        Ok(())
    }
}

/// The model's shape for a vocabulary of this size.
pub fn model_config(config: &TrainConfig, vocab_size: usize) -> ModelConfig {
    ModelConfig {
        vocab_size,
        hidden_size: config.hidden_size,
        num_heads: config.num_heads,
        expansion: config.expansion,
        h_layers: config.h_layers,
        l_layers: config.l_layers,
        h_cycles: config.h_cycles,
        l_cycles: config.l_cycles,
        pos_encodings: config.pos_encodings,
        tie_embeddings: config.tie_embeddings,
        max_seq_len: config.max_seq_len,
        window_size: config.window_size,
        causal: true,
    }
}
