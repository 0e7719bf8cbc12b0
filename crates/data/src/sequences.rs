//! The tokens of a corpus, or of a part of it, as sequences.

mod pieces;
mod rows;

use std::ops::Range;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::TokenCache;
use aios_base::error::{Error, Result};
use aios_base::micro_batch::{IGNORE, Tokens};
use pieces::Pieces;
pub use rows::{Arranged, Arrangement};
use rows::{Row, Rows};

/// Most pieces that are held out: of more documents, some that follow each other stay together.
const MOST_HELD_OUT: u64 = 1 << 20;

/// How a corpus is cut into sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cutting {
    /// Rows of tokens follow each other like documents, instead of being a sequence each.
    pub pack_rows: bool,
    /// Documents of a text are rows, instead of following each other.
    pub documents: bool,
    /// The last, shorter window of a text is left out.
    pub full_windows: bool,
}

/// A corpus, or a part of it, as sequences of tokens.
///
/// Text, and rows that are packed, are cut into windows: window `i` has the tokens `i * longest .. (i + 1) * longest` as
/// inputs and those one further on as labels, so that each is predicted once. A row that is not packed is one sequence, whose
/// first token nothing predicts and whose last one predicts nothing; of a longer one the rest is cut off. Rows that are
/// [arranged](Sequences::arranged) are those with something to learn, and may share a sequence as documents of it. Of a text
/// whose documents are rows nothing is cut off then: where one is longer it goes on in another row.
#[derive(Clone, Debug)]
pub struct Sequences {
    cache: Arc<TokenCache>,
    cutting: Cutting,
    /// Tokens of the cache, or rows where they are sequences.
    part: Arc<Pieces>,
    /// What the part is, in words; nothing for all of it.
    form: String,
    /// Rows that were chosen and put together.
    rows: Option<Arc<Rows>>,
}

impl Sequences {
    /// All of a corpus.
    pub fn new(cache: Arc<TokenCache>, cutting: Cutting) -> Self {
        let all = match are_rows(&cache, cutting) {
            true => cache.documents(),
            false => cache.len(),
        };
        Self {
            part: Arc::new(Pieces::all(all as u64)),
            cache,
            cutting,
            form: String::new(),
            rows: None,
        }
    }

    /// The rows of the part, chosen and put together as `arrangement` says; what is no row stays what it is.
    ///
    /// # Errors
    /// No row is left, or one is too long where that is an error.
    pub fn arranged(self, arrangement: &Arrangement) -> Result<Self> {
        if !self.by_rows() {
            return Ok(self);
        }
        let rows = Rows::of(&self.cache, self.part.ranges().flatten(), arrangement)?;
        Ok(Self {
            rows: Some(Arc::new(rows)),
            ..self
        })
    }

    /// What became of the rows that were arranged.
    pub fn arrangement(&self) -> Option<&Arranged> {
        self.rows.as_ref().map(|rows| &rows.arranged)
    }

    /// The same part, cut in another way; rows are sequences in both or in neither.
    pub fn cut(self, cutting: Cutting) -> Self {
        let Cutting {
            pack_rows,
            documents,
            ..
        } = self.cutting;
        Self {
            cutting: Cutting {
                pack_rows,
                documents,
                ..cutting
            },
            ..self
        }
    }

    /// Changes whenever the tokens of the part might.
    pub fn fingerprint(&self) -> String {
        let all = self.cache.fingerprint();
        match self.form.is_empty() {
            true => all.to_string(),
            false => format!("{all} {}", self.form),
        }
    }

    /// The part to train on, and a share of the corpus, above 0 and below 1, that is held out. Which one that is depends on
    /// `seed` and the corpus alone: some of its documents or rows, or the end of a text in which the share is less than one.
    ///
    /// # Errors
    /// If there is not enough of the corpus for both.
    pub fn split(&self, share: f64, seed: u64) -> Result<[Self; 2]> {
        let documents = self.cache.documents() as u64;
        let wanted = documents as f64 * share;
        let by_rows = self.by_rows();
        let held_out = match by_rows || wanted >= 1.0 {
            true => {
                let documents = held_out(documents, wanted, seed);
                match by_rows {
                    true => documents,
                    false => self.tokens_of(&documents),
                }
            }
            false => {
                let tokens = self.cache.len() as u64;
                let held_out = (tokens as f64 * share).round() as u64;
                Pieces::new(std::iter::once(tokens - held_out..tokens))
            }
        };
        let kept = held_out.others(self.part.len());
        let least = if by_rows { 1 } else { 2 };
        if held_out.len() < least || kept.len() < least {
            return Err(Error::failed(format!(
                "--eval-split {share} leaves nothing to train or to evaluate on: the dataset has {documents} documents of \
                 {} tokens together; give a text of its own by --eval-file",
                self.cache.len()
            )));
        }
        let part = |part: Pieces, which: &str| Self {
            part: Arc::new(part),
            form: format!("{which} --eval-split {share} by seed {seed}"),
            ..self.clone()
        };
        Ok([part(kept, "without"), part(held_out, "only")])
    }

