//! Libraries that are looked for when the program runs, and the commands that bring those that are not there.

use serde::Serialize;

use crate::cli::doctor::system::Machine;
use aios_base::nvidia;
use aios_distributed::mpi;

/// A library.
#[derive(Debug, PartialEq, Serialize)]
pub struct Library {
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// By which name it was found, or as what.
    pub found: Option<String>,
    /// What brings it, where it is of use here.
    pub remedy: Option<String>,
}

/// All of them.
pub fn look(machine: &Machine) -> Vec<Library> {
    let mut libraries = Vec::new();
    if !cfg!(target_os = "macos") {
        let has_nvidia = machine.has_nvidia();
        let driver = loaded(&[nvidia::DRIVER]);
        let has_driver = driver.is_some();
        libraries.push(Library {
            name: "NVIDIA driver",
            purpose: "CUDA",
            remedy: missing(&driver, has_nvidia != Some(false), || {
                nvidia_driver(machine)
            }),
            found: driver,
        });
        let nvrtc = loaded(nvidia::NVRTC);
        libraries.push(Library {
            name: "NVRTC",
            purpose: "CUDA's run-time compiler",
            remedy: missing(&nvrtc, has_driver, || {
                "pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12 nvidia-cuda-nvcc-cu12 nvidia-cuda-cccl-cu12, with \
                 the first one's lib folder on the library path and the others' include folders put together below CUDA_PATH"
                    .to_string()
            }),
            found: nvrtc,
        });
        let vulkan = loaded(match cfg!(windows) {
            true => &["vulkan-1.dll"],
            false => &["libvulkan.so.1"],
        });
        libraries.push(Library {
            name: "Vulkan loader",
            purpose: "GPUs of any maker",
            remedy: missing(&vulkan, cfg!(feature = "wgpu"), || vulkan_loader(machine)),
            found: vulkan,
        });
    }
    let mpi = mpi::installed();
    libraries.push(Library {
        name: "MPI",
        purpose: "several processes or machines",
        remedy: missing(&mpi.as_ref().ok(), true, || match cfg!(windows) {
            true => "winget install Microsoft.msmpi".to_string(),
            false => "pip install mpich".to_string(),
        }),
        found: mpi.ok(),
    });
    libraries
}

/// The first of these that can be loaded.
fn loaded(names: &[&str]) -> Option<String> {
    let loads = |name: &&&str| {
        // SAFETY: a driver's or a compiler's library by its name, which any program may load; nothing of it is called.
        unsafe { libloading::Library::new(**name) }.is_ok()
    };
    names.iter().find(loads).map(|name| name.to_string())
}

fn missing<T>(found: &Option<T>, useful: bool, remedy: impl Fn() -> String) -> Option<String> {
    (found.is_none() && useful).then(remedy)
}

fn nvidia_driver(machine: &Machine) -> String {
    let by_hand = "https://www.nvidia.com/drivers, if there is an NVIDIA GPU";
    command(
        &machine.families,
        [
            ("ubuntu", "sudo ubuntu-drivers install"),
            (
                "debian",
                "sudo apt install nvidia-driver (of Debian's non-free packages)",
            ),
            (
                "fedora",
                "sudo dnf install akmod-nvidia xorg-x11-drv-nvidia-cuda (of RPM Fusion)",
            ),
            ("arch", "sudo pacman -S nvidia"),
            (
                "suse",
                "sudo zypper install nvidia-open-driver-G06-signed-kmp-meta",
            ),
        ],
        by_hand,
    )
}

fn vulkan_loader(machine: &Machine) -> String {
    let by_hand = "the driver of the GPU from its maker, which brings it";
    command(
        &machine.families,
        [
            ("ubuntu", "sudo apt install libvulkan1 mesa-vulkan-drivers"),
            ("debian", "sudo apt install libvulkan1 mesa-vulkan-drivers"),
            (
                "fedora",
                "sudo dnf install vulkan-loader mesa-vulkan-drivers",
            ),
            ("arch", "sudo pacman -S vulkan-icd-loader"),
            (
                "suse",
                "sudo zypper install libvulkan1 libvulkan_radeon libvulkan_intel",
            ),
        ],
        by_hand,
    )
}

/// The command of this family of systems.
fn command(families: &[String], commands: [(&str, &str); 5], by_hand: &str) -> String {
    let own = |family: &String| {
        let found = commands.iter().find(|(name, _)| family.contains(name));
        found.map(|(_, command)| command.to_string())
    };
    let found = families.iter().find_map(own);
    found.unwrap_or_else(|| by_hand.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(families: &[&str]) -> Machine {
        Machine {
            families: families.iter().map(|name| name.to_string()).collect(),
            ..Machine::look()
        }
    }

    #[test]
    fn the_command_is_the_systems_own() {
        for (families, expected) in [
            (&["ubuntu", "debian"][..], "apt"),
            (&["linuxmint", "ubuntu"], "apt"),
            (&["rocky", "rhel", "fedora"], "dnf"),
            (&["manjaro", "arch"], "pacman"),
            (&["opensuse-tumbleweed"], "zypper"),
            (&["nixos"], "maker"),
        ] {
            let remedy = vulkan_loader(&machine(families));
            assert!(remedy.contains(expected), "{families:?}: {remedy}");
        }
    }

    #[test]
    fn what_is_found_needs_no_remedy() {
        for library in look(&Machine::look()) {
            let both = library.found.is_some() && library.remedy.is_some();
            assert!(!both, "{library:?}");
        }
    }
}
