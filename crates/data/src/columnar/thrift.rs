//! Thrift's compact protocol, as far as the headers of pages and a look at the footer need it.

/// Structs in one another.
const DEEPEST: usize = 32;
/// Fewest bytes of a struct in a list: its fields are not all optional.
const STRUCT_BYTES: usize = 3;
const FLAWED: &str = "it is not what Parquet's format says";
const CUT_OFF: &str = "it is cut off";

/// Numbers and structs among the fields of a struct; the others are passed over.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    numbers: Vec<(i64, i64)>,
    structs: Vec<(i64, Fields)>,
}

impl Fields {
    pub(super) fn number(&self, field: i64) -> Option<i64> {
        let found = self.numbers.iter().find(|(id, _)| *id == field);
        found.map(|(_, number)| *number)
    }

    pub(super) fn inner(&self, field: i64) -> Option<&Self> {
        let found = self.structs.iter().find(|(id, _)| *id == field);
        found.map(|(_, inner)| inner)
    }
}

/// What went wrong: the bytes may just be too few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    CutOff,
    Wrong,
}

impl Flaw {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::CutOff => CUT_OFF,
            Self::Wrong => FLAWED,
        }
    }
}

type Read<T> = Result<T, Flaw>;

/// The struct at the beginning of `bytes`, and its length.
pub(super) fn fields(bytes: &[u8]) -> Read<(Fields, usize)> {
    let mut reader = Reader { bytes, at: 0 };
    let fields = reader.fields(0)?;
    Ok((fields, reader.at))
}

/// How deep the columns of a footer lie in one another. All of it was walked through.
///
/// # Errors
/// What is wrong with it.
pub(super) fn schema_depth(footer: &[u8]) -> Result<usize, &'static str> {
    let mut reader = Reader {
        bytes: footer,
        at: 0,
    };
    reader.schema_depth().map_err(Flaw::in_words)
}

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const MAP: u8 = 11;
const STRUCT: u8 = 12;
const UUID: u8 = 13;

