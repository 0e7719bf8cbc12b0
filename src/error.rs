//! The one error type: a clear line for the user and the exit code that goes with it.

use std::path::{Path, PathBuf};

/// What went wrong, in one line that names the cause, the value and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Bad arguments or configuration: exit code 2.
    #[error("{0}")]
    Invalid(String),
    /// The work itself failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// Memory was refused before anything was changed, so that the work can be tried again in
    /// smaller parts: exit code 1.
    #[error("{0}")]
    OutOfMemory(String),
    /// The device failed in the midst of the work, and nothing on it can be trusted: exit code 1.
    #[error("{0}")]
    Device(String),
    /// Ctrl-C or the like, before there was anything to save: exit code 0.
    #[error("stopped on request")]
    Stopped,
    /// A file or directory could not be read or written: exit code 1.
    #[error("cannot {verb} {}: {source}", path.display())]
    Io {
        path: PathBuf,
        verb: &'static str,
        source: std::io::Error,
    },
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Bad arguments or configuration (exit code 2).
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    /// The work itself failed (exit code 1).
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// The same, said of what stands in a file: then no argument is wrong (exit code 1).
    pub fn of_file(self, place: impl std::fmt::Display) -> Self {
        match self {
            Self::Invalid(message) | Self::Failed(message) => {
                Self::Failed(format!("{place}: {message}"))
            }
            other => other,
        }
    }

    /// `verb` completes "cannot VERB PATH: cause", as in "read" or "write".
    pub fn io(path: impl AsRef<Path>, verb: &'static str, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            verb,
            source,
        }
    }

    /// Process exit code: 2 for bad arguments, 0 for what the user asked for, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 2,
            Self::Stopped => 0,
            Self::Failed(_) | Self::OutOfMemory(_) | Self::Device(_) | Self::Io { .. } => 1,
        }
    }
}

/// How much of a message is shown: what a file or a library says may hold megabytes.
const LONGEST_MESSAGE: usize = 2000;

/// The text in one line, with its middle left out where it is too long to be read.
pub fn shortened(text: &str) -> String {
    let line = text
        .split(['\n', '\r'])
        .map(str::trim)
        .collect::<Vec<_>>()
        .join(" ");
    if line.len() <= LONGEST_MESSAGE {
        return line;
    }
    let head = line.floor_char_boundary(LONGEST_MESSAGE / 2);
    let tail = line.ceil_char_boundary(line.len() - LONGEST_MESSAGE / 2);
    format!("{} […] {}", &line[..head], &line[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("a\nb"), "a b");
        let long = format!("cannot read é{}: no such file", "é".repeat(1_000_000));
        let short = shortened(&long);
        assert!(short.len() < LONGEST_MESSAGE + 10);
        assert!(short.starts_with("cannot read") && short.ends_with("no such file"));
    }
}
