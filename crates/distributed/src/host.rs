//! Which ranks share a machine.

use serde::{Deserialize, Serialize};

/// A machine as ranks tell each other of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Host {
    pub name: String,
    /// Differs between machines of the same name, where the system says it.
    boot: String,
}

impl Host {
    /// This one.
    pub fn this() -> Self {
        let name = sysinfo::System::host_name();
        let boot = match cfg!(target_os = "linux") {
            true => std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok(),
            false => None,
        };
        Self {
            name: name.unwrap_or_else(|| "unknown".to_string()),
            boot: boot.unwrap_or_default().trim().to_string(),
        }
    }
}

/// A rank's number among those of its host, and how many these are.
pub(crate) fn place(hosts: &[Host], rank: usize) -> (usize, usize) {
    let same = |other: &&Host| Some(*other) == hosts.get(rank);
    let before = hosts.iter().take(rank).filter(same).count();
    (before, hosts.iter().filter(same).count().max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_counted_by_host() {
        let hosts: Vec<Host> = ["a", "b", "a", "a", "b"]
            .map(|name| Host {
                name: name.into(),
                boot: String::new(),
            })
            .into();
        let places: Vec<_> = (0..5).map(|rank| place(&hosts, rank)).collect();
        assert_eq!(places, [(0, 3), (0, 2), (1, 3), (2, 3), (1, 2)]);
    }
}
