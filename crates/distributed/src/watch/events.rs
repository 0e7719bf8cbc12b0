//! What happens to a rank's watch, and what ends the job by it.

use super::frame::Frame;
use super::ledger::Rules;
use super::shared::Shared;
use super::state::{Failure, State, Words};
use super::words;
use aios_base::error::shortened;
use std::io;
use std::time::Instant;

impl Shared {
    /// The first cause stays, and is told: by rank 0 to all, by others to rank 0, which may have been stopped and know
    /// nothing, and which takes it as proof that they were told.
    pub(super) fn set_failure(&self, state: &mut State, line: String) {
        if state.failure.is_some() {
            return;
        }
        let line = shortened(&line);
        tracing::debug!("the job ends: {line}");
        state.post(&Frame::Verdict(line.clone()));
        let time = Instant::now();
        state.failure = Some(Failure {
            line,
            time,
            told: false,
        });
        self.notify();
    }

    /// What time says, as of now.
    pub(super) fn judge(&self, state: &mut State, now: Instant) {
        // A follower that has ended does not care what becomes of rank 0, which goes on to watch the others.
        let indifferent = state.ended && !self.leads();
        if self.size > 1 && state.failure.is_none() && !indifferent {
            self.hear_self(state, now);
            self.look(state, now);
        }
        if let Some(words) = state.words.take_if(|words| words.left().is_zero()) {
            self.set_failure(state, words.line);
        }
    }

    /// Rank 0 judges itself as it does the others.
    fn hear_self(&self, state: &mut State, now: Instant) {
        if let (true, Some(own)) = (self.leads(), &mut state.ledger.0[0]) {
            let (progress, waiting) = self.beat();
            own.beat(now, progress, waiting);
        }
    }

    fn look(&self, state: &mut State, now: Instant) {
        let rules = Rules {
            deadline: self.options.deadline,
            interval: self.interval,
            progress: self.leads() && state.complete,
        };
        if let Some(finding) = state.ledger.finding(now, rules) {
            let line = words::found(&finding, &self.options.names, rules.deadline);
            self.set_failure(state, line);
        }
    }

    /// `rank` says that it cannot go on.
    pub(super) fn suspect(&self, state: &mut State, rank: usize, words: &str) {
        if state.words.is_none() && state.failure.is_none() {
            let line = format!("{}: {words}", self.name(rank));
            let time = Instant::now();
            state.words = Some(Words { rank, line, time });
            self.notify();
        }
    }

    /// A frame of `rank` was read.
    pub(super) fn hear(&self, rank: usize, frame: Frame) {
        let now = Instant::now();
        let mut state = self.state();
        let Some(record) = &mut state.ledger.0[rank] else {
            return;
        };
        match frame {
            Frame::Beat { progress, waiting } => return record.beat(now, progress, waiting),
            Frame::Bye => {
                let again = std::mem::replace(&mut record.done, true);
                if self.leads() && !again {
                    state.places[rank].post(Frame::Got);
                }
            }
            Frame::Got => state.places[rank].got = true,
            Frame::Words(words) if self.leads() => self.suspect(&mut state, rank, &words),
            Frame::Words(_) => {}
            Frame::Verdict(line) => {
                // On the others this would be the answer to their goodbye.
                state.places[rank].got |= self.leads();
                let told = !self.leads() && state.failure.is_none();
                self.set_failure(&mut state, line);
                if let Some(failure) = &mut state.failure {
                    failure.told |= told;
                }
            }
        }
        self.notify();
    }

    /// The connection to `rank` has come to an end.
    pub(super) fn lose(&self, rank: usize, how: &io::Error) {
        let mut state = self.state();
        state.places[rank].gone = true;
        let done = state.ledger.0[rank].as_ref().is_some_and(|r| r.done);
        let indifferent = state.ended && !self.leads();
        if !done && !state.closed && !indifferent {
            // What it said itself explains its end.
            let line = match state.words.take_if(|words| words.rank == rank) {
                Some(words) => words.line,
                None => words::broken(&self.name(rank), how),
            };
            self.set_failure(&mut state, line);
        }
        self.notify();
    }
}
