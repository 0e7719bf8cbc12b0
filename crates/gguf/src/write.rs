//! Writing a GGUF file.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::Path;

use aios_base::error::{Error, Result, shortened, shown};
use aios_base::files::{rename, sync_dir};

use crate::header::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, MOST_DIMENSIONS, VERSION, bytes_of};
use crate::kind::Kind;
use crate::value::{Array, Value};

/// A tensor to be written. Its data is fetched when its turn comes, so that only one is in memory at a time.
pub struct Tensor<'a> {
    /// Unique within its file.
    pub name: String,
    /// In PyTorch's order; from 1 to 4 dimensions.
    pub shape: Vec<usize>,
    pub kind: Kind,
    /// Gives the numbers row by row, little-endian.
    pub fetch: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

/// Writes a file of version 3. It has another name until all of it is on the disk.
///
/// # Errors
/// A place that is taken or cannot be written, two keys or tensors of one name, a tensor that no file can have, or one whose
/// bytes are not those of its shape. Nothing is left then.
pub fn write(path: &Path, metadata: &[(String, Value)], tensors: &[Tensor]) -> Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(Error::invalid(format!(
            "{} is there already: give a name that is not taken",
            shown(path)
        )));
    }
    let wrong = |cause: String| Error::failed(shortened(&format!("{}: {cause}", shown(path))));
    let alignment = alignment(metadata).map_err(wrong)?;
    let header = header(metadata, tensors, alignment).map_err(wrong)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|cause| Error::io(parent, "create", cause))?;
    let mut aside = tempfile::Builder::new()
        .prefix(".unfinished-")
        .suffix(".gguf")
        .tempfile_in(parent)
        .map_err(|cause| Error::io(parent, "write", cause))?;
    let mut put = |bytes: &[u8]| {
        let written = aside.write_all(bytes);
        written.map_err(|cause| Error::io(path, "write", cause))
    };
    put(&header)?;
    for tensor in tensors {
        let bytes = tensor.fetch_checked()?;
        put(&bytes)?;
        put(&padding(bytes.len() as u64, alignment))?;
    }
    readable(aside.path())?;
    let flushed = aside.as_file().sync_all();
    flushed.map_err(|cause| Error::io(path, "flush to disk", cause))?;
    // Windows does not rename what is open.
    let (closed, aside) = aside
        .keep()
        .map_err(|cause| Error::io(path, "create", cause.error))?;
    drop(closed);
    rename(&aside, path).map_err(|cause| {
        let _ = fs::remove_file(&aside);
        Error::io(path, "create", cause)
    })?;
    sync_dir(parent)
}

impl Tensor<'_> {
    fn fetch_checked(&self) -> Result<Vec<u8>> {
        let bytes = (self.fetch)()?;
        let takes = bytes_of(&self.shape, self.kind).unwrap_or(0);
        match bytes.len() == takes {
            true => Ok(bytes),
            false => Err(Error::failed(format!(
                "tensor {} has {} bytes, its shape {:?} of {} takes {takes}",
                self.name,
                bytes.len(),
                self.shape,
                self.kind
            ))),
        }
    }
}

/// Everything before the first tensor's bytes.
fn header(
    metadata: &[(String, Value)],
    tensors: &[Tensor],
    alignment: u64,
) -> Result<Vec<u8>, String> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    let mut names = HashSet::new();
    for (key, value) in metadata {
        if !names.insert(key) {
            return Err(format!("key {key} is there twice"));
        }
        put_text(&mut bytes, key);
        bytes.extend(value.id().to_le_bytes());
        put_value(&mut bytes, value);
    }
    let (mut names, mut offset) = (HashSet::new(), 0_u64);
    for tensor in tensors {
        let name = &tensor.name;
        let wrong = |cause: String| format!("tensor {name}: {cause}");
        if !names.insert(name) {
            return Err(format!("two tensors are called {name}"));
        }
        let dimensions = tensor.shape.len();
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            return Err(wrong(format!(
                "it has {dimensions} dimensions: from 1 to {MOST_DIMENSIONS} are possible"
            )));
        }
        let length = bytes_of(&tensor.shape, tensor.kind).map_err(wrong)?;
        put_text(&mut bytes, name);
        bytes.extend((dimensions as u32).to_le_bytes());
        for &extent in tensor.shape.iter().rev() {
            bytes.extend((extent as u64).to_le_bytes());
        }
        bytes.extend(tensor.kind.id().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        let next = offset.checked_add(length as u64);
        let next = next.and_then(|end| end.checked_next_multiple_of(alignment));
        offset =
            next.ok_or_else(|| wrong("the file would be longer than any can be".to_string()))?;
    }
    bytes.extend(padding(bytes.len() as u64, alignment));
    Ok(bytes)
}

/// The most that is padded to: as llama.cpp's files have 32, more would be for disks.
const LARGEST_ALIGNMENT: u64 = 1 << 20;

fn alignment(metadata: &[(String, Value)]) -> Result<u64, String> {
    let given = metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY);
    match given {
        None => Ok(ALIGNMENT),
        Some((_, Value::U32(alignment)))
            if alignment.is_power_of_two() && u64::from(*alignment) <= LARGEST_ALIGNMENT =>
        {
            Ok(u64::from(*alignment))
        }
        Some((_, other)) => Err(format!(
            "{ALIGNMENT_KEY} is {}: it must be a power of two up to {LARGEST_ALIGNMENT}, as u32",
            other.described()
        )),
    }
}

/// Zeros up to the next multiple.
fn padding(length: u64, alignment: u64) -> Vec<u8> {
    // At most LARGEST_ALIGNMENT of them.
    let missing = length.next_multiple_of(alignment) - length;
    vec![0; missing as usize]
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn put_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(n) => bytes.push(*n),
        Value::I8(n) => bytes.extend(n.to_le_bytes()),
        Value::U16(n) => bytes.extend(n.to_le_bytes()),
        Value::I16(n) => bytes.extend(n.to_le_bytes()),
        Value::U32(n) => bytes.extend(n.to_le_bytes()),
        Value::I32(n) => bytes.extend(n.to_le_bytes()),
        Value::F32(n) => bytes.extend(n.to_le_bytes()),
        Value::Bool(flag) => bytes.push(u8::from(*flag)),
        Value::Text(text) => put_text(bytes, text),
        Value::Array(array) => put_array(bytes, array),
        Value::U64(n) => bytes.extend(n.to_le_bytes()),
        Value::I64(n) => bytes.extend(n.to_le_bytes()),
        Value::F64(n) => bytes.extend(n.to_le_bytes()),
    }
}

fn put_array(bytes: &mut Vec<u8>, array: &Array) {
    bytes.extend(array.id().to_le_bytes());
    bytes.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(all) => bytes.extend(all),
        Array::I8(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::U16(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::I16(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::U32(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::I32(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::F32(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::Bool(all) => bytes.extend(all.iter().map(|&flag| u8::from(flag))),
        Array::Text(all) => all.iter().for_each(|text| put_text(bytes, text)),
        Array::Array(all) => all.iter().for_each(|array| put_array(bytes, array)),
        Array::U64(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::I64(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
        Array::F64(all) => bytes.extend(all.iter().flat_map(|n| n.to_le_bytes())),
    }
}

/// Temporary files are for their owner alone.
#[cfg(unix)]
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let everybody = fs::Permissions::from_mode(0o644);
    fs::set_permissions(path, everybody).map_err(|cause| Error::io(path, "write", cause))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
