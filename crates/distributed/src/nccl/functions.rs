//! The functions of NCCL that are called, and its constants.

use super::find::{Found, function};
use aios_base::error::{Error, Result};
use std::ffi::{CStr, c_char, c_int, c_void};

/// A communicator. NCCL's own: only it looks inside.
pub type Comm = *mut c_void;

/// A CUDA stream.
pub type Stream = *mut c_void;

/// Bytes of what ranks have to know to join.
pub const ID: usize = 128;

/// The same as NCCL takes it: by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Id(pub [u8; ID]);

/// ncclUint8.
pub const BYTE: c_int = 1;

/// ncclFloat32.
pub const FLOAT: c_int = 7;

/// ncclSum.
const SUM: c_int = 0;

/// ncclInProgress.
const IN_PROGRESS: c_int = 7;

type Reduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Comm, Stream) -> c_int;

/// Each but the texts returns 0 (ncclSuccess) or a code. Addresses are the device's.
pub struct Functions {
    get_version: unsafe extern "C" fn(*mut c_int) -> c_int,
    get_unique_id: unsafe extern "C" fn(*mut Id) -> c_int,
    /// Communicator, ranks, what they know, this rank.
    comm_init_rank: unsafe extern "C" fn(*mut Comm, c_int, Id, c_int) -> c_int,
    comm_destroy: unsafe extern "C" fn(Comm) -> c_int,
    comm_abort: unsafe extern "C" fn(Comm) -> c_int,
    comm_get_async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int,
    get_error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Since 2.13; the communicator may be null.
    get_last_error: Option<unsafe extern "C" fn(Comm) -> *const c_char>,
    /// From, to, elements, type, operation, communicator, stream.
    all_reduce: Reduce,
    /// Elements are those of one rank's part.
    reduce_scatter: Reduce,
    /// From, to, elements of one rank's part, type, communicator, stream.
    all_gather: unsafe extern "C" fn(u64, u64, usize, c_int, Comm, Stream) -> c_int,
    /// From, to, elements, type, root, communicator, stream.
    broadcast: unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Comm, Stream) -> c_int,
}

impl Functions {
    /// Those of a library.
    ///
    /// # Errors
    /// It lacks one.
    pub fn of(found: &Found) -> Result<Self> {
        let library = found.library;
        // SAFETY: each has the type that nccl.h gives the function of that name. Pointers to the device's memory, which no
        // more than passes through, are as long as the numbers that the driver has for them; libraries are for 64 bits.
        let functions = unsafe {
            (|| {
                Ok(Self {
                    get_version: function(library, c"ncclGetVersion")?,
                    get_unique_id: function(library, c"ncclGetUniqueId")?,
                    comm_init_rank: function(library, c"ncclCommInitRank")?,
                    comm_destroy: function(library, c"ncclCommDestroy")?,
                    comm_abort: function(library, c"ncclCommAbort")?,
                    comm_get_async_error: function(library, c"ncclCommGetAsyncError")?,
                    get_error_string: function(library, c"ncclGetErrorString")?,
                    get_last_error: function(library, c"ncclGetLastError").ok(),
                    all_reduce: function(library, c"ncclAllReduce")?,
                    reduce_scatter: function(library, c"ncclReduceScatter")?,
                    all_gather: function(library, c"ncclAllGather")?,
                    broadcast: function(library, c"ncclBroadcast")?,
                })
            })()
        };
        functions.map_err(|e: Error| Error::failed(format!("{}: {e}", found.file.display())))
    }

    /// The library's version, as NCCL counts.
    pub fn version(&self) -> Result<c_int> {
        let mut version = 0;
        // SAFETY: it writes the one number.
        let code = unsafe { (self.get_version)(&raw mut version) };
        self.checked("ncclGetVersion", code)?;
        Ok(version)
    }

    /// What all ranks of a new job have to know. The one that asks has to be among them, as it listens from now on.
    pub fn unique_id(&self) -> Result<Id> {
        let mut id = Id([0; ID]);
        // SAFETY: it writes the one structure, whose length is that of all versions.
        let code = unsafe { (self.get_unique_id)(&raw mut id) };
        self.checked("ncclGetUniqueId", code)?;
        Ok(id)
    }

    /// Join the others on the device whose context this thread has. Returns once all have.
    pub fn join(&self, rank: usize, size: usize, id: Id) -> Result<Comm> {
        let number =
            |n| c_int::try_from(n).map_err(|_| Error::failed(format!("{n} ranks are too many")));
        let (rank, size) = (number(rank)?, number(size)?);
        let mut comm = std::ptr::null_mut();
        // SAFETY: it writes the one pointer; the id is from the same function of some rank's library.
        let code = unsafe { (self.comm_init_rank)(&raw mut comm, size, id, rank) };
        self.checked("ncclCommInitRank", code)?;
        match comm.is_null() {
            true => Err(Error::failed("ncclCommInitRank gives nothing")),
            false => Ok(comm),
        }
    }

