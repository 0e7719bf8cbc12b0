//! What is drawn by chance as a step is computed.

use aios_tensor::{Dropping, Ops, RoundingKey, Share, token_to_drop};
use burn::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// What is drawn for the tokens at hand: a function of the seed, the step, the call of a level, what is drawn for, and each
/// token's sequence, position and column. However a step is divided and whatever is computed again, it is the same.
#[derive(Clone, Debug)]
pub struct Draws {
    seed: u64,
    step: u64,
    call: u64,
    /// What stands for each token of the pass, and those that are at hand.
    tokens: Arc<Vec<u32>>,
    rows: Range<usize>,
}

impl Draws {
    /// For these positions of each sequence, which are numbered as in the step.
    pub fn new(seed: u64, step: u64, sequences: Range<u64>, positions: Range<usize>) -> Self {
        let of = |sequence| {
            let positions = positions.clone();
            positions.map(move |position| token_to_drop(sequence, position as u64))
        };
        let tokens: Vec<u32> = sequences.flat_map(of).collect();
        Self {
            seed,
            step,
            call: 0,
            rows: 0..tokens.len(),
            tokens: Arc::new(tokens),
        }
    }

    /// For another run of the same layers.
    pub fn of_call(&self, call: usize) -> Self {
        Self {
            call: call as u64,
            ..self.clone()
        }
    }

    /// For some of the rows at hand.
    pub fn of_rows(&self, rows: Range<usize>) -> Self {
        let first = self.rows.start;
        Self {
            rows: first + rows.start..first + rows.end,
            ..self.clone()
        }
    }

    /// What a parameter's layer reads, `[T, width]`, with a share dropped; or the gradient of that.
    pub fn dropped<B: Ops>(&self, x: Tensor<B, 2>, parameter: usize, share: Share) -> Tensor<B, 2> {
        let parameter = self.call << 32 | parameter as u64;
        let dropping = Dropping {
            key: RoundingKey::of(self.seed, parameter, self.step),
            tokens: &self.tokens[self.rows.clone()],
            share,
        };
        B::dropped(x, &dropping)
    }
}
