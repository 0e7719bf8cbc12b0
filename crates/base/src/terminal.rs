//! Standard error and standard output, which never end the program: a reader that has gone, a full disk behind a
//! redirection or a closed descriptor is no reason to lose a training. The macros of the standard library (`eprintln!`)
//! panic there; clippy keeps them out of this crate.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, WeakProgressBar};

use crate::error::{Error, Result};

/// The bar on screen, if any: whoever else writes to standard error has to write above it.
static ON_SCREEN: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// From now on, what is written to [`stderr`] appears above this bar.
pub fn keep_below(bar: &ProgressBar) {
    *ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar.downgrade());
}

/// Whether standard error is a terminal that can move its cursor, as a bar and colours need. It asks the library that
/// draws the bar: were the two of different minds, nothing at all would be shown.
pub fn is_capable() -> bool {
    !ProgressDrawTarget::stderr().is_hidden()
}

/// Whether colours are wanted there as well (<https://no-color.org>: NO_COLOR is set, and not empty).
pub fn is_coloured() -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    is_capable() && !no_color
}

/// A line to the user, on standard error.
pub fn say(text: &str) {
    // Nobody reads it: nothing to be done about that.
    let _ = stderr().write_all(format!("{text}\n").as_bytes());
}

/// A writer to standard error that keeps the progress bar intact: text appears above it. It reports no failure, since
/// those who write warnings panic or complain to standard error when they cannot write to standard error.
pub fn stderr() -> AboveBar {
    AboveBar
}

/// See [`stderr`].
#[derive(Debug, Clone, Copy)]
pub struct AboveBar;

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let write = || {
            let _ = io::stderr().write_all(bytes);
        };
        match bar_on_screen() {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = io::stderr().flush();
        Ok(())
    }
}

fn bar_on_screen() -> Option<ProgressBar> {
    let guard = ON_SCREEN.lock().unwrap_or_else(PoisonError::into_inner);
    guard.as_ref()?.upgrade()
}

/// Writes `bytes` to standard output and flushes it.
///
/// # Errors
/// The reader has gone, or the disk is full.
pub fn write_stdout(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .map_err(|cause| Error::io("standard output", "write to", cause))
}

/// A value as one line of JSON.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn to_json_line(value: &impl serde::Serialize) -> Result<String> {
    let json = serde_json::to_string(value)
        .map_err(|cause| Error::failed(format!("cannot write JSON: {cause}")))?;
    Ok(json + "\n")
}
