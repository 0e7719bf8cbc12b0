//! `aios generate`.

use super::args::GenerateArgs;
use super::brain::{Brain, open_device};
use crate::backend::{DeviceJob, Kind, confirmed};
use crate::error::Result;
use crate::ops::Ops;
use crate::terminal::{to_json_line, write_stdout};
use crate::train::generate::{Sampling, generate};
use serde::Serialize;

/// Generate text.
pub fn run(args: GenerateArgs) -> Result<()> {
    let brain = Brain::open(&args.bundle.path())?;
    let prompt = args.prompt_text()?;
    let selection = open_device(&args.device)?;
    let kind = selection.adapter.kind;
    selection.adapter.selected.run(Job {
        args,
        brain,
        prompt,
        kind,
    })
}

/// The result with `--json`.
#[derive(Serialize)]
struct Generated<'a> {
    prompt: &'a str,
    text: String,
    tokens: usize,
}

struct Job {
    args: GenerateArgs,
    brain: Brain,
    prompt: String,
    kind: Kind,
}

impl DeviceJob for Job {
    type Output = Result<()>;

    fn run<B: Ops>(self, device: B::Device) -> Result<()> {
        let tokenizer = &self.brain.tokenizer;
        let end = tokenizer.end_of_text();
        // Every document of the training data follows an end-of-text token.
        let mut ids = vec![end];
        ids.extend(tokenizer.encode(&self.prompt)?);
        let positions = ids.len().saturating_add(self.args.max_new_tokens);
        let model = self.brain.model::<B>(positions, &device)?;
        let sampling = Sampling {
            segments: self.brain.config.halt_max_steps,
            way: self.brain.way::<B>(&device, self.kind),
            chunk: self.brain.config.chunk_size,
            temperature: self.args.temperature,
            top_k: self.args.top_k,
            top_p: self.args.top_p,
            seed: self.args.seed,
        };
        let stream = !self.args.json;
        if stream {
            write_stdout(self.prompt.as_bytes())?;
        }
        let mut decoder = tokenizer.stream_decoder();
        let mut drawn = Vec::new();
        let mut written = Ok(());
        let token = |id| {
            if id == end {
                return false;
            }
            drawn.push(id);
            if stream {
                let text = decoder.push(id);
                written = text.and_then(|text| write_stdout(text.unwrap_or_default().as_bytes()));
            }
            written.is_ok()
        };
        let most = self.args.max_new_tokens;
        confirmed::<B, _>(&device, || generate(&model, &ids, most, &sampling, token))?;
        written?;
        match stream {
            true => write_stdout((decoder.finish()?.unwrap_or_default() + "\n").as_bytes()),
            false => write_stdout(
                to_json_line(&Generated {
                    prompt: &self.prompt,
                    text: tokenizer.decode(&drawn)?,
                    tokens: drawn.len(),
                })?
                .as_bytes(),
            ),
        }
    }
}
