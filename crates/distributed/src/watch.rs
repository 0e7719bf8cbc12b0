//! Heartbeats of the ranks, apart from the engine.
//!
//! When a rank dies, hangs or loses its network, calls of the engine do not return on the others. So every rank holds a
//! TCP connection to rank 0, and each side says every second that it is there, how much it has done and whether it waits
//! for others. Rank 0 judges all, itself too, and tells all; the others judge rank 0's connection and its silence. What
//! comes out is one line that names a rank, the same on every rank that could still be told.
//!
//! Whoever connects has to prove that it knows the job's secret, and rank 0 proves it too. What is said afterwards is
//! neither encrypted nor signed: somebody who can change packets between the hosts can end the job, as they can change
//! the engine's numbers, but no more than that.
//!
//! Time in which this process did not run, as on a laptop that slept, counts against nobody.

mod addresses;
mod approach;
mod ending;
mod events;
mod frame;
mod gate;
mod ledger;
mod link;
mod places;
mod round;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod threads;
pub(crate) mod words;

use crate::handshake;
use aios_base::error::{Error, Result, shortened};
use gate::Gate;
use serde::{Deserialize, Serialize};
use shared::Shared;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a follower tries to reach rank 0.
const JOINING: Duration = Duration::from_secs(30);

/// How long [`Watch::done`] of rank 0 waits for the others.
const LEAVING: Duration = Duration::from_secs(5);

/// How long others may take to confirm a last word.
const CONFIRMING: Duration = Duration::from_secs(2);

/// What a rank has to know to join. Whoever has it can join.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// Where rank 0 listens; some may lead elsewhere from another host, which the handshake tells.
    pub addresses: Vec<SocketAddr>,
    /// Known to the ranks of this job alone.
    pub secret: [u8; 32],
    /// Ranks of the job.
    pub size: usize,
}

impl fmt::Debug for Invitation {
    /// Without the secret: this goes to logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invitation")
            .field("addresses", &self.addresses)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// How a rank watches. All ranks should have the same deadline.
pub struct Options {
    /// Silence or lack of progress for this long ends the job.
    pub deadline: Duration,
    /// The ranks in words, as in "rank 3 (host b, cuda:1)"; one without is called by its number.
    pub names: Vec<String>,
    /// How long after a failure this process may take to end by itself.
    pub grace: Duration,
    /// Called once, on a thread of the watch, with the line that ended the job, when [`Watch::done`] was not called within
    /// `grace` of the failure: has to end the process.
    pub give_up: Box<dyn Fn(&str) + Send + Sync>,
}

impl Options {
    /// A deadline of 300 s and a grace of 10 s.
    pub fn new(names: Vec<String>, give_up: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self {
            deadline: Duration::from_secs(300),
            names,
            grace: Duration::from_secs(10),
            give_up: Box::new(give_up),
        }
    }
}

/// A rank's part in the watch. Clones are the same part; once the last is dropped its connections are closed, which
/// without [`Watch::done`] is a failure to the others.
#[derive(Clone)]
pub struct Watch(Arc<Part>);

/// Threads hold what is shared, so that this one's end is theirs.
struct Part(Arc<Shared>);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.tell(CONFIRMING);
        self.0.close();
    }
}

/// While it lives its rank waits for others.
#[must_use = "the wait ends when this is dropped"]
pub struct Waiting(Arc<Shared>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.wait_ends();
    }
}

impl Watch {
    /// Rank 0 of `size`: listens on all interfaces, on ports the system chooses, until all have joined. A job of one has
    /// nobody to watch, and does not listen.
    ///
    /// # Errors
    /// No port or no thread to be had; no ranks.
    pub fn lead(size: usize, options: Options) -> Result<(Self, Invitation)> {
        if size == 0 {
            return Err(Error::invalid("a job needs at least one rank"));
        }
        let mut secret = [0; 32];
        handshake::random(&mut secret).map_err(cannot("watch the ranks"))?;
        let shared = Arc::new(Shared::new(0, size, options));
        let watch = Self(Arc::new(Part(shared.clone())));
        let mut addresses = Vec::new();
        if size > 1 {
            let gate = Gate::open(secret).map_err(cannot("listen for the other ranks"))?;
            addresses = gate.addresses();
            let to_gate = shared.clone();
            threads::spawn("watch gate", move || gate.serve(&to_gate))?;
        }
        threads::spawn("watch", move || round::rounds(&shared))?;
        let invitation = Invitation {
            addresses,
            secret,
            size,
        };
        Ok((watch, invitation))
    }

