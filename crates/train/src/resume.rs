//! Going on with a saved run: what is taken over, what the flags change, and what the user is told of it.

use std::path::{Path, PathBuf};

use crate::copied;
use crate::saved::Saved;
use crate::schedule::{Rewarm, Schedule};
use crate::state::TrainerState;
use aios_base::config::{BRAINS, Overlay, Subject, TrainConfig};
use aios_base::error::{Error, Result, shown};
use aios_base::terminal;
use aios_bundle::{Bundle, Lock};
use aios_data::{Batches, Resumed, Tokenizer, Watch};
use aios_distributed::World;
use aios_metrics::{Event, MetricsLog, Resume};
use aios_models::Model;
use aios_process::Restart;
use aios_process::split::Split;
use tempfile::TempDir;

/// A step whose learning rate is this many times that of the one before is worth a word.
const JUMP: f64 = 1.5;

/// A saved run to go on with.
pub struct Resumption {
    pub saved: Saved,
    /// Slices of the loss to go on with, unless another limit is set.
    pub slice_bytes: Option<usize>,
    /// Where it lies, if that is a copy.
    _copy: Option<TempDir>,
}

/// The settings of a run, and what it goes on with.
pub struct Resolved {
    pub config: TrainConfig,
    /// The right to the bundle's directory; taken before anything of it is read.
    pub lock: Option<Lock>,
    pub resumed: Option<Resumption>,
}

/// Checks what can be known before a bundle is opened, whose settings may be all that the flags lack.
///
/// # Errors
/// Nothing to resume, or bad arguments of a run that begins.
pub fn check_flags(config: &TrainConfig) -> Result<()> {
    if config.resumes() && config.is_nowhere() {
        return Err(Error::invalid(format!(
            "which run to go on with is not said: give --model (of pretraining --model-config) as at its start, by whose \
             name runs lie in {BRAINS}, or --bundle-dir or --save-dir{}",
            there(&config.brain_name)
        )));
    }
    let path = config.bundle_path();
    if config.resumes() && Bundle::exists(&path) {
        return Ok(());
    }
    if config.resumes() && !config.resume_if_exists {
        return Err(Error::failed(format!(
            "nothing to resume in {}: check --brain-name, --bundle-dir or --save-dir, or leave out --resume; \
             --resume-if-exists starts at step 0 where there is nothing",
            path.display()
        )));
    }
    config.validate_subject()?;
    config.validate()
}

/// Runs of this name that there are, in words.
fn there(brain_name: &str) -> String {
    let models = std::fs::read_dir(BRAINS).into_iter().flatten().flatten();
    let runs = models.map(|model| model.path().join(brain_name));
    let mut runs: Vec<String> = runs
        .filter(|run| Bundle::exists(run))
        .map(|run| shown(&run))
        .collect();
    runs.sort();
    match runs.is_empty() {
        true => String::new(),
        false => format!("; there is {}", runs.join(", ")),
    }
}

/// As [`resolve`], on the rank that writes: the others learn what is resumed.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_first(
    flags: &dyn Overlay,
    restart: Option<&Restart>,
    world: &World,
) -> Result<Resolved> {
    let resolved = resolve(flags, restart)?;
    let bundle = resolved.resumed.as_ref().map(|r| &r.saved.bundle);
    let known = bundle.map(|bundle| (bundle.step(), bundle.fingerprint().to_string()));
    if world.share(&known)?.is_some() && world.gather(&false)?.contains(&true) {
        let path = bundle.map(Bundle::path);
        copied::folder(world, path, Path::new(""), false)?;
    }
    Ok(resolved)
}

/// On the other ranks: what rank 0 goes on with, or a copy where that is not seen.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_other(flags: &dyn Overlay, world: &World) -> Result<Resolved> {
    let known: Option<(u64, String)> = world.share(&None)?;
    let config = TrainConfig::of_flags(flags)?;
    let Some((step, fingerprint)) = known else {
        config.validate_subject()?;
        config.validate()?;
        return Ok(Resolved {
            config,
            lock: None,
            resumed: None,
        });
    };
    let here = Saved::open(&config.bundle_path());
    let here = here.ok();
    let here = here.filter(|saved| saved.bundle.fingerprint() == fingerprint);
    let lacking = world.gather(&here.is_none())?;
    let mut copy = None;
    if lacking.contains(&true) {
        let folder = format!("checkpoints/step-{step:06}");
        copy = copied::folder(world, None, Path::new(&folder), here.is_none())?;
    }
    let saved = match (here, &copy) {
        (None, Some(copy)) => Saved::open(copy.path())?,
        (here, _) => here.ok_or_else(|| Error::failed("internal error: nothing was copied"))?,
    };
    let (config, resumed) = resume(flags, None, saved)?;
    Ok(Resolved {
        config,
        lock: None,
        resumed: Some(Resumption {
            _copy: copy,
            ..resumed
        }),
    })
}

