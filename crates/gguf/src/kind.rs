//! Formats of numbers that tensors are in.

use std::fmt;

/// A format of ggml: numbers of a row lie in blocks, each with its own scale, or one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
    /// One that is only known by name and size.
    Other(Other),
}

/// A format whose numbers are not read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Other {
    id: u32,
    name: &'static str,
    values: usize,
    bytes: usize,
}

/// Those that are read, with their number, values of a block and bytes of a block.
const NAMED: [(Kind, u32, &str, usize, usize); 11] = [
    (Kind::F32, 0, "F32", 1, 4),
    (Kind::F16, 1, "F16", 1, 2),
    (Kind::BF16, 30, "BF16", 1, 2),
    (Kind::Q4_0, 2, "Q4_0", 32, 18),
    (Kind::Q4_1, 3, "Q4_1", 32, 20),
    (Kind::Q5_0, 6, "Q5_0", 32, 22),
    (Kind::Q5_1, 7, "Q5_1", 32, 24),
    (Kind::Q8_0, 8, "Q8_0", 32, 34),
    (Kind::Q4K, 12, "Q4_K", 256, 144),
    (Kind::Q5K, 13, "Q5_K", 256, 176),
    (Kind::Q6K, 14, "Q6_K", 256, 210),
];

const OTHERS: [Other; 25] = [
    other(9, "Q8_1", 32, 40),
    other(10, "Q2_K", 256, 84),
    other(11, "Q3_K", 256, 110),
    other(15, "Q8_K", 256, 292),
    other(16, "IQ2_XXS", 256, 66),
    other(17, "IQ2_XS", 256, 74),
    other(18, "IQ3_XXS", 256, 98),
    other(19, "IQ1_S", 256, 50),
    other(20, "IQ4_NL", 32, 18),
    other(21, "IQ3_S", 256, 110),
    other(22, "IQ2_S", 256, 82),
    other(23, "IQ4_XS", 256, 136),
    other(24, "I8", 1, 1),
    other(25, "I16", 1, 2),
    other(26, "I32", 1, 4),
    other(27, "I64", 1, 8),
    other(28, "F64", 1, 8),
    other(29, "IQ1_M", 256, 56),
    // Repacked Q4_0 of 2024, which newer programs do not read either.
    other(31, "Q4_0_4_4", 32, 18),
    other(32, "Q4_0_4_8", 32, 18),
    other(34, "TQ1_0", 256, 54),
    other(35, "TQ2_0", 256, 66),
    other(39, "MXFP4", 32, 17),
    other(40, "NVFP4", 64, 36),
    other(41, "Q1_0", 128, 18),
];

const fn other(id: u32, name: &'static str, values: usize, bytes: usize) -> Other {
    Other {
        id,
        name,
        values,
        bytes,
    }
}

impl Kind {
    /// By the number that files have for it.
    pub fn of_id(id: u32) -> Option<Self> {
        let named = NAMED.iter().find(|entry| entry.1 == id);
        let others = || OTHERS.iter().find(|other| other.id == id);
        match named {
            Some(entry) => Some(entry.0),
            None => others().map(|other| Self::Other(*other)),
        }
    }

    fn entry(self) -> Other {
        match self {
            Self::Other(entry) => entry,
            named => {
                let found = NAMED.iter().find(|entry| entry.0 == named);
                // Every variant is in the table, as a test sees.
                let (_, id, name, values, bytes) = *found.unwrap_or(&NAMED[0]);
                other(id, name, values, bytes)
            }
        }
    }

    /// The number that files have for it.
    pub fn id(self) -> u32 {
        self.entry().id
    }

    /// As ggml writes it.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// Values of a block; a row's length is a multiple of it.
    pub fn block_values(self) -> usize {
        self.entry().values
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.entry().bytes
    }

    /// Bytes of so many values in whole blocks; none if they are no whole blocks, or more than there are addresses.
    pub fn bytes(self, values: usize) -> Option<usize> {
        let entry = self.entry();
        match values.is_multiple_of(entry.values) {
            true => (values / entry.values).checked_mul(entry.bytes),
            false => None,
        }
    }

    /// Whether its numbers are read here.
    pub fn is_supported(self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// What to tell of a tensor that is in it.
    pub fn unsupported(self, tensor: &str) -> String {
        let names: Vec<&str> = NAMED.iter().map(|entry| entry.2).collect();
        format!(
            "tensor {tensor} is in {self}, which is not supported: take a file whose tensors are in {}",
            names.join(", ")
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_found_by_its_number() {
        let ids = (0..64).filter_map(|id| Kind::of_id(id).map(|kind| (id, kind)));
        let ids: Vec<_> = ids.collect();
        assert_eq!(ids.len(), NAMED.len() + OTHERS.len());
        for (id, kind) in ids {
            assert_eq!(kind.id(), id);
        }
        assert_eq!(Kind::of_id(4), None);
    }

    #[test]
    fn bytes_are_those_of_whole_blocks() {
        assert_eq!(Kind::Q4K.bytes(512), Some(288));
        assert_eq!(Kind::Q4K.bytes(128), None);
        assert_eq!(Kind::F32.bytes(usize::MAX), None);
        let told = Kind::of_id(23).unwrap().unsupported("a");
        assert!(
            told.contains("tensor a is in IQ4_XS") && told.contains("Q6_K"),
            "{told}"
        );
    }
}
