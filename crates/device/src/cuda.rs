//! CUDA devices, found without starting the CUDA runtime: a missing driver would make that panic.

use std::path::{Path, PathBuf};

use cubecl::cuda::{CudaDevice, install};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute as Attribute};

use crate::{Absence, Adapter, Class, Limits, Probe, Selected};
use aios_base::execution::Kind;

const DRIVER_LIBRARY: &str = if cfg!(windows) {
    "nvcuda.dll"
} else {
    "libcuda.so.1"
};

const LIBRARY_PATH: &str = if cfg!(windows) {
    "PATH"
} else {
    "LD_LIBRARY_PATH"
};

/// Every CUDA device. Where only part of CUDA is installed, the devices say what is missing.
pub(super) fn probe() -> Probe {
    if cfg!(target_os = "macos") {
        return Err(absence(
            "there is no CUDA for macOS",
            "Metal is used instead",
        ));
    }
    // SAFETY: loads a shared library and unloads it again; NVIDIA's driver has no unsafe constructor.
    if !unsafe { sys::is_culib_present() } {
        return Err(absence(
            format!("no NVIDIA driver found, {DRIVER_LIBRARY} is on no library path"),
            "install the driver if there is an NVIDIA GPU",
        ));
    }
    let count = device_count().map_err(no_device)?;
    let driver = driver_version();
    let problem = toolkit_problem(driver);
    Ok((0..count)
        .map(|index| adapter(index, driver, problem.clone()))
        .collect())
}

fn device_count() -> Result<usize, DriverError> {
    result::init()?;
    match usize::try_from(result::device::get_count()?) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)),
    }
}

fn absence(reason: impl Into<String>, remedy: impl Into<String>) -> Absence {
    Absence {
        reason: reason.into(),
        remedy: remedy.into(),
    }
}

fn no_device(error: DriverError) -> Absence {
    match error.0 {
        sys::CUresult::CUDA_ERROR_NO_DEVICE => absence(
            format!("the NVIDIA driver has no GPU to drive{}", visible_devices()),
            "check that nvidia-smi lists one",
        ),
        sys::CUresult::CUDA_ERROR_STUB_LIBRARY => absence(
            format!("the {DRIVER_LIBRARY} found is the toolkit's stub, not a driver"),
            format!("take its folder off {LIBRARY_PATH}"),
        ),
        code => absence(
            format!("the NVIDIA driver does not start: {code:?}"),
            "nvidia-smi may say more",
        ),
    }
}

/// An empty or wrong `CUDA_VISIBLE_DEVICES` hides every GPU.
fn visible_devices() -> String {
    std::env::var("CUDA_VISIBLE_DEVICES").map_or_else(
        |_| String::new(),
        |value| format!(", CUDA_VISIBLE_DEVICES being \"{value}\""),
    )
}

/// Newest CUDA version the driver can serve, as (major, minor).
fn driver_version() -> (u32, u32) {
    let mut version = 0;
    // SAFETY: writes one integer; needs no context.
    let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
    let version = u32::try_from(version).unwrap_or(0);
    (version / 1000, version % 1000 / 10)
}

fn adapter(index: usize, driver: (u32, u32), problem: Option<String>) -> Adapter {
    let facts = Facts::read(index);
    let problem = problem.or_else(|| facts.as_ref().err().map(|error| format!("{error:?}")));
    let facts = facts.unwrap_or_default();
    Adapter {
        kind: Kind::Cuda,
        index,
        name: facts.name,
        api: format!("CUDA {}.{}", driver.0, driver.1),
        driver: String::new(),
        class: if facts.integrated {
            Class::Integrated
        } else {
            Class::Discrete
        },
        memory_bytes: facts.memory_bytes,
        dtypes: dtypes(facts.limits.compute_capability),
        emulated_dtypes: Vec::new(),
        attention: Kind::Cuda.flash_attention(),
        limits: facts.limits,
        problem,
        selected: Selected::Cuda(CudaDevice::new(index)),
    }
}

