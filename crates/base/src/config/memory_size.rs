//! Choices about memory: an amount of it, and the format of mixed precision.

use std::fmt;
use std::str::FromStr;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// An amount of memory, written as `6GiB`, `512 MiB`, `1.5GB` or a number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub struct MemorySize(pub u64);

/// In a configuration file a number needs no quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Written> for MemorySize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Bytes(bytes) => Self::checked(bytes, &bytes.to_string()),
            Written::Text(text) => text.parse(),
        }
    }
}

impl MemorySize {
    fn checked(bytes: u64, text: &str) -> Result<Self, String> {
        match bytes {
            0 => Err(format!("memory size `{text}` is nothing: use such as 6GiB")),
            // What is too large to be counted is read as the largest number there is.
            u64::MAX => Err(format!(
                "memory size `{text}` is more than can be counted: use such as 6GiB"
            )),
            bytes => Ok(Self(bytes)),
        }
    }
}

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: ByteSize = text
            .parse()
            .map_err(|_| format!("`{text}` is no memory size: use such as 6GiB or 512MiB"))?;
        Self::checked(size.as_u64(), text)
    }
}

/// In the largest binary unit that is exact, so that it reads back the same.
impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [
            (1 << 40, "TiB"),
            (1 << 30, "GiB"),
            (1 << 20, "MiB"),
            (1 << 10, "KiB"),
        ];
        let exact = units.iter().find(|(unit, _)| self.0.is_multiple_of(*unit));
        match exact {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl From<MemorySize> for String {
    fn from(size: MemorySize) -> Self {
        size.to_string()
    }
}

/// Which half-precision format mixed precision computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AmpDtype {
    /// bf16 where the device is fast in it, else f16, else none.
    Auto,
    /// bfloat16, whether or not it is faster.
    Bf16,
    /// IEEE binary16 with a loss scale, whether or not it is faster.
    F16,
}

/// In which format the weights themselves are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WeightsDtype {
    /// Every weight in f32.
    F32,
    /// Matrices in bfloat16, their updates rounded stochastically.
    Bf16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_exactly() {
        for (text, bytes, shown) in [
            ("6GiB", 6 << 30, "6GiB"),
            ("512 MiB", 512 << 20, "512MiB"),
            ("1.5GB", 1_500_000_000, "1500000000B"),
            ("1536KiB", 1536 << 10, "1536KiB"),
            ("12345", 12_345, "12345B"),
        ] {
            let size: MemorySize = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string(), shown);
            assert_eq!(shown.parse(), Ok(size));
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in [
            "",
            "much",
            "6 parsecs",
            "-1GiB",
            "0",
            "99999999999999999999",
            "1e30GiB",
        ] {
            let error = text.parse::<MemorySize>().unwrap_err();
            assert!(error.contains("6GiB"), "{error}");
        }
    }
}
