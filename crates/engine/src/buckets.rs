//! Gradients on their way to the sum over all ranks.
//!
//! They go in flat buckets of f32, begun as soon as a bucket is complete, while the backward pass goes on: the scheme of
//! PyTorch's DistributedDataParallel (Li et al. 2020, <https://arxiv.org/abs/2006.15704>, section 3.2.3). Which parameters
//! make up a bucket is the same on all ranks and does not depend on the step, so that a rank that cannot go on knows what
//! the others wait for.

use crate::ranked::floats_of;
use aios_base::error::Result;
use aios_distributed::{Pending, World};
use aios_nn::Param;
use aios_tensor::{Ops, floats};
use burn::tensor::Tensor;
use std::collections::HashMap;
use std::ops::Range;

/// Most numbers of a bucket: 25 MiB, as in PyTorch.
const MOST: usize = 25 << 18;
/// Fewest that are worth a message.
const FEWEST: usize = 1 << 16;
/// Buckets of a small model, of which all but the last are on their way while it goes backward.
const BUCKETS: usize = 16;

/// Numbers of a parameter that are not parted: a block of 8-bit optimizer state.
const BLOCK: usize = aios_kernels::adamw_8bit::BLOCK;

/// A parameter's place in a bucket.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// The parameter's.
    pub index: usize,
    pub dims: [usize; 2],
}

impl Slot {
    pub fn elements(&self) -> usize {
        self.dims[0] * self.dims[1]
    }
}

/// Which parameters travel together, in the order in which their gradients become final, more or less.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub buckets: Vec<Vec<Slot>>,
}

impl Layout {
    /// Of what is trained of these parameters, in the order in which their gradients become final.
    pub fn of<B: Ops>(parameters: &[&Param<B>]) -> Self {
        let mut buckets = vec![Vec::new()];
        let mut numbers = 0;
        let trained = parameters.iter().filter(|p| p.info.trained);
        let all: usize = trained.clone().map(|p| p.info.elements()).sum();
        let most = (all / BUCKETS).clamp(FEWEST, MOST);
        for parameter in trained {
            let slot = Slot {
                index: parameter.index,
                dims: parameter.dims(),
            };
            if numbers > 0 && numbers + slot.elements() > most {
                buckets.push(Vec::new());
                numbers = 0;
            }
            numbers += slot.elements();
            buckets.last_mut().expect("begins with one").push(slot);
        }
        Self { buckets }
    }

    /// By a parameter's index its numbers, of those by bucket.
    pub fn by_parameter(&self, buckets: Vec<Vec<f32>>) -> HashMap<usize, Vec<f32>> {
        let of_bucket = |(bucket, values): (&Vec<Slot>, Vec<f32>)| match &bucket[..] {
            [only] => vec![(only.index, values)],
            _ => ranges(bucket)
                .map(|(slot, range)| (slot.index, values[range].to_vec()))
                .collect(),
        };
        self.buckets
            .iter()
            .zip(buckets)
            .flat_map(of_bucket)
            .collect()
    }
}

/// A bucket's parameters, and where the numbers of each are.
pub(crate) fn ranges(bucket: &[Slot]) -> impl Iterator<Item = (&Slot, Range<usize>)> {
    let mut end = 0;
    bucket.iter().map(move |slot| {
        let start = end;
        end += slot.elements();
        (slot, start..end)
    })
}

/// The part of a tensor of so many elements that belongs to a rank: whole blocks, as far as they go.
pub(crate) fn part(elements: usize, rank: usize, size: usize) -> Range<usize> {
    let blocks = elements.div_ceil(BLOCK);
    let border = |rank: usize| elements.min(blocks * rank / size * BLOCK);
    border(rank)..border(rank + 1)
}