    /// That nothing has failed since the last call.
    ///
    /// # Safety
    /// The communicator has to be open.
    pub unsafe fn is_sound(&self, comm: Comm) -> Result<()> {
        let mut state = 0;
        // SAFETY: the communicator is open, as the caller promises, and it writes the one number.
        let code = unsafe { (self.comm_get_async_error)(comm, &raw mut state) };
        self.checked("ncclCommGetAsyncError", code)?;
        self.checked("NCCL", state)
    }

    /// # Safety
    /// The communicator has to be open, `stream` one of its device, and `floats` at `memory` the device's, until the
    /// stream is done.
    pub unsafe fn all_reduce(
        &self,
        comm: Comm,
        stream: Stream,
        memory: u64,
        floats: usize,
    ) -> Result<()> {
        // SAFETY: as the caller promises; NCCL allows that both are the same place.
        let code = unsafe { (self.all_reduce)(memory, memory, floats, FLOAT, SUM, comm, stream) };
        self.checked("ncclAllReduce", code)
    }

    /// # Safety
    /// As above, with `floats` for each rank at `memory`; `own` is this rank's place there.
    pub unsafe fn reduce_scatter(
        &self,
        comm: Comm,
        stream: Stream,
        [memory, own]: [u64; 2],
        floats: usize,
    ) -> Result<()> {
        // SAFETY: as the caller promises; NCCL allows that a part lies at its own place.
        let code = unsafe { (self.reduce_scatter)(memory, own, floats, FLOAT, SUM, comm, stream) };
        self.checked("ncclReduceScatter", code)
    }

    /// # Safety
    /// As above, with `bytes` for each rank at `memory`; `own` is this rank's place there.
    pub unsafe fn all_gather(
        &self,
        comm: Comm,
        stream: Stream,
        [memory, own]: [u64; 2],
        bytes: usize,
    ) -> Result<()> {
        // SAFETY: as the caller promises; NCCL allows that a part lies at its own place.
        let code = unsafe { (self.all_gather)(own, memory, bytes, BYTE, comm, stream) };
        self.checked("ncclAllGather", code)
    }

    /// # Safety
    /// As above, with `bytes` at `memory`, and `root` a rank.
    pub unsafe fn broadcast(
        &self,
        comm: Comm,
        stream: Stream,
        memory: u64,
        bytes: usize,
        root: c_int,
    ) -> Result<()> {
        // SAFETY: as the caller promises; NCCL allows that both are the same place.
        let code = unsafe { (self.broadcast)(memory, memory, bytes, BYTE, root, comm, stream) };
        self.checked("ncclBroadcast", code)
    }

    /// Take leave of a communicator.
    ///
    /// # Safety
    /// It has to be open, and is not afterwards; nothing is under way.
    pub unsafe fn destroy(&self, comm: Comm) -> Result<()> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.comm_destroy)(comm) };
        self.checked("ncclCommDestroy", code)
    }

    /// Give up a communicator, whatever is under way.
    ///
    /// # Safety
    /// It has to be open, and is not afterwards.
    pub unsafe fn abort(&self, comm: Comm) {
        // SAFETY: as the caller promises. What it says of a job that has failed is of no use.
        let _ = unsafe { (self.comm_abort)(comm) };
    }

    /// An error for every `code` of `function` but 0, and "in progress".
    fn checked(&self, function: &str, code: c_int) -> Result<()> {
        if code == 0 || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: both give a text that stays, or null; the second may be asked without a communicator.
        let (said, last) = unsafe {
            let last = self.get_last_error.map(|last| last(std::ptr::null_mut()));
            (
                text((self.get_error_string)(code)),
                last.map(|last| text(last)),
            )
        };
        let last = last.filter(|last| !last.is_empty());
        let last = last.map_or(String::new(), |last| format!(": {last}"));
        Err(Error::failed(format!("{function}: {said} ({code}){last}")))
    }
}

/// A library's text, in one line.
///
/// # Safety
/// It has to end with a NUL, or to be null.
pub unsafe fn text(said: *const c_char) -> String {
    if said.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    let said = unsafe { CStr::from_ptr(said) }.to_string_lossy();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A version as people write it: since 2.9 NCCL has two digits for the second part.
pub fn in_words(version: c_int) -> String {
    let (first, rest) = match version >= 10_000 {
        true => (version / 10_000, version % 10_000),
        false => (version / 1000, version % 1000),
    };
    format!("NCCL {first}.{}.{}", rest / 100, rest % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_do() {
        assert_eq!(in_words(22_703), "NCCL 2.27.3");
        assert_eq!(in_words(2_804), "NCCL 2.8.4");
    }
}
