//! The child's side: what it tells its parent, and the thread that listens to it.

use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::notes::{Notebook, Outcome, Restart, Status};
use crate::stop;
use crate::stop::EXIT_INTERRUPTED;
use crate::{EXIT_REFUSED, RESTART, STDIN, SUPERVISED, line};
use aios_base::error::{Error, Result};

/// The training process's tie to the one that watches over it, if any.
#[derive(Debug, Clone, Default)]
pub struct Supervised {
    notebook: Option<Notebook>,
    restart: Option<Restart>,
    /// Where the parent put what came in on its standard input.
    stdin: Option<PathBuf>,
    /// A note that could not be written has been spoken of.
    warned: Arc<AtomicBool>,
}

impl Supervised {
    /// This process trains on its own account.
    pub fn not() -> Self {
        Self::default()
    }

    /// What the environment says, and from now on this process obeys its parent; `None` if it is no child of another
    /// `aios train`.
    ///
    /// # Errors
    /// A restart that does not make sense, or signals that cannot be caught.
    pub fn from_env() -> Result<Option<Self>> {
        let notebook = std::env::var_os(SUPERVISED).and_then(|dir| Notebook::open(dir.into()));
        let Some(notebook) = notebook else {
            return Ok(None);
        };
        let restart = match std::env::var(RESTART) {
            Ok(text) => Some(serde_json::from_str(&text).map_err(|cause| {
                Error::failed(format!("{RESTART} is `{text}`: {cause}; unset it"))
            })?),
            Err(_) => None,
        };
        stop::only_ask()?;
        stop::tell_refused_memory(i32::from(EXIT_REFUSED))
            .map_err(|cause| Error::failed(format!("cannot catch SIGABRT: {cause}")))?;
        listen(notebook.clone())?;
        Ok(Some(Self {
            notebook: Some(notebook),
            restart,
            stdin: std::env::var_os(STDIN).map(PathBuf::from),
            warned: Arc::default(),
        }))
    }

    /// What to do otherwise than the process that died before.
    pub fn restart(&self) -> Option<&Restart> {
        self.restart.as_ref()
    }

    /// Where the text in `path` is to be found, if the parent read it from standard input.
    ///
    /// # Errors
    /// If this process is a child, and its parent has not.
    pub fn stdin(&self, path: &Path) -> Result<Option<PathBuf>> {
        match (
            path == Path::new(aios_base::config::STDIN),
            &self.notebook,
            &self.stdin,
        ) {
            (true, Some(_), None) => Err(Error::invalid(
                "the saved run read its text from standard input: give --dataset-file - again, with the same text, \
                 or --dataset-file with a file of it",
            )),
            (true, _, spool) => Ok(spool.clone()),
            (false, ..) => Ok(None),
        }
    }

    /// Tell the parent where the training is.
    pub fn report(&self, status: &Status) {
        self.note(|notebook| notebook.status(status));
    }

    /// Tell the parent how the training ended.
    pub fn ended(&self, outcome: &Outcome) {
        self.note(|notebook| notebook.outcome(outcome));
    }

    /// Training matters more than its notes: a folder that cannot be written is worth a warning.
    fn note(&self, write: impl FnOnce(&Notebook) -> Result<()>) {
        let Some(notebook) = &self.notebook else {
            return;
        };
        if let Err(cause) = write(notebook)
            && !self.warned.swap(true, Ordering::Relaxed)
        {
            tracing::warn!("a run that dies may go on from an older step: {cause}");
        }
    }
}

/// Starts the thread that does what the parent says.
fn listen(notebook: Notebook) -> Result<()> {
    std::thread::Builder::new()
        .name("aios-parent-watch".into())
        .spawn(move || obey(io::stdin().lock(), &notebook))
        .map(drop)
        .map_err(|cause| Error::failed(format!("cannot start a thread: {cause}")))
}

fn obey(mut parent: impl Read, notebook: &Notebook) {
    let mut message = [0];
    loop {
        match parent.read(&mut message) {
            Ok(1) if message[0] == line::STOP => stop::ask(),
            Ok(1) if message[0] == line::STOP_IF_IDLE => stop::ask_if_idle(),
            Ok(1) if message[0] == line::QUIT => stop::end_now(EXIT_INTERRUPTED),
            Ok(1) => {}
            Err(cause) if cause.kind() == ErrorKind::Interrupted => {}
            // The parent is gone, whatever ended it: nobody would know of this process any more.
            Ok(_) | Err(_) => {
                notebook.remove();
                stop::end_now(EXIT_INTERRUPTED);
            }
        }
    }
}
