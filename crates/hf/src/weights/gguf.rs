//! A model's tensors in a GGUF file, under the names and in the shapes that a Hugging Face folder has.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

use aios_base::error::{Error, Result, shortened, shown};
use aios_gguf::model::{self, Named};
use aios_gguf::{Change, GgufFile, Kind, TensorInfo, unpermute};
use aios_kernels::buffer;
use aios_kernels::ggml::{self, Format};

use super::InBlocks;
use crate::dtype::{Dtype, encode};

/// Numbers that one thread decodes at a time.
const AT_ONCE: usize = 1 << 18;

/// The tensors of a file.
#[derive(Debug)]
pub struct Gguf {
    file: Arc<GgufFile>,
    named: BTreeMap<String, Named>,
}

/// What the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Numbers {
    Floats(Dtype),
    Blocks(Format),
    /// Blocks of 32 that llama.cpp falls back to in small models: decoded wherever they are read.
    Q5_1,
}

impl Numbers {
    /// Bytes of so many values, in whole blocks.
    fn bytes(self, values: usize) -> usize {
        match self {
            Self::Floats(dtype) => values * dtype.size(),
            Self::Q5_1 => values / 32 * 24,
            Self::Blocks(format) => values / format.block() * format.bytes(),
        }
    }

    /// Values of so many bytes.
    fn values(self, bytes: usize) -> usize {
        match self {
            Self::Floats(dtype) => bytes / dtype.size(),
            Self::Q5_1 => bytes / 24 * 32,
            Self::Blocks(format) => bytes / format.bytes() * format.block(),
        }
    }

    fn decode(self, bytes: &[u8], values: &mut [f32]) {
        match self {
            Self::Floats(dtype) => dtype.decode(bytes, values),
            Self::Q5_1 => {
                let blocks = values.as_chunks_mut().0.iter_mut();
                blocks
                    .zip(bytes.as_chunks().0)
                    .for_each(|(values, block)| q5_1(block, values));
            }
            Self::Blocks(format) => ggml::decode(format, bytes, values),
        }
    }
}

/// f16 `d` and `m`, 32 upper bits, 16 bytes of lower ones: `d q + m`.
fn q5_1(block: &[u8; 24], values: &mut [f32; 32]) {
    let half = |at: usize| f32::from(half::f16::from_le_bytes([block[at], block[at + 1]]));
    let (d, m) = (half(0), half(2));
    let upper = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for (at, value) in values.iter_mut().enumerate() {
        let lower = block[8 + at % 16] >> (4 * (at / 16)) & 15;
        let code = u32::from(lower) | (upper >> at & 1) << 4;
        *value = d * code as f32 + m;
    }
}

/// None of what nothing here reads.
fn numbers(kind: Kind) -> Option<Numbers> {
    Some(match kind {
        Kind::F32 => Numbers::Floats(Dtype::F32),
        Kind::F16 => Numbers::Floats(Dtype::F16),
        Kind::BF16 => Numbers::Floats(Dtype::BF16),
        Kind::Q4_0 => Numbers::Blocks(Format::Q4_0),
        Kind::Q4_1 => Numbers::Blocks(Format::Q4_1),
        Kind::Q5_0 => Numbers::Blocks(Format::Q5_0),
        Kind::Q8_0 => Numbers::Blocks(Format::Q8_0),
        Kind::Q4K => Numbers::Blocks(Format::Q4K),
        Kind::Q5K => Numbers::Blocks(Format::Q5K),
        Kind::Q6K => Numbers::Blocks(Format::Q6K),
        Kind::Q5_1 => Numbers::Q5_1,
        Kind::Other(_) => return None,
    })
}

impl Gguf {
    /// The tensors of a model that has this config.json.
    ///
    /// # Errors
    /// One that is missing, or in a format that is not read.
    pub fn of(file: &Arc<GgufFile>, config: &Value) -> Result<Self> {
        let tensors = model::tensors(file, config)?;
        if let Some(first) = tensors.unknown.first() {
            tracing::warn!(
                "{} of the tensors in the GGUF file are of no such model that is known and are left out, {first} among them",
                tensors.unknown.len()
            );
        }
        let named = tensors.named.into_iter();
        let named = named.map(|named| (named.hugging_face.clone(), named));
        let gguf = Self {
            file: Arc::clone(file),
            named: named.collect(),
        };
        for name in gguf.named.keys() {
            let (named, tensor) = gguf.needed(name)?;
            gguf.known(named, tensor)?;
        }
        Ok(gguf)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// Of a tensor in blocks the type is the one that it is read as.
    pub fn info(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        let (named, tensor) = self.find(name)?;
        let dtype = match numbers(tensor.kind) {
            Some(Numbers::Floats(dtype)) => dtype,
            _ => Dtype::F32,
        };
        Some((dtype, named.shape.clone()))
    }

    pub fn data_bytes(&self) -> u64 {
        self.file.data_bytes()
    }

    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.file.paths()
    }

