//! Everything before the first step: configuration, files, device, data and model.

use crate::banner::{self, Length};
use crate::blueprint::Blueprint;
use crate::chat;
use crate::checkpoints::Checkpoints;
use crate::devices::{self, Ready};
use crate::form::StepForm;
use crate::holdings::{Holdings, Look};
use crate::idle;
use crate::journal::Journal;
use crate::opening::Opening;
use crate::operations::Recorder;
use crate::places;
use crate::progress::Progress;
use crate::ranks::{self, Common};
use crate::recipe::{checkpoint_bytes, settings};
use crate::resume::{self, Resolved, Resumption};
use crate::saved::{self, open_weights};
use crate::state::TrainerState;
use crate::tokens;
use crate::trainer::{Compute, Position, Text, Trainer};
use aios_base::config::{ChatOptions, CorpusOptions, Overlay, TrainConfig};
use aios_base::error::{Error, Result, shown};
use aios_base::waiting::waiting;
use aios_base::{meter, terminal};
use aios_bundle::{Bundle, BundleWriter, Lock};
use aios_data::{
    Arranged, BatchOptions, Batches, Cutting, Sequences, TokenCache, Tokenizer, look_for, telling,
};
use aios_device::{MemoryMeter, Selection, select};
use aios_distributed::World;
use aios_engine::{Adapter, Engine, OpenDevice, Weights};
use aios_memory::loss_scale::LossScaler;
use aios_metrics::{Event, MetricsLog, OptimizerChoice, Rows, Start};
use aios_models::{Architecture, Model};
use aios_plan::{Plan, fit};
use aios_process::split::Split;
use aios_process::stop::{self, StopSignal};
use aios_process::{Status, Supervised};
use aios_tensor::AttentionClass;
use std::path::Path;
use std::sync::Arc;

