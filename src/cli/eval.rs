//! `aios eval`.

use super::args::EvalArgs;
use super::brain::{Brain, open_device};
use super::interrupt::Interrupt;
use crate::backend::{DeviceJob, Kind, confirmed};
use crate::data::{TokenCache, telling};
use crate::error::{Result, shown};
use crate::ops::Ops;
use crate::terminal::{to_json_line, write_stdout};
use crate::train::eval::{EvalOptions, evaluate};
use serde::Serialize;

/// Measure the loss of a trained model on a text.
pub fn run(args: EvalArgs) -> Result<()> {
    let mut brain = Brain::open(&args.bundle.path())?;
    args.text.apply(&mut brain.config);
    let options = brain.config.corpus(&args.file);
    let interrupt = Interrupt::catch()?;
    let mut tell = telling(&format!("tokenizing {}", shown(&args.file)), false);
    let cache = TokenCache::open_or_build(&options, &brain.tokenizer, &mut |done, all| {
        tell(done, all)?;
        interrupt.check()
    })?;
    let selection = open_device(&args.device)?;
    let kind = selection.adapter.kind;
    selection.adapter.selected.run(Job {
        args,
        brain,
        cache,
        kind,
        interrupt,
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
    interrupt: Interrupt,
}

impl DeviceJob for Job {
    type Output = Result<()>;

    fn run<B: Ops>(self, device: B::Device) -> Result<()> {
        let model = self.brain.model::<B>(&device)?;
        let options = EvalOptions {
            segments: self.brain.config.halt_max_steps,
            way: self.brain.way::<B>(&device, self.kind),
            batch_size: self.args.batch_size,
            at_once: self.args.batch_size,
            batches: self.args.batches,
        };
        let work = || evaluate(&model, &self.cache, &options, &|| self.interrupt.is_asked());
        let Some(score) = confirmed::<B, _>(&device, work)?? else {
            return self.interrupt.check();
        };
        let line = match self.args.json {
            true => to_json_line(&Scored {
                loss: score.loss,
                perplexity: score.perplexity(),
                bits_per_byte: score.bits_per_byte,
                tokens: score.tokens,
                seconds: score.seconds,
            })?,
            false => format!(
                "loss {:.4}  perplexity {:.2}  bits per byte {:.4}  ({} tokens, {:.1} s)\n",
                score.loss,
                score.perplexity(),
                score.bits_per_byte,
                score.tokens,
                score.seconds
            ),
        };
        write_stdout(line.as_bytes())
    }
}
