//! How a rank's part comes to its end.

use super::frame::Frame;
use super::shared::Shared;
use super::state::{Place, State};
use std::time::Duration;

impl Shared {
    /// Says that this rank cannot go on, and waits for what all are told to be the cause, or takes its own.
    pub(super) fn fail(&self, words: &str, patience: Duration) {
        let mut state = self.state();
        match self.leads() {
            _ if state.failure.is_some() => return,
            true => self.suspect(&mut state, 0, words),
            false => state.places[0].post(Frame::Words(words.to_string())),
        }
        let deaf = |s: &State| !self.leads() && s.places[0].gone;
        let open = |s: &State| s.failure.is_none() && !deaf(s);
        state = self.wait_while(state, patience, open);
        let line = format!("{}: {words}", self.name(self.rank));
        self.set_failure(&mut state, line);
    }

    /// On rank 0, waits until all others know what ended the job.
    pub(super) fn tell(&self, patience: Duration) {
        let told = |s: &State| s.failure.is_none() || s.places.iter().all(Place::is_told);
        if self.leads() {
            drop(self.wait_while(self.state(), patience, |s| !told(s)));
        }
    }

    /// Says goodbye; rank 0 waits for that of the others, for `leaving`, others for its answer, for `confirming`.
    pub(super) fn leave(&self, leaving: Duration, confirming: Duration) {
        let mut state = self.state();
        let again = std::mem::replace(&mut state.ended, true);
        if !again {
            state.post(&Frame::Bye);
        }
        if self.leads() {
            state.ledger.end(0);
            self.notify();
            let others = |s: &State| s.failure.is_none() && others_stay(s);
            drop(self.wait_while(state, leaving, others));
        } else {
            self.notify();
            drop(self.wait_while(state, confirming, |s| !s.places[0].is_told()));
        }
    }

    /// Waits for the end of rank 0's process.
    pub(super) fn outlive(&self, patience: Duration) {
        let there = |s: &State| !self.leads() && !s.places[0].gone;
        drop(self.wait_while(self.state(), patience, there));
    }

    /// Ends all threads and connections.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for link in state.places.iter().filter_map(|place| place.link.as_ref()) {
            link.close();
        }
        self.notify();
    }
}

fn others_stay(state: &State) -> bool {
    let others = state.ledger.at_work().filter(|(rank, _)| *rank != 0);
    let mut here = others.map(|(rank, _)| &state.places[rank]);
    here.any(|place| !place.gone)
}
