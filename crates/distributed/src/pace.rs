//! How often an operation that is under way is looked at.

use std::time::{Duration, Instant};

/// Time for which the core is offered to others, and otherwise kept: an operation of a few bytes is done within it.
const EAGER: Duration = Duration::from_micros(150);

/// Shortest and longest sleep after that. A library may move bytes only when it is called.
const SLEEPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_micros(500));

/// A sleep is this part of the time waited so far: what it adds to a transfer is a tenth at most, measured on 25 MiB.
const PART: u32 = 50;

/// Waits between looks: longer, the longer it takes.
pub(crate) struct Pace {
    since: Instant,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            since: Instant::now(),
        }
    }

    /// Let some time pass.
    pub fn wait(&mut self) {
        match pause(self.since.elapsed()) {
            None => std::thread::yield_now(),
            Some(pause) => std::thread::sleep(pause),
        }
    }
}

/// How long to sleep after `waited`.
fn pause(waited: Duration) -> Option<Duration> {
    (waited >= EAGER).then(|| (waited / PART).clamp(SLEEPS.0, SLEEPS.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_with_the_time_waited() {
        let us = Duration::from_micros;
        assert_eq!(pause(us(100)), None);
        assert_eq!(pause(us(200)), Some(us(20)));
        assert_eq!(pause(us(5_000)), Some(us(100)));
        assert_eq!(pause(us(1_000_000)), Some(us(500)));
    }
}
