//! What chunks of a sequence leave for the chunks that follow: keys and values, call by call.
//!
//! With causal attention a token's states depend on earlier tokens through the keys and values of
//! the same block in the same level call alone. A sequence can so be computed in chunks, each call
//! of which sees the keys and values that earlier chunks left in that call.

use crate::block::{Context, Earlier};
use aios_base::execution::Place;
use aios_tensor::Ops;
use aios_tensor::Stowed;
use aios_tensor::attention::KeysValues;
use burn::tensor::backend::Backend;

/// What the blocks of one level call left, each its keys and its values.
pub struct Past<B: Backend> {
    blocks: Vec<Option<[Stowed<B, 3>; 2]>>,
    place: Place,
}

impl<B: Ops> Past<B> {
    fn new(layers: usize, place: Place) -> Self {
        Self {
            blocks: (0..layers).map(|_| None).collect(),
            place,
        }
    }

    /// What a block left in earlier chunks, for it to use and to leave anew; without a past the tokens
    /// are whole sequences.
    pub fn take(past: &mut Option<&mut Self>, block: usize) -> Earlier<B> {
        let Some(past) = past else {
            return Earlier::Whole;
        };
        let left = past.blocks[block]
            .take()
            .map(|left| left.map(Stowed::fetch));
        Earlier::Chunks(left.map(|[k, v]| KeysValues { k, v }))
    }

    /// Leave for the next chunk, if there is one, what of `seen` its queries will see.
    pub fn leave(
        past: &mut Option<&mut Self>,
        block: usize,
        ctx: &Context<B>,
        seen: Option<&KeysValues<B>>,
    ) {
        let (Some(past), Some(seen), false) = (past, seen, ctx.last) else {
            return;
        };
        let KeysValues { k, v } = match ctx.shape.window {
            0 => seen.clone(),
            window => seen.tail(window - 1),
        };
        past.blocks[block] = Some([k, v].map(|x| Stowed::new(x, past.place)));
    }
}

/// Of all level calls of a segment, in their order; or none, for whole sequences.
pub struct Pasts<B: Backend>(Vec<Past<B>>);

impl<B: Ops> Pasts<B> {
    /// For whole sequences, of which nothing is left.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Nothing yet, for level calls with so many blocks each.
    pub fn new(calls: impl Iterator<Item = usize>, place: Place) -> Self {
        Self(calls.map(|layers| Past::new(layers, place)).collect())
    }

    /// That of a level call.
    pub fn call(&mut self, number: usize) -> Option<&mut Past<B>> {
        self.0.get_mut(number)
    }
}
