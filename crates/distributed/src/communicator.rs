//! The thread that speaks to the engine.
//!
//! Engines want to be called by one thread, and training goes on while they work: what is asked for is done in the order
//! in which it was asked for.

use crate::Collectives;
use aios_base::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce(&mut dyn Collectives) + Send>;

/// A handle on the thread.
pub(crate) struct Communicator {
    jobs: Sender<Job>,
    busy: Arc<AtomicU64>,
}

/// Who this rank is to its engine.
pub(crate) struct Introduction {
    pub rank: usize,
    pub size: usize,
    pub library: String,
}

impl Communicator {
    /// Start the thread, which opens the engine; that may take so long.
    pub fn start(
        patience: Duration,
        open: impl FnOnce() -> Result<Box<dyn Collectives>> + Send + 'static,
    ) -> Result<(Self, Introduction)> {
        let (jobs, wanted) = channel();
        let (tell, told) = channel();
        let busy = Arc::new(AtomicU64::new(0));
        let of_thread = Arc::clone(&busy);
        let thread = std::thread::Builder::new().name("aios-communicator".into());
        thread
            .spawn(move || match open() {
                Err(error) => drop(tell.send(Err(error))),
                Ok(mut engine) => {
                    let introduction = Introduction {
                        rank: engine.rank(),
                        size: engine.size(),
                        library: engine.library(),
                    };
                    // Nobody has left before this.
                    let _ = tell.send(Ok(introduction));
                    work(&mut *engine, &wanted, &of_thread);
                }
            })
            .map_err(|cause| Error::failed(format!("cannot start a thread: {cause}")))?;
        let introduction = told.recv_timeout(patience).map_err(|cause| match cause {
            RecvTimeoutError::Timeout => late(patience),
            RecvTimeoutError::Disconnected => gone(),
        })??;
        Ok((Self { jobs, busy }, introduction))
    }

    /// Ask for something; the answer comes by the receiver.
    pub fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut dyn Collectives) -> Result<T> + Send + 'static,
    ) -> Receiver<Result<T>> {
        let (tell, told) = channel();
        // Where the thread is gone, or whoever asked, nobody hears it: the receiver's end says so.
        let _ = self.jobs.send(Box::new(move |engine| {
            let _ = tell.send(work(engine));
        }));
        told
    }

    /// Time that the engine has worked.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy.load(Ordering::Relaxed))
    }
}

fn work(engine: &mut dyn Collectives, wanted: &Receiver<Job>, busy: &AtomicU64) {
    for job in wanted {
        let started = Instant::now();
        job(engine);
        let nanoseconds = u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        busy.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

/// Not all ranks have come.
pub(crate) fn late(patience: Duration) -> Error {
    Error::failed(format!(
        "not all ranks have come within {} s: one has not been started, hangs, or has --distributed off; \
         --distributed-timeout is how long to wait",
        patience.as_secs()
    ))
}

pub(crate) fn gone() -> Error {
    Error::failed("internal error: the thread of the engine has ended; please report it")
}
