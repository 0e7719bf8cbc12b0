//! Which keys each query sees, where causality and a window do not say it all.

use super::AttentionShape;
use aios_base::error::{Error, Result};
use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use std::ops::Range;
use std::sync::Arc;

/// The first visible key of every query, and the first one behind the last: packed documents, or a
/// prefix that sees itself as a whole.
///
/// Keys count in the positions of the key tensor. They take causality's place; a window still cuts
/// them. Neither bound ever falls from a query to the next of its sequence, so that queries that see a
/// key are neighbours, and kernels skip all others without a look at them.
#[derive(Clone, Debug)]
pub struct Visible<B: Backend> {
    /// `[batch, queries]` of `[first, end)`.
    keys: Arc<Vec<[u32; 2]>>,
    batch: usize,
    queries: usize,
    seq_kv: usize,
    /// The same on the device, `[batch, queries]` each.
    first: Tensor<B, 2, Int>,
    end: Tensor<B, 2, Int>,
}

impl<B: Backend> Visible<B> {
    /// Ranges `[first, end)` of every query, sequence by sequence, `[batch, queries]`, among `seq_kv`
    /// keys. An empty range is a query that sees nothing.
    ///
    /// # Errors
    /// Ranges that are not as many for each sequence, that are beyond the keys, or that fall from a
    /// query to the next.
    pub fn new(
        keys: Vec<[u32; 2]>,
        batch: usize,
        seq_kv: usize,
        device: &B::Device,
    ) -> Result<Self> {
        let queries = keys.len() / batch.max(1);
        if queries == 0 || keys.len() != batch * queries {
            return Err(Error::invalid(format!(
                "visible keys: {} ranges are not as many for each of {batch} sequences",
                keys.len()
            )));
        }
        for (sequence, keys) in keys.chunks(queries).enumerate() {
            checked(keys, seq_kv).map_err(|why| {
                Error::invalid(format!("visible keys of sequence {sequence}: {why}"))
            })?;
        }
        let bound = |which: usize| {
            // Checked against a length that kernels count in 31 bits.
            let values: Vec<i32> = keys.iter().map(|range| range[which] as i32).collect();
            Tensor::from_data(TensorData::new(values, [batch, queries]), device)
        };
        let (first, end) = (bound(0), bound(1));
        Ok(Self {
            keys: Arc::new(keys),
            batch,
            queries,
            seq_kv,
            first,
            end,
        })
    }

    /// Packed documents: a token sees those of its own document up to itself. For each sequence of
    /// `seq` tokens the positions at which its documents start, the first at 0.
    ///
    /// # Errors
    /// Starts that do not rise from 0, or are beyond the sequence.
    pub fn documents(starts: &[Vec<usize>], seq: usize, device: &B::Device) -> Result<Self> {
        let mut keys = Vec::with_capacity(starts.len() * seq);
        for (sequence, starts) in starts.iter().enumerate() {
            let rise = starts.windows(2).all(|pair| pair[0] < pair[1]);
            if starts.first() != Some(&0) || !rise || starts.last().is_some_and(|&last| last >= seq)
            {
                return Err(Error::invalid(format!(
                    "documents of sequence {sequence} start at {starts:?}: starts have to rise from 0 \
                     and be below {seq}"
                )));
            }
            let ends = starts[1..].iter().chain([&seq]);
            for (&start, &end) in starts.iter().zip(ends) {
                keys.extend((start..end).map(|i| [start as u32, i as u32 + 1]));
            }
        }
        Self::new(keys, starts.len(), seq, device)
    }

    /// A prefix whose tokens see all of it, then tokens that see themselves and all before. For each
    /// sequence of `seq` tokens the length of its prefix.
    ///
    /// # Errors
    /// A prefix longer than the sequence.
    pub fn prefix(lengths: &[usize], seq: usize, device: &B::Device) -> Result<Self> {
        if let Some((sequence, length)) = lengths.iter().enumerate().find(|(_, n)| **n > seq) {
            return Err(Error::invalid(format!(
                "the prefix of sequence {sequence} has {length} tokens, the sequence {seq}"
            )));
        }
        let of = |&length: &usize| (0..seq).map(move |i| [0, length.max(i + 1) as u32]);
        Self::new(
            lengths.iter().flat_map(of).collect(),
            lengths.len(),
            seq,
            device,
        )
    }

    /// The same of a chunk of the queries, which has only some of the keys: those before are taken to be
    /// out of the window.
    ///
    /// # Errors
    /// A query of the chunk sees a key beyond those that the chunk has.
    pub fn chunk(&self, queries: Range<usize>, keys: Range<usize>) -> Result<Self> {
        let (from, to) = (keys.start as u32, keys.end as u32);
        let sequences = self.keys.chunks(self.queries);
        let chunk: Vec<[u32; 2]> = sequences
            .flat_map(|keys| &keys[queries.clone()])
            .map(|range| range.map(|bound| bound.saturating_sub(from)))
            .collect();
        if let Some([_, end]) = chunk.iter().find(|[_, end]| *end > to - from) {
            return Err(Error::invalid(format!(
                "a token of a chunk sees token {}, which a later chunk has: take chunks that no prefix \
                 goes beyond, or whole sequences",
                end + from - 1
            )));
        }
        Self::new(chunk, self.batch, keys.len(), &self.first.device())
    }

