//! What engines have in common: whether they may still be called, and what they are called with.

use aios_base::error::{Error, Result};

/// Whether an engine may be called. After an operation failed every other one fails too, as ranks may be at different
/// places then.
pub(crate) enum Session {
    Open,
    Failed(String),
    Left,
}

impl Session {
    /// Whether the engine of this name may be called.
    pub fn goes_on(&self, engine: &str) -> Result<()> {
        match self {
            Self::Open => Ok(()),
            Self::Failed(why) => Err(Error::failed(why)),
            Self::Left => Err(Error::failed(format!("{engine} was taken leave of"))),
        }
    }

    /// Note what became of an operation of a rank; an error then names it.
    pub fn note(&mut self, done: Result<()>, rank: usize, size: usize) -> Result<()> {
        let done = done.map_err(|e| Error::failed(format!("rank {rank} of {size}: {e}")));
        if let Err(e) = &done {
            *self = Self::Failed(e.to_string());
        }
        done
    }
}

/// That `whole` elements are `size` parts of `part`: a library would write beyond the shorter one.
pub(crate) fn whole_of(whole: usize, part: usize, size: usize) -> Result<()> {
    match part.checked_mul(size) == Some(whole) {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "{whole} elements are not {size} parts of {part}"
        ))),
    }
}

/// That a job of `size` has this rank.
pub(crate) fn is_there(rank: usize, size: usize) -> Result<()> {
    match rank < size {
        true => Ok(()),
        false => Err(Error::failed(format!(
            "rank {rank} in a job of {size} is not there"
        ))),
    }
}