/// What the flags ask for, over what the bundle was saved with if they go on with it.
///
/// # Errors
/// Bad arguments, nothing to resume, a bundle that another process is training into, or damage.
pub fn resolve(flags: &dyn Overlay, restart: Option<&Restart>) -> Result<Resolved> {
    let mut config = TrainConfig::of_flags(flags)?;
    if let Some(restart) = restart {
        restart.apply(&mut config);
    }
    let path = config.bundle_path();
    let fresh = |config, lock| Resolved {
        config,
        lock,
        resumed: None,
    };
    check_flags(&config)?;
    if !config.resumes() {
        return Ok(fresh(config, None));
    }
    let lock = Some(Lock::acquire(&path)?);
    if !Bundle::exists(&path) {
        tracing::warn!(
            "nothing to resume in {}: starting at step 0",
            path.display()
        );
        return Ok(fresh(config, lock));
    }
    let (config, resumed) = resume(flags, restart, Saved::open(&path)?)?;
    Ok(Resolved {
        config,
        lock,
        resumed: Some(resumed),
    })
}

fn resume(
    flags: &dyn Overlay,
    restart: Option<&Restart>,
    saved: Saved,
) -> Result<(TrainConfig, Resumption)> {
    let (text, place) = (saved.bundle.config_toml(), saved.bundle.path());
    let is_decoder = saved.state.model.as_decoder().is_some();
    let command = match (flags.subject(), is_decoder) {
        (Subject::Scratch, true) => Some(("a Hugging Face model", "aios finetune")),
        (Subject::Pretrained | Subject::Decoder | Subject::Adapter, false) => {
            Some(("ACT-v1", "aios train"))
        }
        _ => None,
    };
    if let Some((model, command)) = command {
        return Err(Error::invalid(format!(
            "the run in {} is of {model}: go on with it by {command} --resume",
            place.display()
        )));
    }
    let mut config = TrainConfig::resolve_resumed(text, &place.join("config.toml"), flags)?;
    of_the_same_model(&config, &saved)?;
    if let Some(restart) = restart {
        restart.check(&config.bundle_path(), saved.state.step)?;
        restart.apply(&mut config);
    }
    let same_limit = saved.config.memory_limit == config.memory_limit;
    let saved_with = saved.state.loss_slice_bytes;
    let resumption = Resumption {
        slice_bytes: (same_limit && saved_with > 0).then_some(saved_with),
        saved,
        _copy: None,
    };
    Ok((config, resumption))
}

fn of_the_same_model(config: &TrainConfig, saved: &Saved) -> Result<()> {
    let before = &saved.config;
    // An adapter goes on beside its model, which may have moved.
    let pretrained = config.pretrained == before.pretrained || config.trains_adapter();
    if pretrained && config.model_config == before.model_config {
        return Ok(());
    }
    let of = match (&before.pretrained, &before.model_config) {
        (Some(model), _) => format!("--model {model}"),
        (None, Some(path)) => format!("--model-config {}", shown(path)),
        (None, None) => "another model".to_string(),
    };
    Err(Error::invalid(format!(
        "the run in {} is of {of}, with whose weights it goes on: give that or nothing of the kind, or start a new run \
         without --resume",
        saved.bundle.path().display()
    )))
}

impl Resumption {
    /// The tokenizer that the run was trained with, from the bundle, unless another one is asked for.
    pub fn tokenizer(&self, config: &TrainConfig, watch: &mut Watch) -> Result<Tokenizer> {
        match config.model == self.saved.config.model {
            true => Tokenizer::load_directory(&self.saved.bundle.tokenizer_dir(), watch),
            false => Tokenizer::load_watched(&config.model, watch),
        }
    }

    /// Whether the run can go on with these settings.
    ///
    /// # Errors
    /// Another tokenizer, or another shape of the model.
    pub fn check(&self, config: &TrainConfig, tokenizer: &Tokenizer, shape: &Model) -> Result<()> {
        let bundle = self.saved.bundle.path().display();
        let room = self.saved.state.leaves_room();
        room.map_err(|error| error.of_file(bundle.to_string()))?;
        if self.saved.state.tokenizer_fingerprint != tokenizer.fingerprint() {
            let flag = match config.trains_decoder() {
                true => "--tokenizer",
                false => "--model",
            };
            return Err(Error::invalid(format!(
                "the run in {bundle} was trained with another tokenizer than {flag} {}: resume without {flag}, or start a \
                 new run without --resume",
                config.model
            )));
        }
        let settings = config.adapter_settings().into_iter();
        let mut settings = settings.zip(self.saved.config.adapter_settings());
        if let Some(((flag, _), (_, saved))) = settings.find(|(now, then)| now != then) {
            return Err(Error::invalid(format!(
                "the run in {bundle} was trained with {flag} {saved}: resume without {flag}, or start a new run without \
                 --resume"
            )));
        }
        if let Some((flag, saved)) = shape.other_weights(&self.saved.state.model) {
            return Err(Error::invalid(format!(
                "the run in {bundle} was trained with {flag} {saved}: resume without {flag}, or start a \
                 new run without --resume"
            )));
        }
        Ok(())
    }

