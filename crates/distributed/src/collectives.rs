//! What an engine does for the ranks of a job.

use aios_base::error::Result;

/// Operations that all ranks make together, each of them in the same order, with slices of the same lengths.
///
/// An implementation is called by the one thread that made it. Slices may be longer than the engine's own counts
/// (2^31 - 1 elements): it divides them. A sum is the same bits on every rank, and in every job of as many ranks.
pub trait Collectives {
    /// This process's number, below [`Collectives::size`].
    fn rank(&self) -> usize;

    /// Ranks of the job.
    fn size(&self) -> usize;

    /// Name, version and file of the library, in words.
    fn library(&self) -> String;

    /// Each element becomes its sum over all ranks.
    ///
    /// # Errors
    /// What the engine says of it.
    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()>;

    /// `part` becomes this rank's part of the sum over all ranks: `values` has as many parts of its length as there are
    /// ranks, in their order.
    ///
    /// # Errors
    /// As above.
    fn reduce_scatter(&mut self, values: &[f32], part: &mut [f32]) -> Result<()>;

    /// `whole` becomes the parts of all ranks, in their order.
    ///
    /// # Errors
    /// As above.
    fn all_gather(&mut self, part: &[u8], whole: &mut [u8]) -> Result<()>;

    /// `bytes` becomes what it is on rank `root`.
    ///
    /// # Errors
    /// As above.
    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<()>;

    /// Take leave of the engine, after which it is not called any more. All ranks have to.
    ///
    /// # Errors
    /// As above.
    fn finalize(&mut self) -> Result<()>;
}
