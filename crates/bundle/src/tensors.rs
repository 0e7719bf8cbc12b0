//! Safetensors files, written and read one tensor at a time.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Metadata, TensorInfo};

use aios_base::error::{Error, Result};

use crate::disk::HashedFile;
use crate::manifest::FileEntry;

/// The longest header that readers of the format accept.
const MAX_HEADER: u64 = 100_000_000;

/// Type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 8-bit unsigned integer.
    U8,
    /// 32-bit signed integer.
    I32,
    /// 32-bit unsigned integer.
    U32,
}

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
    header: Metadata,
    data_start: u64,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::U8 => 1,
        }
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Index and value of the first element that is what is looked for; none for integers.
    fn position(self, bytes: &[u8], wanted: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
        let (words, halves) = (bytes.as_chunks().0, bytes.as_chunks().0);
        match self {
            Self::F32 => find(words.iter().map(|w| f32::from_le_bytes(*w)), wanted),
            Self::F16 => find(
                halves.iter().map(|h| half::f16::from_le_bytes(*h).to_f32()),
                wanted,
            ),
            Self::BF16 => find(
                halves
                    .iter()
                    .map(|h| half::bf16::from_le_bytes(*h).to_f32()),
                wanted,
            ),
            Self::U8 | Self::I32 | Self::U32 => None,
        }
    }

    fn stored(self) -> safetensors::Dtype {
        match self {
            Self::F32 => safetensors::Dtype::F32,
            Self::F16 => safetensors::Dtype::F16,
            Self::BF16 => safetensors::Dtype::BF16,
            Self::U8 => safetensors::Dtype::U8,
            Self::I32 => safetensors::Dtype::I32,
            Self::U32 => safetensors::Dtype::U32,
        }
    }

    fn from_stored(dtype: safetensors::Dtype) -> Option<Self> {
        match dtype {
            safetensors::Dtype::F32 => Some(Self::F32),
            safetensors::Dtype::F16 => Some(Self::F16),
            safetensors::Dtype::BF16 => Some(Self::BF16),
            safetensors::Dtype::U8 => Some(Self::U8),
            safetensors::Dtype::I32 => Some(Self::I32),
            safetensors::Dtype::U32 => Some(Self::U32),
            _ => None,
        }
    }
}

impl TensorSource<'_> {
    fn size(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.size()
    }

    fn fetch_checked(&self) -> Result<Vec<u8>> {
        let bytes = (self.fetch)()?;
        if bytes.len() != self.size() {
            return Err(Error::failed(format!(
                "tensor {} has {} bytes, its shape {:?} takes {}",
                self.name,
                bytes.len(),
                self.shape,
                self.size()
            )));
        }
        Ok(bytes)
    }
}

/// Writes a new safetensors file that Python reads as one of PyTorch's.
pub(super) fn write(path: &Path, sources: &[TensorSource]) -> Result<FileEntry> {
    let mut order: Vec<&TensorSource> = sources.iter().collect();
    // Larger elements first, as the reference writer does: every tensor is then aligned to its elements.
    order.sort_by(|a, b| (b.dtype.size(), &a.name).cmp(&(a.dtype.size(), &b.name)));
    let mut file = HashedFile::create(path)?;
    file.write(&header(path, &order)?)?;
    for source in order {
        file.write(&source.fetch_checked()?)?;
    }
    file.finish()
}

