//! In place of `nccl.rs` in a program built without the feature `cuda`.

pub use crate::refused::Refused;
use crate::{Collectives, Launched, world};
use aios_base::error::{Error, Result};
use std::convert::Infallible;

/// What begins the words of a rank that cannot go on.
const CANNOT: u8 = 1;

/// NCCL, which this program was built without.
pub struct Nccl(Infallible);

impl Nccl {
    /// # Errors
    /// Always.
    pub fn at(_launched: &Launched, _device: Result<usize>) -> Result<Self> {
        Err(not_built())
    }

    /// # Errors
    /// Always.
    pub fn over(mut other: Box<dyn Collectives>, _device: Result<usize>) -> Result<Self, Refused> {
        let why = not_built();
        let words = [&[CANNOT], why.to_string().as_bytes()].concat();
        // Ranks that have it wait for this one's word. What is wrong with the engine its next call says.
        let _ = world::gather(&mut *other, &words);
        Err(Refused { other, why })
    }
}

fn not_built() -> Error {
    Error::failed("this program was built without cuda; build it with --features cuda")
}

impl Collectives for Nccl {
    fn rank(&self) -> usize {
        match self.0 {}
    }

    fn size(&self) -> usize {
        match self.0 {}
    }

    fn library(&self) -> String {
        match self.0 {}
    }

    fn all_reduce(&mut self, _values: &mut [f32]) -> Result<()> {
        match self.0 {}
    }

    fn reduce_scatter(&mut self, _values: &[f32], _part: &mut [f32]) -> Result<()> {
        match self.0 {}
    }

    fn all_gather(&mut self, _part: &[u8], _whole: &mut [u8]) -> Result<()> {
        match self.0 {}
    }

    fn broadcast(&mut self, _bytes: &mut [u8], _root: usize) -> Result<()> {
        match self.0 {}
    }

    fn finalize(&mut self) -> Result<()> {
        match self.0 {}
    }
}
