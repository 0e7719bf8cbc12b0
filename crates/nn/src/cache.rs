//! Keys and values that chunks of a sequence leave for the chunks that follow.
//!
//! With causal attention a token's states depend on earlier tokens through the keys and values of
//! the same block in the same call alone. A sequence can so be computed in chunks, each of which
//! sees the keys and values that earlier chunks left in that call.

use crate::block::Context;
use aios_base::execution::Place;
use aios_tensor::attention::{KeysValues, Room};
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
    /// The same of a text that grows token by token, and is not gone back over: see [`Room::Spare`].
    Growing(Option<KeysValues<B>>),
}

/// What the blocks of one call left, each its keys and its values.
pub struct KvCache<B: Backend> {
    slots: Vec<Option<Left<B>>>,
    place: Place,
    room: Room,
}

/// Keys and values that wait, and how many of their tokens count.
struct Left<B: Backend> {
    held: [Placed<B, 3>; 2],
    tokens: usize,
}

impl<B: Ops> Left<B> {
    fn new(left: KeysValues<B>, place: Place) -> Self {
        let (held, tokens) = left.held();
        let held = held.map(|x| Placed::new(x, place));
        Self { held, tokens }
    }

    fn fetch(self) -> KeysValues<B> {
        KeysValues::of(self.held.map(Placed::fetch), self.tokens)
    }
}

impl<B: Ops> KvCache<B> {
    fn new(blocks: usize, place: Place) -> Self {
        Self {
            slots: (0..blocks).map(|_| None).collect(),
            place,
            room: Room::Exact,
        }
    }

    fn keep(&mut self, kept: usize, read: usize) -> bool {
        self.slots.iter_mut().all(|slot| {
            let whole = slot.take().filter(|left| left.tokens == read);
            *slot = whole.map(|left| Left::new(left.fetch().keep(kept), self.place));
            slot.is_some()
        })
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
                let left = cache.slots[block].take().map(Left::fetch);
                match cache.room {
                    Room::Exact => Earlier::Chunks(left),
                    Room::Spare => Earlier::Growing(left),
                }
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
        let left = match (window, cache.room) {
            (0, _) => seen.clone(),
            // A copy for each token otherwise: attention looks at no more than the window anyway.
            (window, Room::Spare) if seen.tokens() < 2 * window => seen.clone(),
            (window, _) => seen.tail(window - 1),
        };
        cache.slots[block] = Some(Left::new(left, cache.place));
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

    /// Of a text that grows token by token and whose layers save nothing. What waits on the host comes back as large as it is.
    pub fn growing(mut self) -> Self {
        let on_device = self
            .0
            .iter_mut()
            .filter(|cache| cache.place == Place::Device);
        on_device.for_each(|cache| cache.room = Room::Spare);
        self
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
