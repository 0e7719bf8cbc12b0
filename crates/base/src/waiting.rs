//! A word to the user, now and then, while work goes on that says nothing by itself.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use indicatif::HumanDuration;

use crate::background::spawn;
use crate::terminal;

/// Before this nobody wonders.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two words.
const PAUSE: Duration = Duration::from_secs(10);

/// Does some work; says on standard error what it is, and for how long it has been going on, if it takes longer than five
/// seconds, unless it is to be `quiet`.
pub fn waiting<T>(what: &str, quiet: bool, work: impl FnOnce() -> T) -> T {
    waiting_for(what, quiet, || (0, 0), work)
}

/// The same where `progress` tells how much of how much is done (of 0 where that is not known): then with the time left.
pub fn waiting_for<T>(
    what: &str,
    quiet: bool,
    progress: impl Fn() -> (u64, u64) + Send + 'static,
    work: impl FnOnce() -> T,
) -> T {
    let _word = (!quiet).then(|| Word::of(what, progress));
    work()
}

/// As long as it lives the user is told, now and then.
#[must_use]
pub struct Word(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

impl Word {
    /// As [`waiting_for`].
    pub fn of(what: &str, progress: impl Fn() -> (u64, u64) + Send + 'static) -> Self {
        let (goes_on, over) = channel();
        let what = what.to_string();
        let started = Instant::now();
        let tell = move || {
            let mut pause = PATIENCE;
            while over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                terminal::say(&line(&what, started.elapsed(), progress()));
                pause = PAUSE;
            }
        };
        // Where there are no more threads it goes without words.
        let _ = spawn("aios-waiting", tell);
        Self(goes_on)
    }
}

fn line(what: &str, elapsed: Duration, (done, all): (u64, u64)) -> String {
    let so_far = HumanDuration(elapsed);
    match time_left(elapsed, done, all) {
        Some(left) => format!(
            "{what}: {} %, {:#} left",
            100 * done / all,
            HumanDuration(left)
        ),
        None => format!("{what}: {so_far:#} so far"),
    }
}

/// As long as what is done has taken, for as much again. `None` if nothing is done, or it is not known how much there is.
pub fn time_left(elapsed: Duration, done: u64, all: u64) -> Option<Duration> {
    let known = done > 0 && all >= done;
    known.then(|| elapsed.mul_f64((all - done) as f64 / done as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_quickly_is_done() {
        assert_eq!(waiting("adding", false, || 1 + 1), 2);
        assert_eq!(waiting("adding", true, || 1 + 1), 2);
    }

    #[test]
    fn a_line_has_the_time_left_or_the_time_so_far() {
        let after = Duration::from_secs;
        assert_eq!(line("saving", after(10), (1, 4)), "saving: 25 %, 30s left");
        assert_eq!(line("saving", after(10), (4, 4)), "saving: 100 %, 0s left");
        for unknown in [(0, 4), (3, 0), (0, 0)] {
            assert_eq!(line("saving", after(10), unknown), "saving: 10s so far");
        }
    }

    #[test]
    fn no_time_is_left_where_all_is_done() {
        assert_eq!(
            time_left(Duration::from_secs(3), 5, 5),
            Some(Duration::ZERO)
        );
        assert_eq!(time_left(Duration::from_secs(3), 0, 5), None);
    }
}
