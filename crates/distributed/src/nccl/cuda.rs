//! The functions of NVIDIA's driver that are called.

use super::find::{self, Found, function};
use super::functions::{Stream, text};
use aios_base::error::{Error, Result};
use std::ffi::{c_char, c_int, c_void};

/// A context. The driver's own.
pub type Context = *mut c_void;

/// CUDA_ERROR_NOT_READY.
const NOT_READY: c_int = 600;

/// CU_STREAM_NON_BLOCKING: what other threads do on the default stream is not waited for.
const BY_ITSELF: u32 = 1;

/// Each returns 0 or a code. "system" is C, save for Windows on 32 bits.
pub struct Cuda {
    init: unsafe extern "system" fn(u32) -> c_int,
    device_get: unsafe extern "system" fn(*mut c_int, c_int) -> c_int,
    context_retain: unsafe extern "system" fn(*mut Context, c_int) -> c_int,
    context_release: unsafe extern "system" fn(c_int) -> c_int,
    context_set: unsafe extern "system" fn(Context) -> c_int,
    memory_alloc: unsafe extern "system" fn(*mut u64, usize) -> c_int,
    memory_free: unsafe extern "system" fn(u64) -> c_int,
    host_alloc: unsafe extern "system" fn(*mut *mut c_void, usize, u32) -> c_int,
    host_free: unsafe extern "system" fn(*mut c_void) -> c_int,
    stream_create: unsafe extern "system" fn(*mut Stream, u32) -> c_int,
    stream_destroy: unsafe extern "system" fn(Stream) -> c_int,
    stream_query: unsafe extern "system" fn(Stream) -> c_int,
    /// To, from, bytes, stream.
    copy_in: unsafe extern "system" fn(u64, *const c_void, usize, Stream) -> c_int,
    copy_out: unsafe extern "system" fn(*mut c_void, u64, usize, Stream) -> c_int,
    error_string: unsafe extern "system" fn(c_int, *mut *const c_char) -> c_int,
}

impl Cuda {
    /// Load the driver, and start it, which does nothing where it runs already.
    pub fn open() -> Result<Self> {
        let found = find::cuda()?;
        let said = |e: Error| Error::failed(format!("{}: {e}", found.file.display()));
        let cuda = Self::of(&found).map_err(said)?;
        // SAFETY: 0 is the only number that it takes; it may be called by any thread, any number of times.
        let code = unsafe { (cuda.init)(0) };
        cuda.checked("cuInit", code)?;
        Ok(cuda)
    }

    fn of(found: &Found) -> Result<Self> {
        let library = found.library;
        // SAFETY: each has the type that cuda.h gives the function of that name, in the version that follows it.
        unsafe {
            Ok(Self {
                init: function(library, c"cuInit")?,
                device_get: function(library, c"cuDeviceGet")?,
                context_retain: function(library, c"cuDevicePrimaryCtxRetain")?,
                context_release: function(library, c"cuDevicePrimaryCtxRelease_v2")?,
                context_set: function(library, c"cuCtxSetCurrent")?,
                memory_alloc: function(library, c"cuMemAlloc_v2")?,
                memory_free: function(library, c"cuMemFree_v2")?,
                host_alloc: function(library, c"cuMemHostAlloc")?,
                host_free: function(library, c"cuMemFreeHost")?,
                stream_create: function(library, c"cuStreamCreate")?,
                stream_destroy: function(library, c"cuStreamDestroy_v2")?,
                stream_query: function(library, c"cuStreamQuery")?,
                copy_in: function(library, c"cuMemcpyHtoDAsync_v2")?,
                copy_out: function(library, c"cuMemcpyDtoHAsync_v2")?,
                error_string: function(library, c"cuGetErrorString")?,
            })
        }
    }

    /// The driver's name for the device `index`.
    pub fn device(&self, index: usize) -> Result<c_int> {
        let wanted = c_int::try_from(index).unwrap_or(c_int::MAX);
        let mut device = 0;
        // SAFETY: the driver runs, and it writes the one number.
        let code = unsafe { (self.device_get)(&raw mut device, wanted) };
        let there = self.checked("cuDeviceGet", code);
        there.map_err(|e| Error::failed(format!("cuda:{index}: {e}")))?;
        Ok(device)
    }

