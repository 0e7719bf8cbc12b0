//! Every test that needs more than one crate, in one program: each such program costs minutes to build.

mod adamw_8bit;
mod adapters;
mod attention;
mod cli;
mod common;
mod decoders;
#[cfg(unix)]
mod distributed;
mod gguf;
mod golden;
mod gpu_memory;
mod gradients;
mod guide;
mod memory;
mod training;

#[global_allocator]
static HEAP: aios_base::meter::ProcessHeap = aios_base::meter::ProcessHeap;
