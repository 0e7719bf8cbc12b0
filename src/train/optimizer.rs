//! AdamW over the model's parameters, with global-norm clipping and skipped steps.

use crate::error::{Error, Result};
use crate::model::{ActV1, Gradients};
use crate::ops::{AdamWStep, Ops, floats};
use crate::train::bundle::{Dtype, NamedTensor, TensorSource};
use crate::train::weights::floats as floats_of;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// Decay of the mean gradient: what nearly every language model uses.
const BETA1: f32 = 0.9;
/// Decay of the mean squared gradient: 0.95 rather than Adam's 0.999, because text has rare tokens
/// whose gradients come in bursts.
const BETA2: f32 = 0.95;
/// Keeps the division finite.
const EPS: f32 = 1e-8;

/// AdamW's state.
#[derive(Clone, Debug)]
pub struct AdamW<B: Backend> {
    /// Mean and mean squared gradient by parameter index; `None` before the first step.
    moments: Vec<Option<[Tensor<B, 2>; 2]>>,
    /// Updates made.
    pub updates: u64,
    pub weight_decay: f64,
    /// Longest global gradient norm; 0 for no limit.
    pub grad_clip: f64,
}

/// What an update did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Nothing was changed because the gradient was not finite.
    pub skipped: bool,
}

impl<B: Ops> AdamW<B> {
    /// No state yet, for a model of `parameters` parameters.
    pub fn new(parameters: usize, weight_decay: f64, grad_clip: f64) -> Self {
        Self {
            moments: vec![None; parameters],
            updates: 0,
            weight_decay,
            grad_clip,
        }
    }

    /// Make the state that is missing, so that an update allocates nothing of a parameter's size.
    pub fn prepare(&mut self, model: &ActV1<B>) {
        for parameter in model.params().into_iter().filter(|p| p.info.trained) {
            self.moments[parameter.index].get_or_insert_with(|| {
                B::require(2 * 4 * parameter.value.shape().num_elements());
                [parameter.value.zeros_like(), parameter.value.zeros_like()]
            });
        }
    }

    /// Change the model by its gradients, freeing each as it is used.
    ///
    /// The gradients are those of the loss times `loss_scale`. One with NaN or infinity changes
    /// nothing: the step is skipped.
    pub fn step(
        &mut self,
        model: &mut ActV1<B>,
        mut grads: Gradients<B>,
        learning_rate: f64,
        loss_scale: f64,
    ) -> Update {
        let grad_norm = grads.norm() / loss_scale;
        if !grad_norm.is_finite() {
            return Update {
                grad_norm,
                skipped: true,
            };
        }
        self.updates += 1;
        let clip = self.grad_clip > 0.0 && grad_norm > self.grad_clip;
        let step = AdamWStep {
            learning_rate: learning_rate as f32,
            beta1: BETA1,
            beta2: BETA2,
            eps: EPS,
            weight_decay: 0.0,
            step: self.updates,
            gradient_scale: match clip {
                true => (self.grad_clip / grad_norm / loss_scale) as f32,
                false => (1.0 / loss_scale) as f32,
            },
        };
        for parameter in model.params_mut().into_iter().filter(|p| p.info.trained) {
            let Some(gradient) = grads.take(parameter) else {
                continue;
            };
            let weight_decay = if parameter.info.decay {
                self.weight_decay as f32
            } else {
                0.0
            };
            let step = AdamWStep {
                weight_decay,
                ..step
            };
            // Moved out rather than cloned: a tensor held twice could not be changed in place.
            let placeholder = Tensor::empty([1, 1], &gradient.device());
            let value = std::mem::replace(&mut parameter.value, placeholder);
            let moments = self.moments[parameter.index].take();
            let (value, moments) = B::adamw(value, gradient, moments, &step);
            parameter.value = value;
            self.moments[parameter.index] = Some(moments);
        }
        Update {
            grad_norm,
            skipped: false,
        }
    }

    /// The moments as named tensors `NAME.m` and `NAME.v`, for the bundle.
    pub fn tensors<'a>(&'a self, model: &'a ActV1<B>) -> Vec<TensorSource<'a>> {
        let mut tensors = Vec::new();
        for parameter in model.params() {
            let Some(moments) = &self.moments[parameter.index] else {
                continue;
            };
            for (which, moment) in ["m", "v"].iter().zip(moments) {
                let name = format!("{}.{which}", parameter.info.name);
                tensors.push(source(name, &parameter.info.shape, moment));
            }
        }
        tensors
    }

    /// Put saved moments back; `read` gives a named tensor, or `None` if it was not saved.
    ///
    /// # Errors
    /// A tensor of another shape than its parameter's, or half of a pair.
    pub fn restore(
        &mut self,
        model: &ActV1<B>,
        mut read: impl FnMut(&str) -> Result<Option<NamedTensor>>,
    ) -> Result<()> {
        for parameter in model.params() {
            let name = &parameter.info.name;
            let shape = parameter.value.dims();
            let device = parameter.value.device();
            let mut moment = |which: &str| -> Result<Option<Tensor<B, 2>>> {
                let Some(tensor) = read(&format!("{name}.{which}"))? else {
                    return Ok(None);
                };
                let values = floats_of(&tensor)?;
                if values.len() != shape[0] * shape[1] {
                    return Err(Error::failed(format!(
                        "optimizer state {name}.{which} has shape {:?}, the parameter {:?}",
                        tensor.shape, parameter.info.shape
                    )));
                }
                Ok(Some(Tensor::from_data(
                    TensorData::new(values, shape),
                    &device,
                )))
            };
            self.moments[parameter.index] = match (moment("m")?, moment("v")?) {
                (Some(m), Some(v)) => Some([m, v]),
                (None, None) => None,
                _ => {
                    return Err(Error::failed(format!(
                        "optimizer state of {name} is incomplete: one of .m and .v is missing"
                    )));
                }
            };
        }
        Ok(())
    }
}

/// A tensor to be fetched from its device when its turn to be written comes.
pub fn source<'a, B: Backend>(
    name: String,
    shape: &[usize],
    tensor: &'a Tensor<B, 2>,
) -> TensorSource<'a> {
    TensorSource {
        name,
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        fetch: Box::new(move || {
            let values = floats(tensor.clone());
            let mut bytes = vec![0; 4 * values.len()];
            for (bytes, value) in bytes.chunks_exact_mut(4).zip(&values) {
                bytes.copy_from_slice(&value.to_le_bytes());
            }
            Ok(bytes)
        }),
    }
}
