//! What is known of each rank, and what that says of it.

use std::time::{Duration, Instant};

/// After how many intervals without a beat a rank may be silent rather than slow.
pub(super) const SLACK: u32 = 3;

/// What a rank last said, and when.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// Anything was heard.
    heard: Instant,
    /// It had made progress, or was waiting.
    moved: Instant,
    /// It had made progress.
    counted: Instant,
    progress: u64,
    waiting: bool,
    pub(super) done: bool,
}

impl Record {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            moved: now,
            counted: now,
            progress: 0,
            waiting: false,
            done: false,
        }
    }

    pub(super) fn beat(&mut self, now: Instant, progress: u64, waiting: bool) {
        self.heard = now;
        if progress != self.progress {
            self.counted = now;
            self.moved = now;
        }
        // Until now it waited, if it did at the last beat too.
        if waiting || self.waiting {
            self.moved = now;
        }
        self.progress = progress;
        self.waiting = waiting;
    }

    fn times(&mut self) -> [&mut Instant; 3] {
        [&mut self.heard, &mut self.moved, &mut self.counted]
    }
}

/// What ends a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Finding {
    Silent(usize),
    Stuck(usize),
    /// Rank 0 hears none of several others.
    Alone,
    /// Each waits, for none.
    AllWait,
}

/// How to judge.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) deadline: Duration,
    pub(super) interval: Duration,
    /// Lack of progress too, not silence alone: once all ranks are here, and known.
    pub(super) progress: bool,
}

/// Ranks that are known, by their numbers.
#[derive(Debug)]
pub(super) struct Ledger(pub(super) Vec<Option<Record>>);

impl Ledger {
    /// Those that are not done.
    pub(super) fn at_work(&self) -> impl Iterator<Item = (usize, &Record)> {
        let known = self.0.iter().enumerate();
        let known = known.filter_map(|(rank, record)| Some((rank, record.as_ref()?)));
        known.filter(|(_, record)| !record.done)
    }

    pub(super) fn end(&mut self, rank: usize) {
        if let Some(Some(record)) = self.0.get_mut(rank) {
            record.done = true;
        }
    }

    /// Lack of progress begins now.
    pub(super) fn start(&mut self, now: Instant) {
        for record in self.0.iter_mut().flatten() {
            record.moved = now;
            record.counted = now;
        }
    }

    /// Time that counts against nobody.
    pub(super) fn grant(&mut self, time: Duration, now: Instant) {
        let records = self.0.iter_mut().flatten();
        for time_of in records.flat_map(Record::times) {
            *time_of = time_of.checked_add(time).map_or(now, |then| then.min(now));
        }
    }

    pub(super) fn finding(&self, now: Instant, rules: Rules) -> Option<Finding> {
        let Rules { deadline, .. } = rules;
        let silent = |record: &Record| since(now, record.heard) >= deadline;
        let stuck = |record: &Record| {
            rules.progress && since(now, record.moved) >= deadline && speaks(now, record, rules)
        };
        let named = self.at_work().filter_map(|(rank, record)| match record {
            _ if silent(record) => Some((record.waiting, record.heard, Finding::Silent(rank))),
            _ if stuck(record) => Some((false, record.moved, Finding::Stuck(rank))),
            _ => None,
        });
        // One that waits is the least to blame, and the first to fall behind the most.
        let worst = named.min_by_key(|(waiting, time, _)| (*waiting, *time));
        match worst {
            Some((.., Finding::Silent(_))) if self.is_alone(now, rules) => Some(Finding::Alone),
            Some((.., finding)) => Some(finding),
            None => self.all_wait(now, rules).then_some(Finding::AllWait),
        }
    }

    /// Others cannot all have been stopped: it is rank 0's own network. A follower knows rank 0 alone.
    fn is_alone(&self, now: Instant, rules: Rules) -> bool {
        let unheard = |record: &Record| since(now, record.heard) >= rules.deadline / 2;
        let others = || self.at_work().filter(|(rank, _)| *rank != 0);
        others().count() > 1 && others().all(|(_, record)| unheard(record))
    }

