//! Sequences of tokens, dealt out for ever in an order that depends on the seed alone.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::Sequences;
use aios_base::error::{Error, Result};
use aios_base::micro_batch::{MicroBatch, Tokens};

/// How long the sequences of a corpus may be, and their order.
#[derive(Clone, Debug)]
pub struct BatchOptions {
    /// Tokens of a window, and most tokens of a row.
    pub seq_len: usize,
    /// Draw the order anew each epoch instead of following the corpus.
    pub shuffle: bool,
    /// Windows that are shuffled among each other, before the next as many.
    pub chunk_windows: usize,
    /// Windows left out at the beginning of the first epoch.
    pub start_offset: u64,
    /// Decides the order.
    pub seed: u64,
}

/// Where [`Batches`] stand, and what their order depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataPosition {
    /// Complete passes through the corpus.
    pub epoch: u64,
    /// Windows dealt in this epoch.
    pub window: u64,
    /// [`BatchOptions::seq_len`].
    pub seq_len: usize,
    /// [`BatchOptions::shuffle`].
    pub shuffle: bool,
    /// [`BatchOptions::chunk_windows`].
    pub chunk_windows: usize,
    /// [`BatchOptions::seed`].
    pub seed: u64,
    /// [`crate::TokenCache::fingerprint`].
    pub corpus: String,
    /// [`Sequences::form`]
    #[serde(default)]
    pub form: String,
}

/// What came of [`Batches::seek`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// The next window is the one that came next when the position was taken.
    Exactly,
    /// The position belongs to another order of windows, so they begin anew.
    StartedOver {
        /// What is different, for people.
        reason: String,
    },
}

/// Endless sequences of a corpus, called windows here, also where they are rows of tokens.
///
/// Memory use is that of the order of one chunk.
pub struct Batches {
    sequences: Sequences,
    options: BatchOptions,
    windows: u64,
    epoch: u64,
    window: u64,
    /// The windows of the current chunk as they are dealt, for shuffling only.
    chunk: Vec<u64>,
    /// Windows dealt in the epoch before those of `chunk`.
    chunk_start: u64,
}

impl Batches {
    /// The windows of `sequences`, from the start offset on. Says so if rows are longer than a window.
    ///
    /// # Errors
    /// If the corpus is shorter than one window, the offset lies behind its end, or a length is 0.
    pub fn new(sequences: Sequences, options: BatchOptions) -> Result<Self> {
        let length = options.seq_len;
        if length == 0 || options.chunk_windows == 0 {
            return Err(Error::invalid(format!(
                "--max-seq-len {length} and --dataset-chunk-size {} have to be at least 1",
                options.chunk_windows
            )));
        }
        let windows = sequences.sequences(length);
        if windows == 0 {
            return Err(too_short(&sequences, length));
        }
        if options.start_offset >= windows {
            return Err(Error::invalid(format!(
                "--dataset-start-offset {} lies behind the end of the dataset, which has {windows} windows of {length} \
                 tokens",
                options.start_offset
            )));
        }
        if let untrained @ 1.. = sequences.untrained(length, windows, "the dataset")? {
            tracing::warn!(
                "{untrained} of {windows} sequences have no token to be trained: all of their labels within --max-seq-len \
                 {length} are left out (-100), or they have one token only"
            );
        }
        if let (rows @ 1.., tokens) = sequences.cut_off(length) {
            tracing::warn!(
                "{rows} of {windows} rows are longer than --max-seq-len {length}: the last {tokens} of their tokens are cut \
                 off"
            );
        }
        Ok(Self {
            window: options.start_offset,
            sequences,
            options,
            windows,
            epoch: 0,
            chunk: Vec::new(),
            chunk_start: 0,
        })
    }

    /// Windows of one pass through the corpus.
    pub fn windows_per_epoch(&self) -> u64 {
        self.windows
    }

    /// Complete passes through the corpus so far.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The next windows, side by side; shorter ones are padded.
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn next_batch(&mut self, windows: usize) -> Result<MicroBatch> {
        let length = self.options.seq_len;
        MicroBatch::of(windows, length, &mut |inputs, labels| {
            self.next_window(inputs, labels)
        })
    }

