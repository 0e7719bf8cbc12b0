//! Values of metadata.

/// A value under a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    Text(Vec<String>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Numbers that files have for the types, in the order of the variants.
pub(crate) const TEXT: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

impl Value {
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => TEXT,
            Self::Array(_) => ARRAY,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    /// What it is, for errors.
    pub(crate) fn described(&self) -> String {
        match self {
            Self::U8(n) => n.to_string(),
            Self::I8(n) => n.to_string(),
            Self::U16(n) => n.to_string(),
            Self::I16(n) => n.to_string(),
            Self::U32(n) => n.to_string(),
            Self::I32(n) => n.to_string(),
            Self::U64(n) => n.to_string(),
            Self::I64(n) => n.to_string(),
            Self::F32(n) => n.to_string(),
            Self::F64(n) => n.to_string(),
            Self::Bool(flag) => flag.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(40).collect::<String>()),
            Self::Array(array) => format!("an array of {}", array.len()),
        }
    }

    /// If it is a whole number.
    pub fn integer(&self) -> Option<i128> {
        Some(match self {
            Self::U8(n) => i128::from(*n),
            Self::I8(n) => i128::from(*n),
            Self::U16(n) => i128::from(*n),
            Self::I16(n) => i128::from(*n),
            Self::U32(n) => i128::from(*n),
            Self::I32(n) => i128::from(*n),
            Self::U64(n) => i128::from(*n),
            Self::I64(n) => i128::from(*n),
            _ => return None,
        })
    }

    /// If it is a number. One in f32 is the shortest decimal number that is rounded to it: so 1e-5 stays that.
    pub(crate) fn float(&self) -> Option<f64> {
        match self {
            Self::F32(n) => Some(decimal(*n)),
            Self::F64(n) => Some(*n),
            other => other.integer().map(|n| n as f64),
        }
    }
}

/// The number that was meant by one in f32.
pub(crate) fn decimal(n: f32) -> f64 {
    n.to_string().parse().unwrap_or(f64::from(n))
}

impl Array {
    pub(crate) fn id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => TEXT,
            Self::Array(_) => ARRAY,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::U8(all) => all.len(),
            Self::I8(all) => all.len(),
            Self::U16(all) => all.len(),
            Self::I16(all) => all.len(),
            Self::U32(all) => all.len(),
            Self::I32(all) => all.len(),
            Self::F32(all) => all.len(),
            Self::Bool(all) => all.len(),
            Self::Text(all) => all.len(),
            Self::Array(all) => all.len(),
            Self::U64(all) => all.len(),
            Self::I64(all) => all.len(),
            Self::F64(all) => all.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// If they are whole numbers that i64 can hold.
    pub fn integers(&self) -> Option<Vec<i64>> {
        Some(match self {
            Self::U8(all) => all.iter().map(|&n| n.into()).collect(),
            Self::I8(all) => all.iter().map(|&n| n.into()).collect(),
            Self::U16(all) => all.iter().map(|&n| n.into()).collect(),
            Self::I16(all) => all.iter().map(|&n| n.into()).collect(),
            Self::U32(all) => all.iter().map(|&n| n.into()).collect(),
            Self::I32(all) => all.iter().map(|&n| n.into()).collect(),
            Self::I64(all) => all.clone(),
            Self::U64(all) => {
                let each = all.iter().map(|&n| i64::try_from(n).ok());
                return each.collect();
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_f32_is_the_decimal_that_was_meant() {
        assert_eq!(Value::F32(1e-5).float(), Some(1e-5));
        assert_eq!(Value::F32(1e6).float(), Some(1e6));
        assert_eq!(Value::F32(0.1).float(), Some(0.1));
        assert!(Value::F32(f32::NAN).float().unwrap().is_nan());
        assert_eq!(Value::U16(3).float(), Some(3.0));
        assert_eq!(Value::Bool(true).float(), None);
    }
}
