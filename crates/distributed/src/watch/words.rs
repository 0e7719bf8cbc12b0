//! The lines that end a job.

use super::ledger::Finding;
use std::io::{self, ErrorKind};
use std::time::Duration;

/// The rank as a user knows it.
pub(super) fn name(names: &[String], rank: usize) -> String {
    names.get(rank).cloned().unwrap_or(format!("rank {rank}"))
}

pub(super) fn found(finding: &Finding, names: &[String], deadline: Duration) -> String {
    let time = seconds(deadline);
    match *finding {
        Finding::Silent(rank) => format!(
            "{} has not been heard of for {time}: it is stopped, or its network is gone",
            name(names, rank)
        ),
        Finding::Stuck(rank) => {
            format!(
                "{} has made no progress for {time}: it hangs, or a micro-batch takes longer, for which there is \
                 --distributed-timeout",
                name(names, rank)
            )
        }
        Finding::Alone => format!(
            "{} has heard of no other rank for {time}: its network is gone, or theirs",
            name(names, 0)
        ),
        Finding::AllWait => format!(
            "all ranks have waited for each other for {time} and none goes on: the network that sums gradients delivers \
             nothing, or is too slow for the deadline"
        ),
    }
}

/// What the end of a connection without goodbye says of `rank`.
pub(super) fn broken(name: &str, how: &io::Error) -> String {
    match how.kind() {
        ErrorKind::TimedOut
        | ErrorKind::HostUnreachable
        | ErrorKind::NetworkUnreachable
        | ErrorKind::NetworkDown => {
            format!("{name} cannot be reached any more: its network is gone")
        }
        ErrorKind::InvalidData => {
            format!("{name} said something that means nothing here: is its aios another version?")
        }
        _ => format!("{name} ended without a word: it was killed, or crashed"),
    }
}

pub(crate) fn absent(names: &[String], ranks: &[usize], patience: Duration) -> String {
    /// More would not be read.
    const NAMED: usize = 8;
    let named = ranks.iter().take(NAMED).map(|rank| name(names, *rank));
    let mut list = named.collect::<Vec<_>>().join(", ");
    if ranks.len() > NAMED {
        list.push_str(&format!(" and {} more", ranks.len() - NAMED));
    }
    let have = match ranks {
        [_] => "has",
        _ => "have",
    };
    format!("{list} {have} not joined within {}", seconds(patience))
}

pub(crate) fn seconds(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_the_rank_as_a_user_knows_it() {
        let names = ["rank 0 (host a)".to_string()];
        let line = found(&Finding::Stuck(0), &names, Duration::from_secs(300));
        assert_eq!(
            line,
            "rank 0 (host a) has made no progress for 300 s: it hangs, or a micro-batch takes longer, for which there is \
             --distributed-timeout"
        );
        let line = absent(&names, &[0, 1], Duration::from_millis(1500));
        assert_eq!(line, "rank 0 (host a), rank 1 have not joined within 1.5 s");
        let many: Vec<_> = (1..20).collect();
        assert!(absent(&names, &many, Duration::ZERO).contains("rank 8 and 11 more have"));
    }
}
