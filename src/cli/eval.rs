//! `aios eval`.

use super::args::EvalArgs;
use super::brain::{Brain, open_device};
use crate::backend::{DeviceJob, Kind, confirmed};
use crate::data::{TokenCache, telling};
use crate::error::{Error, Result, shown};
use crate::numbers::readable;
use crate::ops::{Ops, SLICE_BYTES};
use crate::terminal::{to_json_line, write_stdout};
use crate::train::eval::{EvalOptions, evaluate};
use crate::train::stop::{self, EXIT_INTERRUPTED, StopSignal};
use serde::Serialize;

/// Measure the loss of a trained model on a text; returns the exit code.
pub fn run(args: EvalArgs) -> Result<u8> {
    stop::nothing_at_stake(EXIT_INTERRUPTED, || {});
    let stop = StopSignal::install(None)?;
    match measure(args, stop) {
        Ok(()) => Ok(0),
        // There is no result, which a script must not take for one.
        Err(Error::Stopped) => Ok(EXIT_INTERRUPTED as u8),
        Err(error) => Err(error),
    }
}

fn measure(args: EvalArgs, stop: StopSignal) -> Result<()> {
    let mut brain = Brain::open(&args.bundle.path())?;
    args.text.apply(&mut brain.config);
    let options = brain.config.corpus(&args.file);
    let mut tell = telling(&format!("tokenizing {}", shown(&args.file)), false);
    let cache = TokenCache::open_or_build(&options, &brain.tokenizer, &mut |done, all| {
        tell(done, all)?;
        stop.check()
    })?;
    let selection = open_device(&args.device)?;
    let kind = selection.adapter.kind;
    selection.adapter.selected.run(Job {
        args,
        brain,
        cache,
        kind,
        stop,
    })
}

/// The result with `--json`.
#[derive(Serialize)]
struct Scored {
    loss: f64,
    perplexity: f64,
    bits_per_byte: f64,
    tokens: u64,
    seconds: f64,
}

struct Job {
    args: EvalArgs,
    brain: Brain,
    cache: TokenCache,
    kind: Kind,
    stop: StopSignal,
}

impl DeviceJob for Job {
    type Output = Result<()>;

    fn run<B: Ops>(self, device: B::Device) -> Result<()> {
        let model = self.brain.model::<B>(self.cache.len(), &device)?;
        let options = EvalOptions {
            segments: self.brain.config.halt_max_steps,
            way: self.brain.way::<B>(&device, self.kind),
            slice_bytes: SLICE_BYTES,
            batch_size: self.args.batch_size,
            at_once: self.args.batch_size,
            batches: self.args.batches,
        };
        let stopped = || self.stop.requested().is_some();
        let work = || evaluate(&model, &self.cache, &options, &stopped);
        let score = confirmed::<B, _>(&device, work)??;
        let score = score.ok_or(Error::Stopped)?;
        let line = match self.args.json {
            true => to_json_line(&Scored {
                loss: score.loss,
                perplexity: score.perplexity(),
                bits_per_byte: score.bits_per_byte,
                tokens: score.tokens,
                seconds: score.seconds,
            })?,
            false => format!(
                "loss {}  perplexity {}  bits per byte {}  ({} tokens, {:.1} s)\n",
                readable(score.loss, 4),
                readable(score.perplexity(), 2),
                readable(score.bits_per_byte, 4),
                score.tokens,
                score.seconds
            ),
        };
        write_stdout(line.as_bytes())
    }
}
