//! Ranks that train by themselves for some steps and then average what they have learnt.
//!
//! DiLoCo (Douillard et al. 2023, <https://arxiv.org/abs/2311.08105>, algorithm 1): the mean difference of the weights since
//! the last exchange is the gradient of an outer optimizer, which is SGD with Nesterov momentum in PyTorch's form, with the
//! paper's rate and momentum.

use crate::buckets::{Slot, ranges};
use crate::ranked::{Ranked, by_index, set};
use aios_base::error::{Error, Result};
use aios_bundle::{Dtype, NamedTensor, TensorSource};
use aios_distributed::Pending;
use aios_hf::encode;
use aios_nn::{Param, Visit};
use aios_tensor::{Ops, floats};
use std::cell::RefCell;

const RATE: f32 = 0.7;
const MOMENTUM: f32 = 0.9;

/// What stands before a parameter's name where its outer momentum is saved.
const PREFIX: &str = "outer.";

/// The outer optimizer, by bucket.
#[derive(Default)]
pub(crate) struct Outer {
    /// The weights at the last exchange.
    weights: RefCell<Vec<Vec<f32>>>,
    velocity: RefCell<Vec<Vec<f32>>>,
}

/// One update of weights by how much ranks have moved away from them, added up: `weights` and `velocity` are changed.
fn nesterov(weights: &mut [f32], velocity: &mut [f32], moved: &[f32], ranks: usize) {
    let each = weights.iter_mut().zip(velocity).zip(moved);
    for ((weight, velocity), moved) in each {
        let gradient = moved / ranks as f32;
        *velocity = MOMENTUM * *velocity + gradient;
        *weight -= RATE * (gradient + MOMENTUM * *velocity);
    }
}

fn values<B: Ops>(bucket: &[Slot], parameters: &[&Param<B>]) -> Vec<f32> {
    let each = bucket
        .iter()
        .map(|slot| floats(parameters[slot.index].value()));
    each.collect::<Vec<_>>().concat()
}

impl<B: Ops> Ranked<B> {
    /// The weights are those of an exchange. What was restored of the momentum stays.
    pub fn begin_outer(&self, model: &dyn Visit<B>) {
        let parameters = by_index(model);
        let buckets = self.layout.buckets.iter();
        let weights: Vec<_> = buckets.map(|bucket| values(bucket, &parameters)).collect();
        let mut velocity = self.outer.velocity.borrow_mut();
        if velocity.is_empty() {
            *velocity = weights.iter().map(|of| vec![0.0; of.len()]).collect();
        }
        *self.outer.weights.borrow_mut() = weights;
    }

    /// Average what all ranks have learnt since the last exchange: afterwards their weights are the same.
    pub fn outer_step(&self, model: &dyn Visit<B>) -> Result<()> {
        let parameters = by_index(model);
        let mut weights = self.outer.weights.borrow_mut();
        let mut velocity = self.outer.velocity.borrow_mut();
        let moved = |bucket: &[Slot], before: &[f32]| {
            let mut moved = values(bucket, &parameters);
            let each = moved.iter_mut().zip(before);
            each.for_each(|(now, before)| *now = before - *now);
            self.world.all_reduce(moved)
        };
        let buckets = &self.layout.buckets;
        // One travels while the other is computed with.
        let mut next = buckets.first().map(|bucket| moved(bucket, &weights[0]));
        for (at, bucket) in buckets.iter().enumerate() {
            let coming = next.take();
            next = (buckets.get(at + 1)).map(|bucket| moved(bucket, &weights[at + 1]));
            let Some(sum) = coming.map(Pending::wait).transpose()? else {
                break;
            };
            let (weights, velocity) = (&mut weights[at], &mut velocity[at]);
            nesterov(weights, velocity, &sum, self.world.size());
            for (slot, range) in ranges(bucket) {
                set(parameters[slot.index], weights[range].to_vec());
            }
            // As the parameters' format has them.
            *weights = values(bucket, &parameters);
        }
        Ok(())
    }

    /// The momentum as it is saved.
    pub fn momentum<'a>(&'a self, model: &'a dyn Visit<B>) -> Vec<TensorSource<'a>> {
        let parameters = by_index(model);
        let mut sources = Vec::new();
        for (at, bucket) in self.layout.buckets.iter().enumerate() {
            for (slot, range) in ranges(bucket) {
                let info = &parameters[slot.index].info;
                sources.push(TensorSource {
                    name: format!("{PREFIX}{}", info.name),
                    dtype: Dtype::F32,
                    shape: info.shape.clone(),
                    fetch: Box::new(move || {
                        encode(&self.outer.velocity.borrow()[at][range.clone()], Dtype::F32)
                    }),
                });
            }
        }
        sources
    }

    /// Take up saved momentum; `read` gives a named tensor, if it was saved.
    pub fn restore_momentum(
        &self,
        model: &dyn Visit<B>,
        read: &mut dyn FnMut(&str) -> Result<Option<NamedTensor>>,
    ) -> Result<()> {
        let parameters = by_index(model);
        let mut velocity = Vec::new();
        for bucket in &self.layout.buckets {
            let mut of_bucket = Vec::new();
            for slot in bucket {
                let name = format!("{PREFIX}{}", parameters[slot.index].info.name);
                let Some(tensor) = read(&name)? else {
                    return Ok(());
                };
                let values = crate::optimizer::checked_floats(&tensor, false)?;
                if values.len() != slot.elements() {
                    return Err(Error::failed(format!(
                        "{name} has {} numbers and should have {}",
                        values.len(),
                        slot.elements()
                    )));
                }
                of_bucket.extend(values);
            }
            velocity.push(of_bucket);
        }
        *self.outer.velocity.borrow_mut() = velocity;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against `torch.optim.SGD([w], lr=0.7, momentum=0.9, nesterov=True)` with gradients 0.5 and -0.25 from w = 1:
    /// 0.335, then 0.335 - 0.7 (-0.25 + 0.9 (0.9 * 0.5 - 0.25)).
    #[test]
    fn momentum_is_nesterovs() {
        let (mut weight, mut velocity) = ([1.0_f32], [0.0_f32]);
        nesterov(&mut weight, &mut velocity, &[1.0], 2);
        assert!((weight[0] - 0.335).abs() < 1e-6, "{weight:?}");
        nesterov(&mut weight, &mut velocity, &[-0.5], 2);
        assert!((weight[0] - 0.384).abs() < 1e-6, "{weight:?}");
    }
}
