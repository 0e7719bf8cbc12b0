//! Calls of an MPI library, whatever its handles are.

use super::abi::{self, Abi, Constants};
use super::find::Found;
use super::functions::{ERROR_TEXT, Functions, first_line};
use crate::pace::Pace;
use aios_base::error::{Error, Result};
use std::ffi::{c_int, c_void};

/// Operations over all ranks with lengths that fit an `int`, which are checked. None is started before the one before is
/// done. After one failed no other may be made: the library may still know of its slices.
pub trait Engine {
    fn rank(&self) -> Result<usize>;
    fn size(&self) -> Result<usize>;
    fn all_reduce(&self, values: &mut [f32]) -> Result<()>;
    /// `values` is as many times as long as `part` as there are ranks.
    fn reduce_scatter(&self, values: &[f32], part: &mut [f32]) -> Result<()>;
    /// `whole` is as many times as long as `part` as there are ranks.
    fn all_gather(&self, part: &[u8], whole: &mut [u8]) -> Result<()>;
    fn broadcast(&self, bytes: &mut [u8], root: c_int) -> Result<()>;
    fn finalize(&self) -> Result<()>;
}

/// Start MPI. The library stays loaded for good: it has threads, and things to do when the process ends.
pub fn start(found: Found) -> Result<Box<dyn Engine>> {
    let library = Box::leak(Box::new(found.library));
    // SAFETY: handles are what the library's interface has, which `found` was asked for.
    unsafe {
        Ok(match found.abi {
            Abi::Standard => Box::new(Library::start(Functions::of(library)?, abi::standard())?),
            Abi::Mpich => Box::new(Library::start(Functions::of(library)?, abi::mpich())?),
            Abi::OpenMpi => Box::new(Library::start(
                Functions::of(library)?,
                abi::open_mpi(library)?,
            )?),
        })
    }
}

/// A library that is started. `H` is what a handle is.
struct Library<H> {
    call: Functions<H>,
    is: Constants<H>,
}

impl<H: Copy> Library<H> {
    fn start(call: Functions<H>, is: Constants<H>) -> Result<Self> {
        let started = Self { call, is };
        let (mut before, mut level) = (0, 0);
        // SAFETY: may be called before MPI is started; it writes the one number.
        let code = unsafe { (started.call.initialized)(&raw mut before) };
        started.checked("MPI_Initialized", code)?;
        if before != 0 {
            return Err(Error::failed(
                "MPI was started already, which a process can do once",
            ));
        }
        let (none, nothing) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: MPI was not started before; null for both arguments is allowed since MPI 2; it writes the one number.
        let code =
            unsafe { (started.call.init_thread)(none, nothing, is.funneled, &raw mut level) };
        started.checked("MPI_Init_thread", code)?;
        // SAFETY: MPI is started, and both handles are the library's own.
        let code = unsafe { (started.call.comm_set_errhandler)(is.world, is.errors_return) };
        started.checked("MPI_Comm_set_errhandler", code)?;
        match level >= is.funneled {
            true => Ok(started),
            false => Err(Error::failed(
                "it does not run in a process of several threads (MPI_THREAD_FUNNELED)",
            )),
        }
    }

    /// An error for every `code` of `function` but 0.
    fn checked(&self, function: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut text = [0_u8; ERROR_TEXT];
        let mut length = 0;
        // SAFETY: the text is as long as the longest in any interface. MPI is started, or nothing but a look at a table is
        // made of the code.
        let said =
            unsafe { (self.call.error_string)(code, text.as_mut_ptr().cast(), &raw mut length) };
        let said = match said {
            0 => first_line(&text),
            _ => String::new(),
        };
        Err(Error::failed(
            format!("{function}: error {code} {said}").trim_end(),
        ))
    }

    /// A number that `function` says of the communicator of all ranks.
    fn number(
        &self,
        name: &str,
        function: unsafe extern "system" fn(H, *mut c_int) -> c_int,
    ) -> Result<usize> {
        let mut number = -1;
        // SAFETY: MPI is started, the handle is the library's own, and it writes the one number.
        let code = unsafe { function(self.is.world, &raw mut number) };
        self.checked(name, code)?;
        usize::try_from(number).map_err(|_| Error::failed(format!("{name}: {number}")))
    }

