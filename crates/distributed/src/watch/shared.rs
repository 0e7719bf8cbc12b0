//! What the threads of one rank's watch share.

use super::state::State;
use super::{Options, words};
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between beats; less where the deadline is short.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Shared {
    pub(super) rank: usize,
    pub(super) size: usize,
    pub(super) options: Options,
    /// Between beats.
    pub(super) interval: Duration,
    progress: AtomicU64,
    /// Guards that live.
    waiting: AtomicUsize,
    state: Mutex<State>,
    changed: Condvar,
    /// Says and judges nothing any more, as if the process were stopped.
    #[cfg(test)]
    pub(super) mute: AtomicBool,
}

impl Shared {
    pub(super) fn new(rank: usize, size: usize, options: Options) -> Self {
        let shortest = Duration::from_millis(10);
        Self {
            rank,
            size,
            interval: (options.deadline / 4).clamp(shortest, INTERVAL),
            options,
            progress: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            state: Mutex::new(State::new(rank == 0, size)),
            changed: Condvar::new(),
            #[cfg(test)]
            mute: AtomicBool::new(false),
        }
    }

    pub(super) fn leads(&self) -> bool {
        self.rank == 0
    }

    pub(super) fn name(&self, rank: usize) -> String {
        words::name(&self.options.names, rank)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Until something changes, for `patience` at most.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        patience: Duration,
    ) -> MutexGuard<'a, State> {
        let waited = self.changed.wait_timeout(state, patience);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// As long as `open` says, for `patience` at most.
    pub(super) fn wait_while<'a>(
        &self,
        state: MutexGuard<'a, State>,
        patience: Duration,
        open: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let open = |state: &mut State| open(state);
        let waited = self.changed.wait_timeout_while(state, patience, open);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn count(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn wait_begins(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.count();
    }

    pub(super) fn wait_ends(&self) {
        self.count();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Progress, and whether this rank waits.
    pub(super) fn beat(&self) -> (u64, bool) {
        let progress = self.progress.load(Ordering::Relaxed);
        (progress, self.waiting.load(Ordering::Relaxed) > 0)
    }

    /// Whether rank 0 has told it.
    pub(super) fn was_told(&self) -> bool {
        self.state().failure.as_ref().is_some_and(|f| f.told)
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.state().failure.as_ref().map(|f| f.line.clone())
    }
}
