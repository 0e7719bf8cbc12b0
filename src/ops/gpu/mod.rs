//! The GPU backends run the reference operations, which Burn fuses and tunes, and kernels of our
//! own from `shaders/`.

mod adamw_8bit;
#[cfg_attr(not(test), expect(dead_code))]
mod flash_cuda;
mod fused;
mod kernel;

use super::{AdamWStep, Ops, State8bit};
use crate::backend::{CudaBackend, WgpuBackend};
use burn::tensor::Tensor;

impl Ops for WgpuBackend {
    fn adamw_8bit(
        parameter: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        state: State8bit<Self>,
        step: &AdamWStep,
    ) -> (Tensor<Self, 2>, State8bit<Self>) {
        adamw_8bit::step(parameter, gradient, state, step)
    }
}

impl Ops for CudaBackend {
    fn adamw_8bit(
        parameter: Tensor<Self, 2>,
        gradient: Tensor<Self, 2>,
        state: State8bit<Self>,
        step: &AdamWStep,
    ) -> (Tensor<Self, 2>, State8bit<Self>) {
        adamw_8bit::step(parameter, gradient, state, step)
    }
}
