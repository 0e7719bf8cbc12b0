//! Where numbers pass through on their way between memory and the others.

use super::cuda::Cuda;
use super::functions::Stream;
use crate::pace::Pace;
use aios_base::error::{Error, Result};
use std::ffi::c_int;
use std::ops::Range;

/// As many bytes of a device and of memory that it reads by itself, and the stream that copies between them.
pub struct Staging {
    cuda: Cuda,
    device: c_int,
    /// These are null until they are there.
    stream: Stream,
    memory: u64,
    host: *mut u8,
    bytes: usize,
}

impl Staging {
    /// On the device `index`, whose context this thread has from now on.
    pub fn on(index: usize, bytes: usize) -> Result<Self> {
        let cuda = Cuda::open()?;
        let device = cuda.device(index)?;
        cuda.enter(device)?;
        let mut staging = Self {
            cuda,
            device,
            stream: std::ptr::null_mut(),
            memory: 0,
            host: std::ptr::null_mut(),
            bytes,
        };
        staging.stream = staging.cuda.stream()?;
        staging.memory = staging.cuda.memory(bytes)?;
        staging.host = staging.cuda.host(bytes)?;
        Ok(staging)
    }

    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Address of a byte on the device. What follows it has to fit: [`Staging::fits`].
    pub fn at(&self, place: usize) -> u64 {
        self.memory + place as u64
    }

    /// That so many bytes fit.
    pub fn fits(&self, bytes: usize) -> Result<()> {
        match bytes <= self.bytes {
            true => Ok(()),
            false => Err(Error::failed(format!(
                "{bytes} bytes at once, with room for {}",
                self.bytes
            ))),
        }
    }

    /// Memory, of which nothing is on its way: every call here that begins something is followed by [`Staging::wait`].
    pub fn host(&mut self) -> &mut [u8] {
        // SAFETY: so many bytes are there, were all written once, and are borrowed with this.
        unsafe { std::slice::from_raw_parts_mut(self.host, self.bytes) }
    }

    /// Begin to copy a range of memory to the same place on the device.
    pub fn bring(&mut self, range: Range<usize>) -> Result<()> {
        let from = self.host()[range.clone()].as_ptr();
        // SAFETY: the range lies within memory, as was just seen, and the device has as much. Both stay until this is
        // dropped, which waits.
        unsafe {
            self.cuda.copy_in(
                self.memory + range.start as u64,
                from,
                range.len(),
                self.stream,
            )
        }
    }

    /// Begin to copy a range of the device to the same place in memory.
    pub fn fetch(&mut self, range: Range<usize>) -> Result<()> {
        let to = self.host()[range.clone()].as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            self.cuda.copy_out(
                to,
                self.memory + range.start as u64,
                range.len(),
                self.stream,
            )
        }
    }

    /// Wait until all that was begun is done, and look meanwhile whether it still can be.
    pub fn wait(&self, is_sound: impl Fn() -> Result<()>) -> Result<()> {
        let mut pace = Pace::new();
        // SAFETY: the stream is open until this is dropped.
        while !unsafe { self.cuda.is_done(self.stream)? } {
            is_sound()?;
            pace.wait();
        }
        is_sound()
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // SAFETY: each is there, or null, which is not freed. Freeing memory of the device waits until it is done with it
        // and with the host's; the context is retained until then.
        unsafe {
            if self.memory != 0 {
                self.cuda.free(self.memory);
            }
            if !self.host.is_null() {
                self.cuda.free_host(self.host);
            }
            if !self.stream.is_null() {
                self.cuda.close(self.stream);
            }
        }
        self.cuda.leave(self.device);
    }
}
