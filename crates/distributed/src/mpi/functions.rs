//! The functions of an MPI library that are called.

use crate::dynamic;
use aios_base::error::{Error, Result};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};

/// A reduction that is started: from, to, elements, type, operation, communicator, request.
type Reduce<H> =
    unsafe extern "system" fn(*const c_void, *mut c_void, c_int, H, H, H, *mut H) -> c_int;

/// A gathering that is started: from, elements, type, to, elements of each rank, type, communicator, request.
type Gather<H> =
    unsafe extern "system" fn(*const c_void, c_int, H, *mut c_void, c_int, H, H, *mut H) -> c_int;

/// Each returns 0 (MPI_SUCCESS) or a code. "system" is C, save for Microsoft's on 32 bits. `H` is what a handle is.
pub struct Functions<H> {
    /// Whether MPI was started, be it left by now: may be asked at any time.
    pub initialized: unsafe extern "system" fn(*mut c_int) -> c_int,
    /// Program's argc and argv, both of which may be null; level wanted; level had.
    pub init_thread:
        unsafe extern "system" fn(*mut c_int, *mut *mut *mut c_char, c_int, *mut c_int) -> c_int,
    pub comm_rank: unsafe extern "system" fn(H, *mut c_int) -> c_int,
    pub comm_size: unsafe extern "system" fn(H, *mut c_int) -> c_int,
    pub comm_set_errhandler: unsafe extern "system" fn(H, H) -> c_int,
    /// Code, text of at most [`ERROR_TEXT`] bytes, its length.
    pub error_string: unsafe extern "system" fn(c_int, *mut c_char, *mut c_int) -> c_int,
    pub iallreduce: Reduce<H>,
    /// Elements are those of one rank's part.
    pub ireduce_scatter_block: Reduce<H>,
    pub iallgather: Gather<H>,
    /// What and to where, elements, type, root, communicator, request.
    pub ibcast: unsafe extern "system" fn(*mut c_void, c_int, H, c_int, H, *mut H) -> c_int,
    /// Request, whether it is done, status.
    pub test: unsafe extern "system" fn(*mut H, *mut c_int, *mut c_void) -> c_int,
    pub finalize: unsafe extern "system" fn() -> c_int,
}

/// Bytes of the longest text of an error, with its NUL, in any of the interfaces.
pub const ERROR_TEXT: usize = 512;

/// Bytes of the longest version, with its NUL.
const VERSION_TEXT: usize = 8192;

impl<H> Functions<H> {
    /// Those of `library`.
    ///
    /// # Safety
    /// Its handles have to be `H`.
    pub unsafe fn of(library: &Library) -> Result<Self> {
        // SAFETY: each has the type that the MPI standard gives the function of that name, with handles as the caller says.
        unsafe {
            Ok(Self {
                initialized: get(library, c"MPI_Initialized")?,
                init_thread: get(library, c"MPI_Init_thread")?,
                comm_rank: get(library, c"MPI_Comm_rank")?,
                comm_size: get(library, c"MPI_Comm_size")?,
                comm_set_errhandler: get(library, c"MPI_Comm_set_errhandler")?,
                error_string: get(library, c"MPI_Error_string")?,
                iallreduce: get(library, c"MPI_Iallreduce")?,
                ireduce_scatter_block: get(library, c"MPI_Ireduce_scatter_block")?,
                iallgather: get(library, c"MPI_Iallgather")?,
                ibcast: get(library, c"MPI_Ibcast")?,
                test: get(library, c"MPI_Test")?,
                finalize: get(library, c"MPI_Finalize")?,
            })
        }
    }
}

/// First line of what the library says it is; it need not be started.
pub fn version(library: &Library) -> Result<String> {
    type Version = unsafe extern "system" fn(*mut c_char, *mut c_int) -> c_int;
    let mut text = vec![0_u8; VERSION_TEXT];
    let mut length = 0;
    // SAFETY: the function has that type in all three interfaces, and writes no more than the longest version of any.
    let code = unsafe {
        let version: Version = get(library, c"MPI_Get_library_version")?;
        version(text.as_mut_ptr().cast(), &raw mut length)
    };
    match code {
        0 => Ok(first_line(&text)),
        code => Err(Error::failed(format!("its version: error {code}"))),
    }
}

/// Text up to the first NUL or line's end, with blanks of any kind as one space, and no comma or full stop at its end.
pub fn first_line(text: &[u8]) -> String {
    let ends = |byte: &u8| *byte == 0 || *byte == b'\n';
    let end = text.iter().position(ends).unwrap_or(text.len());
    let line = String::from_utf8_lossy(&text[..end]);
    let words: Vec<_> = line.split_whitespace().collect();
    words.join(" ").trim_end_matches([',', '.']).to_string()
}

/// The function `name`.
///
/// # Safety
/// `F` has to be the type of a pointer to it.
unsafe fn get<F: Copy>(library: &Library, name: &CStr) -> Result<F> {
    // SAFETY: as the caller promises; a library that is used is never unloaded.
    unsafe { dynamic::function(library, name, "a library of MPI 3 or newer is needed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_one_line() {
        assert_eq!(
            first_line(b"MPICH Version:\t5.0.2\nMore\0\0"),
            "MPICH Version: 5.0.2"
        );
        assert_eq!(first_line(b"Open MPI v4.1.4, \0"), "Open MPI v4.1.4");
        assert_eq!(first_line(b""), "");
    }
}