/// Train in this process as the flags say, and as a process that watches over this one says.
///
/// # Errors
/// Bad arguments (exit code 2), or whatever stopped the training (exit code 1); what was saved
/// before is intact.
pub fn run(flags: &dyn Overlay, supervised: Supervised, world: &World) -> Result<()> {
    let restart = supervised.restart();
    if !world.has_others() {
        stop::nothing_at_stake(0, || terminal::say("stopped: nothing was trained"));
    }
    ranks::share_cores(world)?;
    let Resolved {
        mut config,
        lock,
        resumed,
    } = match world.is_first() {
        true => resume::resolve_first(flags, restart, world)?,
        false => resume::resolve_other(flags, world)?,
    };
    ranks::as_one_of(&mut config, world);
    if world.has_others() && config.wants_stdin()? {
        return Err(Error::invalid(
            "standard input reaches one rank alone: give --dataset-file a file that all ranks see",
        ));
    }
    let requested = match &resumed {
        Some(resumed) => ranks::divide_again(&mut config, &resumed.saved),
        None => Split::of(&config),
    };
    let of_actv1 = config.forget_actv1_keys()?;
    // The process before has said it.
    if restart.is_none() {
        for of in [idle::of_step, idle::of_text, idle::of_run] {
            idle::warn(&of(&config));
        }
        match config.trains_decoder() {
            true => idle::warn(&idle::of_decoder(&of_actv1)),
            false => idle::warn(&idle::of_actv1(&config)),
        }
    }
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
    places::check(&config, flags.config_file())?;
    // Before a model is downloaded for a run that cannot be.
    for text in [&config.dataset_file, &config.eval_file]
        .into_iter()
        .flatten()
    {
        look_for(&config.corpus(text))?;
    }
    let selection = select(&ranks::device(config.device, world)?)?;
    let mut plan = Plan::new(&config, &selection.adapter, known_attention(&config))?;
    plan.slice_at_most(resumed.as_ref().and_then(|resumed| resumed.slice_bytes));
    // Whatever the process before died of, it was too much.
    plan.slice_at_most(restart.map(|_| fit::QUICK_SLICE));
    // Who else trains there is told before anything is read.
    let lock = match lock {
        None if world.is_first() && config.bundle_path().exists() => Some(locked(&config)?),
        lock => lock,
    };
    // One of each host reads, and perhaps downloads, before the others find it there.
    if !ranks::goes_first(world) {
        world.barrier()?;
    }
    let mut tell = telling(&format!("downloading {}", config.model), config.quiet);
    let mut watch = |done, all| {
        tell(done, all)?;
        world.progress();
        stop.check()
    };
    let mut blueprint = match &resumed {
        Some(resumed) => Blueprint::of_saved(&resumed.saved, &config, &mut watch)?,
        None => Blueprint::of(&config, &mut watch)?,
    };
    let without = blueprint.without(config.strict)?;
    if restart.is_none() {
        idle::warn(&blueprint.passed_over()?);
    }
    let tokenizer = match &resumed {
        Some(resumed) => resumed.tokenizer(&config, &mut watch)?,
        None => {
            let tokenizer = Tokenizer::load_watched(&config.model, &mut watch)?;
            tokens::added(&mut config, &mut blueprint, tokenizer)?
        }
    };
    blueprint.shorten(&mut config);
    let shape = blueprint.model(&config, tokenizer.vocab_size())?;
    if let Some(resumed) = &resumed {
        resumed.check(&config, &tokenizer, &shape)?;
    }
    let vocabulary = shape.own_vocabulary();
    let dataset = config.dataset_file.as_deref().unwrap_or(Path::new(""));
    let reading = chat::Reading {
        config: &config,
        model: match &resumed {
            Some(resumed) => chat::Model::Saved(&resumed.saved),
            None => (blueprint.folder()).map_or(chat::Model::Named, chat::Model::Folder),
        },
    };
    let template = reading.given()?;
    let check = || {
        world.progress();
        stop.check()
    };
    let corpus = |path: &Path| tokens(reading, path, vocabulary, &tokenizer, &supervised, &check);
    let read = corpus(dataset)?;
    let (text, mut eval) = texts(&config, &read)?;
    let talk = read.chat;
    if let Some(path) = &config.eval_file {
        let read = corpus(path)?;
        let cutting = cutting(&config, &read, Use::Evaluation);
        let text = Sequences::new(read.cache, cutting);
        eval = Some(chat::arranged(text, &config, read.chat.as_ref())?);
    }
    if let Some(eval) = &eval {
        let most = match config.eval_batches {
            0 => u64::MAX,
            batches => batches.saturating_mul(config.batch_size as u64),
        };
        eval.untrained(config.max_seq_len, most, "the text to evaluate")?;
    }
    let rows = match text.arrangement() {
        None => None,
        Some(arranged) => {
            chat::check_mask(arranged, talk.as_ref())?;
            if restart.is_none() {
                tell_rows(&text, arranged, talk.as_ref(), &config, &tokenizer)?;
            }
            let longest = config.max_seq_len;
            Some(chat::rows(&text, arranged, talk.as_ref(), longest))
        }
    };
    let opening = Opening::of(
        config.sample_prompt.as_deref(),
        talk.as_ref(),
        &text,
        &tokenizer,
    )?;
    tokenizer.release();
    if ranks::goes_first(world) {
        world.barrier()?;
    }
    let mut batches = Batches::new(text, batch_options(&config))?;
    // Nothing is made for a run whose model or text is not there.
    let lock = match lock {
        None if world.is_first() => Some(locked(&config)?),
        lock => lock,
    };
    let mut log = MetricsLog::open(config.log_file.as_deref())?
        .with_stdout(config.json)
        .with_tensorboard(config.tensorboard.as_deref())?;
    if let Some(restart) = restart {
        log.write(&restart.event());
    }
    let keep = config.keep_checkpoints;
    let writer = lock.map(|lock| BundleWriter::new(lock, keep, &saved::check));
    let writer = writer.transpose()?;
    let epochs = config.resolve_epochs(batches.windows_per_epoch())?;
    if let Some(resumed) = &resumed {
        let device = &selection.adapter.name;
        resumed.announce(&config, asked, &mut batches, &mut log, device)?;
    }
    if world.has_others() {
        let weights = blueprint.weights()?;
        let own = Common {
            evaluated: eval
                .as_ref()
                .map(Sequences::fingerprint)
                .map(|print| print.to_string()),
            weights: weights.map(|weights| weights.sample()).transpose()?,
            ..common(&config, &shape, &tokenizer, &batches)?
        };
        waiting("waiting for the other ranks", config.quiet, || {
            ranks::check_common(world, &own)
        })?;
    }
    stop.check()?;
    let Ready {
        selection,
        mut plan,
        device,
    } = world.while_busy(|| {
        waiting("trying the device", config.quiet, || {
            devices::ready(&config, selection, plan.loss_path, &shape)
        })
    })?;
    plan.fallbacks.extend(without);
    if let Some(adapted) = shape.adapter() {
        plan.hold_frozen(&config, &selection.adapter, adapted.frozen.storage)?;
    }
    let kind = plan.kind;
    if restart.is_none() {
        idle::warn(&idle::on_device(&config, kind));
    }
    let job = Job {
        blueprint,
        model: shape,
        asked,
        epochs,
        config,
        selection,
        plan,
        log,
        tokenizer,
        batches,
        opening,
        rows,
        answers: talk.is_some(),
        template,
        resumed,
        world: world.clone(),
        requested,
    };
    let ended = job
        .trainer(device, writer, eval, stop, supervised)
        .and_then(|mut trainer| trainer.run());
    ended.map_err(|error| match error {
        // The CPU does not fail by itself: this is a mistake of the program's.
        Error::Device(cause) if !kind.is_gpu() => {
            Error::failed(format!("internal error: {cause}; please report it"))
        }
        error => error,
    })
}

