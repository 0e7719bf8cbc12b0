//! Prediction of a training run's peak memory from its shapes.

use super::checkpoint::Keep;
use super::moments::Moments;
use crate::model::ModelConfig;
use crate::ops::AttentionPath;
use serde::Serialize;

/// What is to be estimated.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    pub model: &'a ModelConfig,
    /// Sequences of a micro-batch, and tokens of each.
    pub batch_size: usize,
    pub seq_len: usize,
    /// Micro-batches a step.
    pub accumulation: usize,
    pub halt_max_steps: usize,
    pub keep: Keep,
    pub path: AttentionPath,
    pub moments: Moments,
    /// Bytes that one slice of logits may take on this backend.
    pub slice_bytes: usize,
    /// Buffers of a slice's size that the loss holds at once.
    pub slice_buffers: usize,
}

/// Bytes by purpose at the moment of the peak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Estimate {
    pub weights: u64,
    pub gradients: u64,
    pub optimizer: u64,
    /// What the tapes keep, the states handed about, and the block at work.
    pub activations: u64,
    /// Logits of one slice.
    pub loss: u64,
    pub total: u64,
}

impl Run<'_> {
    /// Estimate the peak of a step.
    pub fn estimate(&self) -> Estimate {
        let parameters = self.model.parameters() as u64;
        let tokens = (self.batch_size * self.seq_len) as u64;
        let weights = 4 * (parameters + 2 * self.model.hidden_size as u64);
        let gradients = 4 * parameters;
        let optimizer = self.moments.state_bytes(self.model);
        let floats = |per_token: usize| 4 * per_token as u64 * tokens;
        let block = floats(self.block_floats()) + self.scores();
        let loss = self.loss(tokens);
        // A segment goes backward when the next one's tape is there as well; by the time of the
        // next one's loss the first tape is gone, and no block is at work.
        let tape = floats(self.tape_floats());
        let backward = tape * self.tapes() + block;
        let during_segments = floats(self.state_floats()) + backward.max(tape + loss);
        // The embedding's gradient is made at the end of a micro-batch, when the tapes are gone; a
        // second micro-batch finds it there.
        let embedding = 4 * (self.model.vocab_size * self.model.hidden_size) as u64;
        let late = if self.accumulation > 1 { 0 } else { embedding };
        let at_the_end = 4 * 4 * self.model.hidden_size as u64 * tokens;
        Estimate {
            weights,
            gradients,
            optimizer,
            activations: floats(self.state_floats()) + backward,
            loss,
            total: weights
                + gradients
                + optimizer
                + (during_segments.saturating_sub(late)).max(at_the_end),
        }
    }

    /// Bytes of activations a token, at the moment a block goes backward.
    pub fn activations_per_token(&self) -> u64 {
        let tapes = self.tape_floats() * self.tapes() as usize;
        4 * (self.state_floats() + tapes + self.block_floats()) as u64
    }

    /// Segments whose tapes are held at once: with more than one segment, the next one's is made
    /// before this one's goes.
    fn tapes(&self) -> u64 {
        self.halt_max_steps.min(2) as u64
    }

    /// Floats a token that one segment keeps for its backward pass.
    fn tape_floats(&self) -> usize {
        let m = self.model;
        let block = self
            .keep
            .floats_per_token(m.hidden_size, m.inner_size(), m.num_heads);
        block * (m.h_layers + m.l_layers)
    }

    /// Floats a token of x, both states before and after, the head's gradient and dx.
    fn state_floats(&self) -> usize {
        6 * self.model.hidden_size
    }

    /// Floats a token of one block at work: its saved values and its largest gradients.
    fn block_floats(&self) -> usize {
        let m = self.model;
        let saved = Keep::Everything.floats_per_token(m.hidden_size, m.inner_size(), m.num_heads);
        let saved = match self.keep {
            Keep::Everything => 0,
            Keep::Inputs => saved,
        };
        saved + 3 * m.inner_size() + 2 * m.hidden_size
    }

    /// Bytes of attention scores held at once in the backward pass.
    fn scores(&self) -> u64 {
        match self.path {
            AttentionPath::Flash => 0,
            AttentionPath::Sdpa => {
                let scores = self.batch_size * self.model.num_heads * self.seq_len * self.seq_len;
                4 * 4 * scores as u64
            }
        }
    }

    fn loss(&self, tokens: u64) -> u64 {
        let all = 4 * tokens * self.model.vocab_size as u64;
        all.min(self.slice_bytes as u64) * self.slice_buffers as u64
    }
}