    /// Take up the data where it stopped, and say what is different; steps as they were `asked` to be divided.
    pub fn announce(
        &self,
        config: &TrainConfig,
        asked: Split,
        batches: &mut Batches,
        log: &mut MetricsLog,
        device: &str,
    ) -> Result<()> {
        let state = &self.saved.state;
        match batches.seek(&state.data) {
            Resumed::StartedOver { reason } => {
                let hint = match config.wants_stdin()? {
                    true => "; to go on where it stopped, pipe the same text in",
                    false => "",
                };
                tracing::warn!("the data starts over: {reason}{hint}");
            }
            Resumed::Exactly => {
                if config.dataset_start_offset != self.saved.config.dataset_start_offset {
                    tracing::warn!(
                        "--dataset-start-offset has no effect on a resumed run: it goes on from its saved position"
                    );
                }
            }
        }
        let path = self.saved.bundle.path().display().to_string();
        let mut wanted = config.clone();
        asked.apply(&mut wanted);
        let mut changed = wanted.changes_from(&self.saved.config)?;
        if state.ranks != config.ranks {
            changed.push(format!("ranks: {} -> {}", state.ranks, config.ranks));
            let ranks = state.ranks;
            match (self.saved.config.local_steps, config.ranks) {
                (Some(_), 1) => tracing::warn!(
                    "of the {ranks} ranks, each with moments of its own by --local-steps, this goes on with those of rank 0"
                ),
                (Some(_), _) if config.local_steps.is_some() => tracing::warn!(
                    "the optimizer's moments start anew: with --local-steps each rank has its own, and the run had {ranks} \
                     ranks"
                ),
                _ => {}
            }
        }
        if state.device != device {
            changed.push(format!("device: {} -> {device}", state.device));
        }
        if !config.quiet {
            terminal::say(&format!("resuming {path} at step {}", state.step));
            for change in &changed {
                terminal::say(&format!("  changed: {change}"));
            }
        }
        for (flag, before) in self.logs_left(config) {
            tracing::warn!(
                "{flag} is not taken over from a bundle: so far this run was logged to {}; give {flag} again to go on \
                 with it",
                before.display()
            );
        }
        log.write(&Event::Resume(Resume {
            step: state.step,
            path,
            changed,
        }));
        Ok(())
    }

    /// Where the run was logged to by what it saved: metrics and TensorBoard's files.
    pub fn logged(&self) -> [Option<PathBuf>; 2] {
        let saved = &self.saved.config;
        [saved.log_file.clone(), saved.tensorboard.clone()]
    }

    /// Where the run was logged to, as far as it will not be from now on.
    fn logs_left(&self, config: &TrainConfig) -> Vec<(&'static str, PathBuf)> {
        let now = [&config.log_file, &config.tensorboard];
        let flags = ["--log-file", "--tensorboard"].into_iter().zip(now);
        let left = flags
            .zip(self.logged())
            .filter(|((_, now), _)| now.is_none());
        left.filter_map(|((flag, _), before)| Some((flag, before?)))
            .collect()
    }

    /// The rise of the learning rate that the run goes on with: the one it was in, or the one that `--rewarm-steps` asks
    /// for. Says so where the rate jumps.
    pub fn rewarm(&self, config: &TrainConfig) -> Option<Rewarm> {
        let state = &self.saved.state;
        let is_over = !config.iterate && state.step >= config.steps;
        let going_on = |rewarm: &Rewarm| state.step < rewarm.from_step.saturating_add(rewarm.steps);
        let kept = state.rewarm.filter(going_on);
        let saved = &self.saved.config;
        let before = rate(saved, state, state.step.max(1));
        let planned = match saved.iterate || state.step < saved.steps {
            true => rate(saved, state, state.step + 1),
            // The run was at its end, after which nothing was planned.
            false => before,
        };
        let after = rate(config, state, state.step + 1);
        let rises = !is_over && state.step > 0 && after > JUMP * before && after > JUMP * planned;
        match config.rewarm_steps.filter(|steps| *steps > 0) {
            Some(steps) if rises => Some(Rewarm {
                from_step: state.step,
                steps,
                rate: before,
            }),
            Some(_) if kept.is_none() && !is_over => {
                tracing::warn!(
                    "--rewarm-steps has no effect: the learning rate does not jump here"
                );
                None
            }
            Some(_) => kept,
            None => {
                if rises {
                    tracing::warn!(
                        "the learning rate goes from {before:.1e} to {after:.1e} in one step, as the schedule is another \
                         one now: --rewarm-steps spreads that over some steps"
                    );
                }
                kept
            }
        }
    }
}

/// The learning rate of a step of a saved run by these settings.
fn rate(config: &TrainConfig, state: &TrainerState, step: u64) -> f64 {
    let rate = Schedule::of(config).at_step(step);
    state.rewarm.map_or(rate, |rewarm| rewarm.at(step, rate))
}
