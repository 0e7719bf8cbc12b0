//! Keys and values that chunks of a sequence leave for the chunks that follow.
//!
//! With causal attention a token's states depend on earlier tokens through the keys and values of
//! the same block in the same call alone. A sequence can so be computed in chunks, each of which
//! sees the keys and values that earlier chunks left in that call.

use crate::block::Context;
use aios_base::execution::Place;
use aios_tensor::attention::KeysValues;
use aios_tensor::{Ops, Placed};
use burn::tensor::backend::Backend;
use std::ops::Range;

/// What a block's attention sees besides the tokens at hand.
#[derive(Clone, Debug)]
pub enum Earlier<B: Backend> {
    /// The tokens are whole sequences.
    Whole,
    /// Of the chunks before; `None` for the first one.
    Chunks(Option<KeysValues<B>>),
}

/// What the blocks of one call left, each its keys and its values.
pub struct KvCache<B: Backend> {
    slots: Vec<Option<[Placed<B, 3>; 2]>>,
    place: Place,
}

impl<B: Ops> KvCache<B> {
    fn new(blocks: usize, place: Place) -> Self {
        Self {
            slots: (0..blocks).map(|_| None).collect(),
            place,
        }
    }

    fn keep(&mut self, kept: usize, read: usize) -> bool {
        let mut all = true;
        for slot in &mut self.slots {
            let Some(left) = slot.take() else {
                return false;
            };
            let left = left.map(Placed::fetch);
            all &= left.iter().all(|x| x.dims()[1] == read);
            if all {
                let first = left.map(|x| x.narrow(1, 0, kept));
                *slot = Some(first.map(|x| Placed::new(x, self.place)));
            }
        }
        all
    }
}

/// One call's cache, or none for whole sequences.
pub enum Cached<'a, B: Backend> {
    /// The tokens are whole sequences.
    Whole,
    /// They are a chunk of each, which sees what is here and leaves what it adds.
    Chunk(&'a mut KvCache<B>),
    /// The same, but what it adds is not wanted: these are what the blocks from the first number on see.
    Replay(usize, &'a [Earlier<B>]),
}

impl<B: Ops> Cached<'_, B> {
    /// The same once more, for a part of the call.
    pub fn again(&mut self) -> Cached<'_, B> {
        match self {
            Self::Whole => Cached::Whole,
            Self::Chunk(cache) => Cached::Chunk(cache),
            Self::Replay(first, earlier) => Cached::Replay(*first, earlier),
        }
    }

    /// What a block left in earlier chunks, for it to see and to leave anew.
    pub fn take(&mut self, block: usize) -> Earlier<B> {
        match self {
            Self::Whole => Earlier::Whole,
            Self::Chunk(cache) => {
                let left = cache.slots[block].take();
                let left = left.map(|left| left.map(Placed::fetch));
                Earlier::Chunks(left.map(|[k, v]| KeysValues { k, v }))
            }
            Self::Replay(first, earlier) => earlier[block - *first].clone(),
        }
    }

    /// The same of several blocks.
    pub fn take_all(&mut self, blocks: Range<usize>) -> Vec<Earlier<B>> {
        blocks.map(|block| self.take(block)).collect()
    }

    /// Leave for the next chunk, if there is one, what of `seen` its queries will see within the window (0 for all).
    pub fn leave(
        &mut self,
        block: usize,
        ctx: &Context<B>,
        window: usize,
        seen: Option<&KeysValues<B>>,
    ) {
        let (Self::Chunk(cache), Some(seen), false) = (self, seen, ctx.last) else {
            return;
        };
        let KeysValues { k, v } = match window {
            0 => seen.clone(),
            window => seen.tail(window - 1),
        };
        cache.slots[block] = Some([k, v].map(|x| Placed::new(x, cache.place)));
    }
}

/// Of all calls of a pass, in their order; or none, for whole sequences.
pub struct KvCaches<B: Backend>(Vec<KvCache<B>>);

impl<B: Ops> KvCaches<B> {
    /// For whole sequences, of which nothing is left.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Nothing yet, for calls with so many blocks each.
    pub fn new(calls: impl Iterator<Item = usize>, place: Place) -> Self {
        Self(calls.map(|blocks| KvCache::new(blocks, place)).collect())
    }

    /// Forgets all but the first `kept` of the `read` tokens that it was left by; whether it could: beyond a window the
    /// first ones are gone.
    pub fn keep(&mut self, kept: usize, read: usize) -> bool {
        !self.0.is_empty() && self.0.iter_mut().all(|cache| cache.keep(kept, read))
    }

    /// That of a call.
    pub fn call(&mut self, number: usize) -> Cached<'_, B> {
        match self.0.get_mut(number) {
            Some(cache) => Cached::Chunk(cache),
            None => Cached::Whole,
        }
    }
}
