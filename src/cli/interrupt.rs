//! Ctrl-C in commands that have nothing to save but should leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Exit code as shells report it for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;

/// Whether Ctrl-C or SIGTERM came.
#[derive(Clone, Debug)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes over Ctrl-C and SIGTERM: the first only asks to stop, a second ends the process at once.
    ///
    /// # Errors
    /// Signals that cannot be caught.
    pub fn catch() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&asked);
        ctrlc::set_handler(move || {
            if seen.swap(true, Ordering::Relaxed) {
                std::process::exit(EXIT_INTERRUPTED);
            }
        })
        .map_err(|cause| Error::failed(format!("cannot catch Ctrl-C: {cause}")))?;
        Ok(Self(asked))
    }

    /// It came.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// # Errors
    /// It came.
    pub fn check(&self) -> Result<()> {
        match self.is_asked() {
            true => Err(Error::Stopped),
            false => Ok(()),
        }
    }
}
