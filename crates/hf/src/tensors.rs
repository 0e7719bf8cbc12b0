//! Safetensors files, written and read one tensor at a time.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use aios_base::error::{Error, Result, shortened, shown};
use aios_base::files::open_file;
use aios_base::meter::{format_bytes, host_total};
use aios_kernels::buffer;

use crate::dtype::Dtype;
use crate::header::{Entry, Header, MAX_HEADER, written};

/// Numbers that one thread reads at a time.
const AT_ONCE: usize = 1 << 18;

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Unique within its file.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Elements in row-major order, little-endian.
    pub bytes: Vec<u8>,
}

/// A tensor to be saved. Its data is fetched when its turn comes, so that only one is in host memory at a time.
pub struct TensorSource<'a> {
    /// Unique within its file.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Extent of each dimension; empty for a scalar.
    pub shape: Vec<usize>,
    /// Gives the elements in row-major order, little-endian.
    pub fetch: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

/// A safetensors file opened for reading.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Header,
    data_start: u64,
}

impl TensorSource<'_> {
    fn fetch_checked(&self) -> Result<Vec<u8>> {
        let bytes = (self.fetch)()?;
        let elements: usize = self.shape.iter().product();
        let takes = self.dtype.bytes(elements).unwrap_or(0);
        if bytes.len() != takes {
            return Err(Error::failed(format!(
                "tensor {} has {} bytes, its shape {:?} takes {takes}",
                self.name,
                bytes.len(),
                self.shape
            )));
        }
        Ok(bytes)
    }
}

/// Gives `write` the parts of a safetensors file that Python reads as one of PyTorch's.
///
/// # Errors
/// Two tensors of one name, a tensor whose bytes are not those of its shape, or those of the sources and of `write`.
pub fn write_tensors(
    sources: &[TensorSource],
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut order: Vec<&TensorSource> = sources.iter().collect();
    // Larger elements first, as the reference writer does: every tensor is then aligned to its elements.
    order.sort_by(|a, b| (b.dtype.size(), &a.name).cmp(&(a.dtype.size(), &b.name)));
    let tensors = order.iter();
    let tensors: Vec<(&str, Dtype, &[usize])> = tensors
        .map(|source| (source.name.as_str(), source.dtype, source.shape.as_slice()))
        .collect();
    write(&written(&tensors).map_err(|cause| Error::failed(shortened(&cause)))?)?;
    order
        .into_iter()
        .try_for_each(|source| write(&source.fetch_checked()?))
}

