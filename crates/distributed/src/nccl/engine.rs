//! Operations on one piece.

use super::functions::{Comm, Functions};
use super::staging::Staging;
use aios_base::error::{Error, Result};
use std::ffi::c_int;

/// A rank that has joined.
pub struct Engine {
    call: Functions,
    /// Null once it was taken leave of, or given up.
    comm: Comm,
    staging: Staging,
    rank: usize,
    size: usize,
}

impl Engine {
    pub fn new(call: Functions, comm: Comm, staging: Staging, [rank, size]: [usize; 2]) -> Self {
        Self {
            call,
            comm,
            staging,
            rank,
            size,
        }
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn size(&self) -> usize {
        self.size
    }

    /// Each float becomes its sum over all ranks. `floats` are their bytes.
    pub fn all_reduce(&mut self, floats: &mut [u8]) -> Result<()> {
        let length = floats.len();
        self.staging.fits(length)?;
        self.staging.host()[..length].copy_from_slice(floats);
        self.staging.bring(0..length)?;
        let (stream, memory) = (self.staging.stream(), self.staging.at(0));
        // SAFETY: the piece fits and is waited for; it is on the stream that NCCL is told.
        unsafe {
            self.call
                .all_reduce(self.comm, stream, memory, length / size_of::<f32>())?
        };
        self.staging.fetch(0..length)?;
        self.wait()?;
        floats.copy_from_slice(&self.staging.host()[..length]);
        Ok(())
    }

    /// `piece` becomes its sum over all ranks: bytes from `first` on of each of the parts of `floats`, of which there are
    /// as many as ranks, are added up.
    pub fn reduce_scatter(&mut self, floats: &[u8], first: usize, piece: &mut [u8]) -> Result<()> {
        let (length, whole) = self.lengths(piece.len())?;
        let parts = floats.chunks_exact(floats.len() / self.size);
        for (part, to) in parts.zip(self.staging.host().chunks_exact_mut(length)) {
            to.copy_from_slice(&part[first..first + length]);
        }
        self.staging.bring(0..whole)?;
        let own = self.rank * length;
        let (stream, places) = (
            self.staging.stream(),
            [self.staging.at(0), self.staging.at(own)],
        );
        // SAFETY: the piece of each rank fits and is waited for; all is on the stream that NCCL is told.
        unsafe {
            self.call
                .reduce_scatter(self.comm, stream, places, length / size_of::<f32>())?
        };
        self.staging.fetch(own..own + length)?;
        self.wait()?;
        piece.copy_from_slice(&self.staging.host()[own..own + length]);
        Ok(())
    }

    /// Bytes from `first` on of each of the parts of `whole`, of which there are as many as ranks, become that rank's
    /// `piece`.
    pub fn all_gather(&mut self, piece: &[u8], whole: &mut [u8], first: usize) -> Result<()> {
        let (length, all) = self.lengths(piece.len())?;
        let own = self.rank * length;
        self.staging.host()[own..own + length].copy_from_slice(piece);
        self.staging.bring(own..own + length)?;
        let (stream, places) = (
            self.staging.stream(),
            [self.staging.at(0), self.staging.at(own)],
        );
        // SAFETY: the piece of each rank fits and is waited for; all is on the stream that NCCL is told.
        unsafe { self.call.all_gather(self.comm, stream, places, length)? };
        self.staging.fetch(0..all)?;
        self.wait()?;
        let parts = whole.chunks_exact_mut(whole.len() / self.size);
        for (part, from) in parts.zip(self.staging.host().chunks_exact(length)) {
            part[first..first + length].copy_from_slice(from);
        }
        Ok(())
    }

    /// `bytes` become what they are on rank `root`.
    pub fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<()> {
        let (length, leads) = (bytes.len(), root == self.rank);
        self.staging.fits(length)?;
        if leads {
            self.staging.host()[..length].copy_from_slice(bytes);
            self.staging.bring(0..length)?;
        }
        let root = c_int::try_from(root).map_err(Error::failed)?;
        let (stream, memory) = (self.staging.stream(), self.staging.at(0));
        // SAFETY: the piece fits and is waited for; it is on the stream that NCCL is told.
        unsafe {
            self.call
                .broadcast(self.comm, stream, memory, length, root)?
        };
        if !leads {
            self.staging.fetch(0..length)?;
        }
        self.wait()?;
        if !leads {
            bytes.copy_from_slice(&self.staging.host()[..length]);
        }
        Ok(())
    }

    /// Take leave of the others.
    pub fn leave(&mut self) -> Result<()> {
        let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
        // SAFETY: it was open, as no operation comes after this or after a failure; each was waited for.
        unsafe { self.call.destroy(comm) }
    }

    /// Give up, whatever is under way.
    pub fn abort(&mut self) {
        let comm = std::mem::replace(&mut self.comm, std::ptr::null_mut());
        if !comm.is_null() {
            // SAFETY: it was open, and nobody has it any more.
            unsafe { self.call.abort(comm) };
        }
    }

    /// A piece's length, and that of the pieces of all ranks, which fit.
    fn lengths(&self, piece: usize) -> Result<(usize, usize)> {
        let whole = piece * self.size;
        self.staging.fits(whole)?;
        Ok((piece, whole))
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the communicator is open: it is replaced only by what ends all operations.
        self.staging
            .wait(|| unsafe { self.call.is_sound(self.comm) })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Before the memory goes that kernels may wait to write.
        self.abort();
    }
}
