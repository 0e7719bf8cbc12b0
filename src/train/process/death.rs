//! What the way a child ended says.

use std::process::ExitStatus;

use super::EXIT_OUT_OF_MEMORY;

/// How a child ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Death {
    /// With an exit code of its own.
    Code(u8),
    /// As processes do for which there is no memory; in words that go on from "the training process ".
    Memory(&'static str),
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
        match u8::try_from(code) {
            Ok(EXIT_OUT_OF_MEMORY) => Self::Memory("lost its device"),
            Ok(code) => Self::Code(code),
            Err(_) => Self::Other(format!("ended with exit code {code}")),
        }
    }

    /// Exceptions end a process with their number, of which the highest two bits are set.
    #[cfg(windows)]
    fn of_code(code: i32) -> Self {
        /// What the C library's `abort` ends with.
        const ABORT: i32 = 3;
        const FIRST_EXCEPTION: u32 = 0xC000_0000;
        const CONTROL_C: u32 = 0xC000_013A;
        const FAIL_FAST: u32 = 0xC000_0409;
        match (code, code as u32) {
            (_, CONTROL_C) => Self::Interrupted,
            (ABORT, _) | (_, FAIL_FAST) => {
                Self::Memory("aborted, as it does when an allocation fails,")
            }
            (_, FIRST_EXCEPTION..) => {
                Self::Memory("crashed, as a driver may that runs out of memory,")
            }
            (code, _) => match u8::try_from(code) {
                Ok(EXIT_OUT_OF_MEMORY) => Self::Memory("lost its device"),
                Ok(code) => Self::Code(code),
                Err(_) => Self::Other(format!("ended with exit code {code}")),
            },
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
            Some(6) => Self::Memory("aborted (SIGABRT), as it does when an allocation fails,"),
            Some(11) => Self::Memory("crashed (SIGSEGV), as a driver may that runs out of memory,"),
            Some(BUS) => Self::Memory("crashed (SIGBUS), as a driver may that runs out of memory,"),
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
    fn the_internal_exit_code_is_not() {
        assert!(matches!(
            code(i32::from(EXIT_OUT_OF_MEMORY)),
            Death::Memory(_)
        ));
    }

    #[test]
    fn deaths_for_lack_of_memory_are_told_by_their_signals() {
        for (number, name) in [(6, "SIGABRT"), (9, "SIGKILL"), (11, "SIGSEGV")] {
            // With a core dump too.
            for raw in [number, number | 0x80] {
                match signal(raw) {
                    Death::Memory(words) => assert!(words.contains(name), "{words}"),
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

#[cfg(all(test, windows))]
mod tests {
    use std::os::windows::process::ExitStatusExt;

    use super::*;

    fn code(code: u32) -> Death {
        Death::of(ExitStatus::from_raw(code))
    }

    #[test]
    fn exceptions_and_aborts_are_lack_of_memory() {
        for number in [3, 0xC000_0005, 0xC000_0409, 0xC000_0017, 75] {
            assert!(matches!(code(number), Death::Memory(_)), "{number:x}");
        }
        assert_eq!(code(0xC000_013A), Death::Interrupted);
        assert_eq!(code(2), Death::Code(2));
    }
}