    /// `[first, end)` of every query, `[batch, queries]`.
    pub fn keys(&self) -> &[[u32; 2]] {
        &self.keys
    }

    /// First visible key of every query on the device, `[batch, queries]`.
    pub fn first(&self) -> &Tensor<B, 2, Int> {
        &self.first
    }

    /// First key behind the last visible one, `[batch, queries]`.
    pub fn end(&self) -> &Tensor<B, 2, Int> {
        &self.end
    }

    /// # Panics
    /// If these are not the ranges of such queries and keys.
    pub(crate) fn assert_of(&self, shape: &AttentionShape, seq_q: usize, seq_kv: usize) {
        assert_eq!(
            (self.batch, self.queries, self.seq_kv),
            (shape.batch, seq_q, seq_kv),
            "visible keys of other sequences, queries or keys"
        );
    }
}

/// Whether the ranges of a sequence are what kernels rely on.
fn checked(keys: &[[u32; 2]], seq_kv: usize) -> std::result::Result<(), String> {
    for (query, [first, end]) in keys.iter().enumerate() {
        if first > end || *end as usize > seq_kv {
            return Err(format!(
                "query {query} sees {first}..{end} of {seq_kv} keys"
            ));
        }
    }
    let falls = |pair: &[[u32; 2]]| pair[1][0] < pair[0][0] || pair[1][1] < pair[0][1];
    match keys.windows(2).position(falls) {
        Some(query) => Err(format!(
            "query {query} sees {:?} and the next one {:?} (first, end): neither may fall",
            keys[query],
            keys[query + 1]
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CpuBackend;

    type Cpu = Visible<CpuBackend>;

    fn told(visible: Result<Cpu>) -> String {
        visible.unwrap_err().to_string()
    }

    #[test]
    fn documents_see_their_own_tokens_up_to_themselves() {
        let device = Default::default();
        let visible = Cpu::documents(&[vec![0, 2], vec![0]], 4, &device).unwrap();
        let want = [
            [0, 1],
            [0, 2],
            [2, 3],
            [2, 4],
            [0, 1],
            [0, 2],
            [0, 3],
            [0, 4],
        ];
        assert_eq!(visible.keys(), want);
        let first: Vec<i64> = visible.first().to_data().iter().collect();
        assert_eq!(first, [0, 0, 2, 2, 0, 0, 0, 0]);
        let end: Vec<i64> = visible.end().to_data().iter().collect();
        assert_eq!(end, [1, 2, 3, 4, 1, 2, 3, 4]);
    }

    #[test]
    fn a_prefix_sees_itself_as_a_whole() {
        let visible = Cpu::prefix(&[3, 0], 4, &Default::default()).unwrap();
        let want = [
            [0, 3],
            [0, 3],
            [0, 3],
            [0, 4],
            [0, 1],
            [0, 2],
            [0, 3],
            [0, 4],
        ];
        assert_eq!(visible.keys(), want);
    }

    #[test]
    fn a_chunk_counts_from_its_own_first_key() {
        let device = Default::default();
        let visible = Cpu::documents(&[vec![0, 2]], 6, &device).unwrap();
        let chunk = visible.chunk(3..5, 0..5).unwrap();
        assert_eq!(chunk.keys(), [[2, 4], [2, 5]]);
        let chunk = visible.chunk(3..5, 3..5).unwrap();
        assert_eq!(chunk.keys(), [[0, 1], [0, 2]]);
        let visible = Cpu::prefix(&[4], 6, &device).unwrap();
        assert!(told(visible.chunk(0..2, 0..2)).contains("sees token 3"));
    }

    #[test]
    fn what_kernels_could_not_rely_on_is_refused() {
        let device = Default::default();
        let new = |keys: &[[u32; 2]]| Cpu::new(keys.to_vec(), 1, 4, &device);
        assert!(new(&[[0, 0], [0, 4], [4, 4]]).is_ok());
        assert!(told(new(&[[0, 5]])).contains("query 0 sees 0..5 of 4 keys"));
        assert!(told(new(&[[2, 1]])).contains("query 0 sees 2..1"));
        assert!(told(new(&[[1, 2], [0, 2]])).contains("neither may fall"));
        assert!(told(new(&[])).contains("0 ranges"));
        assert!(told(Cpu::new(vec![[0, 1]; 3], 2, 4, &device)).contains("3 ranges"));
        let documents = |starts: &[usize]| Cpu::documents(&[starts.to_vec()], 4, &device);
        for starts in [&[][..], &[1], &[0, 2, 2], &[0, 4]] {
            assert!(told(documents(starts)).contains("starts have to rise"));
        }
        assert!(told(Cpu::prefix(&[5], 4, &device)).contains("has 5 tokens"));
    }
}
