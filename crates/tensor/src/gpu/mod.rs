//! The GPU backends run the reference operations, which Burn fuses and tunes, and kernels of our
//! own from `shaders/`.

mod adamw;
mod adamw_8bit;
mod cross_entropy;
mod elements;
mod embedding;
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
mod padded;
mod product;
mod rms_norm;
mod rope;
mod row_texts;
#[cfg(test)]
mod rows_tests;
mod scaled_norm;
mod source;
mod stored;
mod swiglu;
mod tiles;
mod wgsl;

#[cfg(feature = "cuda")]
pub use on_cuda::CudaBackend;
#[cfg(feature = "wgpu")]
pub use on_wgpu::WgpuBackend;
