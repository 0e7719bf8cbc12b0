//! A secret that ranks of one host share by a file which nobody but their user can read.

use crate::handshake;
use aios_base::error::{Error, Result};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System};

/// Bytes of chance.
const BYTES: usize = 32;

/// Rank 0's file, removed when this is dropped.
pub(super) struct Made(PathBuf);

impl Drop for Made {
    fn drop(&mut self) {
        // Removed already, at worst: the next job writes its own over it.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Where the ranks that one process started for a port have theirs.
pub(super) fn file(port: u16) -> PathBuf {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let folder = runtime.filter(|folder| folder.is_absolute() && folder.is_dir());
    let folder = folder.unwrap_or_else(std::env::temp_dir);
    folder.join(format!("aios-job-{}-{port}", parent()))
}

fn parent() -> u32 {
    let Ok(own) = sysinfo::get_current_pid() else {
        return 0;
    };
    let mut system = System::new();
    let wanted = ProcessesToUpdate::Some(&[own]);
    system.refresh_processes_specifics(wanted, false, ProcessRefreshKind::nothing());
    let parent = system.process(own).and_then(sysinfo::Process::parent);
    parent.map_or(0, sysinfo::Pid::as_u32)
}

/// A new secret in `file`, in place of what an earlier job left there.
///
/// # Errors
/// The folder does not allow it.
pub(super) fn make(file: &Path) -> Result<(Made, String)> {
    let made = random(BYTES).and_then(|secret| {
        // Under another name first: nobody reads half of it, and one left behind is replaced at once.
        let new = file.with_extension(format!("{}.new", random(8)?));
        let written = create(&new).and_then(|mut to| to.write_all(secret.as_bytes()));
        let made = written.and_then(|()| std::fs::rename(&new, file));
        if made.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        made.map(|()| secret)
    });
    match made {
        Ok(secret) => Ok((Made(file.to_path_buf()), secret)),
        Err(cause) => Err(Error::io(file, "write", cause)),
    }
}

/// What stands in `file`.
///
/// # Errors
/// Nothing yet; or somebody else has written it, or could have read it.
pub(super) fn read(file: &Path) -> io::Result<String> {
    let said =
        |cause: io::Error| io::Error::new(cause.kind(), format!("{}: {cause}", file.display()));
    let from = open(file).map_err(said)?;
    if !is_private(&from).map_err(said)? {
        let why = io::Error::other("it is no file of this user's alone");
        return Err(said(why));
    }
    let mut secret = String::new();
    from.take(2 * BYTES as u64 + 1)
        .read_to_string(&mut secret)
        .map_err(said)?;
    match secret.len() == 2 * BYTES {
        true => Ok(secret),
        false => Err(said(io::ErrorKind::InvalidData.into())),
    }
}

fn random(bytes: usize) -> io::Result<String> {
    let mut chance = vec![0; bytes];
    handshake::random(&mut chance)?;
    let mut text = String::new();
    for byte in chance {
        write!(text, "{byte:02x}").map_err(io::Error::other)?;
    }
    Ok(text)
}

#[cfg(unix)]
fn create(file: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)
}

/// The temporary folder is the user's own.
#[cfg(not(unix))]
fn create(file: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(file)
}

#[cfg(unix)]
fn open(file: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    // In a folder that all write to it may be a link, or a pipe that waits for ever.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(file)
}

#[cfg(not(unix))]
fn open(file: &Path) -> io::Result<File> {
    File::open(file)
}

#[cfg(unix)]
fn is_private(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let is = file.metadata()?;
    // SAFETY: it takes nothing, and cannot fail.
    let user = unsafe { libc::geteuid() };
    Ok(is.is_file() && is.uid() == user && is.mode() & 0o077 == 0)
}

#[cfg(not(unix))]
fn is_private(file: &File) -> io::Result<bool> {
    Ok(file.metadata()?.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_by_its_user_and_gone_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "left by an earlier job").unwrap();
        let (made, secret) = make(&file).unwrap();
        assert_eq!(read(&file).unwrap(), secret);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        drop(made);
        assert!(read(&file).unwrap_err().to_string().contains("secret"));
        assert!(make(&folder.path().join("none/secret")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn one_that_others_can_read_is_none_and_neither_is_a_link() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("secret"), folder.path().join("link"));
        let (_made, _) = make(&file).unwrap();
        symlink(&file, &link).unwrap();
        assert!(read(&link).is_err());
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o640)).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("this user's alone"), "{error}");
    }

    #[test]
    fn it_is_known_by_the_process_that_started_the_ranks() {
        assert!(parent() > 0);
        assert_eq!(file(7), file(7));
        assert_ne!(file(7), file(8));
    }
}
