//! Loss of a model on a text.

use crate::training::check_ids;
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
    /// This rank's number and how many there are: each scores its share.
    pub share: (usize, usize),
}

/// What was added up over a text, or over a rank's share of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Cross-entropy in nats.
    pub nats: f64,
    pub tokens: u64,
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
    /// Of what all shares of a text come to, begun at that time.
    ///
    /// # Errors
    /// No token that could be predicted.
    pub fn of(shares: &[Tally], text: &dyn Tokens, started: Instant) -> Result<Self> {
        let nats: f64 = shares.iter().map(|share| share.nats).sum();
        let tokens: u64 = shares.iter().map(|share| share.tokens).sum();
        if tokens == 0 {
            return Err(Error::failed(
                "the text to evaluate has no token that could be predicted; at least 2 are needed",
            ));
        }
        let bytes = text.bytes() as f64 * tokens as f64 / text.predicted() as f64;
        Ok(Self {
            loss: nats / tokens as f64,
            bits_per_byte: nats / std::f64::consts::LN_2 / bytes,
            tokens,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// `e^loss`.
    pub fn perplexity(&self) -> f64 {
        self.loss.exp()
    }
}

/// Add up the model's cross-entropy over this rank's share of a text, in sequences of no more than the model's length from
/// its beginning; the last one may be shorter. `None` if `stopped` said so between batches.
///
/// # Errors
/// Not enough memory.
pub fn evaluate<B: Ops>(
    model: &dyn Objective<B>,
    text: &dyn Tokens,
    options: &EvalOptions,
    stopped: &dyn Fn() -> bool,
) -> Result<Option<Tally>> {
    let longest = model.max_seq_len();
    let mut tally = Tally::default();
    let (rank, size) = options.share;
    let all = batches(text.sequences(longest), options);
    for batch in all.skip(rank).step_by(size) {
        if stopped() {
            return Ok(None);
        }
        let batch = read(text, batch, longest)?;
        check_ids(model, batch.inputs.iter().copied())?;
        tally.tokens += batch.valid_tokens();
        tally.nats += model.cross_entropy(&batch, &options.reading, options.slice_bytes);
    }
    Ok(Some(tally))
}

/// Ranges of sequences, computed at once each.
fn batches(sequences: u64, options: &EvalOptions) -> impl Iterator<Item = Range<u64>> + use<> {
    let most = match options.batches {
        0 => u64::MAX,
        batches => batches.saturating_mul(options.batch_size as u64),
    };
    let end = sequences.min(most);
    let size = options.at_once.max(1);
    (0..end)
        .step_by(size)
        .map(move |start| start..end.min(start.saturating_add(size as u64)))
}

/// These sequences, side by side.
fn read(text: &dyn Tokens, mut range: Range<u64>, longest: usize) -> Result<MicroBatch> {
    let sequences = (range.end - range.start) as usize;
    MicroBatch::of(sequences, longest, &mut |inputs, labels| {
        let Some(index) = range.next() else {
            return Vec::new();
        };
        text.sequence(index, longest, inputs, labels);
        text.documents(index, longest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_base::execution::{Chunking, Execution, Place};
    use aios_tensor::{AttentionPath, Precision};

    #[test]
    fn batches_cover_every_sequence_once() {
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
            share: (0, 1),
        };
        let all: Vec<_> = batches(5, &options(0)).collect();
        assert_eq!(all, [0..2, 2..4, 4..5]);
        assert!(batches(5, &options(1)).eq(std::iter::once(0..2)));
        assert!(batches(1, &options(0)).eq(std::iter::once(0..1)));
        let singly = EvalOptions {
            at_once: 1,
            ..options(1)
        };
        let singly: Vec<_> = batches(5, &singly).collect();
        assert_eq!(singly, [0..1, 1..2]);
    }
}