/// The bundle that is trained into, which nobody else trains into meanwhile.
fn locked(config: &TrainConfig) -> Result<Lock> {
    let bundle = config.bundle_path();
    match config.trains_decoder() {
        true => Lock::acquire_for_folders(&bundle),
        false => Lock::acquire(&bundle),
    }
}

/// Kinds of attention that are known before the model is.
fn known_attention(config: &TrainConfig) -> Vec<AttentionClass> {
    let of_actv1 = AttentionClass::plain(config.head_dim());
    (!config.trains_decoder())
        .then_some(of_actv1)
        .into_iter()
        .collect()
}

/// A text that was read.
struct Read {
    cache: Arc<TokenCache>,
    /// How its records are read if they are conversations.
    chat: Option<ChatOptions>,
    /// Its records have a text each.
    texts: bool,
}

/// What a text is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Training,
    Evaluation,
}

/// How a text becomes sequences. ACT-v1 asks at the last token of one whether to halt: where it trains none is padded.
fn cutting(config: &TrainConfig, read: &Read, of: Use) -> Cutting {
    match config.trains_decoder() {
        true => chat::cutting(config, read.texts),
        false => Cutting {
            pack_rows: true,
            documents: false,
            full_windows: of == Use::Training || config.full_windows,
        },
    }
}

/// What of the dataset is trained on, and what of it is evaluated on.
fn texts(config: &TrainConfig, read: &Read) -> Result<(Sequences, Option<Sequences>)> {
    let talk = read.chat.as_ref();
    let text = Sequences::new(
        Arc::clone(&read.cache),
        cutting(config, read, Use::Training),
    );
    if config.eval_split == 0.0 {
        return Ok((chat::arranged(text, config, talk)?, None));
    }
    let [text, held_out] = text.split(config.eval_split, config.seed)?;
    let held_out = held_out.cut(cutting(config, read, Use::Evaluation));
    Ok((
        chat::arranged(text, config, talk)?,
        Some(chat::arranged(held_out, config, talk)?),
    ))
}

/// What the user is told of rows.
fn tell_rows(
    text: &Sequences,
    arranged: &Arranged,
    talk: Option<&ChatOptions>,
    config: &TrainConfig,
    tokenizer: &Tokenizer,
) -> Result<()> {
    chat::warn(text, arranged, config);
    if config.quiet {
        return Ok(());
    }
    terminal::say(&chat::lines(text, arranged, talk, config));
    if talk.is_some() {
        terminal::say(&chat::example(text, tokenizer)?);
    }
    Ok(())
}

/// What the steps of all ranks depend on.
fn common(
    config: &TrainConfig,
    shape: &Model,
    tokenizer: &Tokenizer,
    batches: &Batches,
) -> Result<Common> {
    let text = |value: serde_json::Result<String>| value.map_err(Error::failed);
    let mut settings = config.clone();
    ranks::forget_what_may_differ(&mut settings);
    let settings = settings.to_json()?.as_object().cloned();
    Ok(Common {
        version: env!("CARGO_PKG_VERSION").to_string(),
        tokenizer: tokenizer.fingerprint().to_string(),
        data: text(serde_json::to_string(&batches.position()))?,
        model: text(serde_json::to_string(shape))?,
        settings: settings.unwrap_or_default(),
        evaluated: None,
        weights: None,
    })
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
    reading: chat::Reading,
    path: &Path,
    vocabulary: Option<u32>,
    tokenizer: &Tokenizer,
    supervised: &Supervised,
    check: &dyn Fn() -> Result<()>,
) -> Result<Read> {
    let config = reading.config;
    let options = CorpusOptions {
        stdin: supervised.stdin(path)?,
        vocabulary,
        ..config.corpus(path)
    };
    let mut tell = telling(&format!("tokenizing {}", shown(path)), config.quiet);
    let mut watch = |done, all| {
        tell(done, all)?;
        check()
    };
    let source = reading.recognised(options, &mut watch)?;
    let cache = TokenCache::open_or_build(&source.options, tokenizer, &mut watch)?;
    Ok(Read {
        cache: Arc::new(cache),
        texts: source.texts,
        chat: source.options.chat,
    })
}

