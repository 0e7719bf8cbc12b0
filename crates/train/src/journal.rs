//! What a run tells while it goes on and at its end: progress on the screen, lines of metrics, notes for whoever would have
//! to start it again.

use crate::holdings::{Holdings, StepUse};
use crate::progress::{Progress, StepLine};
use crate::ranks::About;
use aios_base::error::Result;
use aios_base::meter::{format_bytes, peak_bytes};
use aios_base::numbers::readable;
use aios_base::terminal;
use aios_bundle::SaveReport;
use aios_device::MemoryMeter;
use aios_engine::{LossSums, Score, Update};
use aios_metrics::{
    Checkpoint, End, Eval, Event, MetricsLog, OomBackoff, Operations, Sample, Step, StepExchange,
    StepMemory, StepRank,
};
use aios_process::split::Split;
use aios_process::{Status, Supervised, stop};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A run whose last loss is more than so many times its first has diverged.
const DIVERGED: f64 = 2.0;

/// The run's voice.
pub struct Journal {
    log: MetricsLog,
    progress: Progress,
    supervised: Supervised,
    pub meter: MemoryMeter,
    holdings: Holdings,
    started: Instant,
    /// Tokens trained on before this run began.
    tokens_before: u64,
    first_loss: f64,
    last_loss: f64,
    bundle: PathBuf,
    /// The model learns to answer.
    answers: bool,
    quiet: bool,
}

/// A step that is done.
pub struct Done<'a> {
    pub step: u64,
    /// Passes over the dataset by then.
    pub epoch: f64,
    pub sums: &'a LossSums,
    pub update: Update,
    pub learning_rate: f64,
    /// Of the step, and after it.
    pub loss_scales: [f64; 2],
    pub tokens: u64,
    pub trained_tokens: u64,
    pub split: Split,
    /// How each rank fared.
    pub ranks: &'a [About],
    pub exchange: StepExchange,
    pub started: Instant,
    /// Bytes in use on the device when the gradients were complete.
    pub before_update: u64,
    /// Memory was looked at within the step.
    pub watched: bool,
}

/// How far a run has come.
#[derive(Clone, Copy)]
pub struct Totals {
    pub step: u64,
    pub tokens: u64,
    pub skipped_steps: u64,
    /// Of the newest checkpoint.
    pub saved_step: u64,
}

impl Journal {
    pub fn new(
        log: MetricsLog,
        progress: Progress,
        supervised: Supervised,
        (meter, holdings): (MemoryMeter, Holdings),
        bundle: &Path,
        answers: bool,
        quiet: bool,
    ) -> Self {
        Self {
            log,
            progress,
            supervised,
            meter,
            holdings,
            started: Instant::now(),
            tokens_before: 0,
            first_loss: f64::NAN,
            last_loss: f64::NAN,
            bundle: bundle.to_path_buf(),
            answers,
            quiet,
        }
    }

    /// So many tokens were trained on before.
    pub fn begins_with(&mut self, tokens: u64) {
        self.tokens_before = tokens;
    }

    pub fn note(&mut self, text: &str) {
        self.progress.note(text);
    }

    pub fn set_total(&mut self, steps: u64) {
        self.progress.set_total(steps);
    }

    /// Where the run is, for whoever has to start it again.
    pub fn status(&self, status: &Status) {
        self.supervised.report(status);
    }

    pub fn backed_off(&mut self, back_off: OomBackoff) {
        aios_plan::fit::say(&back_off);
        self.log.write(&Event::OomBackoff(back_off));
    }

    /// # Errors
    /// The device has failed.
    pub fn step(&mut self, done: &Done) -> Result<()> {
        let memory = self.meter.sample()?;
        let seconds = done.started.elapsed().as_secs_f64();
        let tokens_per_second = done.tokens as f64 / seconds;
        let Done {
            step, epoch, sums, ..
        } = *done;
        let [loss_scale, next_scale] = done.loss_scales;
        self.last_loss = sums.loss();
        if self.first_loss.is_nan() {
            self.first_loss = self.last_loss;
        }
        self.progress.step(&StepLine {
            step,
            epoch,
            loss: self.last_loss,
            tokens_per_second,
            memory_now: memory.in_use_bytes,
            memory_peak: memory.peak_bytes,
        });
        if done.update.skipped {
            let scale = match next_scale == loss_scale {
                true => String::new(),
                false => format!("; the loss scale is now {next_scale}"),
            };
            tracing::warn!("step {step} skipped: its gradient is not finite{scale}");
        }
        self.log.write(&Event::Step(Box::new(Step {
            step,
            epoch,
            loss: self.last_loss,
            ce: sums.mean_ce(),
            q_halt_loss: sums.mean_halt(),
            q_continue_loss: sums.mean_go_on(),
            learning_rate: done.learning_rate,
            grad_norm: done.update.grad_norm,
            tokens: done.tokens,
            trained_tokens: done.trained_tokens,
            tokens_per_second,
            seconds,
            batch_size: done.split.batch_size as u64,
            gradient_accumulation_steps: done.split.accumulation as u64,
            loss_scale,
            segments: sums.segments as f64 / (done.split.effective() * done.ranks.len()) as f64,
            skipped: done.update.skipped,
            memory: StepMemory {
                in_use_bytes: memory.in_use_bytes,
                reserved_bytes: memory.reserved_bytes,
                peak_bytes: memory.peak_bytes,
                host_peak_bytes: peak_bytes(),
                by_purpose: self.holdings.of_step(&StepUse {
                    before_update: done.before_update,
                    after: memory,
                    peak: done.watched.then(|| self.meter.lap_peak_bytes()),
                }),
            },
            exchange: (done.ranks.len() > 1).then_some(done.exchange),
            ranks: of_ranks(done.ranks),
        })));
        Ok(())
    }

