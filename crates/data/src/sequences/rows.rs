//! Rows of tokens that are chosen and put together.

use std::ops::Range;

use crate::TokenCache;
use crate::packing::best_fit;
use aios_base::config::TooLong;
use aios_base::error::{Error, Result};

/// Which rows of tokens become sequences, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrangement {
    /// Most tokens of a sequence.
    pub longest: usize,
    pub too_long: TooLong,
    /// Rows share a sequence, put together with this seed.
    pub packing: Option<u64>,
}

/// What is read of a row, or of a document of a text, among the tokens of the corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub read: Range<usize>,
    /// Where the text goes on to that is learnt of it.
    pub end: usize,
}

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arranged {
    /// Rows that there were.
    pub rows: u64,
    /// Longer than a sequence: cut off, left out, or of a text gone on with in another row.
    pub too_long: u64,
    /// Tokens that were cut off.
    pub cut_off: u64,
    /// Left out because nothing of them is learnt.
    pub untrained: u64,
    /// Rows in the sequences, of a text parts of documents, their tokens, and how many of these are learnt.
    pub kept: u64,
    pub tokens: u64,
    pub trained: u64,
    pub sequences: u64,
}

/// Rows as sequences.
#[derive(Debug)]
pub(super) struct Rows {
    /// Rows of the corpus and which part of each, sequence after sequence, and where the sequences end among them.
    rows: Vec<(u32, u32)>,
    ends: Vec<u32>,
    longest: usize,
    pub arranged: Arranged,
    /// In words, what the order and the content depend on.
    pub form: String,
}

impl Rows {
    /// Of these rows of the corpus.
    ///
    /// # Errors
    /// No row is left, or one is too long where that is an error.
    pub(super) fn of(
        cache: &TokenCache,
        all: impl Iterator<Item = u64>,
        arrangement: &Arrangement,
    ) -> Result<Self> {
        let mut arranged = Arranged::default();
        let (mut kept, mut lengths) = (Vec::new(), Vec::new());
        for row in all {
            for (part, length) in arranged.take(cache, row, arrangement)?.enumerate() {
                kept.push((number(row)?, number(part as u64)?));
                lengths.push(number(length as u64)?);
            }
        }
        if kept.is_empty() {
            return Err(Error::failed(format!(
                "no row of the dataset can be trained on: of {} rows {} are longer than --max-seq-len {}, and of {} \
                 nothing is to be learnt",
                arranged.rows, arranged.too_long, arrangement.longest, arranged.untrained
            )));
        }
        let longest = arrangement.longest;
        let sequences = match arrangement.packing {
            Some(seed) => best_fit(&lengths, number(longest as u64)?, seed),
            None => (0..kept.len() as u32).map(|row| vec![row]).collect(),
        };
        arranged.sequences = sequences.len() as u64;
        let mut end = 0;
        let ends = sequences.iter().map(|own| {
            end += own.len() as u32;
            end
        });
        Ok(Self {
            ends: ends.collect(),
            rows: sequences
                .iter()
                .flatten()
                .map(|&at| kept[at as usize])
                .collect(),
            longest,
            arranged,
            form: arrangement.form(),
        })
    }

    pub(super) fn sequences(&self) -> u64 {
        self.ends.len() as u64
    }

    /// Where the rows of a sequence lie among the tokens of the corpus, as far as they are read.
    pub(super) fn of_sequence(&self, cache: &TokenCache, index: u64) -> Vec<Row> {
        let at = index as usize;
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        let rows = &self.rows[start as usize..self.ends[at] as usize];
        let of_text = !cache.holds_rows();
        let tokens = |&(row, part): &(u32, u32)| {
            let Range { start, end } = cache.document(row as usize);
            let before = (part as usize).saturating_mul(self.longest);
            let start = start.saturating_add(before).min(end);
            let read = start..end.min(start.saturating_add(self.longest));
            let end = if of_text { end } else { read.end };
            Row { read, end }
        };
        rows.iter().map(tokens).collect()
    }
}

impl Arrangement {
    fn form(&self) -> String {
        let too_long = self.too_long.as_str();
        match self.packing {
            Some(seed) => format!("rows packed by seed {seed}, --too-long {too_long}"),
            None => format!("rows with something to learn, --too-long {too_long}"),
        }
    }
}

impl Arranged {
    /// Counts a row; the lengths of its parts that are kept.
    fn take(
        &mut self,
        cache: &TokenCache,
        row: u64,
        arrangement: &Arrangement,
    ) -> Result<impl Iterator<Item = usize> + use<>> {
        let Range { start, end } = cache.document(row as usize);
        let longest = arrangement.longest;
        self.rows += 1;
        let excess = (end - start).saturating_sub(longest);
        let mut kept = start..end;
        if excess > 0 {
            self.too_long += 1;
            match arrangement.too_long {
                TooLong::Truncate if !cache.holds_rows() => {}
                TooLong::Truncate => {
                    self.cut_off += excess as u64;
                    kept.end -= excess;
                }
                TooLong::Drop => return Ok(parts(0, longest)),
                TooLong::Error => {
                    return Err(Error::failed(format!(
                        "row {} of the dataset has {} tokens, more than --max-seq-len {longest}: raise that, or take \
                         --too-long truncate or drop",
                        row + 1,
                        end - start
                    )));
                }
            }
        }
        let trained = cache.learnt(kept.clone());
        if trained == 0 {
            self.untrained += 1;
            return Ok(parts(0, longest));
        }
        let own = || parts(kept.len(), longest);
        self.kept += own().count() as u64;
        self.tokens += own().sum::<usize>() as u64;
        self.trained += trained;
        Ok(own())
    }

    /// Share of the kept rows' tokens that are learnt.
    pub fn share(&self) -> f64 {
        self.trained as f64 / self.tokens.max(1) as f64
    }

    /// Share of the sequences that is padding, if they are all as long as the longest may be.
    pub fn padding(&self, longest: usize) -> f64 {
        1.0 - self.tokens as f64 / (self.sequences.max(1) * longest.max(1) as u64) as f64
    }
}

/// The lengths of the parts of so many tokens. A last one of a single token is none: it predicts nothing, and the part
/// before predicts it.
fn parts(tokens: usize, longest: usize) -> impl Iterator<Item = usize> + use<> {
    let starts = (0..tokens).step_by(longest.max(1));
    let lengths = starts.map(move |start| (tokens - start).min(longest));
    lengths.filter(move |&length| length > 1 || longest == 1)
}

/// Numbers of rows are kept in 32 bits: half the memory.
fn number(number: u64) -> Result<u32> {
    u32::try_from(number).map_err(|_| {
        Error::failed(format!(
            "row {number}: a dataset of rows may have 4,294,967,295 of them; give a part of it"
        ))
    })
}
