//! What is done with the model between steps: score a text, write a sample.

use crate::ranks::{self, Evaluated};
use crate::trainer::Trainer;
use aios_base::error::{Error, Result};
use aios_bundle::Best;
use aios_engine::{EvalOptions, GenerateOptions, Reading, Sampling, Score};
use aios_tensor::SLICE_BYTES;
use std::time::Instant;

/// Tokens of a sample during training.
const SAMPLE_TOKENS: usize = 64;

impl Trainer {
    /// Score the evaluation text, if there is one, and keep the checkpoint if it is the best so far.
    pub(crate) fn evaluate(&mut self) -> Result<()> {
        let Some(text) = self.text.eval.clone() else {
            return Ok(());
        };
        let (config, plan) = (&self.form.config, &self.form.plan);
        let at_once = self.world.gather(&config.batch_size)?;
        let mut options = EvalOptions {
            reading: Reading {
                segments: config.halt_max_steps,
                execution: plan.execution(),
            },
            slice_bytes: plan.loss_path.slice_bytes().unwrap_or(SLICE_BYTES),
            batch_size: self.form.asked.batch_size * config.ranks,
            // The shares of all ranks are cut alike.
            at_once: at_once.into_iter().min().unwrap_or(1),
            batches: config.eval_batches,
            share: (self.world.rank(), self.world.size()),
        };
        let started = Instant::now();
        let stopped = || {
            self.world.progress();
            self.stop.requested().is_some()
        };
        let tallies = loop {
            let outcome = (self.compute.engine).evaluate(&text, &options, &stopped);
            let own = match self.in_step(outcome) {
                Err(Error::OutOfMemory(cause)) => Evaluated::OutOfMemory(cause),
                outcome => Evaluated::of(outcome?),
            };
            match ranks::tallies(&self.world.gather(&own)?) {
                Ok(Some(tallies)) => break tallies,
                Ok(None) => return Ok(()),
                Err(cause) if options.at_once > 1 => {
                    options.at_once /= 2;
                    tracing::warn!("evaluating {} sequences at once: {cause}", options.at_once);
                }
                Err(cause) => {
                    tracing::warn!("no evaluation: {cause}, with one sequence at once");
                    return Ok(());
                }
            }
        };
        let score = Score::of(&tallies, &text, started)?;
        self.journal.evaluated(self.at.state.step, &score);
        let seq = self.compute.model.max_seq_len();
        let of = format!("{} {} {seq}", text.fingerprint(), score.tokens);
        self.keep_if_best(&score, of)
    }

    /// `--keep-best`: the checkpoint of this step, if its evaluation is the best so far.
    fn keep_if_best(&mut self, score: &Score, evaluated: String) -> Result<()> {
        let loss = score.loss;
        if !self.form.config.keep_best {
            return Ok(());
        }
        let best = self.checkpoints.is_best(loss, &evaluated);
        if !self.world.share(&best)? {
            return Ok(());
        }
        let step = self.at.state.step;
        if self.checkpoints.step != step {
            self.save_on_the_way()?;
        }
        let best = Best {
            step,
            loss,
            evaluated,
        };
        match self.checkpoints.keep_best(best) {
            None => {}
            Some(Ok(place)) => self.journal.note(&format!(
                "step {step}: the best evaluation so far, kept in {}",
                place.display()
            )),
            Some(Err(cause)) => tracing::warn!("{cause}"),
        }
        Ok(())
    }

    /// Write some text with the model, for the user to see.
    pub(crate) fn sample(&mut self) -> Result<()> {
        // The others go on to where they wait for this one.
        if !self.world.is_first() {
            return Ok(());
        }
        let config = &self.form.config;
        let opening = &self.text.opening;
        let options = GenerateOptions {
            reading: Reading {
                segments: config.halt_max_steps,
                execution: self.form.plan.execution(),
            },
            chunk: config.chunk_size,
            most: SAMPLE_TOKENS,
            sampling: Sampling {
                temperature: 0.8,
                top_k: 50,
                seed: config.seed,
                stop: opening.stop.clone(),
                ..Sampling::likeliest()
            },
        };
        let mut drawn = Vec::new();
        let generated = (self.compute.engine).generate(&opening.ids, &options, &mut |id| {
            drawn.push(id);
            self.world.progress();
            self.stop.requested().is_none()
        });
        let decoded = match self.in_step(generated) {
            Ok(_) => self.text.tokenizer.decode(&drawn),
            Err(error @ (Error::OutOfMemory(_) | Error::Failed(_))) => Err(error),
            Err(error) => return Err(error),
        };
        self.text.tokenizer.release();
        match decoded {
            Ok(text) => {
                let text = format!("{}{text}", self.text.opening.shown);
                self.journal.sampled(self.at.state.step, text);
            }
            // No reason to end a training.
            Err(error) => tracing::warn!("no sample: {error}"),
        }
        Ok(())
    }
}
