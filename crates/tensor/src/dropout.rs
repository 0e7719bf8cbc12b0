//! Dropout in plain tensor operations, as `aios_kernels::dropout` has it.

use crate::cast::in_f32;
use crate::stochastic::drawn;
use crate::{Ops, RoundingKey};
use burn::tensor::{ElementConversion, Int, Tensor, TensorData};

pub use aios_kernels::dropout::Share;
pub use aios_kernels::dropout::token as token_to_drop;

/// Rows of as many numbers are drawn for at once: what is drawn are integers of 32 bits or more.
const AT_ONCE: usize = 1 << 22;

/// What is dropped from the rows of a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Dropping<'a> {
    pub key: RoundingKey,
    /// What stands for the token of each row ([`token_to_drop`]).
    pub tokens: &'a [u32],
    pub share: Share,
}

pub(super) fn reference<B: Ops>(x: Tensor<B, 2>, dropping: &Dropping) -> Tensor<B, 2> {
    let [_, cols] = x.dims();
    let rows = (AT_ONCE / cols.max(1)).max(1);
    let mut first = 0;
    let pieces = dropping.tokens.chunks(rows).map(|tokens| {
        let piece = x.clone().narrow(0, first, tokens.len());
        first += tokens.len();
        let factors = factors(
            &Dropping {
                tokens,
                ..*dropping
            },
            &piece,
        );
        in_f32([piece], |[piece]| piece * factors)
    });
    let mut pieces: Vec<_> = pieces.collect();
    match pieces.len() {
        0 => x,
        1 => pieces.remove(0),
        _ => Tensor::cat(pieces, 0),
    }
}

/// Zero, or the factor of what is kept.
fn factors<B: Ops>(dropping: &Dropping, like: &Tensor<B, 2>) -> Tensor<B, 2> {
    let (dims, device) = (like.dims(), like.device());
    let [rows, cols] = dims;
    let halves = |shift: u32| {
        let of_tokens = dropping.tokens.iter();
        let of_tokens: Vec<i32> = of_tokens.map(|t| (t >> shift & 0xffff) as i32).collect();
        let of_tokens = TensorData::new(of_tokens, [rows, 1]);
        let of_tokens = Tensor::<B, 2, Int>::from_data(of_tokens, &device);
        let columns = Tensor::<B, 1, Int>::arange(0..cols as i64, &device);
        let columns = columns.bitwise_right_shift_scalar((shift as i32).elem());
        let columns = columns.bitwise_and_scalar(0xffff.elem());
        let columns = columns.reshape([1, cols]).expand(dims);
        of_tokens.expand(dims).bitwise_xor(columns)
    };
    let drawn = drawn::<B, 2>(halves(16), halves(0), dropping.key);
    let kept = drawn.greater_equal_elem(dropping.share.below as i32);
    kept.float() * dropping.share.scale
}

#[cfg(all(test, feature = "ndarray"))]
mod tests {
    use super::*;
    use crate::{CpuBackend, NdarrayBackend, floats};

    fn dropped<B: Ops>(dims: [usize; 2], dropping: &Dropping) -> Vec<f32> {
        let values = (0..dims[0] * dims[1]).map(|i| 1.0 + i as f32);
        let data = TensorData::new(values.collect::<Vec<f32>>(), dims);
        let x = Tensor::<B, 2>::from_data(data, &Default::default());
        floats(B::dropped(x, dropping))
    }

    #[test]
    fn the_kernel_drops_what_tensor_operations_do() {
        for [rows, cols] in [[1, 1], [3, 70_001], [33, 77], [70, 300]] {
            let tokens: Vec<u32> = (0..rows as u64).map(|p| token_to_drop(9, p)).collect();
            for share in [0.05, 0.7] {
                let dropping = Dropping {
                    key: RoundingKey::of(4, 7, 9),
                    tokens: &tokens,
                    share: Share::of(share).unwrap(),
                };
                let kernel = dropped::<CpuBackend>([rows, cols], &dropping);
                assert!(rows * cols == 1 || kernel.contains(&0.0));
                assert!(kernel == dropped::<NdarrayBackend>([rows, cols], &dropping));
            }
        }
    }
}
