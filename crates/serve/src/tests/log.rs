//! What servers log, each for itself.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, OnceLock};

/// What one thread logs: a server's connections live on the thread that called it.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

thread_local! {
    static LOG: RefCell<Option<Log>> = const { RefCell::new(None) };
}

impl Log {
    /// One subscriber serves all threads: whether a place in the program logs is remembered for all of them at once.
    pub fn take_this_thread(self) {
        static SUBSCRIBED: OnceLock<()> = OnceLock::new();
        SUBSCRIBED.get_or_init(|| {
            tracing_subscriber::fmt()
                .with_ansi(false)
                .with_writer(|| ToThread)
                .init();
        });
        LOG.set(Some(self));
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct ToThread;

impl Write for ToThread {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow(|log| {
            if let Some(log) = log {
                log.0.lock().unwrap().extend(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
