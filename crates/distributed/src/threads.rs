//! Ranks that are threads of one process: for tests, and the plain form of what engines do.

use crate::Collectives;
use aios_base::error::{Error, Result};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};

/// What the threads share.
struct Shared {
    /// What each rank brings, by rank.
    brought: Mutex<Vec<Vec<u8>>>,
    barrier: Barrier,
}

/// One of them.
pub struct Thread {
    rank: usize,
    size: usize,
    shared: Arc<Shared>,
}

impl Thread {
    /// As many as that, one for each thread.
    pub fn several(size: usize) -> Vec<Self> {
        let shared = Arc::new(Shared {
            brought: Mutex::new(vec![Vec::new(); size]),
            barrier: Barrier::new(size),
        });
        let of = |rank| Self {
            rank,
            size,
            shared: Arc::clone(&shared),
        };
        (0..size).map(of).collect()
    }

    fn brought(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        let brought = self.shared.brought.lock();
        brought.unwrap_or_else(PoisonError::into_inner)
    }

    /// What all ranks bring, by rank.
    fn exchange(&self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        self.brought()[self.rank] = bytes;
        self.shared.barrier.wait();
        let all = self.brought().clone();
        // Nobody brings more before everybody has read.
        self.shared.barrier.wait();
        all
    }

    fn sum(&self, values: &[f32]) -> Vec<f32> {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes());
        let mut sums = vec![0.0; values.len()];
        for bytes in self.exchange(bytes.collect()) {
            let values = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
        }
        sums
    }
}

impl Collectives for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn library(&self) -> String {
        "threads".to_string()
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        values.copy_from_slice(&self.sum(values));
        Ok(())
    }

    fn reduce_scatter(&mut self, values: &[f32], part: &mut [f32]) -> Result<()> {
        let start = self.rank * part.len();
        let end = start + part.len();
        part.copy_from_slice(&self.sum(values)[start..end]);
        Ok(())
    }

    fn all_gather(&mut self, part: &[u8], whole: &mut [u8]) -> Result<()> {
        let all = self.exchange(part.to_vec()).concat();
        match all.len() == whole.len() {
            true => whole.copy_from_slice(&all),
            false => return Err(Error::failed("parts of different lengths")),
        }
        Ok(())
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<()> {
        let all = self.exchange(bytes.to_vec());
        bytes.copy_from_slice(&all[root]);
        Ok(())
    }

    fn finalize(&mut self) -> Result<()> {
        Ok(())
    }
}
