//! Three binary interfaces of MPI: which one a library has, and what its constants are.

use aios_base::error::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, c_int, c_void};
use std::path::Path;
use std::ptr::{null_mut, without_provenance_mut};

/// A family of libraries that a program can take one for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// MPI 5's own.
    Standard,
    /// MPICH and what comes of it: Intel MPI, MVAPICH, Cray's, Microsoft's.
    Mpich,
    /// Open MPI up to 5.
    OpenMpi,
}

impl Abi {
    /// What `library`, loaded from `file`, has.
    pub fn of(library: &Library, file: &Path) -> Result<Self> {
        // Open MPI's library of the standard interface brings the symbols of its own one too: the name decides.
        let named = |file: &Path| {
            let name = file.file_name().unwrap_or_default();
            name.to_string_lossy().contains("mpi_abi")
        };
        if named(file) || file.canonicalize().is_ok_and(|file| named(&file)) {
            return Ok(Self::Standard);
        }
        if has(library, c"ompi_mpi_comm_world") {
            return Ok(Self::OpenMpi);
        }
        // What MPI_DUP_FN is in MPICH's header, and therefore in every library that programs built with it can load.
        if has(library, c"MPIR_Dup_fn") {
            return Ok(Self::Mpich);
        }
        match has(library, c"MPI_Abi_get_version") {
            true => Ok(Self::Standard),
            false => Err(Error::failed(
                "an MPI of none of the known interfaces (MPI 5, MPICH, Open MPI)",
            )),
        }
    }
}

fn has(library: &Library, symbol: &CStr) -> bool {
    // SAFETY: only the symbol's being there is asked; nothing is read or called through it.
    unsafe { library.get::<*mut c_void>(symbol) }.is_ok()
}

/// What a C program gets from `mpi.h`. `H` is what a handle is: an `int` or a pointer.
#[derive(Clone, Copy)]
pub struct Constants<H> {
    pub world: H,
    pub float: H,
    pub byte: H,
    pub sum: H,
    pub errors_return: H,
    pub request_null: H,
    pub in_place: *mut c_void,
    pub status_ignore: *mut c_void,
    pub funneled: c_int,
}

/// From `mpi_abi.h`.
pub fn standard() -> Constants<*mut c_void> {
    Constants {
        world: without_provenance_mut(0x101),
        float: without_provenance_mut(0x210),
        byte: without_provenance_mut(0x247),
        sum: without_provenance_mut(0x21),
        errors_return: without_provenance_mut(0x143),
        request_null: without_provenance_mut(0x180),
        in_place: without_provenance_mut(1),
        status_ignore: null_mut(),
        funneled: 1024,
    }
}

/// From MPICH's `mpi.h`, and the same in Microsoft's.
#[rustfmt::skip]
pub fn mpich() -> Constants<c_int> {
    Constants {
        world: 0x4400_0000,
        float: 0x4c00_040a,
        byte: 0x4c00_010d,
        sum: 0x5800_0003,
        errors_return: 0x5400_0001,
        request_null: 0x2c00_0000,
        in_place: without_provenance_mut(usize::MAX),
        status_ignore: without_provenance_mut(1),
        funneled: 1,
    }
}

/// From Open MPI's `mpi.h`: handles are where its own structures are.
pub fn open_mpi(library: &Library) -> Result<Constants<*mut c_void>> {
    let place = |symbol| place(library, symbol);
    Ok(Constants {
        world: place(c"ompi_mpi_comm_world")?,
        float: place(c"ompi_mpi_float")?,
        byte: place(c"ompi_mpi_byte")?,
        sum: place(c"ompi_mpi_op_sum")?,
        errors_return: place(c"ompi_mpi_errors_return")?,
        request_null: place(c"ompi_request_null")?,
        in_place: without_provenance_mut(1),
        status_ignore: null_mut(),
        funneled: 1,
    })
}

fn place(library: &Library, symbol: &CStr) -> Result<*mut c_void> {
    // SAFETY: the symbol's address is taken, and nothing is read through it here; the library is never unloaded.
    let place = unsafe {
        let found = library.get::<*mut c_void>(symbol);
        found.ok().and_then(|symbol| symbol.try_as_raw_ptr())
    };
    place.ok_or_else(|| Error::failed(format!("it lacks {}", symbol.to_string_lossy())))
}
