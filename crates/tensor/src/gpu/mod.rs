//! The GPU backends run the reference operations, which Burn fuses and tunes, and kernels of our
//! own from `shaders/`.

mod adamw_8bit;
#[cfg(test)]
#[cfg(all(target_os = "linux", feature = "cuda"))]
mod emulator;
mod flash_attention;
mod flash_cuda;
mod flash_info;
mod flash_wgsl;
mod fused;
mod ggml;
mod kernel;
#[cfg(feature = "cuda")]
mod on_cuda;
#[cfg(feature = "wgpu")]
mod on_wgpu;
mod ops;
mod source;
mod stored;
mod tiles;
mod wgsl;

#[cfg(feature = "cuda")]
pub use on_cuda::CudaBackend;
#[cfg(feature = "wgpu")]
pub use on_wgpu::WgpuBackend;
