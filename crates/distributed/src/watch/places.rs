//! Who is here.

use super::frame::Frame;
use super::ledger::Record;
use super::link::Link;
use super::shared::Shared;
use super::state::State;
use super::words;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl Shared {
    /// Whether ranks may still join.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state();
        !state.complete && !state.closed && state.failure.is_none()
    }

    /// Whether there is a place for `rank`, which it has then.
    pub(super) fn take_place(&self, rank: usize) -> bool {
        let mut state = self.state();
        let open = state.failure.is_none() && rank != self.rank;
        match state.places.get_mut(rank) {
            Some(place) if open && !place.taken => {
                place.taken = true;
                true
            }
            _ => false,
        }
    }

    pub(super) fn leave_place(&self, rank: usize) {
        if let Some(place) = self.state().places.get_mut(rank) {
            place.taken = false;
        }
    }

    /// From now on `link` is the way to `rank`.
    pub(super) fn seat(&self, rank: usize, link: &Arc<Link>) {
        let now = Instant::now();
        let mut state = self.state();
        if state.closed {
            link.close();
            return;
        }
        if let Some(failure) = &state.failure {
            link.post(Frame::Verdict(failure.line.clone()));
        }
        if state.ended {
            link.post(Frame::Bye);
        }
        state.places[rank].link = Some(link.clone());
        state.ledger.0[rank] = Some(Record::new(now));
        if self.leads() && state.ledger.0.iter().all(Option::is_some) {
            state.complete = true;
            state.ledger.start(now);
        }
        self.notify();
    }

    /// Waits until all are here; otherwise what ended the job.
    pub(super) fn assemble(&self, patience: Duration) -> Option<String> {
        let open = |s: &State| self.leads() && !s.complete && s.failure.is_none();
        let mut state = self.wait_while(self.state(), patience, open);
        if open(&state) {
            let known = state.ledger.0.iter().enumerate();
            let absent = known.filter(|(_, record)| record.is_none());
            let absent: Vec<_> = absent.map(|(rank, _)| rank).collect();
            let line = words::absent(&self.options.names, &absent, patience);
            self.set_failure(&mut state, line);
        }
        state.failure.as_ref().map(|failure| failure.line.clone())
    }
}
