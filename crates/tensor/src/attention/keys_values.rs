//! Keys and values that tokens leave for those that follow.

use super::{concatenated, copied};
use crate::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// Keys and values that queries see, `[batch, tokens, kv_heads head_dim]` each: the queries' own tokens
/// are the last.
#[derive(Clone, Debug)]
pub struct KeysValues<B: Backend> {
    /// There may be room for more tokens behind these.
    held: [Tensor<B, 3>; 2],
    tokens: usize,
}

/// Whether there is room for tokens to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Nobody else is to write to what is seen: it is as large as its tokens, and put together anew with more of them.
    Exact,
    /// A text grows token by token: these are written into room that was made before, where nobody else reads it.
    Spare,
}

impl<B: Ops> KeysValues<B> {
    /// All of these, `[batch, capacity, kv_heads head_dim]` each, of which the first `tokens` count.
    pub fn of(held: [Tensor<B, 3>; 2], tokens: usize) -> Self {
        Self { held, tokens }
    }

    /// The tensors as they are held, and how many of their tokens count.
    pub fn held(self) -> ([Tensor<B, 3>; 2], usize) {
        (self.held, self.tokens)
    }

    /// How many tokens they are of.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Keys, and values.
    pub fn parts(&self) -> [Tensor<B, 3>; 2] {
        self.held.clone().map(|x| first(x, self.tokens))
    }

    /// Those of the first tokens.
    pub fn keep(self, tokens: usize) -> Self {
        Self {
            tokens: tokens.min(self.tokens),
            ..self
        }
    }

    /// Those of the last `most` tokens (2 at least), in memory of their own.
    pub fn tail(&self, most: usize) -> Self {
        let kept = most.max(2).min(self.tokens);
        if kept == self.tokens {
            return self.clone();
        }
        let at = self.tokens - kept;
        let tail = |x: Tensor<B, 3>| copied(x.narrow(1, at, kept), 1);
        Self::of(self.held.clone().map(tail), kept)
    }

    /// Of earlier tokens, if there are any, and then of these.
    pub(super) fn followed(past: Option<Self>, own: [Tensor<B, 3>; 2], room: Room) -> Self {
        let new = own[0].dims()[1];
        let (past, before) = match past {
            Some(past) => (past.held.map(Some), past.tokens),
            None => ([None, None], 0),
        };
        let tokens = before + new;
        let mut pairs = past.into_iter().zip(own);
        let held = std::array::from_fn(|_| {
            let (past, own) = pairs.next().expect("keys and values are two");
            match room {
                Room::Exact => exact(past.map(|past| first(past, before)), own),
                Room::Spare => written(past, before, own),
            }
        });
        Self::of(held, tokens)
    }
}

fn first<B: Backend>(x: Tensor<B, 3>, tokens: usize) -> Tensor<B, 3> {
    let [batch, held, width] = x.dims();
    match (batch, held == tokens) {
        (_, true) => x,
        // By rows: what lies in one piece is then known to, and is read where it is.
        (1, false) => {
            let rows: Tensor<B, 2> = x.reshape([held, width]);
            rows.narrow(0, 0, tokens).reshape([1, tokens, width])
        }
        (_, false) => x.narrow(1, 0, tokens),
    }
}

fn exact<B: Ops>(past: Option<Tensor<B, 3>>, own: Tensor<B, 3>) -> Tensor<B, 3> {
    match past {
        None => copied(own, 1),
        Some(past) => concatenated(vec![past, own], 1),
    }
}

/// `own` behind the first `before` tokens of `past`, in the room there, or in more of it: a quarter, so that what a long text copies
/// in all is a few times itself.
fn written<B: Ops>(past: Option<Tensor<B, 3>>, before: usize, own: Tensor<B, 3>) -> Tensor<B, 3> {
    let [batch, new, width] = own.dims();
    let needed = before + new;
    let into = match past {
        Some(past) if past.dims()[1] >= needed => past,
        past => {
            let capacity = (needed + needed / 4).next_multiple_of(64);
            B::require(batch * capacity * width * own.dtype().size());
            let room = Tensor::zeros([batch, capacity, width], (&own.device(), own.dtype()));
            match past {
                Some(past) => B::put_tokens(room, 0, first(past, before)),
                None => room,
            }
        }
    };
    B::put_tokens(into, before, own)
}