/// All that is known before the device is at work.
struct Job {
    blueprint: Blueprint,
    model: Model,
    /// How steps were to be divided before any back-off.
    asked: Split,
    /// Passes over the dataset that the steps were made of.
    epochs: Option<f64>,
    config: TrainConfig,
    selection: Selection,
    plan: Plan,
    log: MetricsLog,
    tokenizer: Tokenizer,
    batches: Batches,
    /// What samples go on from.
    opening: Opening,
    /// What became of rows of tokens.
    rows: Option<Rows>,
    /// The dataset is of conversations.
    answers: bool,
    /// The chat template that was named.
    template: Option<String>,
    resumed: Option<Resumption>,
    world: World,
    /// How a rank's part was to be divided by the flags.
    requested: Split,
}

impl Job {
    /// The model on the device, with the optimizer's state, and what they take.
    fn engine(
        &self,
        model: &Model,
        device: &dyn OpenDevice,
        meter: &MemoryMeter,
    ) -> Result<(Box<dyn Engine>, Holdings)> {
        let limit = self.config.memory_limit.map(|limit| limit.0);
        let advised = |error| match error {
            Error::OutOfMemory(cause) => {
                let advice = fit::advice(&self.plan, &self.config, model, limit);
                Error::failed(format!("{cause}, for the model alone: {advice}"))
            }
            other => other,
        };
        let settings = settings(&self.plan, &self.config, model);
        let mut file = match (&self.resumed, &self.config.student_init) {
            (Some(resumed), _) => Some(resumed.saved.bundle.model_tensors()?),
            (None, Some(path)) => Some(open_weights(path)?),
            (None, None) => None,
        };
        let adapted = model.adapter().is_some();
        if adapted && file.is_none() {
            file = self.blueprint.adapter_tensors()?;
        }
        let folder = match &file {
            Some(_) if !adapted => None,
            _ => self.blueprint.weights()?,
        };
        let weights = match (&mut file, &folder) {
            (file, Some(base)) if adapted => Weights::Adapted {
                base,
                adapter: match file {
                    Some(file) => Adapter::File(file),
                    None => Adapter::Seed(self.config.seed),
                },
            },
            (Some(file), _) => Weights::File(file),
            (None, Some(folder)) => Weights::Folder(folder),
            (None, None) => Weights::Seed(self.config.seed),
        };
        let mut look = Look::first(meter, device)?;
        let mut engine = device.model(&settings, weights).map_err(advised)?;
        let of_weights = look.again()?;
        if self.world.has_others() {
            engine.join(&self.world, ranks::sharing(&self.config))?;
        }
        if let Some(resumed) = &self.resumed {
            let mut file = resumed.saved.bundle.optimizer_tensors()?;
            let state = &resumed.saved.state;
            let restored = engine.restore(state.updates, state.ranks, &mut file);
            restored.map_err(advised)?;
        }
        engine.share_weights()?;
        engine.prepare().map_err(advised)?;
        let holdings = Holdings {
            weights: of_weights,
            optimizer: look.again()?,
        };
        Ok((engine, holdings))
    }

