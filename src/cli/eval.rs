//! `aios eval`.

use super::args::EvalArgs;
use super::brain::{Brain, open_device};
use crate::backend::{DeviceJob, Kind, confirmed};
use crate::data::{CorpusOptions, TokenCache};
use crate::error::Result;
use crate::ops::{Ops, SLICE_BYTES};
use crate::terminal::{to_json_line, write_stdout};
use crate::train::eval::{EvalOptions, evaluate};
use serde::Serialize;

/// Measure the loss of a trained model on a text.
pub fn run(args: EvalArgs) -> Result<()> {
    let mut brain = Brain::open(&args.bundle.path())?;
    args.text.apply(&mut brain.config);
    let options = CorpusOptions {
        path: args.file.clone(),
        text_documents: brain.config.text_documents,
        text_field: brain.config.text_field.clone(),
        ascii_only: brain.config.ascii_only,
    };
    let cache = TokenCache::open_or_build(&options, &brain.tokenizer, &mut |_, _| Ok(()))?;
    let selection = open_device(&args.device)?;
    let kind = selection.adapter.kind;
    selection.adapter.selected.run(Job {
        args,
        brain,
        cache,
        kind,
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
        let work = || evaluate(&model, &self.cache, &options, &|| false);
        let Some(score) = confirmed::<B, _>(&device, work)?? else {
            return Ok(());
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
