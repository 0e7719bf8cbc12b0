//! NCCL, for ranks with an NVIDIA GPU each, loaded when it is wanted: nothing of it is needed to build.
//!
//! Numbers come from this host's memory and go back there: each operation moves them in pieces through a buffer of 32 MiB
//! on the GPU and one as long in memory that the GPU reads by itself. What is faster than MPI is the way between GPUs. NCCL
//! takes a few hundred MiB of the GPU's memory for itself.
//!
//! All ranks have to know a number that one of them makes up before they can join. It reaches them by an engine that has
//! joined them already ([`Nccl::over`]) or at an address that the launcher tells all of them ([`Nccl::at`]). Whoever knows
//! it can join, and what NCCL sends over a network is neither encrypted nor signed.

mod cuda;
mod engine;
mod find;
mod functions;
mod meeting;
mod staging;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

pub use crate::refused::Refused;
use crate::rendezvous::Rendezvous;
use crate::session::{Session, is_there, whole_of};
use crate::{Collectives, Launched};
use aios_base::error::Result;
use engine::Engine;
use meeting::Ready;

/// Bytes that go through the GPU at once: 32 MiB.
const PIECE: usize = 32 << 20;

/// The least that a piece has of each rank, in bytes; parts are multiples of it, as NCCL is faster on aligned ones.
const GRAIN: usize = 16;

/// Bytes up to which another engine that there is does without the GPU.
const SMALL: usize = 64 << 10;

/// NCCL, started on one GPU. It belongs to the thread that opened it.
///
/// A sum is the same bits on every rank, and in every job of as many ranks on the same hosts with the same library: by
/// which way NCCL goes depends on what is between the GPUs. After an operation failed every other one fails too, as ranks
/// may be at different places then.
pub struct Nccl {
    engine: Engine,
    /// The one that the ranks have met by.
    other: Option<Box<dyn Collectives>>,
    library: String,
    session: Session,
    piece: usize,
}

impl Nccl {
    /// Join the ranks that a launcher without MPI has started, as torchrun does, on the CUDA device `device`, or say why
    /// this rank has none. Rank 0 listens at MASTER_ADDR and MASTER_PORT, or the port after it where torchrun itself does
    /// at that; AIOS_MASTER_PORT is another one. Others may come 5 minutes later.
    ///
    /// AIOS_JOB_SECRET, on all ranks the same text, is what they know each other by; ranks of one host can do without.
    ///
    /// # Errors
    /// No driver, no library or no such device on a rank; ranks that do not come, which are named; ranks on several hosts
    /// without a secret; what NCCL says when it starts.
    pub fn at(launched: &Launched, device: Result<usize>) -> Result<Self> {
        let place = Rendezvous::from_env()?;
        let (rank, size) = (launched.rank, launched.size);
        let ready = Ready::on(device, size);
        let all = place.exchange(rank, size, meeting::brought(&ready, rank))?;
        let ready = ready?;
        let library = ready.in_words();
        Ok(Self::new(ready.join(rank, &all)?, None, library))
    }

    /// Join the ranks that `other` has joined already, on the CUDA device `device`, or say why this rank has none. `other`
    /// goes on with what has few bytes.
    ///
    /// # Errors
    /// As above, or what `other` says; the same on all ranks, unless the failure is that of `other`.
    pub fn over(mut other: Box<dyn Collectives>, device: Result<usize>) -> Result<Self, Refused> {
        match meeting::over(&mut *other, device) {
            Ok((engine, library)) => {
                let library = format!("{library} with {}", other.library());
                Ok(Self::new(engine, Some(other), library))
            }
            Err(why) => Err(Refused { other, why }),
        }
    }

    fn new(engine: Engine, other: Option<Box<dyn Collectives>>, library: String) -> Self {
        tracing::debug!(
            rank = engine.rank(),
            size = engine.size(),
            library,
            "NCCL started"
        );
        Self {
            engine,
            other,
            library,
            session: Session::Open,
            piece: PIECE,
        }
    }

    /// Make an operation, unless an earlier one failed or leave was taken.
    fn call(&mut self, operation: impl FnOnce(&mut Engine) -> Result<()>) -> Result<()> {
        self.session.goes_on("NCCL")?;
        let done = operation(&mut self.engine);
        let (rank, size) = (self.rank(), self.size());
        let done = self.session.note(done, rank, size);
        if done.is_err() {
            // Its kernels would wait for others for ever.
            self.engine.abort();
        }
        done
    }

    /// The other engine, for so few bytes, as long as nothing has failed.
    fn for_few(&mut self, bytes: usize) -> Option<&mut Box<dyn Collectives>> {
        let open = matches!(self.session, Session::Open);
        self.other.as_mut().filter(|_| open && bytes <= SMALL)
    }

    /// Bytes of a part such that the parts of all ranks make a piece.
    fn part(&self) -> usize {
        (self.piece / self.size() / GRAIN).max(1) * GRAIN
    }
}

impl Collectives for Nccl {
    fn rank(&self) -> usize {
        self.engine.rank()
    }

    fn size(&self) -> usize {
        self.engine.size()
    }

    fn library(&self) -> String {
        self.library.clone()
    }

    fn all_reduce(&mut self, values: &mut [f32]) -> Result<()> {
        let piece = self.part() * self.size();
        self.call(|engine| {
            let mut pieces = bytes_mut(values).chunks_mut(piece);
            pieces.try_for_each(|bytes| engine.all_reduce(bytes))
        })
    }

    fn reduce_scatter(&mut self, values: &[f32], part: &mut [f32]) -> Result<()> {
        whole_of(values.len(), part.len(), self.size())?;
        let at_once = self.part();
        self.call(|engine| {
            let mut pieces = bytes_mut(part).chunks_mut(at_once).enumerate();
            pieces
                .try_for_each(|(k, piece)| engine.reduce_scatter(bytes(values), k * at_once, piece))
        })
    }

    fn all_gather(&mut self, part: &[u8], whole: &mut [u8]) -> Result<()> {
        whole_of(whole.len(), part.len(), self.size())?;
        let at_once = self.part();
        if let Some(other) = self.for_few(whole.len()) {
            return other.all_gather(part, whole);
        }
        self.call(|engine| {
            let mut pieces = part.chunks(at_once).enumerate();
            pieces.try_for_each(|(k, piece)| engine.all_gather(piece, whole, k * at_once))
        })
    }

    fn broadcast(&mut self, bytes: &mut [u8], root: usize) -> Result<()> {
        is_there(root, self.size())?;
        if let Some(other) = self.for_few(bytes.len()) {
            return other.broadcast(bytes, root);
        }
        let piece = self.part() * self.size();
        self.call(|engine| {
            let mut pieces = bytes.chunks_mut(piece);
            pieces.try_for_each(|bytes| engine.broadcast(bytes, root))
        })
    }

    fn finalize(&mut self) -> Result<()> {
        self.call(Engine::leave)?;
        self.session = Session::Left;
        self.other.as_mut().map_or(Ok(()), |other| other.finalize())
    }
}

fn bytes(values: &[f32]) -> &[u8] {
    // SAFETY: the same memory for as long, of which every byte is one of a float's four.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_mut(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: the same memory for as long, borrowed as exclusively; any four bytes are a float.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}
