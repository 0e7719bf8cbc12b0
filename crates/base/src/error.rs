//! The one error type: a clear line for the user and the exit code that goes with it.

use std::io;
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
    /// Something could not be written, and nothing else is wrong, so that the work can go on without it: exit code 1.
    #[error("{0}")]
    NotWritten(String),
    /// Ctrl-C or the like, before there was anything to save: exit code 0.
    #[error("stopped on request")]
    Stopped,
    /// A file or directory could not be read or written: exit code 1.
    #[error("cannot {verb} {}: {source}", shown(path))]
    Io {
        path: PathBuf,
        verb: &'static str,
        source: io::Error,
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
    pub fn failed(message: impl ToString) -> Self {
        Self::Failed(message.to_string())
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

    /// `verb` completes "cannot VERB PATH: cause", as in "read" or "write". Where the path leads through a link to
    /// something missing, the cause says so.
    pub fn io(path: impl AsRef<Path>, verb: &'static str, source: io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        let source = match source.kind() {
            // What systems say of such a link.
            io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound => match dangling(&path) {
                Some(why) => io::Error::new(source.kind(), why),
                None => source,
            },
            _ => source,
        };
        Self::Io { path, verb, source }
    }

    /// The line with which it ends a program.
    pub fn last_words(&self) -> String {
        match self {
            Self::Stopped => self.to_string(),
            _ => format!("error: {}", shortened(&self.to_string())),
        }
    }

    /// Process exit code: 2 for bad arguments, 0 for what the user asked for, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) => 2,
            Self::Stopped => 0,
            Self::Failed(_)
            | Self::OutOfMemory(_)
            | Self::Device(_)
            | Self::NotWritten(_)
            | Self::Io { .. } => 1,
        }
    }
}

/// Whether `path` or a folder on the way to it is a link to something missing, in words. [`Error::io`] asks by itself.
pub fn dangling(path: &Path) -> Option<String> {
    let missing = |link: &&Path| {
        link.is_symlink()
            && std::fs::metadata(link).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
    };
    let link = path.ancestors().find(missing)?;
    let target = std::fs::read_link(link).ok()?;
    let (name, target) = (link.display(), target.display());
    let link = match link == path {
        true => "it".to_string(),
        false => name.to_string(),
    };
    Some(format!(
        "{link} is a link to {target}, which is missing: create that or remove the link"
    ))
}

/// A path as the user can recognise it: bytes that are not UTF-8 are written out, as in `caf\xE9.txt`.
pub fn shown(path: &Path) -> String {
    match path.to_str() {
        Some(text) => text.to_string(),
        None => {
            let quoted = format!("{:?}", path.as_os_str());
            quoted.trim_matches('"').to_string()
        }
    }
}

/// How much of a message is shown: what a file or a library says may hold megabytes.
const LONGEST_MESSAGE: usize = 2000;

/// The text in one line, with its middle left out where it is too long to be read, and without characters that would
/// move a terminal's cursor.
pub fn shortened(text: &str) -> String {
    let lines = text.split(['\n', '\r']).map(str::trim);
    let line = lines.collect::<Vec<_>>().join(" ");
    let line = line.replace(char::is_control, "\u{FFFD}");
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

    #[cfg(unix)]
    #[test]
    fn a_link_to_something_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        let made = std::fs::create_dir_all(&link).unwrap_err();
        let said = Error::io(&link, "create", made).to_string();
        let why = "it is a link to nowhere, which is missing";
        assert!(said.contains(why), "{said}");
        let below = link.join("a/b");
        let made = std::fs::create_dir_all(&below).unwrap_err();
        let said = Error::io(&below, "create", made).to_string();
        assert!(
            said.contains(&format!("{} is a link to nowhere", link.display())),
            "{said}"
        );
        assert!(
            Error::io(dir.path().join("a"), "read", io::ErrorKind::NotFound.into())
                .to_string()
                .contains("not found")
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_not_utf8_shows_its_bytes() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"caf\xE9.txt"));
        assert_eq!(shown(path), "caf\\xE9.txt");
        assert_eq!(shown(Path::new("naïve \"a\".txt")), "naïve \"a\".txt");
    }

    #[test]
    fn a_message_keeps_its_beginning_and_its_end() {
        assert_eq!(shortened("a\nb"), "a b");
        assert_eq!(shortened("\u{1b}[2Ja"), "\u{FFFD}[2Ja");
        let long = format!("cannot read é{}: no such file", "é".repeat(1_000_000));
        let short = shortened(&long);
        assert!(short.len() < LONGEST_MESSAGE + 10);
        assert!(short.starts_with("cannot read") && short.ends_with("no such file"));
    }
}