/// f16 arithmetic came with compute capability 5.3, bf16 with 8.0.
fn dtypes(capability: Option<(u32, u32)>) -> Vec<&'static str> {
    let mut dtypes = vec!["f32"];
    if capability >= Some((5, 3)) {
        dtypes.push("f16");
    }
    if capability >= Some((8, 0)) {
        dtypes.push("bf16");
    }
    dtypes
}

/// What the driver tells of one device without a context on it, which would cost memory and time.
#[derive(Default)]
struct Facts {
    name: String,
    memory_bytes: Option<u64>,
    integrated: bool,
    limits: Limits,
}

impl Facts {
    fn read(index: usize) -> Result<Self, DriverError> {
        let device = result::device::get(i32::try_from(index).unwrap_or(i32::MAX))?;
        // SAFETY: `device` was just handed out by the driver.
        let memory = unsafe { result::device::total_mem(device)? };
        let warp = attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE)?;
        let shared = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let threads = Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        let major = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR;
        let minor = Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR;
        let blocks = Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y;
        Ok(Self {
            name: result::device::get_name(device)?,
            memory_bytes: u64::try_from(memory).ok(),
            integrated: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
            limits: Limits {
                max_shared_bytes: Some(u64::from(attribute(device, shared)?)),
                max_workgroup_threads: Some(attribute(device, threads)?),
                max_workgroups: Some(attribute(device, blocks)?),
                subgroup_threads: Some((warp, warp)),
                compute_capability: Some((attribute(device, major)?, attribute(device, minor)?)),
                ..Limits::default()
            },
        })
    }
}

fn attribute(device: CUdevice, attribute: Attribute) -> Result<u32, DriverError> {
    // SAFETY: only called with a device the driver handed out.
    let value = unsafe { result::device::get_attribute(device, attribute)? };
    Ok(u32::try_from(value).unwrap_or(0))
}

/// What keeps kernels from being compiled at run time, if anything: the compiler library or the
/// headers every kernel includes.
fn toolkit_problem(driver: (u32, u32)) -> Option<String> {
    let root = install::cuda_path();
    // SAFETY: loads a shared library and unloads it again; NVRTC has no unsafe constructor.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Some(nvrtc_missing(root.as_deref(), driver));
    }
    newer_than_driver(nvrtc_version(), driver).or_else(|| headers_problem(root.as_deref()))
}

fn nvrtc_version() -> (u32, u32) {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: writes two integers; the library was just found.
    let _ = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    let number = |value| u32::try_from(value).unwrap_or(0);
    (number(major), number(minor))
}

fn nvrtc_missing(root: Option<&Path>, driver: (u32, u32)) -> String {
    if let Some(folder) = root.and_then(nvrtc_folder) {
        return format!(
            "NVRTC, CUDA's run-time compiler, lies in {} but not on the library path; add that folder to {LIBRARY_PATH}",
            folder.display()
        );
    }
    let library = if cfg!(windows) {
        "nvrtc64_*.dll"
    } else {
        "libnvrtc.so[.13|.12|.11]"
    };
    // An older driver refuses what the newest compiler writes.
    let version = match driver {
        (12, minor) => format!("==12.{minor}.*"),
        _ => String::new(),
    };
    let searched = match std::env::var(LIBRARY_PATH) {
        Ok(path) if !path.is_empty() => format!("{LIBRARY_PATH}={path}"),
        _ => format!("{LIBRARY_PATH} is unset"),
    };
    format!(
        "NVRTC, CUDA's run-time compiler, is missing (looked for {library} on the system's library path; {searched}); \
         install the CUDA toolkit, or `pip install nvidia-cuda-nvrtc-cu12{version}` and add its lib folder to {LIBRARY_PATH}"
    )
}

/// The toolkit's folder that holds NVRTC, if it is there at all.
fn nvrtc_folder(root: &Path) -> Option<PathBuf> {
    ["lib64", "lib", "bin", "targets/x86_64-linux/lib"]
        .iter()
        .map(|folder| root.join(folder))
        .find(|folder| holds_nvrtc(folder))
}

fn holds_nvrtc(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|entries| {
        entries.flatten().any(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libnvrtc.so") || name.starts_with("nvrtc64_")
        })
    })
}

