//! GPT-2's ids of a text, however long its blanks are.
//!
//! tiktoken splits a text with a backtracking regular expression, which gives up (and with it the process) at a million
//! blanks in a row with something behind them. A text is cut there first, where its pieces are cut anyway.

use std::sync::{Arc, Mutex, PoisonError};

use tiktoken_rs::CoreBPE;

/// Longest run of blanks (at least 1) that the regular expression is given with something behind it: far below what it
/// can take.
const LONGEST_RUN: usize = 10_000;

/// GPT-2's tables, some megabytes: made on first use, so that a start from the token cache does not pay for them.
#[derive(Default)]
pub(super) struct Gpt2(Mutex<Option<Arc<CoreBPE>>>);

impl Gpt2 {
    /// Ids of `text`; names of control tokens in it are ordinary text.
    pub(super) fn encode(&self, text: &str) -> Vec<u32> {
        encode_cut(&self.core(), text, LONGEST_RUN)
    }

    pub(super) fn core(&self) -> Arc<CoreBPE> {
        let mut tables = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(tiktoken_rs::r50k_base().expect("the tables are built in"));
        Arc::clone(tables.get_or_insert_with(make))
    }

    /// Frees the tables, until they are needed again.
    pub(super) fn release(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn encode_cut(core: &CoreBPE, text: &str, longest: usize) -> Vec<u32> {
    let mut ids = Vec::new();
    let mut rest = text;
    while let Some(at) = cut(rest, longest) {
        ids.extend(core.encode_ordinary(&rest[..at]));
        rest = &rest[at..];
    }
    ids.extend(core.encode_ordinary(rest));
    ids
}

/// Where to cut so that what comes before has no run of more than `longest` blanks but at its end: before the last blank
/// of such a run. All but that one are a piece of GPT-2's own (`\s+(?!\S)`, or at the end of a text `\s++$`), the last
/// goes with the word behind it (` ?\p{L}++` and its like) or is a piece alone (`\s`), so that no id changes.
fn cut(text: &str, longest: usize) -> Option<usize> {
    let (mut run, mut last) = (0, 0);
    for (at, char) in text.char_indices() {
        if char.is_whitespace() {
            run += 1;
            last = at;
        } else if run > longest {
            return Some(last);
        } else {
            run = 0;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn core() -> &'static CoreBPE {
        tiktoken_rs::r50k_base_singleton()
    }

    #[test]
    fn a_million_blanks_before_a_word_have_ids() {
        let others = ["\n", "\t", "\r\n", " \n", "\u{A0}", "\u{3000}"];
        let others = others.map(|blank| (blank, LONGEST_RUN + 1));
        for (blank, many) in others.into_iter().chain([(" ", 1_000_001)]) {
            let blanks = blank.repeat(many);
            // Its last character goes its own way; tiktoken itself can do all before it, which end the text.
            let (last, _) = blanks.char_indices().next_back().unwrap();
            let text = format!("one{blanks}two");
            let parts = ["one", &blanks[..last], &format!("{}two", &blanks[last..])];
            let expected = parts.map(|part| core().encode_ordinary(part)).concat();
            assert!(Gpt2::default().encode(&text) == expected, "{blank:?}");
        }
    }

    #[test]
    fn no_repeated_text_takes_long() {
        let started = Instant::now();
        for unit in ["a", "7", ".", "'s", "é", "🦀", "\u{301}", "e\u{301}", "日"] {
            let text = unit.repeat(50_000 / unit.len());
            assert!(!Gpt2::default().encode(&format!(" {text} end")).is_empty());
        }
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    proptest! {
        /// Against the whole text, which tiktoken can do while runs are short.
        #[test]
        fn cuts_change_no_id(
            parts in proptest::collection::vec(prop_oneof![
                " {1,5}", "\n{1,3}", "\r\n", "\t", "\u{A0}{1,3}", "\u{3000}", "\u{85}", "\u{200B}", "a", "I'm", "'",
                "12", "é", "!?", "🦀", "\u{301}", "<\\|endoftext\\|>"], 0..30),
            longest in 1_usize..4,
        ) {
            let text = parts.concat();
            prop_assert_eq!(encode_cut(core(), &text, longest), core().encode_ordinary(&text));
        }
    }
}
