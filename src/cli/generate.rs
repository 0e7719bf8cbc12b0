//! `aios generate`.

use crate::cli::args::GenerateArgs;
use crate::cli::brain::Brain;
use crate::cli::speech::Speech;
use aios_base::error::Result;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_base::waiting::Word;
use aios_chat::{Message, Role};
use aios_engine::{GenerateOptions, Reading};
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
    let mut brain = Brain::of_args(&args.bundle)?;
    let defaults = brain.sampling()?;
    idle::warn(&args.sampling.idle(&defaults));
    let mut sampling = args.sampling.resolve(&defaults)?;
    let (prompt, ids) = match &args.chat {
        None => {
            let prompt = args.prompt_text()?;
            let ids = brain.prompt(&prompt)?;
            (prompt, ids)
        }
        Some(question) => {
            let speech = Speech::of(&brain, None)?;
            sampling.stop.extend(speech.end);
            let system = args
                .system
                .iter()
                .map(|text| Message::new(Role::System, text));
            let messages = system.chain([Message::new(Role::User, question)]);
            (question.clone(), speech.ids(&messages.collect::<Vec<_>>())?)
        }
    };
    let positions = brain.make_room(ids.len().saturating_add(args.max_new_tokens))?;
    let (execution, device) = brain.open_device(&args.device)?;
    let tokenizer = &brain.tokenizer;
    let model = brain.model(positions, &*device)?;
    let options = GenerateOptions {
        reading: Reading {
            segments: brain.config.halt_max_steps,
            execution,
        },
        chunk: brain.config.chunk_size,
        most: args.max_new_tokens,
        sampling,
    };
    let stream = !args.json;
    if stream && args.chat.is_none() {
        write_stdout(prompt.as_bytes())?;
    }
    let mut decoder = tokenizer.stream_decoder();
    let mut drawn = Vec::new();
    let mut written = Ok(());
    let mut word = Some(Word::of("reading the prompt", || (0, 0)));
    let mut token = |id| {
        drop(word.take());
        drawn.push(id);
        if stream {
            let text = decoder.push(id);
            written = text.and_then(|text| write_stdout(text.unwrap_or_default().as_bytes()));
        }
        written.is_ok()
    };
    model.generate(&ids, &options, &mut token)?;
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
