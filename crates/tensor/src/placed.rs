//! Tensors put aside, on the device or in host memory.
//!
//! A copy to the host is begun at once and waited for when the tensor is wanted again. Whether the
//! device goes on meanwhile is up to its runtime: wgpu does, CUDA's waits for the copy.

use aios_base::execution::Place;
use burn::tensor::backend::{Backend, ExecutionError};
use burn::tensor::{Tensor, TensorData};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A tensor that waits.
pub enum Placed<B: Backend, const D: usize> {
    Device(Tensor<B, D>),
    Host(HostCopy, B::Device),
}

/// A copy in host memory, or on its way there.
pub enum HostCopy {
    Here(TensorData),
    Coming(Coming),
}

type Outcome = Result<TensorData, ExecutionError>;
type Coming = Pin<Box<dyn Future<Output = Outcome> + Send>>;

impl<B: Backend, const D: usize> Placed<B, D> {
    /// Put a tensor aside.
    pub fn new(tensor: Tensor<B, D>, place: Place) -> Self {
        match place {
            Place::Device => Self::Device(tensor),
            Place::Host => {
                let device = tensor.device();
                Self::Host(HostCopy::begin(Box::pin(tensor.into_data_async())), device)
            }
        }
    }

    /// The tensor on its device.
    ///
    /// # Panics
    /// If the device failed meanwhile, which [`crate::confirmed`] turns into an error.
    pub fn fetch(self) -> Tensor<B, D> {
        match self {
            Self::Device(tensor) => tensor,
            Self::Host(copy, device) => {
                let data = copy.finish();
                let format = data.dtype;
                Tensor::from_data(data, (&device, format))
            }
        }
    }
}

impl HostCopy {
    fn begin(mut coming: Coming) -> Self {
        // The first look sends the copy on its way.
        match coming
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(outcome) => Self::Here(unwrapped(outcome)),
            Poll::Pending => Self::Coming(coming),
        }
    }

    fn finish(self) -> TensorData {
        match self {
            Self::Here(data) => data,
            Self::Coming(coming) => unwrapped(futures_lite::future::block_on(coming)),
        }
    }
}

fn unwrapped(outcome: Outcome) -> TensorData {
    outcome.unwrap_or_else(|cause| panic!("a copy to host memory failed: {cause:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuBackend;
    use burn::tensor::DType;

    #[test]
    fn what_is_fetched_is_what_was_stowed() {
        for place in [Place::Device, Place::Host] {
            for format in [DType::F32, DType::F16, DType::BF16] {
                let device = Default::default();
                let x = Tensor::<CpuBackend, 2>::from_data([[1.0, -2.5], [0.0, 3.0]], &device);
                let x = crate::in_format(x, format);
                let back = Placed::new(x.clone(), place).fetch();
                assert_eq!(back.dtype(), format);
                back.into_data().assert_eq(&x.into_data(), true);
            }
        }
    }
}
