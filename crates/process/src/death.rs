//! What the way a child ended says.

use std::process::ExitStatus;

use crate::{EXIT_OUT_OF_MEMORY, EXIT_REFUSED};

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Death {
    /// With an exit code of its own.
    Code(u8),
    /// For lack of memory; in words that go on from "the training process ".
    Memory(&'static str),
    /// By a crash, which may be for lack of memory or a fault; in the same words.
    Crash(&'static str),
    /// By a signal that asks a program to end, before it could listen.
    Interrupted,
    /// By anything else, in words.
    Other(String),
}

impl Death {
    pub(super) fn of(status: ExitStatus) -> Self {
        match status.code() {
            Some(code) => Self::of_code(code),
            None => Self::of_signal(status),
        }
    }

    #[cfg(not(windows))]
    fn of_code(code: i32) -> Self {
        Self::of_own_code(code)
    }

    #[cfg(windows)]
    fn of_code(code: i32) -> Self {
        Self::of_windows_code(code)
    }

    fn of_own_code(code: i32) -> Self {
        match u8::try_from(code) {
            Ok(EXIT_OUT_OF_MEMORY) => Self::Memory("lost its device"),
            Ok(EXIT_REFUSED) => Self::Memory("was refused memory by the system"),
            Ok(code) => Self::Code(code),
            Err(_) => Self::Other(format!("ended with exit code {code}")),
        }
    }

    /// Exceptions end a process with their number, of which the highest two bits are set.
    #[cfg(any(windows, test))]
    fn of_windows_code(code: i32) -> Self {
        /// What the C library's `abort` ends with.
        const ABORT: i32 = 3;
        const FIRST_EXCEPTION: u32 = 0xC000_0000;
        const NO_MEMORY: u32 = 0xC000_0017;
        const CONTROL_C: u32 = 0xC000_013A;
        const FAIL_FAST: u32 = 0xC000_0409;
        match (code, code as u32) {
            (_, CONTROL_C) => Self::Interrupted,
            (_, NO_MEMORY) => Self::Memory("was refused memory by the system"),
            (ABORT, _) | (_, FAIL_FAST) => Self::Crash("aborted"),
            (_, FIRST_EXCEPTION..) => Self::Crash("crashed"),
            (code, _) => Self::of_own_code(code),
        }
    }

    #[cfg(unix)]
    fn of_signal(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        // The one of these numbers that is not the same everywhere.
        const BUS: i32 = if cfg!(any(target_os = "linux", target_os = "android")) {
            7
        } else {
            10
        };
        match status.signal() {
            Some(9) => {
                Self::Memory("was killed (SIGKILL), as the system does when memory runs out,")
            }
            Some(4) => Self::Crash("crashed (SIGILL)"),
            Some(6) => Self::Crash("aborted (SIGABRT)"),
            Some(8) => Self::Crash("crashed (SIGFPE)"),
            Some(11) => Self::Crash("crashed (SIGSEGV)"),
            Some(BUS) => Self::Crash("crashed (SIGBUS)"),
            // SIGHUP, SIGINT, SIGTERM.
            Some(1 | 2 | 15) => Self::Interrupted,
            Some(signal) => Self::Other(format!("was ended by signal {signal}")),
            None => Self::Other(format!("ended with {status}")),
        }
    }

    #[cfg(not(unix))]
    fn of_signal(status: ExitStatus) -> Self {
        Self::Other(format!("ended with {status}"))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn code(code: i32) -> Death {
        Death::of(ExitStatus::from_raw(code << 8))
    }

    fn signal(signal: i32) -> Death {
        Death::of(ExitStatus::from_raw(signal))
    }

    #[test]
    fn exit_codes_are_passed_on() {
        for own in [0, 1, 2, 101, 130] {
            assert_eq!(code(own), Death::Code(own as u8));
        }
    }

    #[test]
    fn the_internal_exit_codes_are_not() {
        for internal in [EXIT_OUT_OF_MEMORY, EXIT_REFUSED] {
            assert!(matches!(code(i32::from(internal)), Death::Memory(_)));
        }
    }

    #[test]
    fn a_kill_is_lack_of_memory_and_a_crash_may_be() {
        assert!(matches!(signal(9), Death::Memory(words) if words.contains("SIGKILL")));
        for (number, name) in [(6, "SIGABRT"), (8, "SIGFPE"), (11, "SIGSEGV")] {
            // With a core dump too.
            for raw in [number, number | 0x80] {
                match signal(raw) {
                    Death::Crash(words) => assert!(words.contains(name), "{words}"),
                    other => panic!("{number}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn other_signals_are_not() {
        for asked in [1, 2, 15] {
            assert_eq!(signal(asked), Death::Interrupted);
        }
        assert!(matches!(signal(3), Death::Other(_)));
    }
}

#[cfg(test)]
mod windows_tests {
    use super::*;

    fn code(code: u32) -> Death {
        Death::of_windows_code(code as i32)
    }

    #[test]
    fn exceptions_and_aborts_are_told_apart() {
        for number in [0xC000_0017, 75, 76] {
            assert!(matches!(code(number), Death::Memory(_)), "{number:x}");
        }
        for number in [3, 0xC000_0005, 0xC000_0409] {
            assert!(matches!(code(number), Death::Crash(_)), "{number:x}");
        }
        assert_eq!(code(0xC000_013A), Death::Interrupted);
        assert_eq!(code(2), Death::Code(2));
    }
}
