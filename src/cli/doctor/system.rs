//! The machine, the variables and the terminal that the program finds itself in.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;

use serde::Serialize;
use sysinfo::System;

use aios_base::meter::{host_available, host_cores, host_total};
use aios_base::terminal;

/// Variables that are shown as they are.
const SHOWN: [&str; 33] = [
    "AIOS_BACKTRACE",
    "AIOS_CACHE_DIR",
    "AIOS_CUDA_LIBRARY",
    "AIOS_LOG",
    "AIOS_MPI_LIBRARY",
    "AIOS_NCCL_LIBRARY",
    "CUBECL_AUTOTUNE_LEVEL",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_VISIBLE_DEVICES",
    "DYLD_LIBRARY_PATH",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN",
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_OFFLINE",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "LOCAL_RANK",
    "NO_COLOR",
    "NVIDIA_VISIBLE_DEVICES",
    "OMPI_COMM_WORLD_SIZE",
    "OMP_NUM_THREADS",
    "PMI_SIZE",
    "RAYON_NUM_THREADS",
    "SLURM_STEP_NUM_TASKS",
    "TERM",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "WORLD_SIZE",
    "XDG_CACHE_HOME",
    "XDG_RUNTIME_DIR",
];
/// Secrets, and addresses that may hold one: only whether they are set.
const SECRET: [&str; 14] = [
    "AIOS_JOB_SECRET",
    "ALL_PROXY",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HF_TOKEN_PATH",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "HUGGING_FACE_HUB_TOKEN",
    "MASTER_ADDR",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
];

/// The machine.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Name and version of the operating system.
    pub system: String,
    /// As its maker calls it, such as `debian`, and what it is made after.
    #[serde(skip)]
    pub families: Vec<String>,
    pub kernel: String,
    pub architecture: &'static str,
    pub cores: usize,
    /// Threads that this process may use.
    pub threads: usize,
    /// Memory in bytes, within a container's limit.
    pub memory_bytes: u64,
    pub free_memory_bytes: u64,
    /// Graphics cards on the PCI bus, whether or not a driver knows them; only Linux says.
    pub graphics_cards: Vec<String>,
}

impl Machine {
    /// This one.
    pub fn look() -> Self {
        let mut families = vec![System::distribution_id()];
        families.extend(System::distribution_id_like());
        Self {
            system: System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_string()),
            families,
            kernel: System::kernel_long_version(),
            architecture: std::env::consts::ARCH,
            cores: host_cores(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: host_total(),
            free_memory_bytes: host_available(),
            graphics_cards: graphics_cards(),
        }
    }

    /// Whether the bus has a card of NVIDIA's; `None` where that is not known.
    pub fn has_nvidia(&self) -> Option<bool> {
        let nvidia = |card: &String| card.starts_with("NVIDIA");
        cfg!(target_os = "linux").then(|| self.graphics_cards.iter().any(nvidia))
    }
}

/// Cards as the kernel numbers their makers and models.
#[cfg(target_os = "linux")]
fn graphics_cards() -> Vec<String> {
    let mut cards = Vec::new();
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter();
    for device in devices.flatten().flatten() {
        let read = |name: &str| std::fs::read_to_string(device.path().join(name)).ok();
        let number = |name: &str| Some(read(name)?.trim().trim_start_matches("0x").to_string());
        let (Some(class), Some(vendor), Some(model)) =
            (number("class"), number("vendor"), number("device"))
        else {
            continue;
        };
        // Displays, and accelerators without one.
        if !(class.starts_with("03") || class.starts_with("12")) {
            continue;
        }
        let maker = match vendor.as_str() {
            "10de" => "NVIDIA",
            "1002" => "AMD",
            "8086" => "Intel",
            _ => "another maker",
        };
        cards.push(format!("{maker} [{vendor}:{model}]"));
    }
    cards.sort();
    cards
}

#[cfg(not(target_os = "linux"))]
fn graphics_cards() -> Vec<String> {
    Vec::new()
}

/// Variables that are set and change what the program does.
pub fn environment() -> BTreeMap<&'static str, String> {
    // `main` has set it where it was not: aios_device::quiet_missing_session.
    let own = |name: &str, value: &OsString| {
        name == "XDG_RUNTIME_DIR" && *value == *std::env::temp_dir().as_os_str()
    };
    let set = |name| {
        Some((
            name,
            std::env::var_os(name).filter(|value| !own(name, value))?,
        ))
    };
    let shown = SHOWN.into_iter().filter_map(set);
    // One could pass for another line of the findings, or colour them.
    let plain = |value: &str| value.replace(char::is_control, "\u{FFFD}");
    let shown = shown.map(|(name, value)| (name, plain(&value.to_string_lossy())));
    let secret = SECRET.into_iter().map(|name| {
        let set = std::env::var_os(name).is_some_and(|value| !value.is_empty());
        (name, set)
    });
    let secret = secret
        .filter(|(name, set)| *set || *name == "HF_TOKEN")
        .map(|(name, set)| {
            (
                name,
                if set { "set, not shown" } else { "not set" }.to_string(),
            )
        });
    shown.chain(secret).collect()
}

/// Where output goes.
#[derive(Debug, Serialize)]
pub struct Terminal {
    /// Whether these are terminals: standard input, output and error.
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Columns and rows, if any is one.
    pub size: Option<(u16, u16)>,
    /// Whether progress is a bar, and text has colours.
    pub bar: bool,
    pub colours: bool,
}

impl Terminal {
    /// This one.
    pub fn look() -> Self {
        let size = terminal_size::terminal_size();
        Self {
            stdin: std::io::stdin().is_terminal(),
            stdout: std::io::stdout().is_terminal(),
            stderr: std::io::stderr().is_terminal(),
            size: size.map(|(columns, rows)| (columns.0, rows.0)),
            bar: terminal::is_capable(),
            colours: terminal::is_coloured(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_shown() {
        for name in SECRET {
            assert!(!SHOWN.contains(&name), "{name}");
        }
        assert!(environment().contains_key("HF_TOKEN"));
    }

    #[test]
    fn this_machine_has_a_system_and_memory() {
        let machine = Machine::look();
        assert!(!machine.system.is_empty() && machine.memory_bytes > 0);
        assert!(machine.threads >= 1 && machine.cores >= 1);
    }
}