    /// The tokens of these documents.
    fn tokens_of(&self, documents: &Pieces) -> Pieces {
        Pieces::new(documents.ranges().map(|range| {
            let first = self.cache.document(range.start as usize);
            let last = self.cache.document(range.end as usize - 1);
            first.start as u64..last.end as u64
        }))
    }

    /// Whether a row is a sequence.
    pub fn by_rows(&self) -> bool {
        are_rows(&self.cache, self.cutting)
    }

    /// Ids and labels of the first row; the label of an id is its own, or [`IGNORE`].
    pub fn first_row(&self) -> (Vec<u32>, Vec<i32>) {
        let arranged = self.rows.as_ref();
        let first = arranged.and_then(|rows| rows.of_sequence(&self.cache, 0).into_iter().next());
        let first = first.map_or_else(|| self.cache.document(0), |row| row.read);
        self.cache.marks(first)
    }

    /// Tokens in all, or where a row is a sequence, rows.
    pub(crate) fn tokens(&self) -> u64 {
        self.part.len()
    }

    /// The corpus that they are of.
    pub fn cache(&self) -> &Arc<TokenCache> {
        &self.cache
    }

    /// What their order and content depend on besides [`TokenCache::fingerprint`] and the longest length, in words; nothing
    /// for full windows of all of the corpus.
    pub fn form(&self) -> String {
        let cut = match (&self.rows, self.by_rows(), self.cutting.full_windows) {
            (Some(rows), ..) => &rows.form,
            (None, true, _) => "each row by itself",
            (None, false, true) => "",
            (None, false, false) => "the last window too",
        };
        [cut, &self.form]
            .into_iter()
            .filter(|words| !words.is_empty())
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Rows that are longer than `longest` tokens, and how many tokens of them are cut off.
    pub fn cut_off(&self, longest: usize) -> (u64, u64) {
        if !self.by_rows() || self.rows.is_some() {
            return (0, 0);
        }
        let rows = self.part.ranges().flatten();
        let lengths = rows.map(|row| self.cache.document(row as usize).len());
        lengths
            .filter(|&length| length > longest)
            .fold((0, 0), |(rows, tokens), length| {
                (rows + 1, tokens + (length - longest) as u64)
            })
    }

    /// How many of the first `most` sequences, of at most `longest` tokens, nothing is learned from: no token in them has a
    /// label.
    ///
    /// # Errors
    /// All of them; `what` they are of, in words.
    pub fn untrained(&self, longest: usize, most: u64, what: &str) -> Result<u64> {
        // A text's tokens all count, and rows of which none does were left out as they were arranged.
        if !self.cache.holds_rows() || self.rows.is_some() {
            return Ok(0);
        }
        let mut labels = Vec::new();
        let is_untrained = |index: &u64| {
            labels.clear();
            self.labels(*index, longest, &mut labels);
            labels.iter().all(|&label| label == IGNORE)
        };
        let all = self.sequences(longest).min(most);
        let untrained = (0..all).filter(is_untrained).count() as u64;
        match all > 0 && untrained == all {
            false => Ok(untrained),
            true => Err(Error::failed(format!(
                "{what} has no token to be predicted: in each of {all} sequences of at most --max-seq-len {longest} tokens all \
                 labels are {IGNORE}, or there is one token only; check the labels, or raise --max-seq-len"
            ))),
        }
    }

    /// Tokens of a text that can be inputs.
    fn room(&self) -> u64 {
        // The last one predicts nothing.
        self.part.len().saturating_sub(1)
    }

    /// Tokens of a row, in the cache.
    fn row(&self, index: u64, longest: usize) -> Range<usize> {
        let row = self.part.ranges_of(index..index + 1).next();
        let range = row.map_or(0..0, |row| self.cache.document(row.start as usize));
        range.start..range.end.min(range.start.saturating_add(longest))
    }

    /// Labels of a row or of what is read of it, with what it goes on in: the tokens one further on, if there are any.
    fn labels_of(&self, row: Range<usize>, end: usize, labels: &mut Vec<i32>) {
        let before = labels.len();
        let end = end.min(row.end + 1);
        self.cache.labels((row.start + 1).min(end)..end, labels);
        labels.resize(before + row.len(), IGNORE);
    }

    /// Tokens of a window, in the part.
    fn window(&self, index: u64, longest: usize) -> Range<u64> {
        let start = index * longest as u64;
        start..self.room().min(start + longest as u64)
    }

    fn inputs(&self, index: u64, longest: usize, inputs: &mut Vec<i32>) {
        if let Some(rows) = &self.rows {
            for Row { read, .. } in rows.of_sequence(&self.cache, index) {
                self.read(read.start as u64..read.end as u64, inputs);
            }
            return;
        }
        if self.by_rows() {
            let row = self.row(index, longest);
            return self.read(row.start as u64..row.end as u64, inputs);
        }
        for range in self.part.ranges_of(self.window(index, longest)) {
            self.read(range, inputs);
        }
    }

    fn labels(&self, index: u64, longest: usize, labels: &mut Vec<i32>) {
        if let Some(rows) = &self.rows {
            for row in rows.of_sequence(&self.cache, index) {
                self.labels_of(row.read, row.end, labels);
            }
            return;
        }
        if self.by_rows() {
            let row = self.row(index, longest);
            let end = row.end;
            return self.labels_of(row, end, labels);
        }
        let window = self.window(index, longest);
        for range in self.part.ranges_of(window.start + 1..window.end + 1) {
            self.cache
                .labels(range.start as usize..range.end as usize, labels);
        }
    }

    fn read(&self, range: Range<u64>, inputs: &mut Vec<i32>) {
        let mut ids = Vec::with_capacity((range.end - range.start) as usize);
        self.cache
            .tokens(range.start as usize..range.end as usize, &mut ids);
        inputs.extend(ids.into_iter().map(|id| id as i32));
    }
}

impl Tokens for Sequences {
    fn sequences(&self, longest: usize) -> u64 {
        if let Some(rows) = &self.rows {
            return rows.sequences();
        }
        let longest = longest.max(1) as u64;
        match (self.by_rows(), self.cutting.full_windows) {
            (true, _) => self.part.len(),
            (false, true) => self.room() / longest,
            (false, false) => self.room().div_ceil(longest),
        }
    }

