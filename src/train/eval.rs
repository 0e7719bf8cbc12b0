//! Loss of a model on a text.

use crate::data::{BatchOptions, Batches, TokenCache};
use crate::error::{Error, Result};
use crate::model::ActV1;
use crate::ops::{AttentionPath, Ops};
use std::sync::Arc;
use std::time::Instant;

/// How an evaluation runs.
#[derive(Clone, Copy, Debug)]
pub struct EvalOptions {
    /// Segments run; the last one's prediction counts.
    pub segments: usize,
    pub path: AttentionPath,
    pub batch_size: usize,
    /// Batches measured; 0 for the whole text.
    pub batches: u64,
}

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Mean cross-entropy of a token, in nats.
    pub loss: f64,
    /// Cross-entropy of a byte of the text, in bits.
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

/// Score the model on a text, in windows of the model's sequence length from its beginning.
///
/// # Errors
/// A text of a single token.
pub fn evaluate<B: Ops>(
    model: &ActV1<B>,
    cache: &Arc<TokenCache>,
    options: &EvalOptions,
) -> Result<Score> {
    let started = Instant::now();
    let seq_len = model.config.max_seq_len.min(cache.len().saturating_sub(1));
    if seq_len == 0 {
        return Err(Error::failed(format!(
            "the text to evaluate has {} token; at least 2 are needed",
            cache.len()
        )));
    }
    let mut windows = Batches::new(
        cache.clone(),
        BatchOptions {
            seq_len,
            shuffle: false,
            chunk_windows: 1,
            start_offset: 0,
            seed: 0,
        },
    )?;
    let mut left = windows.windows_per_epoch();
    if options.batches > 0 {
        left = left.min(options.batches.saturating_mul(options.batch_size as u64));
    }
    let (mut total, mut tokens) = (0.0, 0_u64);
    while left > 0 {
        let batch = left.min(options.batch_size as u64);
        let (mut inputs, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..batch {
            windows.next_window(&mut inputs, &mut labels);
        }
        total += batch_loss(model, &inputs, &labels, seq_len, options);
        tokens += labels.len() as u64;
        left -= batch;
    }
    let loss = total / tokens as f64;
    // The text's share that was measured, an end-of-text token counting as part of its document.
    let bytes = cache.bytes() as f64 * tokens as f64 / cache.len() as f64;
    Ok(Score {
        loss,
        bits_per_byte: total / std::f64::consts::LN_2 / bytes,
        tokens,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Cross-entropy of a batch, in nats, summed.
fn batch_loss<B: Ops>(
    model: &ActV1<B>,
    inputs: &[i32],
    labels: &[i32],
    seq: usize,
    options: &EvalOptions,
) -> f64 {
    let ctx = model.context(inputs.len() / seq, seq, options.path);
    let x = model.embed(inputs, seq);
    let first = model.initial_carry(inputs.len());
    let carry = (0..options.segments).fold(first, |carry, _| model.segment(&ctx, carry, &x));
    let loss = B::cross_entropy(&carry.z_h, &model.lm_head.value, labels);
    loss.per_token.iter().map(|&l| f64::from(l)).sum()
}
