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

    /// `verb` completes "cannot VERB PATH: cause", as in "read" or "write".
    pub fn io(path: impl AsRef<Path>, verb: &'static str, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            verb,
            source,
        }
    }

    /// Process exit code: 2 for bad arguments, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 2,
            Self::Failed(_) | Self::OutOfMemory(_) | Self::Device(_) | Self::Io { .. } => 1,
        }
    }
}
