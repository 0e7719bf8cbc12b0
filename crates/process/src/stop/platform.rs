//! The system's side of a request to stop.

#[cfg(unix)]
pub use unix::{
    catch, end_now, forget_ignored, ignored_for_child, on_ctrl_c, survive_file_limits,
    tell_refused_memory,
};
#[cfg(windows)]
pub use windows::{
    catch, end_now, forget_ignored, ignored_for_child, on_ctrl_c, survive_file_limits,
    tell_refused_memory,
};

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// By a signal that programs are ended with.
    Plainly,
    /// By another process with a signal that was ignored when this program was started.
    ThoughIgnored,
}

#[cfg(unix)]
mod unix {
    use std::ffi::c_int;
    use std::io::{self, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use crate::stop::Sent;
    use aios_base::meter;

    /// Tells a child which signals were ignored when its parent was started, since a program that catches a signal does
    /// not hand down that it was ignored.
    const IGNORED: &str = "AIOS_IGNORED_SIGNALS";

    const ALL: [c_int; 3] = [libc::SIGHUP, libc::SIGINT, libc::SIGTERM];

    /// Calls `handler` on a thread of its own for each request. A signal that is ignored, as nohup and background jobs
    /// have it, stays ignored, but for SIGINT that another process sends on purpose.
    pub fn catch(mut handler: impl FnMut(Sent) + Send + 'static) -> Result<(), String> {
        let (mut inbox, outbox) = UnixStream::pair().map_err(text)?;
        for signal in ALL {
            let ignored = is_ignored(signal).map_err(text)?;
            if ignored && signal != libc::SIGINT {
                continue;
            }
            register(signal, ignored, outbox.try_clone().map_err(text)?).map_err(text)?;
        }
        let listen = move || {
            let mut note = [0];
            while inbox.read_exact(&mut note).is_ok() {
                handler(match note[0] {
                    0 => Sent::Plainly,
                    _ => Sent::ThoughIgnored,
                });
            }
        };
        std::thread::Builder::new()
            .name("aios-signals".into())
            .spawn(listen)
            .map(drop)
            .map_err(text)
    }

    /// Calls `handler`, which must be fit for a signal handler, for each Ctrl-C; none where the signal was ignored when the
    /// program was started.
    pub fn on_ctrl_c(handler: fn()) -> Result<(), String> {
        if is_ignored(libc::SIGINT).map_err(text)? {
            return Ok(());
        }
        // SAFETY: whoever calls this vouches for the handler.
        let registered = unsafe { signal_hook_registry::register(libc::SIGINT, handler) };
        registered.map(drop).map_err(text)
    }

    fn text(cause: io::Error) -> String {
        cause.to_string()
    }

    fn is_ignored(signal: c_int) -> io::Result<bool> {
        // SAFETY: all zeros are a valid value of this plain structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: nothing is installed (the second argument is null), and the third points to a place for the answer.
        match unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } {
            0 => Ok(action.sa_sigaction == libc::SIG_IGN),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn register(signal: c_int, ignored: bool, outbox: UnixStream) -> io::Result<()> {
        let action = move |info: &libc::siginfo_t| {
            // A terminal's Ctrl-C comes from the kernel and is meant for whatever runs in the foreground.
            if ignored && !is_by_a_process(info) {
                return;
            }
            let note = [u8::from(ignored)];
            // SAFETY: the descriptor lives as long as this closure, the buffer as long as the call. `send` may be called
            // from a signal handler; it does not wait, and a full buffer means that requests enough are in it.
            unsafe {
                libc::send(
                    outbox.as_raw_fd(),
                    note.as_ptr().cast(),
                    note.len(),
                    libc::MSG_DONTWAIT,
                );
            }
        };
        // SAFETY: the action only calls `send`, see above.
        unsafe { signal_hook_registry::register_sigaction(signal, action) }.map(drop)
    }

    fn is_by_a_process(info: &libc::siginfo_t) -> bool {
        // Of <sys/signal.h> of Darwin and FreeBSD; libc lacks Darwin's.
        const SI_USER: c_int = 0x1_0001;
        match cfg!(any(target_os = "linux", target_os = "android")) {
            true => info.si_code <= 0,
            false => info.si_code == SI_USER,
        }
    }

    /// Ends the process with this exit code instead of an abort where memory was refused to the code that aborts: who
    /// waits for the process can tell lack of memory from a crash.
    pub fn tell_refused_memory(code: i32) -> Result<(), String> {
        let action = move |_: &libc::siginfo_t| {
            if meter::was_refused() {
                end_now(code);
            }
            // SAFETY: a handler may call both; the signal comes again when this one returns, and then ends the process.
            unsafe {
                libc::signal(libc::SIGABRT, libc::SIG_DFL);
                libc::raise(libc::SIGABRT);
            }
        };
        // SAFETY: the action reads an atomic, ends the process by `_exit` or does what is said above, all of which a
        // handler may.
        unsafe { signal_hook_registry::register_sigaction(libc::SIGABRT, action) }
            .map(drop)
            .map_err(text)
    }

    /// A file that grows beyond the limit of `ulimit -f` is an error of its write, not the end of the program.
    pub fn survive_file_limits() {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }

    /// The variable and its value that tell a child what was ignored here; to be asked before anything is caught.
    pub fn ignored_for_child() -> Option<(&'static str, String)> {
        let ignored = is_ignored(libc::SIGINT).unwrap_or(false);
        ignored.then(|| (IGNORED, "int".to_string()))
    }

    /// In a child, ignores again what was ignored when its parent was started.
    pub fn forget_ignored() {
        if std::env::var_os(IGNORED).is_some() {
            // SAFETY: ignoring a signal runs no code of ours.
            unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
        }
    }

    /// Ends the process at once. What a driver would clean up is the system's to clean up: it may hang.
    pub fn end_now(code: i32) -> ! {
        // SAFETY: ends the process; everything worth flushing is written without buffers.
        unsafe { libc::_exit(code) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn what_is_ignored_is_known() {
            // One that nothing else here uses.
            let signal = libc::SIGWINCH;
            assert!(!is_ignored(signal).unwrap());
            // SAFETY: ignoring this signal changes nothing for any test.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
            assert!(is_ignored(signal).unwrap());
            // SAFETY: as it was.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
    }
}

#[cfg(windows)]
mod windows {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use windows_sys::Win32::Foundation::{FALSE, TRUE};
    use windows_sys::Win32::System::Console::{CTRL_C_EVENT, SetConsoleCtrlHandler};
    use windows_sys::core::BOOL;

    use crate::stop::Sent;
    use crate::stop::console;

    static REQUESTS: Mutex<Option<Sender<()>>> = Mutex::new(None);

    /// Calls `handler` on a thread of its own for each request.
    pub fn catch(mut handler: impl FnMut(Sent) + Send + 'static) -> Result<(), String> {
        let (sender, requests) = channel();
        *REQUESTS.lock().map_err(|cause| cause.to_string())? = Some(sender);
        std::thread::Builder::new()
            .name("aios-signals".into())
            .spawn(move || requests.iter().for_each(|()| handler(Sent::Plainly)))
            .map_err(|cause| cause.to_string())?;
        // SAFETY: the handler lives as long as the program.
        match unsafe { SetConsoleCtrlHandler(Some(on_event), TRUE) } {
            FALSE => Err(std::io::Error::last_os_error().to_string()),
            _ => Ok(()),
        }
    }

    static ON_CTRL_C: Mutex<Option<fn()>> = Mutex::new(None);

    /// Calls `handler` for each Ctrl-C, on a thread of its own.
    pub fn on_ctrl_c(handler: fn()) -> Result<(), String> {
        *ON_CTRL_C.lock().map_err(|cause| cause.to_string())? = Some(handler);
        // SAFETY: the handler lives as long as the program.
        match unsafe { SetConsoleCtrlHandler(Some(on_press), TRUE) } {
            FALSE => Err(std::io::Error::last_os_error().to_string()),
            _ => Ok(()),
        }
    }

    /// The system calls it on a thread of its own. What is no Ctrl-C goes to whoever comes next, in the end to the system.
    unsafe extern "system" fn on_press(event: u32) -> BOOL {
        let handler = ON_CTRL_C.lock().ok().and_then(|handler| *handler);
        match (event, handler) {
            (CTRL_C_EVENT, Some(handler)) => {
                handler();
                TRUE
            }
            _ => FALSE,
        }
    }

    /// The system calls it on a thread of its own.
    unsafe extern "system" fn on_event(event: u32) -> BOOL {
        let ask = || {
            if let Ok(Some(sender)) = REQUESTS.lock().as_deref() {
                // Nobody listens any more: the program is ending.
                let _ = sender.send(());
            }
        };
        // The system ends the process when its patience does, which is longer than a save should take.
        let hold = || std::thread::sleep(std::time::Duration::MAX);
        BOOL::from(console::obey(event, ask, hold))
    }

    /// Nothing is ignored here.
    pub fn ignored_for_child() -> Option<(&'static str, String)> {
        None
    }

    /// Nothing is ignored here.
    pub fn forget_ignored() {}

    /// An abort is told by its exit code alone.
    pub fn tell_refused_memory(_: i32) -> Result<(), String> {
        Ok(())
    }

    /// There are no such limits.
    pub fn survive_file_limits() {}

    /// Ends the process.
    pub fn end_now(code: i32) -> ! {
        // Where a driver's clean-up hangs, the process ends all the same.
        let _ = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(std::time::Duration::from_secs(2));
            std::process::abort();
        });
        std::process::exit(code)
    }
}
