//! What a rank has of its host: cores, a device.

use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result};
use aios_distributed::World;

/// Take this rank's share of its host's cores; where the launcher has bound it to some, these are its share.
///
/// # Errors
/// The system has no more threads.
pub fn share_cores(world: &World) -> Result<()> {
    let (_, here) = world.on_host();
    if here == 1 || std::env::var_os("RAYON_NUM_THREADS").is_some() {
        return Ok(());
    }
    let mine = std::thread::available_parallelism().map_or(1, usize::from);
    let all = aios_base::meter::host_cores();
    let share = match mine < all {
        true => mine,
        false => (all / here).max(1),
    };
    aios_kernels::team::share(share);
    aios_backends::start_threads(Some(share))
}

/// The device of this rank: each of a host has its own GPU.
///
/// # Errors
/// More ranks than GPUs, or one GPU named for several ranks.
pub fn device(choice: DeviceChoice, world: &World) -> Result<DeviceChoice> {
    let host = world
        .hosts()
        .get(world.rank())
        .map_or("this host", |host| *host)
        .to_string();
    at_place(choice, world.on_host(), &host)
}

/// The CUDA device of a rank that is the `place`-th of so many on its host, if it trains on one.
pub(super) fn cuda(choice: DeviceChoice, place: (usize, usize)) -> Result<usize> {
    let none = || Error::failed("there is no NVIDIA GPU that can be used, `aios devices` says why");
    match (at_place(choice, place, "this host")?, choice) {
        (DeviceChoice::Cuda(index), _) => Ok(index),
        // The only rank of its host.
        (DeviceChoice::Auto, _) => aios_device::gpus().cuda.first().copied().ok_or_else(none),
        (_, DeviceChoice::Auto) => Err(none()),
        (other, _) => Err(Error::failed(format!(
            "--device {other} names no NVIDIA GPU"
        ))),
    }
}

fn at_place(
    choice: DeviceChoice,
    (place, here): (usize, usize),
    host: &str,
) -> Result<DeviceChoice> {
    if here == 1 || !matches!(choice, DeviceChoice::Auto | DeviceChoice::Cuda(_)) {
        return Ok(choice);
    }
    let gpus = aios_device::gpus();
    let too_few = |kind: &str, there: usize| {
        Error::failed(format!(
            "{here} ranks run on {host}, which has {there} {kind} device{}: start as many as there are devices, or give \
             --device cpu",
            if there == 1 { "" } else { "s" }
        ))
    };
    let nth = |kind: &str, of: &[usize]| match (of.get(place), of) {
        (Some(index), _) => Ok(*index),
        // A launcher that shows each rank a GPU of its own.
        (None, [only]) if std::env::var_os("CUDA_VISIBLE_DEVICES").is_some() => Ok(*only),
        (None, _) => Err(too_few(kind, of.len())),
    };
    match choice {
        DeviceChoice::Auto if !gpus.cuda.is_empty() => {
            nth("CUDA", &gpus.cuda).map(DeviceChoice::Cuda)
        }
        DeviceChoice::Auto if !gpus.wgpu.is_empty() => {
            nth("wgpu", &gpus.wgpu).map(|index| DeviceChoice::Wgpu(Some(index)))
        }
        DeviceChoice::Cuda(0) => nth("CUDA", &gpus.cuda).map(DeviceChoice::Cuda),
        DeviceChoice::Cuda(_) => Err(Error::invalid(format!(
            "--device {choice} names one GPU, and {here} ranks run on this host: give --device cuda, and each takes its own"
        ))),
        other => Ok(other),
    }
}

/// Whether this rank goes before the others of its host.
pub fn goes_first(world: &World) -> bool {
    world.on_host().0 == 0
}
