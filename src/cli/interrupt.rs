//! Ctrl-C in commands that have nothing to save but should leave nothing behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Exit code as shells report it for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: i32 = 130;
/// `timeout` and terminals signal the process and its group, so that one wish to stop arrives twice.
const SAME_REQUEST: Duration = Duration::from_millis(50);

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
        let mut first: Option<Instant> = None;
        ctrlc::set_handler(move || {
            seen.store(true, Ordering::Relaxed);
            if first.get_or_insert_with(Instant::now).elapsed() > SAME_REQUEST {
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
