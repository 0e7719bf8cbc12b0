//! Merges of SentencePiece's tokens: made of scores, and scores of merges.
//!
//! SentencePiece, and llama.cpp with it, joins any two neighbours that are a token together, the highest score first.
//! `tokenizers` joins listed pairs, the first first. So every way to part a token into two is a pair, and pairs are sorted by
//! their token's score: the lists that Hugging Face publishes for such models are these.

use std::cmp::Ordering;
use std::collections::HashMap;

use aios_base::error::{Error, Result};

use crate::vocabulary::{CONTROL, UNKNOWN, USER_DEFINED, quoted};

/// Two tokens, and the one that they become, by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Merge {
    pub left: u32,
    pub right: u32,
    pub whole: u32,
}

/// A token that merges are looked for of.
pub(crate) struct Piece<'a> {
    pub id: u32,
    pub text: &'a str,
    pub kind: i32,
    pub score: f32,
}

/// All merges of these tokens, in order. Control tokens are never made of text. Those of one token follow each other by the
/// ids of their parts, as in Llama's published files, or, as in Gemma's, `longest` left parts first.
pub(crate) fn of_scores(pieces: &[Piece], ids: &HashMap<&str, u32>, longest: bool) -> Vec<Merge> {
    struct Found {
        merge: Merge,
        /// User-defined tokens are found before anything is merged, the longest first.
        first: bool,
        score: f32,
        lengths: (usize, usize),
    }
    let mut found = Vec::new();
    for piece in pieces {
        if matches!(piece.kind, CONTROL | UNKNOWN) {
            continue;
        }
        let count = piece.text.chars().count();
        for (nth, (at, _)) in piece.text.char_indices().enumerate().skip(1) {
            let (left, right) = piece.text.split_at(at);
            let Some(&l) = ids.get(left) else { continue };
            let Some(&r) = ids.get(right) else { continue };
            found.push(Found {
                merge: Merge {
                    left: l,
                    right: r,
                    whole: piece.id,
                },
                first: piece.kind == USER_DEFINED,
                score: piece.score,
                lengths: (nth, count - nth),
            });
        }
    }
    found.sort_by(|a, b| {
        let by_length = || b.lengths.cmp(&a.lengths);
        let rest = match a.first && b.first {
            true => by_length(),
            // Adding nothing makes one zero of the two.
            false => (b.score + 0.0).total_cmp(&(a.score + 0.0)),
        };
        let within = || match longest {
            true => by_length(),
            false => Ordering::Equal,
        };
        let ids = |m: &Merge| (m.left, m.right);
        let whole = a.merge.whole.cmp(&b.merge.whole);
        let by_place = whole
            .then_with(within)
            .then_with(|| ids(&a.merge).cmp(&ids(&b.merge)));
        b.first.cmp(&a.first).then(rest).then(by_place)
    });
    found.into_iter().map(|found| found.merge).collect()
}

/// `"a b"` as two tokens and what they become.
///
/// # Errors
/// Shows a merge that is not two tokens, or that does not give one, and where it stands (`place`).
pub(crate) fn parsed(
    merges: &[String],
    ids: &HashMap<&str, u32>,
    place: &str,
) -> Result<Vec<Merge>> {
    let mut whole = String::new();
    let mut parse = |merge: &String| {
        // The first part has a character at least, which may be a blank.
        let first = merge.chars().next().map_or(0, char::len_utf8);
        let at = merge.get(first..)?.find(' ')? + first;
        let (left, right) = (&merge[..at], &merge[at + 1..]);
        whole.clear();
        whole.push_str(left);
        whole.push_str(right);
        Some(Merge {
            left: *ids.get(left)?,
            right: *ids.get(right)?,
            whole: *ids.get(whole.as_str())?,
        })
    };
    let mut all = Vec::with_capacity(merges.len());
    for (at, merge) in merges.iter().enumerate() {
        let Some(merge) = parse(merge) else {
            return Err(Error::failed(format!(
                "{place}: number {at}, {}, is not two tokens that give a third: give another tokenizer with --tokenizer DIR",
                quoted(merge)
            )));
        };
        all.push(merge);
    }
    Ok(all)
}

/// Merges by what they join: their place in the list and what they give.
pub(crate) struct Rules(HashMap<(u32, u32), (usize, u32)>);

impl Rules {
    pub fn of(merges: &[Merge]) -> Self {
        let mut rules = HashMap::with_capacity(merges.len());
        for (rank, merge) in merges.iter().enumerate() {
            let pair = (merge.left, merge.right);
            rules.entry(pair).or_insert((rank, merge.whole));
        }
        Self(rules)
    }

    /// The tokens of a text; none if one of its characters has none.
    pub fn apply(&self, text: &str, ids: &HashMap<&str, u32>) -> Vec<u32> {
        let mut buffer = [0; 4];
        let of = |c: char| ids.get(&*c.encode_utf8(&mut buffer)).copied();
        let Some(mut parts) = text.chars().map(of).collect::<Option<Vec<u32>>>() else {
            return Vec::new();
        };
        loop {
            let pairs = parts.windows(2).enumerate();
            let known = pairs.filter_map(|(at, pair)| Some((self.0.get(&(pair[0], pair[1]))?, at)));
            let Some((&(_, whole), at)) = known.min() else {
                return parts;
            };
            parts[at] = whole;
            parts.remove(at + 1);
        }
    }
}

/// Scores that give the same order, by id: less by one with each token that merges give, in their order. `None` where there
/// are none: a token whose merges stand apart, with others' between.
pub(crate) fn to_scores(merges: &[Merge], kinds: &[i32]) -> Option<Vec<f32>> {
    let mut scores: Vec<Option<f32>> = vec![None; kinds.len()];
    let mut rank = 0_u32;
    let mut last = None;
    for merge in merges {
        let whole = merge.whole as usize;
        if *kinds.get(whole)? == USER_DEFINED || last == Some(whole) {
            continue;
        }
        if scores[whole].is_some() {
            return None;
        }
        scores[whole] = Some(score(rank));
        rank += 1;
        last = Some(whole);
    }
    // Those that nothing is merged to come last; theirs are never looked at.
    let rest = scores.into_iter().map(|known| {
        known.unwrap_or_else(|| {
            let lowest = score(rank);
            rank += 1;
            lowest
        })
    });
    Some(rest.collect())
}

/// Exact for as many tokens as there are: an f32 has 24 bits.
fn score(rank: u32) -> f32 {
    -(rank as f32)
}
