//! Requests that wait for the model.

use crate::failure::Failure;
use crate::worker::Job;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A bounded queue from connections to the thread that computes.
pub struct Queue {
    most: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    /// The worker is at a job, or will be at once: only then does another one wait.
    busy: bool,
    closed: bool,
}

impl Queue {
    /// So many jobs may wait beside the one that is computed.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Jobs whose clients have gone make room.
    ///
    /// # Errors
    /// A queue that is full or closed.
    pub fn add(&self, job: Job) -> Result<(), Failure> {
        let mut state = self.state();
        if state.closed {
            return Err(Failure::stopping());
        }
        state.waiting.retain(Job::is_wanted);
        let room = self.most + usize::from(!state.busy);
        if state.waiting.len() >= room {
            return Err(Failure::full());
        }
        state.waiting.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Wait for a job; `None` once the queue is closed. The one before is done.
    pub fn next(&self) -> Option<Job> {
        let mut state = self.state();
        state.busy = false;
        loop {
            if state.closed {
                return None;
            }
            state.waiting.retain(Job::is_wanted);
            if let Some(job) = state.waiting.pop_front() {
                state.busy = true;
                return Some(job);
            }
            let waited = self.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Take no more, and tell those that wait.
    pub fn close(&self, why: &Failure) {
        let mut state = self.state();
        state.closed = true;
        for job in state.waiting.drain(..) {
            job.fail(why.clone());
        }
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
