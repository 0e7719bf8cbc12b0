//! Graphics adapters (Vulkan, Metal, Direct3D 12), found without starting the compute runtime.

use cubecl::future::block_on;
use cubecl::wgpu::WgpuDevice;
use wgpu::{Backend, Backends, DeviceType, DownlevelFlags, Features, Instance, InstanceDescriptor};

use crate::{Absence, Adapter, Class, Limits, Probe, Selected};
use aios_base::execution::Kind;

/// The interface the runtime uses unless told otherwise.
const DEFAULT_BACKEND: Backend = if cfg!(target_os = "macos") {
    Backend::Metal
} else {
    Backend::Vulkan
};

/// Every adapter of the interface that would be used, in the driver's order.
pub(super) fn probe() -> Probe {
    let mut adapters = adapters(DEFAULT_BACKEND);
    if cfg!(windows) && !adapters.iter().any(|adapter| adapter.class.is_real_gpu()) {
        let direct3d = self::adapters(Backend::Dx12);
        if !direct3d.is_empty() {
            adapters = direct3d;
        }
    }
    if adapters.is_empty() {
        return Err(none_found());
    }
    Ok(adapters)
}

fn none_found() -> Absence {
    let (reason, remedy) = if cfg!(target_os = "macos") {
        ("Metal lists no device", "this needs a Mac with a GPU")
    } else if cfg!(windows) {
        (
            "neither Vulkan nor Direct3D 12 lists an adapter",
            "install the GPU's driver",
        )
    } else {
        (
            "Vulkan lists no adapter",
            "install libvulkan1 and the GPU's Vulkan driver, on Debian and Ubuntu mesa-vulkan-drivers",
        )
    };
    Absence {
        reason: reason.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn adapters(backend: Backend) -> Vec<Adapter> {
    let instance = Instance::new(InstanceDescriptor {
        backends: Backends::from(backend),
        ..InstanceDescriptor::new_without_display_handle()
    });
    let found = block_on(instance.enumerate_adapters(Backends::from(backend)));
    let types: Vec<_> = found.iter().map(|a| a.get_info().device_type).collect();
    let devices = runtime_devices(&types);
    let numbered = found.iter().zip(devices).enumerate();
    numbered
        .map(|(index, (adapter, device))| describe(index, adapter, device))
        .collect()
}

fn describe(index: usize, adapter: &wgpu::Adapter, device: Option<WgpuDevice>) -> Adapter {
    let info = adapter.get_info();
    Adapter {
        kind: Kind::Wgpu,
        index,
        class: class(info.device_type),
        api: api(info.backend).to_owned(),
        driver: format!("{} {}", info.driver, info.driver_info)
            .trim()
            .to_owned(),
        memory_bytes: memory_bytes(adapter),
        dtypes: dtypes(adapter.features()),
        emulated_dtypes: Vec::new(),
        attention: Kind::Wgpu.flash_attention(),
        limits: limits(adapter),
        problem: problem(adapter, device.is_some()),
        selected: Selected::Wgpu {
            device: device.unwrap_or_default(),
            backend: info.backend,
        },
        name: info.name,
    }
}

fn problem(adapter: &wgpu::Adapter, reachable: bool) -> Option<String> {
    let flags = adapter.get_downlevel_capabilities().flags;
    if !flags.contains(DownlevelFlags::COMPUTE_SHADERS) {
        Some("it cannot run compute shaders".to_owned())
    } else if !reachable {
        Some("only the first adapter of its type can be used".to_owned())
    } else {
        None
    }
}

fn class(device_type: DeviceType) -> Class {
    match device_type {
        DeviceType::DiscreteGpu => Class::Discrete,
        DeviceType::IntegratedGpu => Class::Integrated,
        DeviceType::VirtualGpu => Class::Virtual,
        DeviceType::Cpu => Class::Software,
        DeviceType::Other => Class::Other,
    }
}

fn api(backend: Backend) -> &'static str {
    match backend {
        Backend::Vulkan => "Vulkan",
        Backend::Metal => "Metal",
        Backend::Dx12 => "Direct3D 12",
        Backend::Gl => "OpenGL",
        Backend::BrowserWebGpu => "WebGPU",
        Backend::Noop => "none",
    }
}

/// bf16 is left out on purpose: the runtime panics when asked to compute in it.
fn dtypes(features: Features) -> Vec<&'static str> {
    if features.contains(Features::SHADER_F16) {
        vec!["f32", "f16"]
    } else {
        vec!["f32"]
    }
}

fn limits(adapter: &wgpu::Adapter) -> Limits {
    let limits = adapter.limits();
    let info = adapter.get_info();
    let subgroups = adapter.features().contains(Features::SUBGROUP);
    Limits {
        max_buffer_bytes: Some(limits.max_buffer_size),
        max_binding_bytes: Some(limits.max_storage_buffer_binding_size),
        max_shared_bytes: Some(u64::from(limits.max_compute_workgroup_storage_size)),
        max_workgroup_threads: Some(limits.max_compute_invocations_per_workgroup),
        max_workgroups: Some(limits.max_compute_workgroups_per_dimension),
        subgroup_threads: subgroups.then_some((info.subgroup_min_size, info.subgroup_max_size)),
        compute_capability: None,
    }
}