    fn all_wait(&self, now: Instant, rules: Rules) -> bool {
        let idle = |record: &Record| {
            record.waiting
                && since(now, record.counted) >= rules.deadline
                && speaks(now, record, rules)
        };
        rules.progress
            && self.at_work().next().is_some()
            && self.at_work().all(|(_, record)| idle(record))
    }
}

/// Whether it was heard lately: of one that was not, silence is what there is to say.
fn speaks(now: Instant, record: &Record, rules: Rules) -> bool {
    since(now, record.heard) <= rules.interval * SLACK
}

fn since(now: Instant, then: Instant) -> Duration {
    now.saturating_duration_since(then)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        deadline: Duration::from_secs(300),
        interval: Duration::from_secs(1),
        progress: true,
    };

    /// Beats of each second up to `seconds`: progress, and whether it waits.
    struct Job {
        ledger: Ledger,
        start: Instant,
        now: Instant,
    }

    impl Job {
        fn of(size: usize) -> Self {
            let start = Instant::now();
            let ledger = Ledger(vec![Some(Record::new(start)); size]);
            let now = start;
            Self { ledger, start, now }
        }

        /// Until the first finding, and the second it is made.
        fn run(&mut self, says: impl Fn(usize, u64) -> Option<(u64, bool)>) -> (Finding, u64) {
            for second in 1..10_000 {
                self.now = self.start + Duration::from_secs(second);
                for (rank, record) in self.ledger.0.iter_mut().enumerate() {
                    if let (Some((progress, waiting)), Some(record)) = (says(rank, second), record)
                    {
                        record.beat(self.now, progress, waiting);
                    }
                }
                if let Some(finding) = self.ledger.finding(self.now, RULES) {
                    return (finding, second);
                }
            }
            panic!("nothing found");
        }
    }

    #[test]
    fn the_one_that_is_silent_is_named_and_those_that_wait_for_it_are_not() {
        let says = |rank, second: u64| match rank {
            2 if second > 100 => None,
            _ => Some((second.min(100), second > 100)),
        };
        assert_eq!(Job::of(4).run(says), (Finding::Silent(2), 400));
    }

    #[test]
    fn the_one_that_hangs_is_named_before_one_that_is_silent_and_waited() {
        let says = |rank, second: u64| match rank {
            1 => Some((second.min(100), false)),
            2 if second > 100 => None,
            _ => Some((second.min(100), second > 99)),
        };
        assert_eq!(Job::of(4).run(says), (Finding::Stuck(1), 400));
    }

    #[test]
    fn all_that_wait_for_none_are_found_and_so_is_a_leader_that_hears_nobody() {
        let waits = |_, second: u64| Some((second.min(100), second >= 100));
        assert_eq!(Job::of(3).run(waits), (Finding::AllWait, 400));
        let alone = |rank, second| (rank == 0 || second <= 100).then_some((second, false));
        assert_eq!(Job::of(3).run(alone), (Finding::Alone, 400));
        assert_eq!(Job::of(2).run(alone), (Finding::Silent(1), 400));
    }

    #[test]
    fn a_long_wait_is_no_lack_of_progress_after_it() {
        let says = |rank, second: u64| match rank {
            0 => Some((second, false)),
            _ => Some((0, second <= 1000)),
        };
        assert_eq!(Job::of(2).run(says), (Finding::Stuck(1), 1301));
    }

    #[test]
    fn time_in_which_nothing_ran_counts_against_nobody() {
        let mut job = Job::of(2);
        let later = job.start + Duration::from_secs(1000);
        job.ledger.grant(Duration::from_secs(999), later);
        assert_eq!(job.ledger.finding(later, RULES), None);
        job.ledger.grant(Duration::MAX, later);
        assert_eq!(job.ledger.finding(later, RULES), None);
    }

    #[test]
    fn one_that_is_done_is_not_judged() {
        let mut job = Job::of(1);
        job.ledger.end(0);
        let later = job.start + Duration::from_secs(1000);
        assert_eq!(job.ledger.finding(later, RULES), None);
    }
}
