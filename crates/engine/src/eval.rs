//! Loss of a model on a text.

use aios_base::error::{Error, Result};
use aios_base::micro_batch::{MicroBatch, Tokens};
use aios_models::{Objective, Reading};
use aios_tensor::Ops;
use std::ops::Range;
use std::time::Instant;

/// How an evaluation runs.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    pub reading: Reading,
    /// Bytes of a slice of logits.
    pub slice_bytes: usize,
    /// Sequences that make up a batch.
    pub batch_size: usize,
    /// Sequences computed at once; changes nothing but memory and rounding.
    pub at_once: usize,
    /// Batches measured; 0 for the whole text.
    pub batches: u64,
}

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean cross-entropy of a token, in nats.
    pub loss: f64,
    /// Cross-entropy of a byte of the text, in bits. When only a part was measured, the bytes of
    /// that part are taken as its share of the tokens.
    pub bits_per_byte: f64,
    pub tokens: u64,
    pub seconds: f64,
}

impl Score {
    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Score the model on a text, in windows of the model's sequence length from its beginning; the
/// last one may be shorter. `None` if `stopped` said so between batches.
///
/// # Errors
/// A text of a single token.
pub fn evaluate<B: Ops>(
    model: &dyn Objective<B>,
    cache: &dyn Tokens,
    options: &EvalOptions,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Score>> {
    let started = Instant::now();
    // The first token is only given, never predicted.
    let predicted = cache.count().saturating_sub(1);
    if predicted == 0 {
        return Err(Error::failed(
            "the text to evaluate is a single token; at least 2 are needed",
        ));
    }
    let (mut total, mut tokens) = (0.0, 0);
    for batch in batches(predicted, model.max_seq_len(), options) {
        if stopped() {
            return Ok(None);
        }
        tokens += batch.len();
        total += batch_loss(model, cache, batch, options);
    }
    let bytes = cache.bytes() as f64 * tokens as f64 / predicted as f64;
    Ok(Some(Score {
        loss: total / tokens as f64,
        bits_per_byte: total / std::f64::consts::LN_2 / bytes,
        tokens: tokens as u64,
        seconds: started.elapsed().as_secs_f64(),
    }))
}

/// Ranges of tokens, each some full windows, and at the end what fills no window.
fn batches(
    tokens: usize,
    seq: usize,
    options: &EvalOptions,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let whole = tokens - tokens % seq;
    let size = options.at_once.max(1).saturating_mul(seq);
    let most = match options.batches {
        0 => usize::MAX,
        n => usize::try_from(n).unwrap_or(usize::MAX),
    };
    let wanted = most.saturating_mul(options.batch_size.saturating_mul(seq));
    let end = whole.min(wanted);
    let full = (0..end)
        .step_by(size)
        .map(move |start| start..end.min(start + size));
    let rest = (whole < tokens && whole < wanted).then_some(whole..tokens);
    full.chain(rest)
}

/// Cross-entropy of a batch, in nats, summed.
fn batch_loss<B: Ops>(
    model: &dyn Objective<B>,
    cache: &dyn Tokens,
    batch: Range<usize>,
    options: &EvalOptions,
) -> f64 {
    let mut ids = Vec::new();
    cache.read(batch.start..batch.end + 1, &mut ids);
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let batch = MicroBatch {
        inputs: ids[..batch.len()].to_vec(),
        labels: ids[1..].to_vec(),
        seq: model.max_seq_len().min(batch.len()),
        first_sequence: 0,
    };
    model.cross_entropy(&batch, &options.reading, options.slice_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::execution::{Chunking, Execution, Place};
    use aios_tensor::{AttentionPath, Precision};

    #[test]
    fn batches_cover_every_token_once() {
        let options = |batches| EvalOptions {
            reading: Reading {
                segments: 1,
                execution: Execution {
                    chunking: Chunking::Off,
                    place: Place::Device,
                    path: AttentionPath::Sdpa,
                    precision: Precision::F32,
                },
            },
            slice_bytes: 1,
            batch_size: 2,
            at_once: 2,
            batches,
        };
        let all: Vec<_> = batches(23, 5, &options(0)).collect();
        assert_eq!(all, [0..10, 10..20, 20..23]);
        let first: Vec<_> = batches(23, 5, &options(1)).collect();
        assert_eq!(first.len(), 1);
        let short: Vec<_> = batches(3, 5, &options(0)).collect();
        assert_eq!(short.len(), 1);
        let singly = EvalOptions {
            at_once: 1,
            ..options(1)
        };
        let singly: Vec<_> = batches(23, 5, &singly).collect();
        assert_eq!(singly, [0..5, 5..10]);
    }
}