    /// Make the context that all of the process share for `device` this thread's.
    pub fn enter(&self, device: c_int) -> Result<()> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the device is one that the driver named, and it writes the one pointer.
        let code = unsafe { (self.context_retain)(&raw mut context, device) };
        self.checked("cuDevicePrimaryCtxRetain", code)?;
        // SAFETY: the context is retained.
        let code = unsafe { (self.context_set)(context) };
        let entered = self.checked("cuCtxSetCurrent", code);
        if entered.is_err() {
            self.leave(device);
        }
        entered
    }

    /// One less has the context.
    pub fn leave(&self, device: c_int) {
        // SAFETY: it was retained once for each call of this. At a process's end the driver may be gone, which it says.
        let _ = unsafe { (self.context_release)(device) };
    }

    pub fn stream(&self) -> Result<Stream> {
        let mut stream = std::ptr::null_mut();
        // SAFETY: this thread has a context, and it writes the one pointer.
        let code = unsafe { (self.stream_create)(&raw mut stream, BY_ITSELF) };
        self.checked("cuStreamCreate", code)?;
        Ok(stream)
    }

    /// # Safety
    /// The stream has to be open, and is not afterwards.
    pub unsafe fn close(&self, stream: Stream) {
        // SAFETY: as the caller promises.
        let _ = unsafe { (self.stream_destroy)(stream) };
    }

    /// Memory of the device.
    pub fn memory(&self, bytes: usize) -> Result<u64> {
        let mut memory = 0;
        // SAFETY: this thread has a context, and it writes the one number.
        let code = unsafe { (self.memory_alloc)(&raw mut memory, bytes) };
        self.checked("cuMemAlloc", code)?;
        Ok(memory)
    }

    /// # Safety
    /// It has to be of [`Cuda::memory`], and is nobody's afterwards.
    pub unsafe fn free(&self, memory: u64) {
        // SAFETY: as the caller promises.
        let _ = unsafe { (self.memory_free)(memory) };
    }

    /// Memory of the host that stays where it is, all zeros.
    pub fn host(&self, bytes: usize) -> Result<*mut u8> {
        let mut memory = std::ptr::null_mut();
        // SAFETY: this thread has a context, and it writes the one pointer.
        let code = unsafe { (self.host_alloc)(&raw mut memory, bytes, 0) };
        self.checked("cuMemHostAlloc", code)?;
        let memory = memory.cast::<u8>();
        // SAFETY: so many bytes are there, and nobody else's.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(memory)
    }

    /// # Safety
    /// It has to be of [`Cuda::host`], and is nobody's afterwards.
    pub unsafe fn free_host(&self, memory: *mut u8) {
        // SAFETY: as the caller promises.
        let _ = unsafe { (self.host_free)(memory.cast()) };
    }

    /// Begin to copy to the device.
    ///
    /// # Safety
    /// So many bytes have to be at both, and nobody else's until the stream is done.
    pub unsafe fn copy_in(
        &self,
        to: u64,
        from: *const u8,
        bytes: usize,
        stream: Stream,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.copy_in)(to, from.cast(), bytes, stream) };
        self.checked("cuMemcpyHtoDAsync", code)
    }

    /// Begin to copy from the device.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn copy_out(
        &self,
        to: *mut u8,
        from: u64,
        bytes: usize,
        stream: Stream,
    ) -> Result<()> {
        // SAFETY: as the caller promises.
        let code = unsafe { (self.copy_out)(to.cast(), from, bytes, stream) };
        self.checked("cuMemcpyDtoHAsync", code)
    }

    /// Whether all that was begun on the stream is done.
    ///
    /// # Safety
    /// The stream has to be open.
    pub unsafe fn is_done(&self, stream: Stream) -> Result<bool> {
        // SAFETY: as the caller promises.
        match unsafe { (self.stream_query)(stream) } {
            NOT_READY => Ok(false),
            code => self.checked("cuStreamQuery", code).map(|()| true),
        }
    }

    /// An error for every `code` of `function` but 0.
    fn checked(&self, function: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        let mut said = std::ptr::null();
        // SAFETY: it writes the one pointer, to a text that stays or null.
        let said = unsafe {
            let _ = (self.error_string)(code, &raw mut said);
            text(said)
        };
        Err(Error::failed(format!("{function}: {said} ({code})")))
    }
}
