//! Devices: which ones the machine has, which one a run uses, how much memory it holds, and what
//! becomes of a failure inside one.
//!
//! Nothing here starts a compute runtime until [`Selected::open`]: probing only asks the drivers.

#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod cpu;
#[cfg_attr(not(feature = "cuda"), path = "cuda_absent.rs")]
mod cuda;
#[cfg_attr(not(feature = "wgpu"), path = "graphics_absent.rs")]
mod graphics;
#[cfg(feature = "cuda")]
mod kernel_cache;
mod memory;
mod ndarray;
mod pools;
mod report;
mod select;

use std::fmt;

#[cfg(feature = "cuda")]
use cubecl::cuda::{CudaDevice, CudaRuntime};
#[cfg(feature = "wgpu")]
use cubecl::wgpu::{Dx12, RuntimeOptions, WgpuDevice, WgpuRuntime, init_setup};
use serde::{Serialize, Serializer};

use aios_base::error::{Error, Result};
pub use aios_base::execution::Kind;
use aios_base::fault::guarded;
#[cfg(feature = "cuda")]
pub use kernel_cache::directory as kernel_folder;
pub use memory::{DeviceMemory, MemoryMeter, MemoryUse, device_memory, largest_buffer_bytes};
pub use report::{DeviceCheck, DeviceReport, render_table, report};
pub use select::{Gpus, Selection, gpus, select, select_except};

/// What sort of hardware stands behind an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A GPU lent to a virtual machine.
    Virtual,
    /// The driver does not say.
    Other,
    /// A renderer that runs on the CPU and only looks like a GPU.
    Software,
    /// The host's CPU itself.
    Host,
}

impl Class {
    /// Lower-case name, as shown to the user.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Other => "other",
            Self::Software => "software",
            Self::Host => "host",
        }
    }

    /// Whether this is hardware made for the work, which `--device auto` may pick.
    pub fn is_real_gpu(self) -> bool {
        !matches!(self, Self::Software | Self::Host)
    }
}

/// What a device allows; `None` where the notion does not apply or is not reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Largest single buffer, in bytes.
    pub max_buffer_bytes: Option<u64>,
    /// Largest part of a buffer that one kernel argument may cover, in bytes.
    pub max_binding_bytes: Option<u64>,
    /// Shared memory of one workgroup (CUDA: thread block), in bytes.
    pub max_shared_bytes: Option<u64>,
    /// Invocations (threads) of one workgroup.
    pub max_workgroup_threads: Option<u32>,
    /// Workgroups along one dimension of a launch.
    pub max_workgroups: Option<u32>,
    /// Smallest and largest number of threads that run in step and can exchange registers.
    pub subgroup_threads: Option<(u32, u32)>,
    /// CUDA compute capability, such as `(8, 6)`.
    pub compute_capability: Option<(u32, u32)>,
}

/// A device that was found, usable or not.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Adapter {
    /// How it is driven.
    pub kind: Kind,
    /// The `i` of `--device cuda:i` or `wgpu:i`.
    pub index: usize,
    /// The device's name as its driver gives it.
    pub name: String,
    /// Programming interface and version, such as "Vulkan" or "CUDA 12.9".
    pub api: String,
    /// Driver name and version; empty if unknown.
    pub driver: String,
    /// What sort of hardware it is.
    pub class: Class,
    /// Memory of the device (host memory if it shares the host's), in bytes.
    pub memory_bytes: Option<u64>,
    /// Number formats its arithmetic is done in.
    pub dtypes: Vec<&'static str>,
    /// Number formats that work but are widened to f32 for arithmetic.
    pub emulated_dtypes: Vec<&'static str>,
    /// The attention that a run starts with, if its kernels pass their check there.
    pub attention: &'static str,
    /// What it allows.
    pub limits: Limits,
    /// Why it cannot be used and what to do about it; `None` if it can.
    pub problem: Option<String>,
    /// The runtime's name for it.
    #[serde(rename = "device", serialize_with = "serialize_debug")]
    pub selected: Selected,
}

impl Adapter {
    /// Whether tensors in this number format work, natively or not.
    pub fn holds(&self, format: &str) -> bool {
        self.dtypes.contains(&format) || self.emulated_dtypes.contains(&format)
    }

