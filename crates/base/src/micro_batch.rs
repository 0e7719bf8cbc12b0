//! Token windows, and their chunks.

use crate::error::{Error, Result};
use crate::meter::{format_bytes, host_available};
use std::ops::Range;

pub use aios_kernels::cross_entropy::IGNORE;

/// In place of tokens behind a sequence's end: any id that every vocabulary has.
const PAD: i32 = 0;
/// What so many bytes are is not asked for before it is known that they are there: some systems give
/// memory that they do not have.
const LARGE: usize = 256 << 20;

/// A corpus as sequences of tokens.
pub trait Tokens {
    /// How many sequences there are if none has more than `longest` tokens.
    fn sequences(&self, longest: usize) -> u64;

    /// Appends the tokens of one of them to `inputs`, and to `labels` as many: the token that follows each, or [`IGNORE`]
    /// where there is none or it is not to count.
    fn sequence(&self, index: u64, longest: usize, inputs: &mut Vec<i32>, labels: &mut Vec<i32>);

    /// Where the documents that are packed into one of them end, in tokens of it; nothing where it is one document.
    fn documents(&self, _index: u64, _longest: usize) -> Vec<usize> {
        Vec::new()
    }

    /// Tokens that follow another one of the same text or row.
    fn predicted(&self) -> u64;

    /// Bytes of the text.
    fn bytes(&self) -> u64;
}

/// Appends a sequence to inputs and labels; gives where the documents in it end, or nothing where it is one.
pub type Next<'a> = dyn FnMut(&mut Vec<i32>, &mut Vec<i32>) -> Vec<usize> + 'a;

/// Sequences of tokens, one after the other, all as long as the longest of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MicroBatch {
    pub inputs: Vec<i32>,
    /// The next token of each input; [`IGNORE`] where there is none.
    pub labels: Vec<i32>,
    /// Tokens of a sequence.
    pub seq: usize,
    /// Number of its first sequence within the step, so that the draws of a sequence do not depend
    /// on how the step is split.
    pub first_sequence: u64,
    /// For each sequence where its documents end, the last one where its padding begins. A token sees its own document,
    /// in which positions count from 0. Without any each sequence is one document of full length.
    pub documents: Vec<Vec<usize>>,
}

/// The same positions of each sequence of a micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Sequence after sequence.
    pub inputs: Vec<i32>,
    pub labels: Vec<i32>,
    pub positions: Range<usize>,
    /// The sequences end with it.
    pub last: bool,
}