    pub fn evaluated(&mut self, step: u64, score: &Score) {
        self.progress.note(&format!(
            "step {step}: evaluation loss {}, perplexity {}, {} bits per byte",
            readable(score.loss, 4),
            readable(score.perplexity(), 2),
            readable(score.bits_per_byte, 3)
        ));
        self.log.write(&Event::Eval(Eval {
            step,
            loss: score.loss,
            perplexity: score.perplexity(),
            bits_per_byte: score.bits_per_byte,
            tokens: score.tokens,
            seconds: score.seconds,
        }));
    }

    pub fn operations(&mut self, operations: Operations) {
        self.log.write(&Event::Operations(operations));
    }

    pub fn sampled(&mut self, step: u64, text: String) {
        let shown = text.trim_end();
        self.progress.note(&format!("step {step}, sample: {shown}"));
        self.log.write(&Event::Sample(Sample { step, text }));
    }

    pub fn saved(&mut self, step: u64, saved: &SaveReport) {
        self.log.write(&Event::Checkpoint(Checkpoint {
            step,
            path: saved.path.display().to_string(),
            bytes: saved.bytes,
            seconds: saved.seconds,
        }));
    }

    /// Everything is saved, or there is nothing to save: the process may end at any moment, with these last words.
    pub fn nothing_at_stake(&self, totals: &Totals) {
        let log = self.log.epilogue();
        let end = Event::End(self.end(stop::StopReason::Interrupt.as_str(), totals));
        let quiet = self.quiet;
        let words = format!("stopped on request: {}", self.what_is_saved(totals));
        stop::nothing_at_stake(0, move || {
            log.write(&end);
            if !quiet {
                terminal::say(&words);
            }
        });
    }

    /// The last line of the metrics.
    pub fn finish(&mut self, reason: &str, totals: &Totals) {
        let end = self.end(reason, totals);
        self.log.write(&Event::End(end));
    }

    /// What the user is left with, in words.
    pub fn summary(&mut self, ending: &str, totals: &Totals) {
        self.progress.finish();
        let (tokens, seconds) = (totals.tokens - self.tokens_before, self.seconds());
        if tokens > 0 {
            let skipped = match totals.skipped_steps {
                0 => String::new(),
                n => format!(", {n} steps skipped"),
            };
            self.progress.note(&format!(
                "{ending}: step {}, loss {}, {tokens} tokens in {seconds:.1} s ({:.0} tokens/s), \
                 peak memory {}{skipped}",
                totals.step,
                readable(self.last_loss, 4),
                tokens as f64 / seconds,
                format_bytes(self.peak()),
            ));
        }
        if self.last_loss > DIVERGED * self.first_loss {
            tracing::warn!(
                "the loss has risen from {} to {}: a lower --lr, or a longer --warmup-steps, may keep it from that",
                readable(self.first_loss, 4),
                readable(self.last_loss, 4)
            );
        }
        let saved = self.what_is_saved(totals);
        self.progress.note(&saved);
    }

    fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn peak(&self) -> u64 {
        self.meter.sample().unwrap_or_default().peak_bytes
    }

    fn end(&self, reason: &str, totals: &Totals) -> End {
        End {
            reason: reason.to_string(),
            step: totals.step,
            loss: self.last_loss,
            tokens: totals.tokens - self.tokens_before,
            seconds: self.seconds(),
            skipped_steps: totals.skipped_steps,
            peak_bytes: self.peak(),
            host_peak_bytes: peak_bytes(),
        }
    }

    fn what_is_saved(&self, totals: &Totals) -> String {
        match totals.saved_step {
            0 => "nothing was saved: no step was finished".to_string(),
            step => {
                let bundle = quoted(&self.bundle);
                let asked = match self.answers {
                    true => "--chat \"What is the answer?\"",
                    false => "--prompt \"The\"",
                };
                format!("step {step} is saved in {bundle}; try: aios generate {bundle} {asked}")
            }
        }
    }
}

/// What the metrics say of the ranks where there are several.
fn of_ranks(ranks: &[About]) -> Vec<StepRank> {
    let several = if ranks.len() > 1 { ranks } else { &[] };
    let of = |about: &About| StepRank {
        seconds: about.seconds,
        in_use_bytes: about.in_use_bytes,
        peak_bytes: about.peak_bytes,
        host_peak_bytes: about.host_peak_bytes,
    };
    several.iter().map(of).collect()
}

/// A path as it can be pasted into a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    match text.contains(char::is_whitespace) {
        true => format!("\"{text}\""),
        false => text,
    }
}
