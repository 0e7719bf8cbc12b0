//! Where ranks meet whom no engine has joined yet.
//!
//! torchrun, and what sets the same variables, tells each process an address and a port of rank 0's host, and no more:
//! rank 0 listens there until all have come, and what each of them brings is given to all. Whoever connects has to prove
//! that it knows the job's secret, and rank 0 proves it too. What is brought is neither encrypted nor signed: somebody
//! who can read packets between the hosts can read it, and the engine's own packets.

mod follow;
mod gate;
mod lead;
mod message;
mod place;
mod secret;
#[cfg(test)]
mod tests;

use aios_base::error::Result;
use place::Place;
use std::time::Duration;

/// How much later than the first the last rank may come.
const PATIENCE: Duration = Duration::from_secs(300);

/// A place to meet, once.
pub(crate) struct Rendezvous {
    place: Place,
    patience: Duration,
}

impl Rendezvous {
    /// The one that the environment names. On a job of one nothing is needed of it.
    ///
    /// # Errors
    /// No port; or ranks on several hosts, and no secret that all of them have.
    pub fn from_env() -> Result<Self> {
        Ok(Self {
            place: Place::of(&|name| std::env::var(name).ok())?,
            patience: PATIENCE,
        })
    }

    /// Wait for all ranks; what each of them brings, by rank. Words of one that cannot go on end the
    /// wait, after 10 s at most, and are everybody's error.
    ///
    /// # Errors
    /// Such words; ranks that have not come within 5 minutes, which are named; a port that is taken.
    pub fn exchange(&self, rank: usize, size: usize, brought: Brought) -> Result<Vec<Vec<u8>>> {
        match rank {
            0 => lead::lead(&self.place, size, brought, self.patience),
            _ => follow::follow(&self.place, rank, brought, self.patience),
        }
    }
}

/// What a rank brings, or why it cannot go on.
pub(crate) type Brought = Result<Vec<u8>, String>;