impl MicroBatch {
    /// None yet, with room for so many sequences of `seq` tokens.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn with_room(sequences: usize, seq: usize) -> Result<Self> {
        let tokens = sequences.saturating_mul(seq);
        let bytes = tokens.saturating_mul(2 * size_of::<i32>());
        let too_much = || {
            Error::failed(format!(
                "the ids of a step of {sequences} sequences take {}, more than there is free: lower \
                 --gradient-accumulation-steps, --batch-size or --max-seq-len",
                format_bytes(bytes as u64)
            ))
        };
        if bytes > LARGE && bytes as u64 > host_available() {
            return Err(too_much());
        }
        let (mut inputs, mut labels) = (Vec::new(), Vec::new());
        for ids in [&mut inputs, &mut labels] {
            ids.try_reserve_exact(tokens).map_err(|_| too_much())?;
        }
        Ok(Self {
            inputs,
            labels,
            seq,
            first_sequence: 0,
            documents: Vec::new(),
        })
    }

    /// `sequences` of them, each appended by `next` to inputs and labels, with at most `longest` tokens; it gives where the
    /// documents in it end, or nothing where it is one. The shorter ones are padded at the right, where no token sees it,
    /// with labels that do not count.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn of(sequences: usize, longest: usize, next: &mut Next) -> Result<Self> {
        let mut batch = Self::with_room(sequences, longest)?;
        let mut ends = Vec::with_capacity(sequences);
        for _ in 0..sequences {
            let start = batch.inputs.len();
            let documents = next(&mut batch.inputs, &mut batch.labels);
            ends.push(batch.inputs.len());
            batch.documents.push(match documents.is_empty() {
                true => vec![batch.inputs.len() - start],
                false => documents,
            });
        }
        batch.seq = lengths(&ends).max().unwrap_or(0);
        if lengths(&ends).any(|length| length < batch.seq) {
            batch.inputs = padded(&batch.inputs, &ends, batch.seq, PAD);
            batch.labels = padded(&batch.labels, &ends, batch.seq, IGNORE);
        }
        Ok(batch)
    }

    /// Sequences.
    pub fn sequences(&self) -> usize {
        self.inputs.len() / self.seq
    }

    /// The same sequences in micro-batches of `size`; the last may be smaller.
    pub fn split(&self, size: usize) -> impl Iterator<Item = Self> {
        let tokens = size.max(1) * self.seq;
        let parts = self.inputs.chunks(tokens).zip(self.labels.chunks(tokens));
        let documents = move |i: usize| {
            let part = self.documents.iter().skip(i * size.max(1));
            part.take(size.max(1)).cloned().collect()
        };
        parts.enumerate().map(move |(i, (inputs, labels))| Self {
            inputs: inputs.to_vec(),
            labels: labels.to_vec(),
            seq: self.seq,
            first_sequence: self.first_sequence + (i * size) as u64,
            documents: documents(i),
        })
    }

    /// Some of the same sequences.
    pub fn part(&self, sequences: Range<usize>) -> Self {
        let tokens = sequences.start * self.seq..sequences.end * self.seq;
        let documents = self.documents.iter().skip(sequences.start);
        Self {
            inputs: self.inputs[tokens.clone()].to_vec(),
            labels: self.labels[tokens].to_vec(),
            seq: self.seq,
            first_sequence: self.first_sequence + sequences.start as u64,
            documents: documents.take(sequences.len()).cloned().collect(),
        }
    }

    /// Whether a sequence has several documents.
    pub fn is_packed(&self) -> bool {
        self.documents.iter().any(|ends| ends.len() > 1)
    }

    /// Where the documents of each sequence start, and behind them the padding, as if it were one more.
    pub fn starts(&self) -> Vec<Vec<usize>> {
        let inside = |ends: &Vec<usize>| {
            let ends = ends.iter().copied();
            let later = ends.filter(|&end| end > 0 && end < self.seq);
            std::iter::once(0).chain(later).collect()
        };
        match self.documents.is_empty() {
            true => vec![vec![0]; self.sequences()],
            false => self.documents.iter().map(inside).collect(),
        }
    }

    /// Tokens that are no padding.
    pub fn tokens(&self) -> u64 {
        match self.documents.is_empty() {
            true => self.inputs.len() as u64,
            false => {
                let ends = self.documents.iter().filter_map(|ends| ends.last());
                ends.map(|&end| end as u64).sum()
            }
        }
    }

    /// All positions in chunks of `size`, in order; the last may be shorter.
    pub fn chunks(&self, size: usize) -> Vec<Chunk> {
        let size = size.max(1);
        let of = |ids: &[i32], at: &Range<usize>| {
            let sequences = ids.chunks(self.seq);
            sequences.flat_map(|s| s[at.clone()].to_vec()).collect()
        };
        let chunk = |start: usize| {
            let positions = start..self.seq.min(start + size);
            Chunk {
                inputs: of(&self.inputs, &positions),
                labels: of(&self.labels, &positions),
                last: positions.end == self.seq,
                positions,
            }
        };
        (0..self.seq).step_by(size).map(chunk).collect()
    }

    /// Tokens that count in the loss.
    pub fn valid_tokens(&self) -> u64 {
        self.labels.iter().filter(|&&l| l != IGNORE).count() as u64
    }
}

/// Lengths of sequences that lie one after the other and end there.
fn lengths(ends: &[usize]) -> impl Iterator<Item = usize> + '_ {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    ends.iter().zip(starts).map(|(end, start)| end - start)
}