/// A driver refuses code in a newer version of PTX than its own, and NVRTC always writes its newest.
fn newer_than_driver(nvrtc: (u32, u32), driver: (u32, u32)) -> Option<String> {
    // 12.5 and 12.6 write the same version of PTX.
    let nvrtc_needs = if nvrtc == (12, 6) { (12, 5) } else { nvrtc };
    (nvrtc_needs > driver).then(|| {
        format!(
            "NVRTC {0}.{1} is newer than the driver, which serves CUDA {2}.{3} at most; update the driver or install NVRTC {2}.{3}",
            nvrtc.0, nvrtc.1, driver.0, driver.1
        )
    })
}

fn headers_problem(root: Option<&Path>) -> Option<String> {
    let Some(root) = root else {
        return Some(
            "the CUDA headers are missing (looked in /usr/local/cuda, /opt/cuda and beside /usr/bin/nvcc); install the \
             CUDA toolkit, or `pip install nvidia-cuda-runtime-cu12 nvidia-cuda-cccl-cu12` and set CUDA_PATH to the \
             folder whose include folder has cuda_runtime.h"
                .to_owned(),
        );
    };
    let header = root.join("include").join("cuda_runtime.h");
    (!header.exists()).then(|| {
        format!(
            "the CUDA headers are missing ({} does not exist); install the CUDA toolkit or set CUDA_PATH to its folder",
            header.display()
        )
    })
}

/// Free and total memory of a device, in bytes. Creates the device's primary context if no runtime
/// has yet.
pub(super) fn free_and_total(index: usize) -> Option<(u64, u64)> {
    let device = result::device::get(i32::try_from(index).ok()?).ok()?;
    let earlier = result::ctx::get_current().ok()?;
    // SAFETY: the context is retained until after its last use here, and the thread gets back the
    // context it had.
    unsafe {
        let context = result::primary_ctx::retain(device).ok()?;
        let info = result::ctx::set_current(context).and_then(|()| result::mem_get_info());
        let _ = result::ctx::set_current(earlier.unwrap_or(std::ptr::null_mut()));
        let _ = result::primary_ctx::release(device);
        let (free, total) = info.ok()?;
        Some((u64::try_from(free).ok()?, u64::try_from(total).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_formats_follow_the_compute_capability() {
        assert_eq!(dtypes(None), ["f32"]);
        assert_eq!(dtypes(Some((5, 2))), ["f32"]);
        assert_eq!(dtypes(Some((7, 5))), ["f32", "f16"]);
        assert_eq!(dtypes(Some((8, 0))), ["f32", "f16", "bf16"]);
        assert_eq!(dtypes(Some((12, 0))), ["f32", "f16", "bf16"]);
    }

    #[test]
    fn compiler_newer_than_the_driver_is_a_problem() {
        assert_eq!(newer_than_driver((12, 4), (12, 4)), None);
        assert_eq!(newer_than_driver((12, 9), (13, 0)), None);
        assert_eq!(newer_than_driver((12, 6), (12, 5)), None);
        let problem = newer_than_driver((12, 9), (12, 4)).expect("a problem");
        assert!(problem.contains("NVRTC 12.9"), "{problem}");
        assert!(problem.ends_with("install NVRTC 12.4"), "{problem}");
    }

    #[test]
    fn missing_headers_name_the_file() {
        let problem = headers_problem(Some(Path::new("/nowhere"))).expect("a problem");
        assert!(problem.contains("cuda_runtime.h"), "{problem}");
        assert!(problem.contains("CUDA_PATH"), "{problem}");
    }

    #[test]
    fn missing_compiler_says_how_to_get_it() {
        let problem = nvrtc_missing(None, (12, 4));
        let install = "pip install nvidia-cuda-nvrtc-cu12==12.4.*";
        assert!(problem.contains(install), "{problem}");
        assert!(problem.contains(LIBRARY_PATH), "{problem}");
    }

    #[test]
    fn toolkit_stub_is_told_from_a_driver() {
        let absence = no_device(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY));
        assert!(absence.reason.contains("stub"), "{absence}");
        assert!(absence.remedy.contains(LIBRARY_PATH), "{absence}");
    }
}