    fn sequence(&self, index: u64, longest: usize, inputs: &mut Vec<i32>, labels: &mut Vec<i32>) {
        let longest = match self.by_rows() {
            true => longest,
            false => longest.max(1),
        };
        self.inputs(index, longest, inputs);
        self.labels(index, longest, labels);
    }

    fn documents(&self, index: u64, _longest: usize) -> Vec<usize> {
        let Some(rows) = &self.rows else {
            return Vec::new();
        };
        let mut end = 0;
        let rows = rows.of_sequence(&self.cache, index).into_iter();
        rows.map(|row| {
            end += row.read.len();
            end
        })
        .collect()
    }

    fn predicted(&self) -> u64 {
        if let Some(rows) = &self.rows {
            return rows.arranged.trained;
        }
        match self.by_rows() {
            true => {
                let rows = self.part.ranges().flatten();
                rows.map(|row| self.cache.document(row as usize).len().saturating_sub(1) as u64)
                    .sum()
            }
            false => self.room(),
        }
    }

    fn bytes(&self) -> u64 {
        let all = self.cache.len() as f64;
        let part = match self.by_rows() {
            // As many bytes a token that is learnt as any other has.
            _ if self.rows.is_some() => self.predicted(),
            true => {
                let rows = self.part.ranges().flatten();
                rows.map(|row| self.cache.document(row as usize).len() as u64)
                    .sum()
            }
            false => self.part.len(),
        };
        (self.cache.bytes() as f64 * part as f64 / all).round() as u64
    }
}

fn are_rows(cache: &TokenCache, cutting: Cutting) -> bool {
    match cache.holds_rows() {
        true => !cutting.pack_rows,
        false => cutting.documents,
    }
}

/// About `wanted` of the documents, drawn with `seed`.
fn held_out(documents: u64, wanted: f64, seed: u64) -> Pieces {
    let together = (wanted / MOST_HELD_OUT as f64).ceil().max(1.0) as u64;
    let groups = documents.div_ceil(together);
    let mut left = ((wanted / together as f64).round() as u64).clamp(1, groups.max(2) - 1);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = Vec::new();
    // Each group has the chance with which those that are still needed lie among those that are still to come.
    for group in 0..groups {
        if random.random_range(0..groups - group) < left {
            left -= 1;
            drawn.push(group * together..documents.min((group + 1) * together));
        }
    }
    Pieces::new(drawn.into_iter())
}

#[cfg(test)]
mod tests;
