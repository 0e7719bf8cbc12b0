//! When to stop early: Ctrl-C, SIGTERM, a closed terminal, or a file that appears.
//!
//! A request is a flag that the work asks for between its parts: batches of text, micro-batches. Where nothing would be
//! lost by it the process ends by itself a moment later, whatever it is at: loading, downloading, a compiler.

#[cfg(any(windows, test))]
mod console;
mod ctrl_c;
mod platform;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aios_base::error::{Error, Result};
use aios_base::terminal;
pub use ctrl_c::CtrlC;
pub(super) use platform::{Sent, catch, forget_ignored, ignored_for_child, tell_refused_memory};
pub use platform::{end_now, survive_file_limits};
use serde::{Deserialize, Serialize};

/// Exit code of a process that a second Ctrl-C ends, as shells report it for the first signal of most programs.
pub const EXIT_INTERRUPTED: i32 = 130;

/// Requests closer together than this are one: `timeout` and terminals signal the process and its group, so that one
/// wish to stop arrives twice.
const SAME_REQUEST: Duration = Duration::from_millis(50);

/// How long work that would lose nothing may take to end in its own way, which is the tidier one.
const GRACE: Duration = Duration::from_millis(400);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static HANDLER: OnceLock<Result<(), String>> = OnceLock::new();
static SILENT: AtomicBool = AtomicBool::new(false);
static STAKE: AtomicU8 = AtomicU8::new(Stake::Nothing as u8);
static FAREWELL: Mutex<Option<Farewell>> = Mutex::new(None);

/// What to do when the process ends by itself, and its exit code then.
struct Farewell {
    say: Box<dyn FnOnce() + Send>,
    code: i32,
}

/// What would be lost if the process ended now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stake {
    Nothing,
    /// Steps that are not saved yet.
    Steps,
    /// The work is ending in its own way.
    Ending,
}

/// From now on, nothing would be lost by ending: `say` then has the last word, and `code` is the exit code.
pub fn nothing_at_stake(code: i32, say: impl FnOnce() + Send + 'static) {
    let say = Box::new(say);
    *FAREWELL.lock().unwrap_or_else(PoisonError::into_inner) = Some(Farewell { say, code });
    let unless_ending = |stake| (stake != Stake::Ending as u8).then_some(Stake::Nothing as u8);
    // What is ending goes on doing so.
    let _ = STAKE.fetch_update(Ordering::SeqCst, Ordering::SeqCst, unless_ending);
}

/// From now on, there are steps that have to be saved first.
pub fn steps_at_stake() {
    STAKE.store(Stake::Steps as u8, Ordering::SeqCst);
}

/// From now on, the work ends in its own way.
pub fn ending() {
    STAKE.store(Stake::Ending as u8, Ordering::SeqCst);
}

fn is_at_stake(stake: Stake) -> bool {
    STAKE.load(Ordering::SeqCst) == stake as u8
}

/// Why training is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        Self::install_again(stop_file)
    }

    /// The same for a run that goes on by itself: if the stop file has appeared meanwhile, it is meant.
    ///
    /// # Errors
    /// Signals that cannot be caught.
    pub fn install_again(stop_file: Option<PathBuf>) -> Result<Self> {
        installed(install_handler)?;
        Ok(Self {
            interrupted: &INTERRUPTED,
            stop_file,
        })
    }

    /// Go on, unless there is a reason to stop.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub fn check(&self) -> Result<()> {
        match self.requested() {
            Some(_) => Err(Error::Stopped),
            None => Ok(()),
        }
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

/// What a request to stop means, after those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// The first: stop when it suits.
    Stop,
    /// The first once more.
    Same,
    /// A later one: leave at once.
    Quit,
}

/// Requests to stop, as they come in.
#[derive(Debug, Default)]
pub(super) struct Requests {
    first: Option<Instant>,
}

impl Requests {
    /// Takes a request that came in `at` this time.
    pub(super) fn next(&mut self, at: Instant) -> Request {
        match self.first {
            None => {
                self.first = Some(at);
                Request::Stop
            }
            Some(first) if at.duration_since(first) < SAME_REQUEST => Request::Same,
            Some(_) => Request::Quit,
        }
    }
}

fn install_handler() -> Result<(), String> {
    let mut requests = Requests::default();
    catch(move |sent| {
        if sent == Sent::ThoughIgnored {
            return ask_if_idle();
        }
        match requests.next(Instant::now()) {
            Request::Stop => ask(),
            Request::Same => {}
            Request::Quit => end_now(EXIT_INTERRUPTED),
        }
    })
}

/// Takes over Ctrl-C and SIGTERM for a process whose parent passes them on: signals only ask to stop, however many come.
/// A terminal sends them to both processes, so that they arrive twice at any distance; which of them is a second wish is
/// for the parent to say.
///
/// # Errors
/// Signals that cannot be caught.
pub(super) fn only_ask() -> Result<()> {
    forget_ignored();
    installed(|| {
        catch(|sent| match sent {
            Sent::Plainly => ask(),
            Sent::ThoughIgnored => ask_if_idle(),
        })
    })
}

/// Another process says it.
pub fn say_nothing() {
    SILENT.store(true, Ordering::SeqCst);
}

/// Asks this process to stop.
pub(super) fn ask() {
    if INTERRUPTED.swap(true, Ordering::SeqCst) {
        return;
    }
    if !SILENT.load(Ordering::SeqCst) {
        terminal::say(match is_at_stake(Stake::Steps) {
            false => "stopping",
            true => "stopping: finishing this micro-batch and saving; Ctrl-C again leaves at once",
        });
    }
    // Without that thread the work still asks for the flag.
    let _ = std::thread::Builder::new()
        .name("aios-leave".into())
        .spawn(leave_if_idle);
}

/// A request by a signal that was ignored when the program was started, as SIGINT is in a script's background job: it
/// counts only where nothing would be lost.
pub(super) fn ask_if_idle() {
    if is_at_stake(Stake::Nothing) {
        ask();
    }
}

/// Ends the process as soon as that loses nothing, unless the work ends by itself.
fn leave_if_idle() {
    loop {
        std::thread::sleep(GRACE);
        if is_at_stake(Stake::Ending) {
            return;
        }
        if !is_at_stake(Stake::Nothing) {
            continue;
        }
        let farewell = FAREWELL
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let code = farewell.map_or(0, |farewell| {
            (farewell.say)();
            farewell.code
        });
        end_now(code)
    }
}

fn installed(install: impl FnOnce() -> Result<(), String>) -> Result<()> {
    HANDLER
        .get_or_init(install)
        .clone()
        .map_err(|cause| Error::failed(format!("cannot catch Ctrl-C: {cause}")))
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
    fn requests_close_together_are_one_and_a_later_one_is_more() {
        let begin = Instant::now();
        let after = |milliseconds| begin + Duration::from_millis(milliseconds);
        let mut requests = Requests::default();
        assert_eq!(requests.next(after(0)), Request::Stop);
        assert_eq!(requests.next(after(49)), Request::Same);
        assert_eq!(requests.next(after(50)), Request::Quit);
    }

    #[test]
    fn a_run_that_goes_on_by_itself_obeys_a_stop_file_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stop");
        std::fs::write(&path, "").unwrap();
        let signal = StopSignal::install_again(Some(path)).unwrap();
        assert_eq!(signal.requested(), Some(StopReason::StopFile));
    }

    #[test]
    fn installing_twice_in_one_process_is_fine() {
        StopSignal::install(None).unwrap();
        StopSignal::install(None).unwrap();
    }
}
