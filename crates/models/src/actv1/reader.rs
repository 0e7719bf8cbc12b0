//! The model without gradients, on whole sequences or on one chunk after the other.

use crate::actv1::act::ActV1;
use aios_base::execution::Execution;
use aios_nn::{Context, KvCaches};
use aios_tensor::Ops;
use burn::tensor::Tensor;

/// Reads sequences of equal length in parallel and remembers the keys and values of what it has read.
pub struct Reader<'a, B: Ops> {
    model: &'a ActV1<B>,
    execution: Execution,
    segments: usize,
    sequences: usize,
    /// Tokens of each sequence read so far.
    read: usize,
    /// Of each segment.
    caches: Vec<KvCaches<B>>,
}

impl<'a, B: Ops> Reader<'a, B> {
    /// At the beginning of so many sequences, of which every token will be run so many segments on.
    pub fn new(
        model: &'a ActV1<B>,
        execution: Execution,
        segments: usize,
        sequences: usize,
    ) -> Self {
        Self {
            model,
            execution,
            segments,
            sequences,
            read: 0,
            caches: Vec::new(),
        }
    }

    /// Tokens of each sequence read so far.
    pub fn position(&self) -> usize {
        self.read
    }

    /// Forgets all but the first so many tokens of each sequence, or all where a window has dropped some.
    pub fn keep(&mut self, tokens: usize) {
        if tokens >= self.read {
            return;
        }
        let read = self.read;
        let mut caches = self.caches.iter_mut();
        match tokens > 0 && caches.all(|cache| cache.keep(tokens, read)) {
            true => self.read = tokens,
            false => (self.read, self.caches) = (0, Vec::new()),
        }
    }

    /// High-level state `[tokens, hidden]` after the last segment for the next tokens of each
    /// sequence, sequence after sequence; with `last` nothing is remembered. Together they are at most
    /// the model's longest sequence.
    pub fn read(&mut self, ids: &[i32], last: bool) -> Tensor<B, 2> {
        let model = self.model;
        let path = self.execution.path;
        let positions = self.read..self.read + ids.len() / self.sequences;
        self.read = positions.end;
        let whole = last && positions.start == 0;
        let ctx = match whole {
            true => model.context(self.sequences, positions.end, path),
            false => model.chunk_context(self.sequences, positions, last, path),
        };
        let ctx = Context {
            length: model.config.max_seq_len,
            ..ctx
        };
        if self.caches.is_empty() {
            let caches = || match whole {
                true => KvCaches::none(),
                false => model.caches(self.execution.place).growing(),
            };
            self.caches = (0..self.segments).map(|_| caches()).collect();
        }
        let x = model.embed(&ctx, ids, self.execution.precision);
        let first = model.initial_carry(ids.len(), self.execution.precision);
        let run = |carry, caches| model.segment(&ctx, carry, &x, caches);
        self.caches.iter_mut().fold(first, run).z_h
    }
}