    /// Any other rank: tries the addresses, those of its own host first, for 30 s in all.
    ///
    /// # Errors
    /// Nobody at them proves to lead this job; `rank` has joined already or is none of the job's.
    pub fn follow(rank: usize, invitation: &Invitation, options: Options) -> Result<Self> {
        Self::follow_within(JOINING, rank, invitation, options)
    }

    fn follow_within(
        patience: Duration,
        rank: usize,
        invitation: &Invitation,
        options: Options,
    ) -> Result<Self> {
        if rank == 0 || rank >= invitation.size {
            let last = invitation.size.saturating_sub(1);
            let line =
                format!("rank {rank} cannot follow: the job's followers are ranks 1 to {last}");
            return Err(Error::invalid(line));
        }
        let stream = approach::reach(rank, invitation, patience)?;
        let shared = Arc::new(Shared::new(rank, invitation.size, options));
        let watch = Self(Arc::new(Part(shared.clone())));
        threads::connect(&shared, 0, stream)?;
        threads::spawn("watch", move || round::rounds(&shared))?;
        Ok(watch)
    }

    /// Rank 0: waits until all ranks have joined. On other ranks, and for a job of one, returns at once.
    ///
    /// # Errors
    /// Names the ranks that have not joined after `patience`, or what ended the job before; all others are told.
    pub fn all_here(&self, patience: Duration) -> Result<()> {
        let waiting = self.waiting();
        let failure = self.0.0.assemble(patience);
        drop(waiting);
        match failure {
            Some(line) => Err(Error::failed(line)),
            None => Ok(()),
        }
    }

    /// Something was done. Cheap enough for every small piece of work.
    pub fn progress(&self) {
        self.0.0.count();
    }

    /// While what this returns lives, this rank waits for others: if nothing happens it is not the one that hangs. Its
    /// beginning and its end count as progress.
    ///
    /// Where all ranks wait, and none counts progress for the deadline, the engine has lost something: that ends the job
    /// too.
    pub fn waiting(&self) -> Waiting {
        self.0.0.wait_begins();
        Waiting(self.0.0.clone())
    }

    /// The line that ended the job, if something has. It never changes.
    ///
    /// Call [`Watch::done`] before the process ends: on rank 0 it lets the line reach the others first.
    pub fn failure(&self) -> Option<String> {
        self.0.0.failure()
    }

    /// Whether that line came from rank 0, which then says it to the user too.
    pub fn was_told(&self) -> bool {
        self.0.0.was_told()
    }

    /// After a failure, wait until rank 0's process has ended, for `patience` at most: some launchers kill all others once
    /// one has ended, and rank 0 has something to save. On rank 0 returns at once.
    pub fn outlive_rank_0(&self, patience: Duration) {
        self.0.0.outlive(patience);
    }

    /// This rank cannot go on: its words, in one line and cut to about 2000 bytes, end the job on all ranks. Where the
    /// cause turns out to be another rank that is gone, that one is named on all ranks instead.
    ///
    /// Returns once rank 0 knows, on rank 0 once all others do, and after 4 s at most; the process may end then.
    pub fn fail(&self, words: &str) {
        self.0.0.fail(&shortened(words), CONFIRMING);
        self.0.0.tell(CONFIRMING);
    }

    /// This rank ends by itself: from now on its silence means nothing, and after a failure it is not made to give up.
    ///
    /// Returns once rank 0 knows, after 2 s at most; on rank 0 once all others have said the same or know of the failure
    /// that ended the job, after 5 s at most.
    pub fn done(&self) {
        let began = Instant::now();
        self.0.0.leave(LEAVING, CONFIRMING);
        self.0
            .0
            .tell(CONFIRMING.min(LEAVING.saturating_sub(began.elapsed())));
    }
}

fn cannot(what: &str) -> impl Fn(std::io::Error) -> Error {
    move |e| Error::failed(format!("cannot {what}: {e}"))
}