/// Numbers of each rank's part of a bucket, filled up to the longest.
pub(crate) fn longest_part(bucket: &[Slot], size: usize) -> usize {
    let of_rank = |rank| {
        let parts = bucket.iter().map(|slot| part(slot.elements(), rank, size));
        parts.map(|part| part.len()).sum()
    };
    (0..size).map(of_rank).max().unwrap_or(0)
}

/// The step's gradients of this rank, as they become final and travel.
pub(crate) struct Travelling<B: Ops> {
    world: World,
    layout: Layout,
    /// Each rank gets its part of the sum alone.
    parted: bool,
    /// By bucket and slot: what is final and has not been sent.
    final_ones: Vec<Vec<Option<Tensor<B, 2>>>>,
    sent: Vec<Pending<Vec<f32>>>,
    /// What the gradients are too large by.
    loss_scale: f64,
}

impl<B: Ops> Travelling<B> {
    pub fn new(world: &World, layout: &Layout, parted: bool, loss_scale: f64) -> Self {
        let none = |bucket: &Vec<Slot>| vec![None; bucket.len()];
        Self {
            world: world.clone(),
            final_ones: layout.buckets.iter().map(none).collect(),
            layout: layout.clone(),
            parted,
            sent: Vec::new(),
            loss_scale,
        }
    }

    /// This parameter's gradient is final.
    pub fn is_final(&mut self, parameter: &Param<B>, gradient: Tensor<B, 2>) {
        for (bucket, final_ones) in self.layout.buckets.iter().zip(&mut self.final_ones) {
            if let Some(at) = bucket.iter().position(|s| s.index == parameter.index) {
                final_ones[at] = Some(gradient);
                break;
            }
        }
        while self.next_is_complete() {
            self.send();
        }
    }

    fn next_is_complete(&self) -> bool {
        let next = self.final_ones.get(self.sent.len());
        next.is_some_and(|next| next.iter().all(Option::is_some))
    }

    /// Send the next bucket, with zeros for what is missing.
    fn send(&mut self) {
        let at = self.sent.len();
        let bucket = &self.layout.buckets[at];
        let gradients = std::mem::take(&mut self.final_ones[at]);
        let scale = (1.0 / self.loss_scale) as f32;
        let mut values = flat(bucket, gradients);
        if scale != 1.0 {
            values.iter_mut().for_each(|value| *value *= scale);
        }
        let pending = match self.parted {
            false => self.world.all_reduce(values),
            true => {
                let size = self.world.size();
                self.world.reduce_scatter(by_rank(bucket, &values, size))
            }
        };
        self.sent.push(pending);
        self.world.progress();
    }

    /// Send all that has not been sent: a rank that has no such gradient, or that cannot go on, brings zeros.
    pub fn complete(&mut self) {
        while self.sent.len() < self.layout.buckets.len() {
            self.send();
        }
    }

    /// The sums, by bucket.
    ///
    /// # Errors
    /// What the engine says; or the line that names a rank that is lost.
    pub fn sums(mut self) -> Result<Vec<Vec<f32>>> {
        self.complete();
        self.sent.into_iter().map(Pending::wait).collect()
    }
}

/// A bucket's numbers one after the other.
fn flat<B: Ops>(bucket: &[Slot], gradients: Vec<Option<Tensor<B, 2>>>) -> Vec<f32> {
    // Of a rank whose memory ran out as they were read, none is left.
    let mut gradients = gradients.into_iter();
    let each = bucket.iter().map(|slot| {
        let zeros = || vec![0.0; slot.elements()];
        let gradient = gradients.next().flatten();
        gradient.map_or_else(zeros, floats)
    });
    let mut each: Vec<Vec<f32>> = each.collect();
    match each.len() {
        1 => each.swap_remove(0),
        _ => each.concat(),
    }
}

