//! What changes while a rank watches.

use super::frame::Frame;
use super::ledger::{Ledger, Record};
use super::link::Link;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long words of a rank that cannot go on wait for a better reason: an engine tells one rank that another is gone at
/// the moment at which its connection here ends.
const BETTER_REASON: Duration = Duration::from_millis(250);

pub(super) struct State {
    /// On rank 0 all that have joined, and itself; elsewhere rank 0 alone.
    pub(super) ledger: Ledger,
    /// As many as the ledger has ranks.
    pub(super) places: Vec<Place>,
    /// All have joined.
    pub(super) complete: bool,
    pub(super) words: Option<Words>,
    pub(super) failure: Option<Failure>,
    /// This rank ends by itself.
    pub(super) ended: bool,
    pub(super) given_up: bool,
    pub(super) closed: bool,
}

/// Where another rank is, or will be.
#[derive(Default)]
pub(super) struct Place {
    pub(super) taken: bool,
    pub(super) link: Option<Arc<Link>>,
    /// The last word to it has arrived.
    pub(super) got: bool,
    pub(super) gone: bool,
}

/// What a rank said that cannot go on.
pub(super) struct Words {
    pub(super) rank: usize,
    pub(super) line: String,
    pub(super) time: Instant,
}

pub(super) struct Failure {
    pub(super) line: String,
    pub(super) time: Instant,
    /// It came from rank 0.
    pub(super) told: bool,
}

impl State {
    /// Of rank 0 in a job of `size`, or of another rank.
    pub(super) fn new(leads: bool, size: usize) -> Self {
        // An invitation may say any size.
        let known = if leads { size } else { 1 };
        let mut ledger = Ledger(vec![None; known]);
        if leads {
            ledger.0[0] = Some(Record::new(Instant::now()));
        }
        Self {
            ledger,
            places: (0..known).map(|_| Place::default()).collect(),
            complete: size == 1,
            words: None,
            failure: None,
            ended: false,
            given_up: false,
            closed: false,
        }
    }

    /// To all that are connected.
    pub(super) fn post(&self, frame: &Frame) {
        for place in &self.places {
            place.post(frame.clone());
        }
    }
}

impl Place {
    pub(super) fn post(&self, frame: Frame) {
        if let Some(link) = &self.link {
            link.post(frame);
        }
    }

    /// Or cannot be told.
    pub(super) fn is_told(&self) -> bool {
        self.got || self.gone || self.link.is_none()
    }
}

impl Words {
    /// Until they are what ended the job.
    pub(super) fn left(&self) -> Duration {
        BETTER_REASON.saturating_sub(self.time.elapsed())
    }
}
