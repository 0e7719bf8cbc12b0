//! Where a report is written to: never over what is no report, and never half of one.

use crate::report::kind_of;
use aios_base::error::{Error, Result};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::Builder;

/// The file of a page.
#[derive(Debug)]
pub struct Output {
    /// As it was given.
    given: PathBuf,
    /// Where it lies, behind any links.
    path: PathBuf,
}

impl Output {
    /// A place for a page: where nothing is, or a page of ours.
    ///
    /// # Errors
    /// Anything else that is there, whatever it is.
    pub fn new(path: &Path) -> Result<Self> {
        let place = match path.canonicalize() {
            Ok(real) => real,
            Err(cause) if cause.kind() == ErrorKind::NotFound && !path.is_symlink() => path.into(),
            Err(cause) => return Err(Error::io(path, "write the report to", cause)),
        };
        let output = Self {
            given: path.to_path_buf(),
            path: place,
        };
        output.check()?;
        match output.folder().is_dir() {
            true => Ok(output),
            false => {
                let missing = format!("there is no folder {}", output.folder().display());
                Err(output.cannot(io::Error::new(ErrorKind::NotFound, missing)))
            }
        }
    }

    fn folder(&self) -> &Path {
        let folder = self.path.parent();
        let named = folder.filter(|folder| !folder.as_os_str().is_empty());
        named.unwrap_or(Path::new("."))
    }

    fn check(&self) -> Result<()> {
        let meta = match fs::metadata(&self.path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => return Ok(()),
            meta => meta.map_err(|cause| self.cannot(cause))?,
        };
        let shown = self.given.display();
        if !meta.is_file() {
            let what = kind_of(meta.file_type());
            return Err(Error::invalid(format!(
                "-o {shown} is {what}: name a file for the report"
            )));
        }
        match begins_as_a_page(&self.path).map_err(|cause| self.cannot(cause))? {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "-o {shown} is there and is no report of aios: name another file, or remove it first"
            ))),
        }
    }

    /// Write the page: aside first, then in the place of what was there.
    ///
    /// # Errors
    /// A folder that is missing or cannot be written, or a full disk; what was there stays then.
    pub fn write(&self, page: &str) -> Result<()> {
        // Reading the runs took its time.
        self.check()?;
        self.replace(page.as_bytes())
            .map_err(|cause| self.cannot(cause))
    }

    fn replace(&self, page: &[u8]) -> io::Result<()> {
        let mut aside = Builder::new();
        aside.prefix(".aios-report-").suffix(".html");
        // As for any other file that is made here, not the secret one of a temporary file.
        #[cfg(unix)]
        aside.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = aside.tempfile_in(self.folder()).map_err(|cause| {
            let folder = self.folder().display();
            let why = format!("no file can be made in {folder}: {}", cause.kind());
            io::Error::new(cause.kind(), why)
        })?;
        file.write_all(page)?;
        if let Ok(meta) = fs::metadata(&self.path) {
            file.as_file().set_permissions(meta.permissions())?;
        }
        // Some file systems find out here that the disk is full.
        file.as_file().sync_all()?;
        file.persist(&self.path).map_err(|failed| failed.error)?;
        Ok(())
    }

    fn cannot(&self, cause: io::Error) -> Error {
        Error::io(&self.given, "write the report to", cause)
    }
}

fn begins_as_a_page(path: &Path) -> io::Result<bool> {
    let wanted = super::page::beginning().as_bytes();
    let mut found = Vec::new();
    let length = wanted.len() as u64;
    File::open(path)?.take(length).read_to_end(&mut found)?;
    Ok(found == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> String {
        format!("{}the rest", super::super::page::beginning())
    }

    #[test]
    fn only_a_page_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.html");
        Output::new(&path).unwrap().write(&page()).unwrap();
        Output::new(&path).unwrap().write("new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        for (text, code) in [("<!doctype html>\n<html><head>", 2), ("", 2)] {
            fs::write(&path, text).unwrap();
            let error = Output::new(&path).unwrap_err();
            assert_eq!(error.exit_code(), code);
            assert!(error.to_string().contains("no report of aios"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let error = Output::new(dir.path()).unwrap_err();
        assert!(error.to_string().contains("is a directory"), "{error}");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            1,
            "nothing stays aside"
        );
    }

    #[test]
    fn what_comes_while_the_runs_are_read_is_safe_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.html");
        let output = Output::new(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert!(output.write(&page()).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_to_the_page_and_stay() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let [page_file, link, other] = ["page", "link", "other"].map(|name| dir.path().join(name));
        fs::write(&page_file, page()).unwrap();
        fs::set_permissions(&page_file, PermissionsExt::from_mode(0o640)).unwrap();
        symlink("page", &link).unwrap();
        Output::new(&link).unwrap().write("new").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&page_file).unwrap(), b"new");
        let mode = fs::metadata(&page_file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        symlink("nowhere", &other).unwrap();
        let error = Output::new(&other).unwrap_err().to_string();
        assert!(
            error.contains("link to nowhere, which is missing"),
            "{error}"
        );
    }
}
