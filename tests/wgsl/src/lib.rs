//! What can be known of WGSL kernels without a GPU.
#![cfg(test)]

// By the name of the room whose files it takes in.
mod gpu;
