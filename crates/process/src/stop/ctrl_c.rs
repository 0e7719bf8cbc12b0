//! Ctrl-C as a wish to end what is being done, not the program.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{EXIT_INTERRUPTED, end_now};
use aios_base::error::{Error, Result};

/// A press that nobody has answered yet.
static PRESSED: AtomicBool = AtomicBool::new(false);

/// Ctrl-C, taken over for the rest of the program: a press is kept until it is asked for, and one more before that ends the
/// program at once with exit code 130. A terminal in raw mode sends no such signal.
#[derive(Debug)]
pub struct CtrlC(());

impl CtrlC {
    /// # Errors
    /// Signals that cannot be caught.
    pub fn take_over() -> Result<Self> {
        super::platform::on_ctrl_c(press)
            .map_err(|cause| Error::failed(format!("cannot catch Ctrl-C: {cause}")))?;
        Ok(Self(()))
    }

    /// Whether it was pressed since the last time that this was asked.
    pub fn was_pressed(&self) -> bool {
        PRESSED.swap(false, Ordering::SeqCst)
    }
}

/// Only what a signal handler may do.
fn press() {
    if PRESSED.swap(true, Ordering::SeqCst) {
        end_now(EXIT_INTERRUPTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_press_is_told_once() {
        let ctrl_c = CtrlC(());
        assert!(!ctrl_c.was_pressed());
        press();
        assert!(ctrl_c.was_pressed() && !ctrl_c.was_pressed());
    }
}