/// Of the footer: the schema, and in it the number of columns within one.
const SCHEMA: i64 = 2;
const CHILDREN: i64 = 5;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Read<u8> {
        let byte = *self.bytes.get(self.at).ok_or(Flaw::CutOff)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip_bytes(&mut self, length: u64) -> Read<()> {
        let left = (self.bytes.len() - self.at) as u64;
        if length > left {
            return Err(Flaw::CutOff);
        }
        self.at += length as usize;
        Ok(())
    }

    fn unsigned(&mut self) -> Read<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Flaw::Wrong)
    }

    fn signed(&mut self) -> Read<i64> {
        let number = self.unsigned()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// Number and type of the next field after `last`; `None` at the end of the struct.
    fn field(&mut self, last: &mut i64) -> Read<Option<u8>> {
        let byte = self.byte()?;
        let kind = byte & 0x0F;
        if kind == 0 {
            return Ok(None);
        }
        *last = match byte >> 4 {
            0 => self.signed()?,
            step => last.saturating_add(i64::from(step)),
        };
        Ok(Some(kind))
    }

    fn fields(&mut self, depth: usize) -> Read<Fields> {
        if depth > DEEPEST {
            return Err(Flaw::Wrong);
        }
        let mut fields = Fields::default();
        let mut id = 0;
        while let Some(kind) = self.field(&mut id)? {
            match kind {
                TRUE | FALSE => fields.numbers.push((id, i64::from(kind == TRUE))),
                BYTE => fields.numbers.push((id, i64::from(self.byte()?))),
                4..=I64 => fields.numbers.push((id, self.signed()?)),
                STRUCT => fields.structs.push((id, self.fields(depth + 1)?)),
                kind => self.skip(kind, depth + 1)?,
            }
        }
        Ok(fields)
    }

    /// Type and number of the elements of a list.
    fn list(&mut self) -> Read<(u8, u64)> {
        let byte = self.byte()?;
        let count = match byte >> 4 {
            15 => self.unsigned()?,
            count => u64::from(count),
        };
        Ok((byte & 0x0F, count))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> Read<()> {
        if depth > DEEPEST {
            return Err(Flaw::Wrong);
        }
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.skip_bytes(1),
            4..=I64 => self.unsigned().map(drop),
            DOUBLE => self.skip_bytes(8),
            UUID => self.skip_bytes(16),
            BINARY => {
                let length = self.unsigned()?;
                self.skip_bytes(length)
            }
            STRUCT => {
                let mut id = 0;
                while let Some(kind) = self.field(&mut id)? {
                    self.skip(kind, depth + 1)?;
                }
                Ok(())
            }
            LIST | SET => {
                let (kind, count) = self.list()?;
                let start = self.at;
                for _ in 0..count {
                    self.element(kind, depth + 1)?;
                }
                self.check_length(kind, count, start)
            }
            MAP => {
                let count = self.unsigned()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                for _ in 0..count {
                    self.element(kinds >> 4, depth + 1)?;
                    self.element(kinds & 0x0F, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(Flaw::Wrong),
        }
    }

    /// In a list a truth value has a byte, which it has not as a field.
    fn element(&mut self, kind: u8, depth: usize) -> Read<()> {
        match kind {
            TRUE | FALSE => self.skip_bytes(1),
            kind => self.skip(kind, depth),
        }
    }

    /// The library makes room for a list as long as its number says.
    fn check_length(&self, kind: u8, count: u64, start: usize) -> Read<()> {
        let least = count.saturating_mul(STRUCT_BYTES as u64);
        match kind == STRUCT && ((self.at - start) as u64) < least {
            true => Err(Flaw::Wrong),
            false => Ok(()),
        }
    }

    fn schema_depth(&mut self) -> Read<usize> {
        let (mut id, mut deepest) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            match (id, kind) {
                (SCHEMA, LIST) => deepest = deepest.max(self.elements_depth()?),
                (SCHEMA, _) => return Err(Flaw::Wrong),
                (_, kind) => self.skip(kind, 1)?,
            }
        }
        Ok(deepest)
    }

    /// Depth of the tree whose nodes follow each other, each before those in it.
    fn elements_depth(&mut self) -> Read<usize> {
        let (kind, count) = self.list()?;
        if kind != STRUCT && count > 0 {
            return Err(Flaw::Wrong);
        }
        let start = self.at;
        // How many are still to come within each of those that one is in.
        let mut open: Vec<i64> = Vec::new();
        let mut deepest = 0;
        for _ in 0..count {
            let children = self.fields(1)?.number(CHILDREN).unwrap_or(0);
            while open.last() == Some(&0) {
                open.pop();
            }
            if let Some(left) = open.last_mut() {
                *left -= 1;
            }
            if children > 0 {
                open.push(children);
            }
            deepest = deepest.max(open.len());
        }
        self.check_length(kind, count, start)?;
        Ok(deepest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_structs_are_found_and_the_rest_is_passed_over() {
        // 1: -2 as i32, 2: binary of two bytes, 3: list of two i32, 4: true, 5: struct { 1: 3 }, then the end.
        let bytes = [
            0x15, 3, 0x18, 2, 9, 9, 0x19, 0x25, 2, 4, 0x11, 0x1C, 0x15, 6, 0, 0, 77,
        ];
        let (fields, length) = fields(&bytes).unwrap();
        assert_eq!(length, bytes.len() - 1);
        assert_eq!((fields.number(1), fields.number(4)), (Some(-2), Some(1)));
        assert_eq!(fields.inner(5).unwrap().number(1), Some(3));
        for end in 0..length {
            assert_eq!(super::fields(&bytes[..end]), Err(Flaw::CutOff), "{end}");
        }
    }

    #[test]
    fn lists_have_the_elements_that_they_say() {
        // A list of 2^35 structs, and one of as many structs as bytes.
        for list in [
            &[0x19, 0xFC, 0x80, 0x80, 0x80, 0x80, 0x01, 0, 0][..],
            &[0x19, 0x2C, 0, 0, 0],
        ] {
            assert!(schema_depth(list).is_err(), "{list:?}");
        }
    }

    #[test]
    fn depth_is_that_of_the_schemas_tree() {
        // A root with two columns, the first of them with one in it: { 5: children }.
        let element = |children: u8| [0x55, children * 2, 0];
        let footer = |children: &[u8]| {
            let elements = children.iter().flat_map(|&children| element(children));
            let head = [0x29, (children.len() as u8) << 4 | STRUCT];
            head.into_iter()
                .chain(elements)
                .chain([0])
                .collect::<Vec<u8>>()
        };
        assert_eq!(schema_depth(&footer(&[2, 1, 0, 0])), Ok(2));
        assert_eq!(schema_depth(&footer(&[1, 1, 1, 1, 0])), Ok(4));
        assert_eq!(schema_depth(&footer(&[4, 0, 0, 0, 0])), Ok(1));
    }
}