    /// Appends the tokens of the next window to `inputs`, and as many to `labels`: those that follow them, or
    /// [`IGNORE`](aios_base::micro_batch::IGNORE). Gives where the documents that are packed into it end.
    pub fn next_window(&mut self, inputs: &mut Vec<i32>, labels: &mut Vec<i32>) -> Vec<usize> {
        let index = self.index();
        let length = self.options.seq_len;
        self.sequences.sequence(index, length, inputs, labels);
        let documents = self.sequences.documents(index, length);
        self.window += 1;
        if self.window == self.windows {
            self.epoch += 1;
            self.window = 0;
            self.chunk.clear();
        }
        documents
    }

    /// Where the windows stand, for [`Batches::seek`].
    pub fn position(&self) -> DataPosition {
        DataPosition {
            epoch: self.epoch,
            window: self.window,
            seq_len: self.options.seq_len,
            shuffle: self.options.shuffle,
            chunk_windows: self.options.chunk_windows,
            seed: self.options.seed,
            corpus: self.sequences.cache().fingerprint().to_string(),
            form: self.sequences.form(),
        }
    }

    /// Goes on from `position` if it was taken from the same order of windows, whatever the batch
    /// size and the start offset; else begins anew.
    pub fn seek(&mut self, position: &DataPosition) -> Resumed {
        self.chunk.clear();
        if let Some(reason) = self.difference(position) {
            self.epoch = 0;
            self.window = self.options.start_offset;
            return Resumed::StartedOver { reason };
        }
        self.epoch = position.epoch;
        self.window = position.window;
        Resumed::Exactly
    }

    /// Why the order that `position` belongs to is not this one.
    fn difference(&self, position: &DataPosition) -> Option<String> {
        let here = self.position();
        let changed = |what: &str, from: &dyn ToString, to: &dyn ToString| {
            let (from, to) = (from.to_string(), to.to_string());
            (from != to).then(|| format!("{what} was {from} and is {to}"))
        };
        if position.corpus != here.corpus {
            return Some("the dataset's text or the tokenizer changed".to_string());
        }
        let [before, now] = [&position.form, &here.form].map(|form| in_words(form));
        let [cut_before, part_before] = before;
        let [cut, part] = now;
        let basic = changed("--max-seq-len", &position.seq_len, &here.seq_len)
            .or_else(|| changed("what is trained on", &part_before, &part))
            .or_else(|| changed("the cut into sequences", &cut_before, &cut))
            .or_else(|| changed("--linear-dataset", &!position.shuffle, &!here.shuffle));
        let shuffled = || {
            changed("--seed", &position.seed, &here.seed).or_else(|| {
                changed(
                    "--dataset-chunk-size",
                    &position.chunk_windows,
                    &here.chunk_windows,
                )
            })
        };
        basic
            .or_else(|| here.shuffle.then(shuffled).flatten())
            .or_else(|| {
                let window = position.window;
                let outside = window >= self.windows;
                outside.then(|| format!("window {window} lies behind the end of the dataset"))
            })
    }

    /// Which window of the corpus comes next.
    fn index(&mut self) -> u64 {
        if !self.options.shuffle {
            return self.window;
        }
        let end = self.chunk_start + self.chunk.len() as u64;
        if self.chunk.is_empty() || self.window >= end {
            self.draw_chunk();
        }
        self.chunk[(self.window - self.chunk_start) as usize]
    }

    /// Draws the order of the chunk in which the next window lies.
    fn draw_chunk(&mut self) {
        let size = self.options.chunk_windows as u64;
        let chunks = self.windows.div_ceil(size);
        let mut order: Vec<u64> = (0..chunks).collect();
        order.shuffle(&mut self.random(u64::MAX));
        self.chunk_start = 0;
        for chunk in order {
            let windows = chunk * size..((chunk + 1) * size).min(self.windows);
            let length = windows.end - windows.start;
            if self.window < self.chunk_start + length {
                self.chunk = windows.collect();
                let mut random = self.random(chunk);
                self.chunk.shuffle(&mut random);
                return;
            }
            self.chunk_start += length;
        }
    }

    /// Random numbers of this epoch for one purpose.
    fn random(&self, purpose: u64) -> ChaCha8Rng {
        let words = [self.options.seed, self.epoch, purpose, 0].map(u64::to_le_bytes);
        let mut seed = [0; 32];
        seed.copy_from_slice(words.as_flattened());
        ChaCha8Rng::from_seed(seed)
    }
}