    /// Start an operation and wait until it is done, so that it can have slices which the caller lends.
    fn done(&self, name: &str, start: impl FnOnce(*mut H) -> c_int) -> Result<()> {
        let mut request = self.is.request_null;
        self.checked(name, start(&raw mut request))?;
        let mut pace = Pace::new();
        loop {
            let mut done = 0;
            // SAFETY: the request is one that the library made, or null again; it writes that and the one number, and no
            // status where it is told to ignore it.
            let code =
                unsafe { (self.call.test)(&raw mut request, &raw mut done, self.is.status_ignore) };
            self.checked(name, code)?;
            if done != 0 {
                return Ok(());
            }
            pace.wait();
        }
    }
}

impl<H: Copy> Engine for Library<H> {
    fn rank(&self) -> Result<usize> {
        self.number("MPI_Comm_rank", self.call.comm_rank)
    }

    fn size(&self) -> Result<usize> {
        self.number("MPI_Comm_size", self.call.comm_size)
    }

    fn all_reduce(&self, values: &mut [f32]) -> Result<()> {
        let (is, length) = (&self.is, count(values.len())?);
        let to = values.as_mut_ptr().cast::<c_void>();
        // SAFETY: `length` floats at `to` are lent until the operation is done; "in place" is no place to read.
        self.done("MPI_Iallreduce", |request| unsafe {
            (self.call.iallreduce)(is.in_place, to, length, is.float, is.sum, is.world, request)
        })
    }

    fn reduce_scatter(&self, values: &[f32], part: &mut [f32]) -> Result<()> {
        let (is, length) = (&self.is, count(part.len())?);
        self.whole(values.len(), part.len())?;
        let (from, to) = (values.as_ptr().cast(), part.as_mut_ptr().cast());
        // SAFETY: `length` floats at `to`, and as many times that at `from` as there are ranks, are lent until the operation
        // is done.
        self.done("MPI_Ireduce_scatter_block", |request| unsafe {
            (self.call.ireduce_scatter_block)(from, to, length, is.float, is.sum, is.world, request)
        })
    }

    fn all_gather(&self, part: &[u8], whole: &mut [u8]) -> Result<()> {
        let (is, length) = (&self.is, count(part.len())?);
        self.whole(whole.len(), part.len())?;
        let (from, to) = (part.as_ptr().cast(), whole.as_mut_ptr().cast());
        // SAFETY: `length` bytes at `from`, and as many times that at `to` as there are ranks, are lent until the operation
        // is done.
        self.done("MPI_Iallgather", |request| unsafe {
            (self.call.iallgather)(
                from, length, is.byte, to, length, is.byte, is.world, request,
            )
        })
    }

    fn broadcast(&self, bytes: &mut [u8], root: c_int) -> Result<()> {
        let (is, length) = (&self.is, count(bytes.len())?);
        let at = bytes.as_mut_ptr().cast();
        // SAFETY: `length` bytes at `at` are lent until the operation is done.
        self.done("MPI_Ibcast", |request| unsafe {
            (self.call.ibcast)(at, length, is.byte, root, is.world, request)
        })
    }

    fn finalize(&self) -> Result<()> {
        // SAFETY: MPI is started, and no operation is under way: each was waited for.
        let code = unsafe { (self.call.finalize)() };
        match code {
            0 => Ok(()),
            // Its text cannot be asked for any more.
            code => Err(Error::failed(format!("MPI_Finalize: error {code}"))),
        }
    }
}

impl<H: Copy> Library<H> {
    /// That `whole` is as many times `part` as there are ranks: the library goes by `part` alone.
    fn whole(&self, whole: usize, part: usize) -> Result<()> {
        let size = self.size()?;
        match part.checked_mul(size) == Some(whole) {
            true => Ok(()),
            false => Err(Error::failed(format!(
                "{whole} elements are not {size} parts of {part}"
            ))),
        }
    }
}

/// A length as the library takes it.
fn count(length: usize) -> Result<c_int> {
    c_int::try_from(length).map_err(|_| Error::failed(format!("{length} elements at once")))
}