#[cfg(not(any(target_os = "macos", windows)))]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    vulkan_bytes(adapter)
}

#[cfg(windows)]
fn memory_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    vulkan_bytes(adapter).or_else(|| direct3d_bytes(adapter))
}

/// The memory that is the adapter's own; if it is no card of its own, with what it may have of the machine's.
#[cfg(windows)]
fn direct3d_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    // SAFETY: the handle is only read, and outlives the query.
    let description = unsafe {
        let direct3d = adapter.as_hal::<wgpu::hal::api::Dx12>()?;
        direct3d.raw_adapter().GetDesc1().ok()?
    };
    let bytes = match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => description.DedicatedVideoMemory,
        _ => description.DedicatedVideoMemory + description.SharedSystemMemory,
    };
    u64::try_from(bytes).ok()
}

/// The first heap Vulkan calls local to the device, the one the runtime allocates from.
#[cfg(not(target_os = "macos"))]
fn vulkan_bytes(adapter: &wgpu::Adapter) -> Option<u64> {
    const DEVICE_LOCAL: u32 = 1; // VK_MEMORY_HEAP_DEVICE_LOCAL_BIT
    // SAFETY: the handles are only read, and outlive the query.
    let properties = unsafe {
        let vulkan = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        vulkan
            .shared_instance()
            .raw_instance()
            .get_physical_device_memory_properties(vulkan.raw_physical_device())
    };
    properties
        .memory_heaps
        .iter()
        .take(usize::try_from(properties.memory_heap_count).ok()?)
        .find(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0)
        .map(|heap| heap.size)
}

/// Metal's figure is not exposed.
#[cfg(target_os = "macos")]
fn memory_bytes(_adapter: &wgpu::Adapter) -> Option<u64> {
    None
}

/// The runtime's name for each of the adapters, given their types in the driver's order; `None`
/// where it has no name for one.
///
/// The runtime counts within each type, knows only the first CPU, and takes an adapter of type
/// `Other` when a number lies beyond the last adapter of the type asked for.
fn runtime_devices(types: &[DeviceType]) -> Vec<Option<WgpuDevice>> {
    (0..types.len())
        .map(|position| {
            let same = |t: &&DeviceType| **t == types[position];
            let number = types[..position].iter().filter(same).count();
            match types[position] {
                DeviceType::DiscreteGpu => Some(WgpuDevice::DiscreteGpu(number)),
                DeviceType::IntegratedGpu => Some(WgpuDevice::IntegratedGpu(number)),
                DeviceType::VirtualGpu => Some(WgpuDevice::VirtualGpu(number)),
                DeviceType::Cpu => (number == 0).then_some(WgpuDevice::Cpu),
                DeviceType::Other => beyond_the_last(types, number),
            }
        })
        .collect()
}

fn beyond_the_last(types: &[DeviceType], number: usize) -> Option<WgpuDevice> {
    let count = |wanted| types.iter().filter(|t| **t == wanted).count();
    if count(DeviceType::VirtualGpu) <= number {
        Some(WgpuDevice::VirtualGpu(number))
    } else if count(DeviceType::IntegratedGpu) <= number {
        Some(WgpuDevice::IntegratedGpu(number))
    } else if count(DeviceType::DiscreteGpu) <= number {
        Some(WgpuDevice::DiscreteGpu(number))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceType::{Cpu, DiscreteGpu, IntegratedGpu, Other, VirtualGpu};

    #[test]
    fn adapters_are_numbered_within_their_type() {
        let devices = runtime_devices(&[IntegratedGpu, DiscreteGpu, Cpu, DiscreteGpu]);
        let expected = [
            WgpuDevice::IntegratedGpu(0),
            WgpuDevice::DiscreteGpu(0),
            WgpuDevice::Cpu,
            WgpuDevice::DiscreteGpu(1),
        ];
        assert_eq!(devices, expected.map(Some));
    }

    #[test]
    fn second_software_renderer_has_no_name() {
        assert_eq!(runtime_devices(&[Cpu, Cpu]), [Some(WgpuDevice::Cpu), None]);
    }

    #[test]
    fn unknown_type_takes_a_number_no_other_adapter_has() {
        let devices = runtime_devices(&[VirtualGpu, Other]);
        assert_eq!(devices[1], Some(WgpuDevice::IntegratedGpu(0)));
        let crowded = runtime_devices(&[VirtualGpu, IntegratedGpu, DiscreteGpu, Other, Other]);
        assert_eq!(crowded[3], None);
        assert_eq!(crowded[4], Some(WgpuDevice::VirtualGpu(1)));
    }

    #[test]
    fn half_precision_needs_the_feature() {
        assert_eq!(dtypes(Features::empty()), ["f32"]);
        assert_eq!(dtypes(Features::SHADER_F16), ["f32", "f16"]);
    }
}