/// How a corpus is cut and which part of it is taken, of what [`Sequences::form`] says.
fn in_words(form: &str) -> [String; 2] {
    let split = form.find("without --eval-split").unwrap_or(form.len());
    let (cut, part) = form.split_at(split);
    let cut = match cut.trim_end_matches(", ") {
        "" => "into full windows",
        "the last window too" => "into windows, of which the last may be shorter",
        "each row by itself" => "at each row",
        other => other,
    };
    let part = match part.strip_prefix("without ") {
        None => "all of the dataset".to_string(),
        Some(held_out) => format!("the dataset without what {held_out} holds out"),
    };
    [cut.to_string(), part]
}

fn too_short(sequences: &Sequences, length: usize) -> Error {
    let tokens = sequences.tokens();
    let way_out = match tokens {
        0 | 1 => "give more text".to_string(),
        tokens => format!("use --max-seq-len {} or less, or more text", tokens - 1),
    };
    Error::failed(format!(
        "the dataset is too short: its {tokens} tokens do not fill one window of {length} and the target after it; {way_out}"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{Cutting, TokenCache, Tokenizer};
    use aios_base::config::{CorpusOptions, TextDocuments};

    /// A corpus of this many tokens, each of them different from its neighbours.
    fn corpus(tokens: usize) -> Arc<TokenCache> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        // With its space each number below 521 is one token of GPT-2; the end of text is another.
        let numbers: String = (0..tokens - 1).map(|n| format!(" {}", n % 500)).collect();
        std::fs::write(&path, numbers).unwrap();
        let options = CorpusOptions {
            text_documents: TextDocuments::File,
            ..CorpusOptions::new(path)
        };
        let gpt2 = Tokenizer::load("gpt2").unwrap();
        let cache =
            TokenCache::open_or_build_in(directory.path(), &options, &gpt2, &mut |_, _| Ok(()));
        let cache = cache.unwrap();
        assert_eq!(cache.len(), tokens);
        Arc::new(cache)
    }

    fn options(shuffle: bool) -> BatchOptions {
        BatchOptions {
            seq_len: 4,
            shuffle,
            chunk_windows: 5,
            start_offset: 0,
            seed: 1,
        }
    }

    /// As ACT-v1 is trained.
    fn full(cache: Arc<TokenCache>) -> Sequences {
        let cutting = Cutting {
            pack_rows: true,
            documents: false,
            full_windows: true,
        };
        Sequences::new(cache, cutting)
    }

    fn batches(tokens: usize, options: BatchOptions) -> Batches {
        Batches::new(full(corpus(tokens)), options).unwrap()
    }

    /// Numbers of the next `count` windows.
    fn deal(batches: &mut Batches, count: usize) -> Vec<u64> {
        let mut dealt = Vec::new();
        for _ in 0..count {
            dealt.push(batches.index());
            batches.next_window(&mut Vec::new(), &mut Vec::new());
        }
        dealt
    }

    fn error(tokens: usize, options: BatchOptions) -> Error {
        Batches::new(full(corpus(tokens)), options).err().unwrap()
    }

    #[test]
    fn targets_are_the_inputs_one_further_on() {
        let cache = corpus(20);
        let mut tokens = Vec::new();
        cache.tokens(0..20, &mut tokens);
        let tokens: Vec<i32> = tokens.into_iter().map(|id| id as i32).collect();
        let mut batches = Batches::new(full(cache), options(false)).unwrap();
        let (mut inputs, mut targets) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            batches.next_window(&mut inputs, &mut targets);
        }
        assert_eq!(inputs, tokens[..8]);
        assert_eq!(targets, tokens[1..9]);
    }

    #[test]
    fn a_remainder_is_left_out() {
        assert_eq!(batches(12, options(false)).windows_per_epoch(), 2);
        assert_eq!(batches(13, options(false)).windows_per_epoch(), 3);
    }

    #[test]
    fn a_linear_epoch_follows_the_corpus_and_repeats() {
        let mut batches = batches(13, options(false));
        assert_eq!(deal(&mut batches, 5), [0, 1, 2, 0, 1]);
        assert_eq!(batches.epoch(), 1);
    }

    #[test]
    fn the_epoch_counts_as_soon_as_it_is_complete() {
        let mut batches = batches(13, options(true));
        deal(&mut batches, 3);
        assert_eq!((batches.epoch(), batches.position().window), (1, 0));
    }

    #[test]
    fn each_shuffled_epoch_has_every_window_once_in_another_order() {
        let mut batches = batches(4 * 23 + 1, options(true));
        let mut epochs: Vec<_> = (0..2).map(|_| deal(&mut batches, 23)).collect();
        assert_ne!(epochs[0], epochs[1]);
        for epoch in &mut epochs {
            epoch.sort_unstable();
            assert_eq!(*epoch, (0..23).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_chunk_is_finished_before_the_next() {
        let mut batches = batches(4 * 20 + 1, options(true));
        for part in deal(&mut batches, 20).chunks(5) {
            assert!(
                part.iter().all(|window| window / 5 == part[0] / 5),
                "{part:?}"
            );
        }
    }

    #[test]
    fn the_seed_decides_the_order() {
        let order = |seed| {
            let options = BatchOptions {
                seed,
                ..options(true)
            };
            deal(&mut batches(4 * 23 + 1, options), 23)
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }

    #[test]
    fn the_order_does_not_depend_on_the_batch_size() {
        let cache = corpus(4 * 23 + 1);
        let tokens = |batch_size: usize| {
            let mut batches = Batches::new(full(Arc::clone(&cache)), options(true)).unwrap();
            let mut all = Vec::new();
            for _ in 0..24 / batch_size {
                let mut batch = Vec::new();
                for _ in 0..batch_size {
                    batches.next_window(&mut batch, &mut Vec::new());
                }
                all.extend(batch);
            }
            all
        };
        assert_eq!(tokens(8), tokens(1));
    }

    #[test]
    fn the_start_offset_shortens_the_first_epoch_only() {
        let options = BatchOptions {
            start_offset: 2,
            ..options(false)
        };
        assert_eq!(deal(&mut batches(13, options), 4), [2, 0, 1, 2]);
    }

    #[test]
    fn a_start_offset_behind_the_end_is_a_bad_argument() {
        let options = BatchOptions {
            start_offset: 3,
            ..options(false)
        };
        let error = error(13, options);
        assert_eq!(error.exit_code(), 2);
        assert!(
            error.to_string().contains("has 3 windows of 4 tokens"),
            "{error}"
        );
    }

    #[test]
    fn a_short_corpus_tells_which_length_would_fit() {
        let error = error(4, options(true));
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("4 tokens"), "{error}");
        assert!(
            error.to_string().contains("--max-seq-len 3 or less"),
            "{error}"
        );
    }

    #[test]
    fn another_order_starts_over_and_says_why() {
        let cache = corpus(4 * 23 + 1);
        let mut batches = Batches::new(full(Arc::clone(&cache)), options(true)).unwrap();
        deal(&mut batches, 3);
        let changed = BatchOptions {
            seed: 2,
            ..options(true)
        };
        let mut other = Batches::new(full(cache), changed).unwrap();
        let reason = "--seed was 1 and is 2".to_string();
        assert_eq!(
            other.seek(&batches.position()),
            Resumed::StartedOver { reason }
        );
        assert_eq!(other.position().window, 0);
    }

    #[test]
    fn another_corpus_starts_over() {
        let mut longer = batches(30, options(false));
        deal(&mut longer, 1);
        let mut batches = batches(29, options(false));
        let resumed = batches.seek(&longer.position());
        assert!(matches!(resumed, Resumed::StartedOver { reason } if reason.contains("dataset")));
    }

    #[test]
    fn a_linear_order_does_not_depend_on_the_seed() {
        let cache = corpus(13);
        let position = Batches::new(full(Arc::clone(&cache)), options(false))
            .unwrap()
            .position();
        let changed = BatchOptions {
            seed: 2,
            chunk_windows: 1,
            ..options(false)
        };
        let mut other = Batches::new(full(cache), changed).unwrap();
        assert_eq!(other.seek(&position), Resumed::Exactly);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_saved_position_goes_on_exactly(
            before in 0_usize..60, windows in 1_usize..30, chunk in 1_usize..12, shuffle: bool,
        ) {
            let cache = corpus(4 * windows + 1);
            let options = BatchOptions { chunk_windows: chunk, ..options(shuffle) };
            let mut whole = Batches::new(full(Arc::clone(&cache)), options.clone()).unwrap();
            deal(&mut whole, before);
            let text = serde_json::to_string(&whole.position()).unwrap();
            let mut resumed = Batches::new(full(cache), options).unwrap();
            let position = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(resumed.seek(&position), Resumed::Exactly);
            prop_assert_eq!(deal(&mut resumed, 40), deal(&mut whole, 40));
        }
    }
}