/// Length and JSON, padded with spaces to a multiple of 8 bytes.
fn header(path: &Path, order: &[&TensorSource]) -> Result<Vec<u8>> {
    let invalid =
        |cause: String| Error::failed(format!("cannot write {}: {cause}", path.display()));
    let mut names: Vec<&str> = order.iter().map(|source| source.name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(format!("two tensors are called {}", pair[0])));
    }
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let metadata =
        Metadata::new(Some(format), infos(order)).map_err(|cause| invalid(cause.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|cause| invalid(cause.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}

fn infos(order: &[&TensorSource]) -> Vec<(String, TensorInfo)> {
    let mut end = 0;
    let info = |source: &&TensorSource| {
        let start = end;
        end += source.size();
        let info = TensorInfo {
            dtype: source.dtype.stored(),
            shape: source.shape.clone(),
            data_offsets: (start, end),
        };
        (source.name.clone(), info)
    };
    order.iter().map(info).collect()
}

impl TensorFile {
    /// Reads the header; the data stays on disk.
    ///
    /// # Errors
    /// A file that cannot be read or is not a whole safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let mut file =
            super::disk::open_file(path).map_err(|cause| Error::io(path, "read", cause))?;
        let (header, data_start) = read_header(&mut file).map_err(|cause| {
            Error::failed(format!(
                "{} is not a safetensors file: {cause}",
                path.display()
            ))
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
        self.header.data_len() as u64
    }

    /// The tensors' names, in the order of the file.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// A tensor's shape, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|info| info.shape.as_slice())
    }

    /// Reads every tensor of floating-point numbers, a little at a time, and refuses one that has a number that is not
    /// `good`.
    ///
    /// # Errors
    /// Names the tensor and the number's place; or a file that cannot be read.
    pub fn require(&mut self, good: impl Fn(f32) -> bool) -> Result<()> {
        for name in self.names() {
            let Some(info) = self.header.info(&name) else {
                continue;
            };
            let dtype = Dtype::from_stored(info.dtype);
            let Some(dtype) = dtype.filter(|dtype| dtype.is_float()) else {
                continue;
            };
            let (start, end) = info.data_offsets;
            let found = self.find(dtype, start, end, |value| !good(value));
            let found = found.map_err(|cause| Error::io(&self.path, "read", cause))?;
            if let Some((at, value)) = found {
                return Err(Error::failed(format!(
                    "{}: tensor {name} has {value} at element {at}: these are no weights to go on with",
                    self.path.display()
                )));
            }
        }
        Ok(())
    }

    /// Index and value of the first element among the bytes `start..end` of the data that is what is looked for.
    fn find(
        &mut self,
        dtype: Dtype,
        start: usize,
        end: usize,
        wanted: impl Fn(f32) -> bool,
    ) -> std::io::Result<Option<(usize, f32)>> {
        const PIECE: usize = 1 << 18;
        let mut piece = vec![0; PIECE.min(end - start)];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))?;
        for from in (start..end).step_by(PIECE) {
            let piece = &mut piece[..PIECE.min(end - from)];
            self.file.read_exact(piece)?;
            if let Some((at, value)) = dtype.position(piece, &wanted) {
                return Ok(Some(((from - start) / dtype.size() + at, value)));
            }
        }
        Ok(None)
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// No tensor of that name, elements of a type not in [`Dtype`], or a file that cannot be read.
    pub fn read(&mut self, name: &str) -> Result<NamedTensor> {
        let path = &self.path;
        let info = self
            .header
            .info(name)
            .ok_or_else(|| Error::failed(format!("{} has no tensor {name}", path.display())))?;
        let dtype = Dtype::from_stored(info.dtype).ok_or_else(|| {
            Error::failed(format!(
                "{}: tensor {name} is of type {:?}; F32, F16, BF16, U8, I32 and U32 can be read",
                path.display(),
                info.dtype
            ))
        })?;
        let (start, end) = info.data_offsets;
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(|cause| Error::io(path, "read", cause))?;
        Ok(NamedTensor {
            name: name.to_string(),
            dtype,
            shape: info.shape.clone(),
            bytes,
        })
    }
}

fn find(values: impl Iterator<Item = f32>, wanted: impl Fn(f32) -> bool) -> Option<(usize, f32)> {
    values.enumerate().find(|(_, value)| wanted(*value))
}

fn read_header(file: &mut File) -> Result<(Metadata, u64), String> {
    let whole = |cause: std::io::Error| format!("its header cannot be read ({cause})");
    let length = file.metadata().map_err(whole)?.len();
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(whole)?;
    let size = u64::from_le_bytes(size);
    if size > MAX_HEADER || size > length - 8 {
        return Err(format!("its header would be {size} bytes long"));
    }
    let mut json = vec![0; size as usize];
    file.read_exact(&mut json).map_err(whole)?;
    let header: Metadata = serde_json::from_slice(&json).map_err(|cause| cause.to_string())?;
    let data_start = 8 + size;
    // Subtracted, for its tensors may end anywhere, up to the last number that there is.
    let (data, left) = (header.data_len() as u64, length - data_start);
    if data != left {
        return Err(format!("{left} bytes follow its header, which says {data}"));
    }
    Ok((header, data_start))
}
