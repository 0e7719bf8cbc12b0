//! Work that may take long, watched by a caller who may end it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fault::contained;

/// Told the bytes done so far and in all (0 if that is not known), many times a second; an error it gives ends the work
/// at once.
pub type Watch<'a> = dyn FnMut(u64, u64) -> Result<()> + 'a;

/// How often the caller is asked whether to go on.
const PATIENCE: Duration = Duration::from_millis(50);
/// What deeply nested files need.
const STACK_BYTES: usize = 16 << 20;

/// Runs `work` on a thread of its own and asks `watch` meanwhile, telling it what `progress` says. If `watch` ends the
/// work, the thread is left to itself, with whatever it has.
///
/// # Errors
/// Those of `work` and `watch`, or a panic in a library, named with `subject`.
pub fn watched<T: Send + 'static>(
    subject: &str,
    watch: &mut Watch,
    progress: impl Fn() -> (u64, u64),
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = channel();
    spawn("aios-work", move || {
        // Whoever gave up does not listen any more.
        let _ = sender.send(contained(work));
    })?;
    let done = receive(&receiver, watch, progress)?;
    match done {
        Some(Ok(result)) => result,
        Some(Err(panic)) => Err(library_failed(subject, &panic)),
        None => Err(library_failed(subject, "it left no word")),
    }
}

/// The next message, or `None` if there will be none; `watch` is asked while it is waited for.
///
/// # Errors
/// What `watch` gives.
pub fn receive<T>(
    receiver: &Receiver<T>,
    watch: &mut Watch,
    progress: impl Fn() -> (u64, u64),
) -> Result<Option<T>> {
    loop {
        match receiver.recv_timeout(PATIENCE) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                let (done, all) = progress();
                watch(done, all)?;
            }
        }
    }
}

/// Starts a thread that nobody waits for.
///
/// # Errors
/// If the system has none left.
pub fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_string())
        .stack_size(STACK_BYTES)
        .spawn(work)
        .map(drop)
        .map_err(|cause| Error::failed(format!("cannot start a thread: {cause}")))
}

/// A mistake of a library's on the file `subject`.
pub fn library_failed(subject: &str, panic: &str) -> Error {
    Error::failed(format!(
        "{subject} cannot be used: the library that reads it fails at it ({panic}), so it is damaged or made by hand"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_watched_can_be_ended_at_once() {
        let started = std::time::Instant::now();
        let mut asked = 0;
        let mut watch = |_, _| {
            asked += 1;
            match asked {
                2 => Err(Error::Stopped),
                _ => Ok(()),
            }
        };
        let work = || {
            std::thread::sleep(Duration::from_secs(600));
            Ok(())
        };
        let ended = watched("a file", &mut watch, || (0, 0), work);
        assert!(matches!(ended, Err(Error::Stopped)));
        assert!(started.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_panic_is_an_error_that_names_the_file() {
        let work = || -> Result<()> { panic!("index 3\nout of bounds") };
        let error = watched("a.json", &mut |_, _| Ok(()), || (0, 0), work).unwrap_err();
        assert_eq!(error.exit_code(), 1);
        let text = error.to_string();
        assert!(
            text.contains("a.json") && text.contains("index 3 out of bounds"),
            "{text}"
        );
    }
}
