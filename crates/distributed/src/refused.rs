//! An engine that is not to be had, beside one that is.

use crate::Collectives;
use aios_base::error::Error;

/// NCCL is not to be had, which all ranks know.
pub struct Refused {
    /// The engine that the ranks have met by, to go on with.
    pub other: Box<dyn Collectives>,
    pub why: Error,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.why
    }
}
