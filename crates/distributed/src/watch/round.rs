//! The thread that judges.

use super::ledger::SLACK;
use super::shared::Shared;
use super::state::State;
use std::time::{Duration, Instant};

/// Looks each interval, and whenever something changes, until the watch is closed.
pub(super) fn rounds(shared: &Shared) {
    let mut last = Instant::now();
    let mut state = shared.state();
    while !state.closed {
        let now = Instant::now();
        let gap = now.saturating_duration_since(last);
        last = now;
        // This process was stopped, or the machine slept: beats of that time are still to be read.
        if gap > shared.interval * SLACK {
            state.ledger.grant(gap, now);
        }
        #[cfg(test)]
        if shared.mute.load(std::sync::atomic::Ordering::Relaxed) {
            state = shared.wait(state, shared.interval);
            continue;
        }
        shared.judge(&mut state, now);
        if let Some(line) = last_resort(shared, &mut state) {
            drop(state);
            (shared.options.give_up)(&line);
            state = shared.state();
            continue;
        }
        let pause = pause(shared, &state);
        state = shared.wait(state, pause);
    }
}

/// The line, once its grace is over.
fn last_resort(shared: &Shared, state: &mut State) -> Option<String> {
    let failure = state.failure.as_ref()?;
    if state.ended || state.given_up || failure.time.elapsed() < shared.options.grace {
        return None;
    }
    state.given_up = true;
    Some(failure.line.clone())
}

fn pause(shared: &Shared, state: &State) -> Duration {
    let words = state.words.as_ref().map(|words| words.left());
    let grace = state
        .failure
        .as_ref()
        .filter(|_| !state.given_up && !state.ended);
    let grace = grace.map(|f| shared.options.grace.saturating_sub(f.time.elapsed()));
    let soonest = [words, grace].into_iter().flatten().min();
    soonest.unwrap_or(shared.interval).min(shared.interval)
}
