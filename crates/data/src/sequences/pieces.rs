//! Pieces of a long row of things, put together.

use std::ops::Range;

/// Ranges that lie behind each other, and how much there is before each.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pieces {
    ranges: Vec<Range<u64>>,
    before: Vec<u64>,
    length: u64,
}

impl Pieces {
    /// All things below `length`.
    pub(super) fn all(length: u64) -> Self {
        Self::new(std::iter::once(0..length))
    }

    /// These ranges, which are in order and do not overlap. Those that touch become one.
    pub(super) fn new(ranges: impl Iterator<Item = Range<u64>>) -> Self {
        let mut pieces = Self {
            ranges: Vec::new(),
            before: Vec::new(),
            length: 0,
        };
        for range in ranges.filter(|range| !range.is_empty()) {
            let length = range.end - range.start;
            match pieces.ranges.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => {
                    pieces.before.push(pieces.length);
                    pieces.ranges.push(range);
                }
            }
            pieces.length += length;
        }
        pieces
    }

    /// What is left of all things below `length`.
    pub(super) fn others(&self, length: u64) -> Self {
        let starts = std::iter::once(0).chain(self.ranges.iter().map(|range| range.end));
        let ends = self.ranges.iter().map(|range| range.start).chain([length]);
        Self::new(starts.zip(ends).map(|(start, end)| start..end))
    }

    pub(super) fn len(&self) -> u64 {
        self.length
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// Where those lie that are counted by `wanted`, which lies within `0..len()`.
    pub(super) fn ranges_of(&self, wanted: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self
            .before
            .partition_point(|&before| before <= wanted.start);
        let (mut at, mut from) = (first.saturating_sub(1), wanted.start);
        std::iter::from_fn(move || {
            let (range, before) = (self.ranges.get(at)?, self.before.get(at)?);
            if from >= wanted.end {
                return None;
            }
            let start = range.start + (from - before);
            let end = range.end.min(start + (wanted.end - from));
            from += end - start;
            at += 1;
            Some(start..end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_part_and_the_others_are_all(
            cuts in proptest::collection::btree_set(0_u64..60, 0..12), at in 0_u64..60, length in 0_u64..20,
        ) {
            let cuts: Vec<u64> = cuts.into_iter().collect();
            let (pairs, _) = cuts.as_chunks::<2>();
            let part = Pieces::new(pairs.iter().map(|[start, end]| *start..*end));
            let others = part.others(60);
            let listed = |pieces: &Pieces| pieces.ranges().flatten().collect::<Vec<u64>>();
            let mut all = [listed(&part), listed(&others)].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..60).collect::<Vec<u64>>());
            for pieces in [part, others] {
                prop_assert_eq!(pieces.len(), listed(&pieces).len() as u64);
                let (start, end) = (at.min(pieces.len()), (at + length).min(pieces.len()));
                let found: Vec<u64> = pieces.ranges_of(start..end).flatten().collect();
                prop_assert_eq!(&found[..], &listed(&pieces)[start as usize..end as usize]);
            }
        }
    }
}