/// The same sequences, each filled up to `length`.
fn padded(ids: &[i32], ends: &[usize], length: usize, pad: i32) -> Vec<i32> {
    let mut out = Vec::with_capacity(ends.len() * length);
    let mut start = 0;
    for (row, &end) in ends.iter().enumerate() {
        out.extend_from_slice(&ids[start..end]);
        out.resize((row + 1) * length, pad);
        start = end;
    }
    out
}

impl Chunk {
    /// Labels with those of halted sequences ignored.
    pub fn masked(&self, active: &[bool]) -> Vec<i32> {
        let labels = self.labels.chunks(self.positions.len()).zip(active);
        let masked = |(labels, &active): (&[i32], &bool)| match active {
            true => labels.to_vec(),
            false => vec![IGNORE; labels.len()],
        };
        labels.flat_map(masked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_ids_than_there_is_memory_are_an_error() {
        assert!(MicroBatch::with_room(1 << 20, 4).is_ok());
        for sequences in [1 << 40, usize::MAX] {
            let error = MicroBatch::with_room(sequences, 1 << 20).unwrap_err();
            let error = error.to_string();
            assert!(error.contains("--gradient-accumulation-steps"), "{error}");
        }
    }

    #[test]
    fn shorter_sequences_are_padded_at_the_right() {
        let rows = [vec![5, 6, 7], vec![8], vec![9, 4]];
        let mut rows = rows.iter();
        let batch = MicroBatch::of(3, 8, &mut |inputs, labels| {
            let row = rows.next().unwrap();
            inputs.extend(row);
            labels.extend(row.iter().map(|id| id + 10));
            Vec::new()
        });
        let batch = batch.unwrap();
        assert_eq!(batch.tokens(), 6);
        assert!(!batch.is_packed());
        assert_eq!((batch.seq, batch.sequences()), (3, 3));
        assert_eq!(batch.inputs, [5, 6, 7, 8, PAD, PAD, 9, 4, PAD]);
        let ignored = IGNORE;
        assert_eq!(
            batch.labels,
            [15, 16, 17, 18, ignored, ignored, 19, 14, ignored]
        );
        assert_eq!(batch.valid_tokens(), 6);
    }

    #[test]
    fn documents_stay_with_their_sequences_and_padding_is_one_more() {
        let lengths = [vec![2, 5], vec![3], vec![1, 2, 4]];
        let mut left = lengths.iter();
        let batch = MicroBatch::of(3, 8, &mut |inputs, labels| {
            let ends = left.next().unwrap();
            for ids in [inputs, labels] {
                ids.extend(std::iter::repeat_n(1, *ends.last().unwrap()));
            }
            ends.clone()
        });
        let batch = batch.unwrap();
        assert!(batch.is_packed());
        assert_eq!(batch.tokens(), 12);
        assert_eq!(batch.starts(), [vec![0, 2], vec![0, 3], vec![0, 1, 2, 4]]);
        let parts: Vec<_> = batch.split(2).map(|part| part.documents).collect();
        assert_eq!(parts, [&lengths[..2], &lengths[2..]]);
    }

    #[test]
    fn chunks_have_the_same_positions_of_each_sequence() {
        let batch = MicroBatch {
            inputs: vec![0, 1, 2, 3, 4, 10, 11, 12, 13, 14],
            labels: vec![1, 2, 3, 4, IGNORE, 11, 12, 13, 14, IGNORE],
            seq: 5,
            first_sequence: 0,
            documents: Vec::new(),
        };
        let chunks = batch.chunks(2);
        let inputs: Vec<_> = chunks.iter().map(|c| c.inputs.as_slice()).collect();
        assert_eq!(inputs, [&[0, 1, 10, 11][..], &[2, 3, 12, 13], &[4, 14]]);
        assert_eq!(chunks[2].positions, 4..5);
        assert!(chunks[2].last && !chunks[1].last);
        assert_eq!(chunks[1].masked(&[false, true]), [IGNORE, IGNORE, 13, 14]);
        assert_eq!(batch.chunks(9).len(), 1);
    }
}
