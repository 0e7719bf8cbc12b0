//! `aios man`: the manual pages, made from the same texts as `--help`.

use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};

use crate::cli::Cli;
use aios_base::error::{Error, Result};
use aios_base::terminal::write_stdout;

/// Arguments of `aios man`.
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Write one page per command into this directory, which is created if needed; without it,
    /// aios(1) goes to standard output
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Writes the page of `aios` to standard output, or the pages of all commands into a directory.
pub fn run(args: ManArgs) -> Result<()> {
    match args.dir {
        Some(directory) => write_pages(&directory),
        None => write_stdout(&main_page()?),
    }
}

fn main_page() -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(Cli::command())
        .render(&mut bytes)
        .map_err(|cause| Error::failed(format!("cannot make the manual page: {cause}")))?;
    Ok(bytes)
}

fn write_pages(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)
        .map_err(|cause| Error::io(directory, "create the directory", cause))?;
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|cause| Error::io(directory, "write manual pages to", cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn main_page_names_the_commands() {
        let page = String::from_utf8(main_page().unwrap()).unwrap();
        assert!(page.contains(".TH aios 1"), "{page}");
        assert!(page.contains("generate"), "{page}");
    }

    #[test]
    fn every_command_gets_a_page_in_a_new_directory() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("share/man1");
        write_pages(&directory).unwrap();
        for page in ["aios.1", "aios-train.1", "aios-hrm-hf-train-actv1.1"] {
            assert!(directory.join(page).is_file(), "{page}");
        }
    }

    #[test]
    fn a_file_in_the_way_is_an_error_with_its_path() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = write_pages(file.path()).unwrap_err();
        let path = file.path().display().to_string();
        assert!(error.to_string().contains(&path), "{error}");
    }
}
