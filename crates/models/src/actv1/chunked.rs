//! What training and evaluation do alike with the chunks of a micro-batch: their places, and the
//! states that wait between two segments.

use crate::actv1::act::{ActV1, Carry};
use aios_base::execution::Execution;
use aios_base::micro_batch::{Chunk, MicroBatch};
use aios_nn::{Context, KvCaches};
use aios_tensor::{Ops, Placed, ids_tensor};
use burn::tensor::{Int, Tensor};
use std::cell::OnceCell;

/// A micro-batch in chunks; whole sequences are a single one.
pub struct Chunked<'a, B: Ops> {
    model: &'a ActV1<B>,
    execution: Execution,
    sequences: usize,
    seq: usize,
    pub chunks: Vec<Chunk>,
    /// Token ids of each on the device, once they were asked for, if it is not the host: every segment reads them.
    ids: Vec<OnceCell<Tensor<B, 1, Int>>>,
    /// States after the segment before, none before the first one.
    carries: Vec<Option<[Placed<B, 2>; 2]>>,
}

impl<'a, B: Ops> Chunked<'a, B> {
    pub fn new(model: &'a ActV1<B>, execution: Execution, batch: &MicroBatch) -> Self {
        let chunks = batch.chunks(execution.chunking.at_once(batch.seq));
        Self {
            model,
            execution,
            sequences: batch.sequences(),
            seq: batch.seq,
            carries: chunks.iter().map(|_| None).collect(),
            ids: match B::ON_HOST {
                true => Vec::new(),
                false => chunks.iter().map(|_| OnceCell::new()).collect(),
            },
            chunks,
        }
    }

    pub fn context(&self, chunk: &Chunk) -> Context<B> {
        let (sequences, positions) = (self.sequences, chunk.positions.clone());
        let ctx = match positions.len() == self.seq {
            true => self.model.context(sequences, self.seq, self.execution.path),
            false => {
                (self.model).chunk_context(sequences, positions, chunk.last, self.execution.path)
            }
        };
        Context {
            length: self.seq,
            ..ctx
        }
    }

    /// What the level calls of a segment leave from chunk to chunk.
    pub fn caches(&self) -> KvCaches<B> {
        match self.chunks.len() {
            1 => KvCaches::none(),
            _ => self.model.caches(self.execution.place),
        }
    }

    /// The embedded inputs of a chunk.
    pub fn embed(&self, ctx: &Context<B>, number: usize) -> Tensor<B, 2> {
        let (inputs, precision) = (&self.chunks[number].inputs, self.execution.precision);
        // Nothing is uploaded there, and they would be in memory twice.
        if B::ON_HOST {
            return self.model.embed(ctx, inputs, precision);
        }
        let device = self.model.embedding.device();
        let ids = self.ids[number].get_or_init(|| ids_tensor(inputs, &device));
        (self.model.embedded()).forward(ctx, ids, precision)
    }

    /// States that a chunk's segment starts from.
    pub fn carry(&mut self, number: usize) -> Carry<B> {
        match self.carries[number].take() {
            Some(states) => {
                let [z_h, z_l] = states.map(Placed::fetch);
                Carry { z_h, z_l }
            }
            None => {
                let tokens = self.chunks[number].inputs.len();
                self.model.initial_carry(tokens, self.execution.precision)
            }
        }
    }

    /// Put the states aside for the next segment.
    pub fn stow(&mut self, number: usize, carry: Carry<B>) {
        let Carry { z_h, z_l } = carry;
        self.carries[number] = Some([z_h, z_l].map(|z| Placed::new(z, self.execution.place)));
    }

    /// A segment without gradients: `each` gets every chunk's high-level state. With `more` another
    /// segment follows.
    pub fn segment(
        &mut self,
        more: bool,
        mut each: impl FnMut(&Chunk, &Context<B>, &Tensor<B, 2>),
    ) {
        let mut caches = self.caches();
        for number in 0..self.chunks.len() {
            let carry = self.carry(number);
            let chunk = &self.chunks[number];
            let ctx = self.context(chunk);
            let x = self.embed(&ctx, number);
            let carry = self.model.segment(&ctx, carry, &x, &mut caches);
            each(chunk, &ctx, &carry.z_h);
            if more {
                self.stow(number, carry);
            }
        }
    }
}
