//! What ranks tell each other of a step or an evaluation, and what all do then.

use aios_base::error::{Error, Result};
use aios_engine::{LossSums, Tally};
use aios_process::stop::StopReason;
use serde::{Deserialize, Serialize};

/// What became of a rank's micro-batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    Done,
    OutOfMemory(String),
    Stopped(StopReason),
}

/// What a rank says at the end of its part of a step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Said {
    pub outcome: Outcome,
    sums: Bits,
    pub about: About,
    /// A save that failed is to be tried again, says rank 0.
    pub overdue: bool,
}

/// How a rank fared.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// Of its micro-batches.
    pub seconds: f64,
    pub in_use_bytes: u64,
    pub peak_bytes: u64,
    pub host_peak_bytes: u64,
}

/// Losses with their floats as bits: text has no NaN.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bits([u64; 7]);

impl Said {
    pub fn new(outcome: Outcome, sums: &LossSums, about: About, overdue: bool) -> Self {
        let sums = Bits([
            sums.ce.to_bits(),
            sums.tokens,
            sums.halt.to_bits(),
            sums.halt_count,
            sums.go_on.to_bits(),
            sums.go_on_count,
            sums.segments,
        ]);
        Self {
            outcome,
            sums,
            about,
            overdue,
        }
    }

    fn sums(&self) -> LossSums {
        let [ce, tokens, halt, halt_count, go_on, go_on_count, segments] = self.sums.0;
        LossSums {
            ce: f64::from_bits(ce),
            tokens,
            halt: f64::from_bits(halt),
            halt_count,
            go_on: f64::from_bits(go_on),
            go_on_count,
            segments,
        }
    }
}

/// The step's losses over all ranks, in their order.
pub fn sums(all: &[Said]) -> LossSums {
    let mut sums = LossSums::default();
    all.iter().for_each(|said| sums.add(&said.sums()));
    sums
}

/// What all ranks do: they stop if one was asked to, and try again if one ran out of memory.
pub fn agreed(all: &[Said]) -> Outcome {
    let stopped = all
        .iter()
        .find(|said| matches!(said.outcome, Outcome::Stopped(_)));
    let others = all.len() > 1;
    let out = all
        .iter()
        .enumerate()
        .find_map(|(rank, said)| match &said.outcome {
            Outcome::OutOfMemory(cause) if others => Some(format!("rank {rank}: {cause}")),
            Outcome::OutOfMemory(cause) => Some(cause.clone()),
            _ => None,
        });
    match (stopped, out) {
        (Some(said), _) => said.outcome.clone(),
        (None, Some(cause)) => Outcome::OutOfMemory(cause),
        (None, None) => Outcome::Done,
    }
}

/// What became of a rank's share of an evaluation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Evaluated {
    /// Nats, as bits, and tokens.
    Tally(u64, u64),
    Stopped,
    OutOfMemory(String),
}

impl Evaluated {
    pub fn of(tally: Option<Tally>) -> Self {
        match tally {
            Some(tally) => Self::Tally(tally.nats.to_bits(), tally.tokens),
            None => Self::Stopped,
        }
    }
}

/// All shares of an evaluation; `None` if a rank was asked to stop.
///
/// # Errors
/// A rank's memory does not suffice.
pub fn tallies(all: &[Evaluated]) -> Result<Option<Vec<Tally>>> {
    let mut tallies = Vec::new();
    for said in all {
        match said {
            Evaluated::Stopped => return Ok(None),
            Evaluated::OutOfMemory(cause) => return Err(Error::OutOfMemory(cause.clone())),
            Evaluated::Tally(nats, tokens) => tallies.push(Tally {
                nats: f64::from_bits(*nats),
                tokens: *tokens,
            }),
        }
    }
    Ok(Some(tallies))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(outcome: Outcome) -> Said {
        Said::new(outcome, &LossSums::default(), About::default(), false)
    }

    #[test]
    fn one_that_stops_stops_all_and_one_without_memory_makes_all_smaller() {
        let out = said(Outcome::OutOfMemory("no room".into()));
        let stopped = said(Outcome::Stopped(StopReason::Interrupt));
        let done = said(Outcome::Done);
        assert_eq!(agreed(&[done.clone(), done.clone()]), Outcome::Done);
        let again = agreed(&[done.clone(), out.clone()]);
        assert_eq!(again, Outcome::OutOfMemory("rank 1: no room".into()));
        let all = agreed(&[done, out, stopped]);
        assert_eq!(all, Outcome::Stopped(StopReason::Interrupt));
    }

    #[test]
    fn losses_that_are_no_numbers_are_told() {
        let nan = LossSums {
            ce: f64::NAN,
            tokens: 3,
            ..LossSums::default()
        };
        let said = Said::new(Outcome::Done, &nan, About::default(), false);
        let text = serde_json::to_string(&said).unwrap();
        let said: Said = serde_json::from_str(&text).unwrap();
        let all = sums(&[said.clone(), said]);
        assert!(all.ce.is_nan());
        assert_eq!(all.tokens, 6);
    }
}
