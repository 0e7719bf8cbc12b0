//! Panics: those inside the compute runtime become errors, any other becomes one line.
//!
//! The runtime works on threads of its own and reports a failure there (no memory, a kernel that
//! does not compile) by panicking, often long before the caller notices.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::sync::{Mutex, PoisonError};

use aios_kernels::buffer::OutOfMemory;

use crate::error::{Error, Result};
use crate::meter::format_bytes;

/// How much of a failure's text is kept: kernels' source may follow it.
const LONGEST_MESSAGE: usize = 400;

/// What the runtime calls its threads, upstream (fusion) and downstream (device).
const RUNTIME_THREADS: [&str; 2] = ["DSU-", "DSD-"];

static FAULT: Mutex<Option<String>> = Mutex::new(None);

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Installs the panic hook. A panic of the runtime is kept off the screen and remembered for
/// [`take_device_fault`]; any other is shown in one line, with a backtrace if `AIOS_BACKTRACE` is
/// set.
pub fn quiet_device_panics() {
    set_hook(Box::new(on_panic));
}

/// The first failure inside the device since the last call, in one line. Anything computed since
/// the call before may be wrong.
pub fn take_device_fault() -> Option<String> {
    FAULT.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// Runs `work`, turning a panic in it, or a failure inside the device that [`take_device_fault`] would
/// return, into an error. With the hook installed the panic is not shown.
///
/// # Errors
/// [`Error::OutOfMemory`] if a kernel was refused a buffer, [`Error::Device`] otherwise.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T> {
    let outer = GUARDED.replace(true);
    // What `work` was changing may be half done: on an error the caller has to drop it.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    match (outcome, take_device_fault()) {
        (_, Some(fault)) => Err(Error::Device(fault)),
        (Err(payload), None) => Err(failure(&*payload)),
        (Ok(value), None) => Ok(value),
    }
}

/// Runs `work` of a library on what a user gave it. A panic in it is not shown, says nothing about a device, and comes
/// back as its text in one line.
///
/// # Errors
/// That text. Whatever `work` was changing may be half done.
pub fn contained<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let outer = CONTAINED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    outcome.map_err(|payload| one_line(payload_text(&*payload)))
}

fn failure(payload: &(dyn Any + Send)) -> Error {
    match payload.downcast_ref::<OutOfMemory>() {
        Some(refused) => Error::OutOfMemory(format!(
            "out of memory: {} could not be allocated",
            format_bytes(refused.bytes as u64)
        )),
        None => Error::Device(one_line(payload_text(payload))),
    }
}

fn on_panic(info: &PanicHookInfo) {
    if CONTAINED.get() {
        return;
    }
    // Unwinds to `guarded`, if need be from a worker thread, and is an error there.
    if info.payload().is::<OutOfMemory>() {
        return;
    }
    let message = one_line(payload_text(info.payload()));
    let thread = std::thread::current();
    if is_runtime_panic(thread.name(), &message) || GUARDED.get() {
        remember(message);
        return;
    }
    let place = info
        .location()
        .map_or_else(String::new, |l| format!(" ({}:{})", l.file(), l.line()));
    // A closed stderr must not turn one panic into two.
    let mut screen = std::io::stderr().lock();
    let _ = writeln!(screen, "{}", apology(&message, &place));
    if std::env::var_os("AIOS_BACKTRACE").is_some() {
        let _ = writeln!(screen, "{}", Backtrace::force_capture());
    }
}

fn apology(message: &str, place: &str) -> String {
    format!(
        "internal error: {message}{place}; please report it with the output under AIOS_BACKTRACE=1"
    )
}

fn is_runtime_panic(thread: Option<&str>, message: &str) -> bool {
    let on_runtime_thread =
        thread.is_some_and(|name| RUNTIME_THREADS.iter().any(|p| name.starts_with(p)));
    on_runtime_thread || message.starts_with("wgpu error:")
}

/// The first failure is the cause; those after it are its echoes.
/// Notes a failure inside a device, for [`take_device_fault`] to return: of code that cannot return it, and that a panic would stop half-way.
pub fn remember(message: String) {
    FAULT
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert(message);
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        payload.downcast_ref::<&str>().copied().unwrap_or("unknown")
    }
}

/// The text in one line, cut where it gets long, without the wrapping the runtime's own `unwrap`s put
/// around the cause.
pub fn one_line(text: &str) -> String {
    let text = text.trim_start_matches("called `Result::unwrap()` on an `Err` value: ");
    let text = text.trim_end().trim_end_matches("No backtrace available");
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST_MESSAGE) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtime_panics_are_told_by_thread_or_message() {
        assert!(is_runtime_panic(Some("DSD-0-0"), "out of memory"));
        assert!(is_runtime_panic(Some("DSU-4-0"), "out of memory"));
        assert!(is_runtime_panic(Some("main"), "wgpu error: Validation"));
        assert!(!is_runtime_panic(Some("main"), "index out of bounds"));
        assert!(!is_runtime_panic(None, "index out of bounds"));
    }

    #[test]
    fn the_runtimes_wrapping_is_taken_off() {
        let text =
            "called `Result::unwrap()` on an `Err` value: can't allocate\nNo backtrace available";
        assert_eq!(one_line(text), "can't allocate");
    }

    #[test]
    fn messages_are_cut_to_one_line() {
        assert_eq!(
            one_line("wgpu error: bad\n\nCaused by:\n  size"),
            "wgpu error: bad Caused by: size"
        );
        assert_eq!(
            one_line(&"é".repeat(1000)).chars().count(),
            LONGEST_MESSAGE + 1
        );
    }

    /// One test for the hook, since it and the remembered fault belong to the whole process.
    #[test]
    fn hook_remembers_the_first_fault_and_guarded_returns_it() {
        let before = std::panic::take_hook();
        quiet_device_panics();
        for message in ["out of memory", "echo"] {
            let thread = std::thread::Builder::new().name("DSD-0-0".to_owned());
            let handle = thread.spawn(move || panic!("{message}")).expect("a thread");
            assert!(handle.join().is_err());
        }
        let remembered = take_device_fault();
        let contained = contained(|| panic!("index {} of 0", 3));
        let nothing = take_device_fault();
        let guarded = guarded(|| panic!("no such adapter"));
        std::panic::set_hook(before);

        assert_eq!(remembered.as_deref(), Some("out of memory"));
        assert_eq!(
            (contained, nothing),
            (Err("index 3 of 0".to_string()), None)
        );
        assert_eq!(guarded.unwrap_err().to_string(), "no such adapter");
        assert_eq!(take_device_fault(), None);
    }
}
