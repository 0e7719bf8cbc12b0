//! Losses of micro-batches, some of which are still on the device.

use crate::objective::LossSums;
use aios_tensor::{Ops, TokenLosses, floats_of_all};
use burn::tensor::Tensor;

/// One of the losses of [`LossSums`].
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    Ce,
    Halt,
    GoOn,
}

/// Values on the device. They are of these losses in turn; `None` is of none.
#[derive(Clone, Debug)]
struct Queued<B: Ops> {
    values: Tensor<B, 1>,
    of: &'static [Option<Loss>],
}

/// The losses of some micro-batches: those that the host knows, and those that the device has yet to tell.
#[derive(Clone, Debug)]
pub struct Losses<B: Ops> {
    /// All counts are among them.
    pub known: LossSums,
    queued: Vec<Queued<B>>,
}

impl<B: Ops> Default for Losses<B> {
    fn default() -> Self {
        Self {
            known: LossSums::default(),
            queued: Vec::new(),
        }
    }
}

impl<B: Ops> Losses<B> {
    /// Add values of these losses in turn.
    pub fn queue(&mut self, of: &'static [Option<Loss>], values: Tensor<B, 1>) {
        self.queued.push(Queued { values, of });
    }

    /// Add the cross-entropy of some tokens: as many of each of so many sequences, one sequence after another. On a device
    /// also gives each sequence's sums of [`TokenLosses::Queued`], `[sequences, 3]`.
    pub fn add_ce(&mut self, of: &TokenLosses<B>, sequences: usize) -> Option<Tensor<B, 2>> {
        match of {
            TokenLosses::Read(losses) => {
                self.known.ce += losses.per_token.iter().map(|&l| f64::from(l)).sum::<f64>();
                None
            }
            TokenLosses::Queued(rows) => {
                let tokens = rows.dims()[0] / sequences.max(1);
                let sums = rows.clone().reshape([sequences, tokens, 3]).sum_dim(1);
                let sums = sums.reshape([sequences, 3]);
                let values = sums.clone().reshape([3 * sequences]);
                self.queue(&[Some(Loss::Ce), None, None], values);
                Some(sums)
            }
        }
    }

    /// Add those of another micro-batch.
    pub fn add(&mut self, other: Self) {
        self.known.add(&other.known);
        self.queued.extend(other.queued);
    }

    /// The sums; waits for the device, if need be.
    pub fn read(self) -> LossSums {
        self.read_with(Vec::new()).0
    }

    /// The same, and the elements of some more vectors, with a single wait.
    pub fn read_with(self, further: Vec<Tensor<B, 1>>) -> (LossSums, Vec<Vec<f32>>) {
        let mut sums = self.known;
        let (own, of): (Vec<_>, Vec<_>) = self.queued.into_iter().map(|q| (q.values, q.of)).unzip();
        let mut read = floats_of_all(own.into_iter().chain(further).collect());
        let further = read.split_off(of.len());
        for (of, values) in of.into_iter().zip(read) {
            for (of, value) in of.iter().cycle().zip(values) {
                match of {
                    Some(Loss::Ce) => sums.ce += f64::from(value),
                    Some(Loss::Halt) => sums.halt += f64::from(value),
                    Some(Loss::GoOn) => sums.go_on += f64::from(value),
                    None => {}
                }
            }
        }
        (sums, further)
    }
}
