//! What NVIDIA's libraries are called.

/// The driver's.
pub const DRIVER: &str = if cfg!(windows) {
    "nvcuda.dll"
} else {
    "libcuda.so.1"
};

/// CUDA's run-time compiler's, the first that is there.
pub const NVRTC: &[&str] = if cfg!(windows) {
    &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
} else {
    &[
        "libnvrtc.so",
        "libnvrtc.so.13",
        "libnvrtc.so.12",
        "libnvrtc.so.11",
    ]
};

/// NCCL's, which is for Linux alone.
pub const NCCL: &str = "libnccl.so.2";
