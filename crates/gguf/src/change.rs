//! What is done to a tensor's numbers between a Hugging Face folder and a GGUF file.

use aios_base::error::{Error, Result};

/// A change of a tensor on its way; the first three keep each row as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Same,
    /// To write: within each head, row `2i` is what was row `i`, and row `2i + 1` what was row `d/2 + i`, for llama.cpp turns
    /// neighbours where transformers turns numbers half a head apart.
    PermuteRows {
        heads: usize,
    },
    /// The way back, to read.
    UnpermuteRows {
        heads: usize,
    },
    /// To write the norms of Gemma, which has them around 0.
    PlusOne,
    /// To read them.
    MinusOne,
    /// Rows become columns, as GPT-2's files have them; either way.
    Transpose,
}

impl Change {
    /// Whether whole rows stay what they are, so that they need not be decoded.
    pub fn rows_only(self) -> bool {
        match self {
            Self::Same | Self::PermuteRows { .. } | Self::UnpermuteRows { .. } => true,
            Self::PlusOne | Self::MinusOne | Self::Transpose => false,
        }
    }

    /// The way back.
    pub fn inverse(self) -> Self {
        match self {
            Self::Same => Self::Same,
            Self::PermuteRows { heads } => Self::UnpermuteRows { heads },
            Self::UnpermuteRows { heads } => Self::PermuteRows { heads },
            Self::PlusOne => Self::MinusOne,
            Self::MinusOne => Self::PlusOne,
            Self::Transpose => Self::Transpose,
        }
    }

    /// The shape that comes of one.
    pub fn shape(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Transpose, [rows, columns]) => vec![*columns, *rows],
            _ => shape.to_vec(),
        }
    }

    /// Makes it of the numbers of a tensor of this shape.
    ///
    /// # Errors
    /// A shape that it cannot be made of.
    pub fn apply(self, values: Vec<f32>, shape: &[usize]) -> Result<Vec<f32>> {
        let rows = shape.first().copied().unwrap_or(0);
        Ok(match self {
            Self::Same => values,
            Self::PermuteRows { heads } => permute(&values, rows, heads)?,
            Self::UnpermuteRows { heads } => unpermute(&values, rows, heads)?,
            Self::PlusOne => values.into_iter().map(|value| value + 1.0).collect(),
            Self::MinusOne => values.into_iter().map(|value| value - 1.0).collect(),
            Self::Transpose => match shape {
                [rows, columns] if rows.checked_mul(*columns) == Some(values.len()) => {
                    transposed(&values, *rows, *columns)
                }
                _ => {
                    return Err(Error::failed(format!(
                        "{} numbers of shape {shape:?} are no matrix that can be transposed",
                        values.len()
                    )));
                }
            },
        })
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut all = Vec::with_capacity(values.len());
    for column in 0..columns {
        all.extend((0..rows).map(|row| values[row * columns + column]));
    }
    all
}

/// [`Change::PermuteRows`] of rows of equal length: of bytes in whatever format, or of numbers.
///
/// # Errors
/// So many rows of that many heads cannot be.
pub fn permute<T: Copy>(values: &[T], rows: usize, heads: usize) -> Result<Vec<T>> {
    rearranged(values, rows, heads, |row, half| (row % 2) * half + row / 2)
}

/// [`Change::UnpermuteRows`] of the same.
///
/// # Errors
/// So many rows of that many heads cannot be.
pub fn unpermute<T: Copy>(values: &[T], rows: usize, heads: usize) -> Result<Vec<T>> {
    rearranged(values, rows, heads, |row, half| {
        (row % half) * 2 + row / half
    })
}

/// Each row is the one of its head that `from` says, given the row within it and half of their number.
fn rearranged<T: Copy>(
    values: &[T],
    rows: usize,
    heads: usize,
    from: impl Fn(usize, usize) -> usize,
) -> Result<Vec<T>> {
    let is_whole = |a: usize, b: usize| b > 0 && a.is_multiple_of(b);
    if !(is_whole(values.len(), rows) && is_whole(rows, heads) && is_whole(rows / heads, 2)) {
        return Err(Error::failed(format!(
            "{rows} rows of {} in all are not {heads} heads of pairs of rows",
            values.len()
        )));
    }
    let (length, of_head) = (values.len() / rows, rows / heads);
    let mut all = Vec::with_capacity(values.len());
    for row in 0..rows {
        let (head, within) = (row / of_head, row % of_head);
        let source = head * of_head + from(within, of_head / 2);
        all.extend_from_slice(&values[source * length..(source + 1) * length]);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_are_interleaved_as_llama_cpp_does() {
        // numpy: arange(12).reshape(2, 2, 3, 1).swapaxes(1, 2)
        let rows: Vec<u8> = (0..12).collect();
        let permuted = permute(&rows, 12, 2).unwrap();
        assert_eq!(permuted, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
        assert_eq!(unpermute(&permuted, 12, 2).unwrap(), rows);
        let pairs: Vec<u8> = permute(&(0..8).collect::<Vec<u8>>(), 4, 1).unwrap();
        assert_eq!(pairs, [0, 1, 4, 5, 2, 3, 6, 7]);
    }

    #[test]
    fn rows_that_are_no_heads_are_refused() {
        for (values, rows, heads) in [(12, 12, 5), (12, 0, 1), (12, 12, 0), (13, 12, 2), (6, 6, 2)]
        {
            let values = vec![0_u8; values];
            assert!(permute(&values, rows, heads).is_err(), "{rows} {heads}");
        }
    }

    #[test]
    fn every_change_has_a_way_back() {
        let values: Vec<f32> = (0..24).map(|n| n as f32).collect();
        let shape = [8, 3];
        for change in [
            Change::Same,
            Change::PermuteRows { heads: 2 },
            Change::PlusOne,
            Change::Transpose,
        ] {
            let changed = change.apply(values.clone(), &shape).unwrap();
            let back = change.inverse().apply(changed, &change.shape(&shape));
            assert_eq!(back.unwrap(), values, "{change:?}");
        }
        let changed = Change::Transpose.apply(values, &shape).unwrap();
        assert_eq!(changed[..4], [0.0, 3.0, 6.0, 9.0]);
        assert!(Change::Transpose.apply(vec![0.0; 3], &[3]).is_err());
    }
}
