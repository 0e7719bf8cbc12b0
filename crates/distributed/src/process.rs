//! The processes of ranks, as others of their host know them.

use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, Signal, System};

/// A process, which no later one of the same number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    id: u32,
    /// Seconds since 1970.
    started: u64,
}

impl Process {
    pub fn this() -> Self {
        let id = std::process::id();
        let started = look(id)
            .process(Pid::from_u32(id))
            .map(|it| it.start_time());
        Self {
            id,
            started: started.unwrap_or(0),
        }
    }

    /// Let it go on if it is stopped, as by `kill -STOP`.
    pub fn wake(self) {
        let system = look(self.id);
        let found = system.process(Pid::from_u32(self.id));
        let same = found.filter(|it| it.start_time() == self.started);
        if let Some(process) = same.filter(|it| it.status() == ProcessStatus::Stop) {
            // Gone, or somebody else's by now: nothing that waits for it.
            let _ = process.kill_with(Signal::Continue);
        }
    }
}

fn look(id: u32) -> System {
    let mut system = System::new();
    let wanted = ProcessesToUpdate::Some(&[Pid::from_u32(id)]);
    system.refresh_processes_specifics(wanted, false, ProcessRefreshKind::nothing());
    system
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};
    use std::time::{Duration, Instant};

    fn of(child: &Child) -> Process {
        let id = child.id();
        let started = look(id).process(Pid::from_u32(id)).unwrap().start_time();
        Process { id, started }
    }

    fn signal(child: &Child, name: &str) {
        let mut kill = Command::new("kill");
        let sent = kill.args([name, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    fn is_stopped(child: &Child) -> bool {
        let system = look(child.id());
        let process = system.process(Pid::from_u32(child.id())).unwrap();
        process.status() == ProcessStatus::Stop
    }

    #[track_caller]
    fn wait_until(what: impl Fn() -> bool) {
        let started = Instant::now();
        while !what() {
            assert!(started.elapsed() < Duration::from_secs(10));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn one_that_is_stopped_goes_on_and_another_of_its_number_does_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = of(&child);
        signal(&child, "-STOP");
        wait_until(|| is_stopped(&child));
        let another = Process {
            started: process.started + 1,
            ..process
        };
        another.wake();
        std::thread::sleep(Duration::from_millis(50));
        assert!(is_stopped(&child));
        process.wake();
        wait_until(|| !is_stopped(&child));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn this_one_is_known() {
        let this = Process::this();
        assert_eq!(this.id, std::process::id());
        assert!(this.started > 1_600_000_000);
        this.wake();
    }
}
