//! `aios eval`.

use crate::cli::args::EvalArgs;
use crate::cli::brain::Brain;
use aios_base::config::{CorpusOptions, TrainConfig};
use aios_base::error::{Error, Result, shown};
use aios_base::numbers::readable;
use aios_base::terminal::{to_json_line, write_stdout};
use aios_data::{Cutting, Sequences, TokenCache, telling};
use aios_engine::{EvalOptions, Reading, Score};
use aios_process::stop::{self, EXIT_INTERRUPTED, StopSignal};
use aios_tensor::SLICE_BYTES;
use aios_train::{chat, idle};
use serde::Serialize;
use std::sync::Arc;
use std::time::Instant;

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
    let mut brain = Brain::of_args(&args.bundle)?;
    args.text.apply(&mut brain.config);
    // The model's own is the one that it was trained with.
    brain.config.chat_template = None;
    args.records.apply(&mut brain.config);
    args.rows.apply(&mut brain.config);
    args.sequences.apply(&mut brain.config);
    brain.set_length(args.max_seq_len)?;
    idle::warn(&idle::of_text(&given(&args, &brain.config)));
    let options = CorpusOptions {
        vocabulary: brain.vocabulary(),
        ..brain.config.corpus(&args.file)
    };
    let mut tell = telling(&format!("tokenizing {}", shown(&args.file)), false);
    let mut watch = |done, all| {
        tell(done, all)?;
        stop.check()
    };
    let folder = match brain.is_decoder() {
        true => Some(brain.folder()?),
        false => None,
    };
    let reading = chat::Reading {
        config: &brain.config,
        model: folder
            .as_ref()
            .map_or(chat::Model::Named, chat::Model::Folder),
    };
    let source = reading.recognised(options, &mut watch)?;
    let cache = TokenCache::open_or_build(&source.options, &brain.tokenizer, &mut watch)?;
    let (execution, device) = brain.open_device(&args.device)?;
    let positions = brain.longest(cache.len());
    let model = brain.model(positions, &*device)?;
    let options = EvalOptions {
        reading: Reading {
            segments: brain.config.halt_max_steps,
            execution,
        },
        slice_bytes: SLICE_BYTES,
        batch_size: args.batch_size,
        at_once: args.batch_size,
        batches: args.batches,
        share: (0, 1),
    };
    // As in a training of it.
    let cutting = match brain.is_decoder() {
        true => chat::cutting(&brain.config, source.texts),
        false => Cutting {
            pack_rows: true,
            documents: false,
            full_windows: brain.config.full_windows,
        },
    };
    let text = Sequences::new(Arc::new(cache), cutting);
    let text = chat::arranged(text, &brain.config, source.options.chat.as_ref())?;
    if let Some(arranged) = text.arrangement() {
        chat::warn(&text, arranged, &brain.config);
    }
    let started = Instant::now();
    let tally = model.evaluate(&text, &options, &|| stop.requested().is_some())?;
    let score = Score::of(&[tally.ok_or(Error::Stopped)?], &text, started)?;
    if !score.loss.is_finite() {
        return Err(Error::failed(format!(
            "the loss is {}: the model's weights are damaged, or its training went astray; use an earlier checkpoint",
            score.loss
        )));
    }
    let line = match args.json {
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

/// The text's settings as far as they were given here; the brain's own are about another text.
fn given(args: &EvalArgs, config: &TrainConfig) -> TrainConfig {
    let mut given = TrainConfig::default();
    args.text.apply(&mut given);
    TrainConfig {
        text_format: config.text_format,
        ..given
    }
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
