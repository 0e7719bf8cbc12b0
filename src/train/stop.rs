//! When to stop early: Ctrl-C, SIGTERM, a closed terminal, or a file that appears.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::train::progress;

/// Exit code of a process that a second Ctrl-C ends, as shells report it for the first signal of most programs.
const EXIT_INTERRUPTED: i32 = 130;

/// Requests closer together than this are one: `timeout` and terminals signal the process and its group, so that one
/// wish to stop arrives twice.
const SAME_REQUEST: Duration = Duration::from_millis(50);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<Result<(), String>> = OnceLock::new();

/// Why training is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Ctrl-C, SIGTERM or a closed terminal.
    Interrupt,
    /// The file of `--stop-file` appeared.
    StopFile,
}

impl StopReason {
    /// The reason as the metrics file's `end` event names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Interrupt => "interrupted",
            Self::StopFile => "stop_file",
        }
    }
}

/// Watches for requests to stop. Ask it between micro-batches.
#[derive(Debug)]
pub struct StopSignal {
    interrupted: &'static AtomicBool,
    stop_file: Option<PathBuf>,
}

impl StopSignal {
    /// Takes over Ctrl-C and SIGTERM: the first only asks to stop, a second ends the process at once with exit code 130.
    ///
    /// # Errors
    /// A stop file that exists already (training would end before it began), or signals that cannot be caught.
    pub fn install(stop_file: Option<PathBuf>) -> Result<Self> {
        refuse_existing(stop_file.as_deref())?;
        HANDLER
            .get_or_init(install_handler)
            .clone()
            .map_err(|cause| Error::failed(format!("cannot catch Ctrl-C: {cause}")))?;
        Ok(Self {
            interrupted: &INTERRUPTED,
            stop_file,
        })
    }

    /// The reason to stop now, or `None` to go on.
    pub fn requested(&self) -> Option<StopReason> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Some(StopReason::Interrupt);
        }
        let stop_file = self.stop_file.as_ref()?;
        stop_file.exists().then_some(StopReason::StopFile)
    }
}

fn refuse_existing(stop_file: Option<&std::path::Path>) -> Result<()> {
    match stop_file {
        Some(path) if path.exists() => Err(Error::invalid(format!(
            "--stop-file {} exists already and would stop training before it starts: remove it first",
            path.display()
        ))),
        _ => Ok(()),
    }
}

fn install_handler() -> Result<(), String> {
    let first: Mutex<Option<Instant>> = Mutex::new(None);
    ctrlc::set_handler(move || {
        let mut first = first
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match *first {
            None => {
                *first = Some(Instant::now());
                INTERRUPTED.store(true, Ordering::Relaxed);
                say("stopping: finishing this micro-batch and saving; Ctrl-C again leaves at once");
            }
            Some(at) if at.elapsed() < SAME_REQUEST => {}
            Some(_) => std::process::exit(EXIT_INTERRUPTED),
        }
    })
    .map_err(|cause| cause.to_string())
}

fn say(line: &str) {
    // A closed stderr is no reason to go on training.
    let _ = writeln!(progress::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watching(stop_file: Option<PathBuf>) -> StopSignal {
        StopSignal {
            interrupted: Box::leak(Box::new(AtomicBool::new(false))),
            stop_file,
        }
    }

    #[test]
    fn nothing_is_requested_at_first() {
        assert_eq!(watching(None).requested(), None);
    }

    #[test]
    fn an_interrupt_is_reported() {
        let signal = watching(None);
        signal.interrupted.store(true, Ordering::Relaxed);
        assert_eq!(signal.requested(), Some(StopReason::Interrupt));
    }

    #[test]
    fn the_stop_file_stops_once_it_appears() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stop");
        let signal = watching(Some(path.clone()));
        assert_eq!(signal.requested(), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(signal.requested(), Some(StopReason::StopFile));
    }

    #[test]
    fn a_stop_file_left_from_before_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stop");
        std::fs::write(&path, "").unwrap();
        let error = StopSignal::install(Some(path.clone())).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("remove it first"), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn installing_twice_in_one_process_is_fine() {
        StopSignal::install(None).unwrap();
        StopSignal::install(None).unwrap();
    }
}
