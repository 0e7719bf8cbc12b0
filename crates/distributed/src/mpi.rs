//! MPI, loaded when it is wanted: nothing of it is needed to build.
//!
//! Three binary interfaces are known (`abi`): that of the MPI 5 standard, MPICH's and Open MPI's. Which library to take
//! depends on who started the process (`find`), as a library makes a job of one rank under the launcher of another.
//!
//! Long slices go through the library in pieces of a fixed length, so that it needs no buffer as long as a whole gradient,
//! and its counts, which are C's `int`, suffice.

mod abi;
mod engine;
mod find;
mod functions;
mod launcher;
#[cfg(test)]
pub(crate) mod tests;

use crate::collectives::Collectives;
use crate::session::{Session, is_there, whole_of};
use aios_base::error::{Error, Result};
use engine::Engine;
use std::ffi::c_int;

/// Elements that go through the library at once, of a sum over all ranks: 32 MiB.
const PIECE: usize = 8 << 20;

/// MPI, started. It belongs to the thread that opened it.
///
/// After an operation failed every other one fails too, as ranks may be at different places then; the library is not
/// called any more, not even to take leave. A NaN stays one in a sum, but the bits that say which may differ by rank.
pub struct Mpi {
    engine: Box<dyn Engine>,
    rank: usize,
    size: usize,
    library: String,
    session: Session,
    piece: usize,
}

impl Mpi {
    /// Load the first library that there is, and start MPI on this thread, which has to make all other calls. Once in a
    /// process.
    ///
    /// The file that the environment variable `AIOS_MPI_LIBRARY` names is taken before any other.
    ///
    /// # Errors
    /// No library is found, it lacks a function, it does not start, or it knows of one rank where the launcher started
    /// more. Some libraries end the process instead when they cannot start.
    pub fn open() -> Result<Self> {
        let found = find::library()?;
        let library = found.in_words();
        // MPICH would end the process.
        if launcher::is_open_mpi() && found.version.contains("MPICH") {
            return Err(Error::failed(format!(
                "{library} is not the library of Open MPI's mpirun, which started this: set AIOS_MPI_LIBRARY to Open MPI's, or \
                 start the job with MPICH's mpiexec"
            )));
        }
        let engine = engine::start(found).map_err(|e| Error::failed(format!("{library}: {e}")))?;
        let (rank, size) = (engine.rank()?, engine.size()?);
        if let Some(ranks) = launcher::ranks().filter(|&ranks| ranks > 1 && size == 1) {
            // Nobody else knows of this job of one: leaving it cannot fail for others.
            let _ = engine.finalize();
            return Err(Error::failed(format!(
                "{library} knows of 1 rank, and the launcher started {ranks}: it is not the launcher's library; set \
                 AIOS_MPI_LIBRARY to that one, or start the job with this library's mpiexec (with srun: another --mpi)"
            )));
        }
        tracing::debug!(rank, size, library, "MPI started");
        Ok(Self {
            engine,
            rank,
            size,
            library,
            session: Session::Open,
            piece: PIECE,
        })
    }

    /// Make an operation, unless an earlier one failed or leave was taken.
    fn call(&mut self, operation: impl FnOnce(&dyn Engine) -> Result<()>) -> Result<()> {
        self.session.goes_on("MPI")?;
        let done = operation(&*self.engine);
        self.session.note(done, self.rank, self.size)
    }

    /// Elements of a part such that the parts of all ranks make a piece of at most `whole` elements; at least one.
    fn part(&self, whole: usize) -> usize {
        (whole / self.size).max(1)
    }
}

/// The library that would be taken, in words. It is loaded, which takes nothing of a job, and not started.
///
/// # Errors
/// There is none, or one that cannot be used: what was tried.
pub fn installed() -> Result<String> {
    let found = find::library()?;
    let words = found.in_words();
    // Not every MPI library can be unloaded.
    std::mem::forget(found.library);
    Ok(words)
}

impl Collectives for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn library(&self) -> String {
        self.library.clone()
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        let piece = self.piece;
        self.call(|engine| {
            values
                .chunks_mut(piece)
                .try_for_each(|v| engine.all_reduce(v))
        })
    }

    fn reduce_scatter(&mut self, values: &[f32], part: &mut [f32]) -> Result<()> {
        let (size, at_once) = (self.size, self.part(self.piece));
        whole_of(values.len(), part.len(), size)?;
        if part.len() <= at_once {
            return self.call(|engine| match part.is_empty() {
                true => Ok(()),
                false => engine.reduce_scatter(values, part),
            });
        }
        let length = part.len();
        self.call(|engine| {
            let mut staged = Vec::with_capacity(at_once * size);
            for (k, piece) in part.chunks_mut(at_once).enumerate() {
                let first = k * at_once;
                staged.clear();
                for of_rank in values.chunks_exact(length) {
                    staged.extend_from_slice(&of_rank[first..first + piece.len()]);
                }
                engine.reduce_scatter(&staged, piece)?;
            }
            Ok(())
        })
    }

    fn all_gather(&mut self, part: &[u8], whole: &mut [u8]) -> Result<()> {
        let (size, at_once) = (self.size, self.part(self.piece * size_of::<f32>()));
        whole_of(whole.len(), part.len(), size)?;
        if part.len() <= at_once {
            return self.call(|engine| match part.is_empty() {
                true => Ok(()),
                false => engine.all_gather(part, whole),
            });
        }
        let length = part.len();
        self.call(|engine| {
            let mut staged = vec![0; at_once * size];
            for (k, piece) in part.chunks(at_once).enumerate() {
                let first = k * at_once;
                let staged = &mut staged[..piece.len() * size];
                engine.all_gather(piece, staged)?;
                let ranks = whole
                    .chunks_exact_mut(length)
                    .zip(staged.chunks_exact(piece.len()));
                for (of_rank, came) in ranks {
                    of_rank[first..first + piece.len()].copy_from_slice(came);
                }
            }
            Ok(())
        })
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<()> {
        is_there(root, self.size)?;
        let piece = self.piece * size_of::<f32>();
        self.call(|engine| {
            bytes
                .chunks_mut(piece)
                .try_for_each(|b| engine.broadcast(b, root as c_int))
        })
    }

    fn finalize(&mut self) -> Result<()> {
        self.call(|engine| engine.finalize())?;
        self.session = Session::Left;
        Ok(())
    }
}
