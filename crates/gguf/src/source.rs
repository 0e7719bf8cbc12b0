//! A file's beginning, read in order: nothing is allocated for what is not there.

use std::io::{self, Read};

use crate::value::{ARRAY, Array, TEXT, Value};

/// Arrays in arrays, deeper than any file has them.
const DEEPEST: usize = 8;

pub(crate) struct Source<R> {
    reader: R,
    /// Bytes that were read.
    pub(crate) at: u64,
    /// Of the file.
    length: u64,
    /// Whether the last value had a text that is no UTF-8.
    pub(crate) lossy: bool,
}

/// What is wrong, in words.
type Result<T> = std::result::Result<T, String>;

macro_rules! numbers {
    ($($name:ident, $type:ty);*) => {
        $(pub(crate) fn $name(&mut self) -> Result<$type> {
            let mut bytes = [0; size_of::<$type>()];
            self.fill(&mut bytes)?;
            Ok(<$type>::from_le_bytes(bytes))
        })*
    };
}

impl<R: Read> Source<R> {
    pub(crate) fn new(reader: R, length: u64) -> Self {
        Self {
            reader,
            at: 0,
            length,
            lossy: false,
        }
    }

    numbers!(u8, u8; i8, i8; u16, u16; i16, i16; u32, u32; i32, i32; u64, u64; i64, i64; f32, f32; f64, f64);

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.at)
    }

    /// Sees that so many things can still be there, each of which takes `least` bytes.
    pub(crate) fn require(&self, count: u64, least: u64, what: &str) -> Result<usize> {
        match count.checked_mul(least) {
            Some(bytes) if bytes <= self.left() => {
                usize::try_from(count).map_err(|_| format!("it has {count} {what}"))
            }
            _ => Err(format!(
                "it should have {count} {what} at byte {}, and ends {} bytes later",
                self.at,
                self.left()
            )),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.reader
            .read_exact(bytes)
            .map_err(|cause| match cause.kind() {
                io::ErrorKind::UnexpectedEof => {
                    format!("it ends at byte {}, in its header", self.length)
                }
                _ => format!("its header cannot be read ({cause})"),
            })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn bytes(&mut self, what: &str) -> Result<Vec<u8>> {
        let length = self.u64()?;
        let length = self.require(length, 1, &format!("bytes of {what}"))?;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// A name, which is UTF-8.
    pub(crate) fn name(&mut self, what: &str) -> Result<String> {
        String::from_utf8(self.bytes(what)?).map_err(|cause| {
            let shown = String::from_utf8_lossy(cause.as_bytes()).into_owned();
            format!("{what} {shown:?} is no UTF-8")
        })
    }

    /// A text of a value. Some files have tokens that are no UTF-8: they do not keep the rest from being read.
    fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes("text")?).or_else(|cause| {
            self.lossy = true;
            Ok(String::from_utf8_lossy(cause.as_bytes()).into_owned())
        })
    }

    fn flag(&mut self) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("{other} is neither true (1) nor false (0)")),
        }
    }

    /// A value with its type.
    pub(crate) fn value(&mut self) -> Result<Value> {
        self.lossy = false;
        let id = self.u32()?;
        Ok(match id {
            0 => Value::U8(self.u8()?),
            1 => Value::I8(self.i8()?),
            2 => Value::U16(self.u16()?),
            3 => Value::I16(self.i16()?),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.i32()?),
            6 => Value::F32(self.f32()?),
            7 => Value::Bool(self.flag()?),
            TEXT => Value::Text(self.text()?),
            ARRAY => Value::Array(self.array(0)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.i64()?),
            12 => Value::F64(self.f64()?),
            other => return Err(format!("its type {other} is not known")),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array> {
        let id = self.u32()?;
        let count = self.u64()?;
        if depth >= DEEPEST {
            return Err(format!("its arrays are nested more than {DEEPEST} deep"));
        }
        Ok(match id {
            0 => Array::U8(self.many(count, 1, Self::u8)?),
            1 => Array::I8(self.many(count, 1, Self::i8)?),
            2 => Array::U16(self.many(count, 2, Self::u16)?),
            3 => Array::I16(self.many(count, 2, Self::i16)?),
            4 => Array::U32(self.many(count, 4, Self::u32)?),
            5 => Array::I32(self.many(count, 4, Self::i32)?),
            6 => Array::F32(self.many(count, 4, Self::f32)?),
            7 => Array::Bool(self.many(count, 1, Self::flag)?),
            TEXT => Array::Text(self.many(count, 8, Self::text)?),
            ARRAY => Array::Array(self.many(count, 12, |source| source.array(depth + 1))?),
            10 => Array::U64(self.many(count, 8, Self::u64)?),
            11 => Array::I64(self.many(count, 8, Self::i64)?),
            12 => Array::F64(self.many(count, 8, Self::f64)?),
            other => return Err(format!("its elements' type {other} is not known")),
        })
    }

    fn many<T>(
        &mut self,
        count: u64,
        least: u64,
        read: impl Fn(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let count = self.require(count, least, "elements")?;
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(read(self)?);
        }
        Ok(all)
    }
}