    /// Everything in its place.
    fn trainer(
        mut self,
        device: Box<dyn OpenDevice>,
        writer: Option<BundleWriter>,
        eval: Option<Sequences>,
        stop: StopSignal,
        supervised: Supervised,
    ) -> Result<Trainer> {
        let model = self.model.clone();
        if !self.plan.kind.is_gpu() {
            meter::set_limit(self.config.memory_limit.map(|limit| limit.0));
        }
        self.plan.warm_up();
        self.start(&model)?;
        let checkpoint = checkpoint_bytes(&self.plan, &model);
        if let Some(writer) = &writer {
            writer.require_room(checkpoint, self.config.keep_best)?;
        }
        let world = self.world.clone();
        let meter = MemoryMeter::new(self.selection.adapter.selected.clone());
        let (engine, holdings) = world.while_busy(|| {
            waiting("loading the model", self.config.quiet, || {
                self.engine(&model, &*device, &meter)
            })
        })?;
        meter::keep_freed_pages();
        let scaler = self.scaler();
        let state = TrainerState {
            loss_scale: scaler.scale(),
            loss_scaled: scaler.adapts(),
            good_steps: scaler.good_steps(),
            ..self.state(model.clone())
        };
        let folder = (self.blueprint).folder_files(&self.tokenizer, &model, self.plan.weights)?;
        let folder = chat::with_template(folder, self.template.take());
        let checkpoints = self.checkpoints(writer, state.step).with_folder(folder);
        let (steps, quiet) = (self.config.steps, self.config.quiet);
        let journal = Journal::new(
            self.log,
            Progress::new(steps.max(state.step), state.step, quiet),
            supervised,
            (meter, holdings),
            &self.config.bundle_path(),
            self.answers,
            quiet,
        );
        let mut trainer = Trainer {
            form: StepForm::new(self.config, self.plan, self.asked),
            text: Text {
                tokenizer: self.tokenizer,
                batches: self.batches,
                eval,
                opening: self.opening,
            },
            compute: Compute {
                device,
                engine,
                model: Box::new(model),
            },
            at: Position {
                began_at: state.step,
                exchanged: state.step,
                state,
                scaler,
                skipped_in_a_row: 0,
            },
            checkpoints,
            journal,
            recorder: Recorder::default(),
            stop,
            world: self.world,
            checkpoints_are_overdue: false,
            times: Default::default(),
        };
        trainer.note_form();
        Ok(trainer)
    }

    fn checkpoints(&self, writer: Option<BundleWriter>, step: u64) -> Checkpoints {
        if let Some(resumed) = &self.resumed {
            let path = resumed.saved.bundle.path().to_path_buf();
            return Checkpoints::resumed(writer, step, path, resumed.logged());
        }
        let starting_over = self.world.is_first() && Bundle::exists(&self.config.bundle_path());
        if starting_over {
            tracing::warn!(
                "starting at step 0 in a bundle that holds another run, which will be kept beside \
                 the new one, and one before that only with a larger --keep-checkpoints; --resume would go on with it"
            );
        }
        Checkpoints::new(writer, starting_over)
    }

    /// The state to begin with: the saved one, or step 0.
    fn state(&self, model: Model) -> TrainerState {
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
            tokenizer_fingerprint: self.tokenizer.fingerprint().to_string(),
            batch_size: self.config.batch_size,
            gradient_accumulation_steps: self.config.gradient_accumulation_steps,
            ranks: self.world.size(),
            requested: (self.requested != self.asked).then(|| self.requested.into()),
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
    fn start(&mut self, shape: &Model) -> Result<()> {
        let parameters = shape.trained() as u64;
        let kind = self.selection.adapter.kind;
        let smaller = fit::batch(&mut self.config, &self.selection, &mut self.plan, shape)?;
        let smaller = ranks::smallest_batch(&mut self.config, &self.world)?.or(smaller);
        let devices = self
            .world
            .gather(&ranks::device_in_words(&self.selection.adapter))?;
        ranks::part_if_mixed(&mut self.config, &devices);
        let estimate = self.plan.run(&self.config, shape).estimate();
        if !self.config.quiet {
            let length = Length {
                epochs: self.epochs,
                sequences: self.batches.windows_per_epoch(),
            };
            let (config, plan) = (&self.config, &self.plan);
            let ranks = ranks::in_words(config, &self.world, &devices);
            banner::print(
                config,
                &self.selection,
                plan,
                shape,
                &estimate,
                &length,
                ranks,
            );
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
            rows: self.rows.clone(),
            config: self.config.to_json()?,
            ranks: ranks::started(&self.world, devices),
            version: env!("CARGO_PKG_VERSION").to_string(),
        })));
        for fallback in ranks::of_others(&self.world, &self.plan.fallbacks)? {
            tracing::warn!("{fallback}");
        }
        for fallback in &self.plan.fallbacks {
            tracing::warn!("{fallback}");
            self.log.write(&Event::Fallback(fallback.clone()));
        }
        if let Some(smaller) = smaller {
            fit::say(&smaller);
            self.log.write(&Event::OomBackoff(smaller));
        }
        Ok(())
    }
}
