//! The host's CPU as a device.

use sysinfo::{CpuRefreshKind, System};

use aios_kernels::matmul::bf16;

use crate::{Adapter, Class, Limits, Selected};
use aios_base::execution::Kind;
use aios_base::meter::host_total;

/// The host's CPU: f32 arithmetic, with the half-width formats widened on the way in; products in bf16 where it has
/// instructions for them.
pub(super) fn adapter() -> Adapter {
    let (dtypes, emulated_dtypes) = match bf16::unit() {
        Some(_) => (vec!["f32", "bf16"], vec!["f16"]),
        None => (vec!["f32"], vec!["f16", "bf16"]),
    };
    Adapter {
        kind: Kind::Cpu,
        index: 0,
        name: name(),
        api: std::env::consts::ARCH.to_owned(),
        driver: String::new(),
        class: Class::Host,
        memory_bytes: Some(host_total()),
        dtypes,
        emulated_dtypes,
        attention: Kind::Cpu.flash_attention(),
        limits: Limits::default(),
        problem: None,
        selected: Selected::Cpu,
    }
}

/// Model name and the number of threads this process may use.
fn name() -> String {
    let mut system = System::new();
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    let brand = system.cpus().first().map_or("", |cpu| cpu.brand().trim());
    let brand = if brand.is_empty() { "CPU" } else { brand };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let plural = if threads == 1 { "" } else { "s" };
    format!("{brand} ({threads} thread{plural})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_processor_and_its_threads() {
        let name = name();
        assert!(name.contains("thread"), "{name}");
        assert!(!name.starts_with(' '), "{name}");
    }

    #[test]
    fn is_always_usable() {
        assert_eq!(adapter().problem, None);
    }
}