    /// What to pass to `--device` to get exactly this one.
    pub fn flag(&self) -> String {
        match self.kind {
            kind @ (Kind::Cpu | Kind::Ndarray) => kind.as_str().to_owned(),
            kind => format!("{}:{}", kind.as_str(), self.index),
        }
    }

    /// How it is named by `--device`, and what it is.
    pub fn in_words(&self) -> String {
        format!("{} {}", self.flag(), self.name)
    }
}

fn serialize_debug<S: Serializer>(selected: &Selected, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{selected:?}"))
}

/// A device in the terms of the runtime that drives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selected {
    /// The host's CPU.
    Cpu,
    /// The host's CPU, by plain tensor operations.
    Ndarray,
    /// A CUDA device.
    #[cfg(feature = "cuda")]
    Cuda(CudaDevice),
    /// A graphics adapter. `device` names it only among the adapters of `backend`.
    #[cfg(feature = "wgpu")]
    Wgpu {
        /// The runtime's name for the adapter.
        device: WgpuDevice,
        /// The graphics interface it was found through.
        backend: wgpu::Backend,
    },
}

impl Selected {
    /// Starts the device's runtime. Call it once, before the first tensor: it turns a driver that
    /// refuses into an error, and is what makes a Direct3D 12 adapter reachable.
    pub fn open(&self) -> Result<()> {
        #[cfg(feature = "cuda")]
        guarded(|| kernel_cache::begin(self)).map_err(|error| self.cannot_start(&error))?;
        guarded(|| match self {
            Self::Cpu | Self::Ndarray => {}
            #[cfg(feature = "cuda")]
            Self::Cuda(device) => drop(<CudaRuntime as cubecl::Runtime>::client(device)),
            #[cfg(feature = "wgpu")]
            Self::Wgpu {
                device,
                backend: wgpu::Backend::Dx12,
            } => drop(init_setup::<Dx12>(device, RuntimeOptions::default())),
            #[cfg(feature = "wgpu")]
            Self::Wgpu { device, .. } => drop(<WgpuRuntime as cubecl::Runtime>::client(device)),
        })
        .map_err(|error| self.cannot_start(&error))
    }

    fn cannot_start(&self, error: &Error) -> Error {
        Error::failed(format!("cannot start the device {self:?}: {error}"))
    }
}

/// The adapters of one kind, at least one, or why there is none.
pub type Probe = Result<Vec<Adapter>, Absence>;

/// Why the machine has no device of a kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Absence {
    /// What is not there, short enough for the reason of an automatic choice.
    pub reason: String,
    /// What to install or change, if a device is expected.
    pub remedy: String,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason, self.remedy)
    }
}

/// What a program was built without.
fn not_built(feature: &str) -> Absence {
    Absence {
        reason: format!("this program was built without {feature}"),
        remedy: format!("build it with --features {feature}"),
    }
}

/// Everything the machine offers.
#[derive(Debug, Clone, PartialEq)]
pub struct Devices {
    /// The host's CPU, always usable.
    pub cpu: Adapter,
    /// CUDA devices.
    pub cuda: Probe,
    /// Graphics adapters, software renderers included.
    pub wgpu: Probe,
    /// The CPU by plain tensor operations.
    pub ndarray: Probe,
}

/// Keeps Mesa's Vulkan drivers from complaining on stderr, each time they are asked, that there is no
/// desktop session, as is the rule on servers and in containers.
///
/// # Safety
/// Changes the environment: call it from `main` before any other thread starts.
pub unsafe fn quiet_missing_session() {
    const SESSION: &str = "XDG_RUNTIME_DIR";
    if cfg!(target_os = "linux") && std::env::var_os(SESSION).is_none() {
        // SAFETY: the caller vouches that no other thread reads the environment meanwhile.
        unsafe { std::env::set_var(SESSION, std::env::temp_dir()) };
    }
}

/// Looks for every device. Never panics and prints nothing, whatever drivers are missing.
pub fn enumerate() -> Devices {
    Devices {
        cpu: cpu::adapter(),
        cuda: cuda::probe(),
        wgpu: graphics::probe(),
        ndarray: ndarray::probe(),
    }
}
