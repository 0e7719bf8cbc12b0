//! `aios generate`.

use crate::cli::args::GenerateArgs;
use crate::cli::brain::{Brain, open_device};
use aios_base::error::Result;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_engine::{Reading, Sampling};
use aios_train::idle;
use serde::Serialize;

/// The result with `--json`.
#[derive(Serialize)]
struct Generated<'a> {
    prompt: &'a str,
    text: String,
    tokens: usize,
}

/// Generate text.
pub fn run(args: GenerateArgs) -> Result<()> {
    let brain = Brain::open(&args.bundle.path())?;
    idle::warn(&args.idle());
    let prompt = args.prompt_text()?;
    let (kind, device) = open_device(&args.device)?;
    let tokenizer = &brain.tokenizer;
    let end = tokenizer.end_of_text();
    // Every document of the training data follows an end-of-text token.
    let mut ids = vec![end];
    ids.extend(tokenizer.encode(&prompt)?);
    let positions = ids.len().saturating_add(args.max_new_tokens);
    let model = brain.model(positions, &*device)?;
    let sampling = Sampling {
        reading: Reading {
            segments: brain.config.halt_max_steps,
            execution: brain.execution(&*device, kind),
        },
        chunk: brain.config.chunk_size,
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        seed: args.seed,
    };
    let stream = !args.json;
    if stream {
        write_stdout(prompt.as_bytes())?;
    }
    let mut decoder = tokenizer.stream_decoder();
    let mut drawn = Vec::new();
    let mut written = Ok(());
    let mut token = |id| {
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
    model.generate(&ids, args.max_new_tokens, &sampling, &mut token)?;
    written?;
    match stream {
        true => write_stdout((decoder.finish()?.unwrap_or_default() + "\n").as_bytes()),
        false => write_stdout(
            to_json_line(&Generated {
                prompt: &prompt,
                text: tokenizer.decode(&drawn)?,
                tokens: drawn.len(),
            })?
            .as_bytes(),
        ),
    }
}