impl TensorFile {
    /// Reads the header; the data stays on disk.
    ///
    /// # Errors
    /// A file that cannot be read or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file = open_file(path).map_err(|cause| Error::io(path, "read", cause))?;
        let (header, data_start) = read_header(&mut file).map_err(|cause| {
            Error::failed(shortened(&format!(
                "{} is not a safetensors file: {cause}",
                shown(path)
            )))
        })?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
            header,
            data_start,
        })
    }

    /// The same file once more, to be read in its stead or after it.
    ///
    /// # Errors
    /// Too many open files.
    pub fn try_clone(&self) -> Result<Self> {
        let file = self.file.try_clone();
        Ok(Self {
            path: self.path.clone(),
            file: file.map_err(|cause| Error::io(&self.path, "read", cause))?,
            header: self.header.clone(),
            data_start: self.data_start,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of all tensors together.
    pub fn data_bytes(&self) -> u64 {
        self.header.data_bytes() as u64
    }

    /// The tensors' names, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.names().to_vec()
    }

    /// A tensor's shape, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.entry(name).map(|entry| entry.shape.as_slice())
    }

    /// A tensor's type, if there is such a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.header.entry(name).map(|entry| entry.dtype)
    }

    /// Reads every tensor of floating-point numbers, a little at a time, and refuses one that has a number that is not
    /// `good`.
    ///
    /// # Errors
    /// Names the tensor and the number's place; or a file that cannot be read.
    pub fn require(&self, good: impl Fn(f32) -> bool) -> Result<()> {
        let mut names = self.header.names().iter();
        names.try_for_each(|name| self.require_of(name, &good))
    }

    /// The same of one tensor.
    ///
    /// # Errors
    /// As there, or no tensor of that name.
    pub fn require_of(&self, name: &str, good: impl Fn(f32) -> bool) -> Result<()> {
        let entry = self.entry(name)?;
        let found = self.find(entry, |value| !good(value));
        let found = found.map_err(|cause| self.unreadable(name, cause))?;
        match found {
            None => Ok(()),
            Some((at, value)) => Err(self.wrong(&format!(
                "tensor {name} has {value} at element {at}: these are no weights to go on with"
            ))),
        }
    }

    /// Index and value of a tensor's first element that is what is looked for.
    fn find(
        &self,
        entry: &Entry,
        wanted: impl Fn(f32) -> bool,
    ) -> io::Result<Option<(usize, f32)>> {
        const PIECE: usize = 1 << 18;
        let Entry {
            dtype, start, end, ..
        } = *entry;
        if !dtype.is_float() {
            return Ok(None);
        }
        let mut piece = vec![0; PIECE.min(end - start)];
        for from in (start..end).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(end - from)];
            self.read_at(from, piece)?;
            if let Some((at, value)) = dtype.position(piece, &wanted) {
                return Ok(Some(((from - start) / dtype.size() + at, value)));
            }
        }
        Ok(None)
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// No tensor of that name, or a file that cannot be read.
    pub fn read(&self, name: &str) -> Result<NamedTensor> {
        let entry = self.entry(name)?;
        let length = entry.end - entry.start;
        self.require_memory(name, length as u64)?;
        let mut bytes = vec![0; length];
        self.read_at(entry.start, &mut bytes)
            .map_err(|cause| self.unreadable(name, cause))?;
        Ok(NamedTensor {
            name: name.to_string(),
            dtype: entry.dtype,
            shape: entry.shape.clone(),
            bytes,
        })
    }

    /// Reads one tensor of floating-point numbers, on all threads.
    ///
    /// # Errors
    /// No tensor of that name, one of other elements, one that takes more memory than this machine has, or a file that
    /// cannot be read: it may have been cut off since it was opened.
    ///
    /// # Panics
    /// With [`aios_kernels::buffer::OutOfMemory`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let entry = self.entry(name)?;
        let (dtype, elements) = (entry.dtype, entry.elements());
        if !dtype.is_float() {
            return Err(self.wrong(&format!(
                "tensor {name} is of type {dtype}: F32, F16 and BF16 can be read; a quantized model has to be converted first"
            )));
        }
        self.require_memory(name, 4 * elements as u64)?;
        let mut values: Vec<f32> = buffer::zeros(elements);
        let pieces = values.par_chunks_mut(AT_ONCE).enumerate();
        pieces
            .try_for_each_init(Vec::new, |bytes, (piece, values)| {
                bytes.resize(values.len() * dtype.size(), 0);
                self.read_at(entry.start + piece * AT_ONCE * dtype.size(), bytes)?;
                dtype.decode(bytes, values);
                Ok(())
            })
            .map_err(|cause: io::Error| self.unreadable(name, cause))?;
        Ok(values)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where in the file a tensor's bytes begin, and their number.
    pub(crate) fn place(&self, name: &str) -> Result<(u64, usize)> {
        let entry = self.entry(name)?;
        Ok((
            self.data_start + entry.start as u64,
            entry.end - entry.start,
        ))
    }

    /// Length of the file when it was opened, in bytes.
    pub(crate) fn length(&self) -> u64 {
        self.data_start + self.data_bytes()
    }

    pub(crate) fn wrong(&self, cause: &str) -> Error {
        Error::failed(shortened(&format!("{}: {cause}", shown(&self.path))))
    }

    pub(crate) fn unreadable(&self, name: &str, cause: io::Error) -> Error {
        match cause.kind() {
            io::ErrorKind::UnexpectedEof => self.wrong(&format!(
                "tensor {name} is not all there any more: the file was cut off since it was opened"
            )),
            _ => self.wrong(&format!("tensor {name} cannot be read: {cause}")),
        }
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        let entry = self.header.entry(name);
        entry.ok_or_else(|| Error::failed(format!("{} has no tensor {name}", shown(&self.path))))
    }

    /// A file of any length can be made in an instant.
    fn require_memory(&self, name: &str, bytes: u64) -> Result<()> {
        /// What every machine has.
        const LITTLE: u64 = 1 << 28;
        if bytes <= LITTLE || bytes <= host_total() {
            return Ok(());
        }
        Err(self.wrong(&format!(
            "tensor {name} takes {}, and this machine has {} of memory",
            format_bytes(bytes),
            format_bytes(host_total())
        )))
    }

    /// Fills `bytes` with those that begin at `start` of the data.
    fn read_at(&self, start: usize, bytes: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.file, bytes, self.data_start + start as u64)
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                bytes = &mut bytes[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

fn read_header(file: &mut File) -> Result<(Header, u64), String> {
    let whole = |cause: io::Error| format!("its header cannot be read ({cause})");
    let length = file.metadata().map_err(whole)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(whole)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > length.saturating_sub(8) {
        return Err(format!("its header would be {size} bytes long"));
    }
    let mut json = vec![0; size as usize];
    file.read_exact(&mut json).map_err(whole)?;
    let header = Header::parse(&json)?;
    let data_start = 8 + size;
    // Subtracted, for its tensors may end anywhere, up to the last number that there is.
    let (data, left) = (header.data_bytes() as u64, length - data_start);
    if data != left {
        let last = header.names().last();
        let last = last.map_or(String::new(), |name| {
            format!(", the last of them of {name}")
        });
        return Err(format!(
            "{left} bytes follow its header, which says {data}{last}"
        ));
    }
    Ok((header, data_start))
}

#[cfg(test)]
mod tests;