    pub fn path(&self, name: &str) -> Result<&Path> {
        self.file.path(&self.needed(name)?.0.gguf)
    }

    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let (named, tensor) = self.needed(name)?;
        let bytes = self.file.bytes(&named.gguf)?;
        let numbers = self.known(named, tensor)?;
        let mut values: Vec<f32> = buffer::zeros(tensor.elements());
        let pieces = values.par_chunks_mut(AT_ONCE);
        let pieces = pieces.zip(bytes.par_chunks(numbers.bytes(AT_ONCE)));
        pieces.for_each(|(values, bytes)| numbers.decode(bytes, values));
        named.change.apply(values, &tensor.shape)
    }

    /// Decodes a little at a time.
    pub fn finite(&self, name: &str) -> Result<()> {
        let (named, tensor) = self.needed(name)?;
        let bytes = self.file.bytes(&named.gguf)?;
        let numbers = self.known(named, tensor)?;
        let pieces = bytes.par_chunks(numbers.bytes(AT_ONCE)).enumerate();
        let found = pieces.find_map_first(|(piece, bytes)| {
            let mut values = vec![0.0; numbers.values(bytes.len())];
            numbers.decode(bytes, &mut values);
            let at = values.iter().position(|value| !value.is_finite())?;
            Some((piece * AT_ONCE + at, values[at]))
        });
        match found {
            None => Ok(()),
            Some((at, value)) => Err(self.wrong(
                named,
                &format!(
                    "tensor {} has {value} at element {at}: these are no weights to go on with",
                    named.gguf
                ),
            )),
        }
    }

    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        let (named, tensor) = self.needed(name)?;
        let Some(Numbers::Floats(dtype)) = numbers(tensor.kind) else {
            return Err(self.wrong(
                named,
                &format!("tensor {} is in {}, not in floats", named.gguf, tensor.kind),
            ));
        };
        match named.change.rows_only() {
            true => self.rows(named, tensor),
            false => encode(&self.read_f32(name)?, dtype).map(Cow::Owned),
        }
    }

    pub fn release(&self, name: &str) {
        if let Some(named) = self.named.get(name) {
            self.file.release(&named.gguf);
        }
    }

    pub fn blocks(&self, name: &str) -> Result<Option<InBlocks>> {
        let Some(format) = self.block_format(name) else {
            return Ok(None);
        };
        let (named, tensor) = self.needed(name)?;
        Ok(Some(InBlocks {
            format,
            bytes: self.rows(named, tensor)?.into_owned(),
        }))
    }

    pub fn block_format(&self, name: &str) -> Option<Format> {
        let (named, tensor) = self.find(name)?;
        match numbers(tensor.kind) {
            Some(Numbers::Blocks(format)) if named.change.rows_only() && named.shape.len() == 2 => {
                Some(format)
            }
            _ => None,
        }
    }

    /// Numbers in blocks are written in 16 bits, which hold them as well as their scales are held.
    pub fn in_more_bits(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        let (named, tensor) = self.find(name)?;
        match numbers(tensor.kind) {
            Some(Numbers::Floats(_)) => None,
            _ => Some((Dtype::F16, named.shape.clone())),
        }
    }

    /// The bytes of rows that stay what they are, in the folder's order.
    fn rows(&self, named: &Named, tensor: &TensorInfo) -> Result<Cow<'_, [u8]>> {
        let bytes = self.file.bytes(&named.gguf)?;
        match named.change {
            Change::UnpermuteRows { heads } => {
                let rows = tensor.shape.first().copied().unwrap_or(0);
                unpermute(bytes, rows, heads).map(Cow::Owned)
            }
            _ => Ok(Cow::Borrowed(bytes)),
        }
    }

    fn find(&self, name: &str) -> Option<(&Named, &TensorInfo)> {
        let named = self.named.get(name)?;
        Some((named, self.file.tensor(&named.gguf)?))
    }

    fn needed(&self, name: &str) -> Result<(&Named, &TensorInfo)> {
        self.find(name)
            .ok_or_else(|| Error::failed(format!("the model's GGUF file has no tensor for {name}")))
    }

    fn known(&self, named: &Named, tensor: &TensorInfo) -> Result<Numbers> {
        let known = numbers(tensor.kind);
        known.ok_or_else(|| self.wrong(named, &tensor.kind.unsupported(&named.gguf)))
    }

    fn wrong(&self, named: &Named, what: &str) -> Error {
        let place = self.file.path(&named.gguf).map(shown).unwrap_or_default();
        Error::failed(shortened(&format!("{place}: {what}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q5_1_has_its_fifth_bits_apart() {
        let mut block = [0; 24];
        block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
        block[2..4].copy_from_slice(&half::f16::from_f32(-2.0).to_le_bytes());
        // Of numbers 1 and 31.
        block[4..8].copy_from_slice(&(1_u32 << 1 | 1 << 31).to_le_bytes());
        (block[8 + 1], block[8 + 15]) = (0x73, 0xF0);
        let mut values = [0.0; 32];
        q5_1(&block, &mut values);
        assert_eq!(values[0], -2.0);
        assert_eq!(values[1], 0.5 * 19.0 - 2.0);
        assert_eq!(values[17], 0.5 * 7.0 - 2.0);
        assert_eq!(values[31], 0.5 * 31.0 - 2.0);
    }
}