/// A bucket's numbers as parts of the ranks, in their order.
pub(crate) fn by_rank(bucket: &[Slot], values: &[f32], size: usize) -> Vec<f32> {
    let longest = longest_part(bucket, size);
    let mut parted = vec![0.0; longest * size];
    for (rank, to) in parted.chunks_mut(longest.max(1)).enumerate() {
        let mut at = 0;
        for (slot, range) in ranges(bucket) {
            let part = part(slot.elements(), rank, size);
            let end = at + part.len();
            to[at..end].copy_from_slice(&values[range][part]);
            at = end;
        }
    }
    parted
}

/// Back from the parts of all ranks, as bytes, to the numbers of each of a bucket's parameters.
pub(crate) fn from_ranks(bucket: &[Slot], parts: &[u8], size: usize) -> Vec<Vec<f32>> {
    let longest = 4 * longest_part(bucket, size);
    // Where the next parameter begins in each rank's part.
    let mut starts: Vec<usize> = (0..size).map(|rank| rank * longest).collect();
    let of_slot = |slot: &Slot| {
        let mut values = Vec::with_capacity(slot.elements());
        for (rank, start) in starts.iter_mut().enumerate() {
            let bytes = 4 * part(slot.elements(), rank, size).len();
            values.extend(floats_of(&parts[*start..*start + bytes]));
            *start += bytes;
        }
        values
    };
    bucket.iter().map(of_slot).collect()
}

/// Sum of the squares, in f64: the same bits wherever the numbers are the same.
pub(crate) fn sum_of_squares(buckets: &[Vec<f32>]) -> f64 {
    let of = |values: &Vec<f32>| {
        // Several sums side by side, which a processor adds up at once.
        let mut sums = [0.0_f64; 8];
        let (eights, rest) = values.as_chunks::<8>();
        for eight in eights {
            let each = sums.iter_mut().zip(eight);
            each.for_each(|(sum, value)| *sum += f64::from(*value) * f64::from(*value));
        }
        let rest = rest.iter().map(|value| f64::from(*value).powi(2));
        sums.iter().sum::<f64>() + rest.sum::<f64>()
    };
    buckets.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_bundle::Dtype;
    use aios_hf::encode;

    fn bucket() -> Vec<Slot> {
        let slot = |rows, cols| Slot {
            index: 0,
            dims: [rows, cols],
        };
        vec![slot(3, 256), slot(1, 7), slot(5, 100), slot(1, 1)]
    }

    #[test]
    fn parts_cover_a_tensor_once_in_whole_blocks() {
        for elements in [0, 1, 255, 256, 257, 100_000] {
            for size in [1, 2, 3, 7] {
                let mut end = 0;
                for rank in 0..size {
                    let part = part(elements, rank, size);
                    assert_eq!(part.start, end);
                    assert!(part.start.is_multiple_of(BLOCK) || part.start == elements);
                    end = part.end;
                }
                assert_eq!(end, elements);
            }
        }
    }

    #[test]
    fn a_bucket_comes_back_from_its_parts() {
        let bucket = bucket();
        let elements = bucket.iter().map(Slot::elements).sum();
        let values: Vec<f32> = (0..elements).map(|i: usize| i as f32).collect();
        for size in [1, 2, 3, 8] {
            let parted = by_rank(&bucket, &values, size);
            assert_eq!(parted.len(), size * longest_part(&bucket, size));
            let back = from_ranks(&bucket, &encode(&parted, Dtype::F32).unwrap(), size);
            assert_eq!(back.concat(), values);
            let lengths: Vec<_> = back.iter().map(Vec::len).collect();
            assert_eq!(lengths, [768, 7, 500, 1]);
        }
    }

    #[test]
    fn squares_are_added_up_and_nan_stays() {
        let values: Vec<f32> = (0..19).map(|i| i as f32).collect();
        let want: f64 = (0..19).map(|i| f64::from(i * i)).sum();
        assert_eq!(sum_of_squares(&[values, vec![]]), want);
        assert!(sum_of_squares(&[vec![1.0, f32::NAN]]).is_nan());
    }
}
