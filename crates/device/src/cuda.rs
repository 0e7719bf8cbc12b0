//! CUDA devices, found without starting the CUDA runtime: a missing driver would make that panic.

mod toolkit;

use cubecl::cuda::CudaDevice;
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice, CUdevice_attribute as Attribute};

use crate::{Absence, Adapter, Class, Limits, Probe, Selected};
use aios_base::execution::Kind;
use aios_base::nvidia;
use toolkit::LIBRARY_PATH;

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
            format!(
                "no NVIDIA driver found, {} is on no library path",
                nvidia::DRIVER
            ),
            "install the driver if there is an NVIDIA GPU",
        ));
    }
    let count = device_count().map_err(no_device)?;
    let driver = driver_version();
    let problem = toolkit::problem(driver);
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
            format!(
                "the {} found is the toolkit's stub, not a driver",
                nvidia::DRIVER
            ),
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
    let problem = problem.or_else(|| toolkit::lacks(facts.limits.compute_capability?));
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

/// The GPUs that kernels are compiled for, and the compiler, as part of a folder's name; `None` where there are GPUs of several
/// generations, since the runtime has one folder for all of them.
pub(super) fn compiled_for() -> Option<String> {
    let capability = |index| Facts::read(index).ok()?.limits.compute_capability;
    let mut all = (0..device_count().ok()?).map(capability);
    let (major, minor) = all.next()??;
    let (nvrtc_major, nvrtc_minor) = toolkit::nvrtc_version();
    all.all(|other| other == Some((major, minor)))
        .then(|| format!("sm_{major}{minor}-nvrtc-{nvrtc_major}.{nvrtc_minor}"))
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
    fn toolkit_stub_is_told_from_a_driver() {
        let absence = no_device(DriverError(sys::CUresult::CUDA_ERROR_STUB_LIBRARY));
        assert!(absence.reason.contains("stub"), "{absence}");
        assert!(absence.remedy.contains(LIBRARY_PATH), "{absence}");
    }
}
