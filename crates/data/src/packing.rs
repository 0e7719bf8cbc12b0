//! Documents put together into sequences of a length, with little left empty.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// Best-fit decreasing (Johnson, "Near-optimal bin packing algorithms", 1973): the longest documents first, each into the
/// sequence that it leaves least room in, else into a new one. For each sequence the numbers of its documents, of which each
/// has one of `lengths`, all at least 1 and at most `longest`.
///
/// A pure function of the lengths and the seed, which decides between documents of one length. The sequences come in the
/// order of their first documents, so that those of a sorted corpus are not sorted by length instead.
pub(crate) fn best_fit(lengths: &[u32], longest: u32, seed: u64) -> Vec<Vec<u32>> {
    let mut order: Vec<u32> = (0..lengths.len() as u32).collect();
    order.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    order.sort_by_key(|&document| std::cmp::Reverse(lengths[document as usize]));
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    // By the room that is left in them, the fullest first.
    let mut open: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for document in order {
        let length = lengths[document as usize];
        let room = open.range(length..).next().map(|(&room, _)| room);
        let (sequence, room) = match room {
            Some(room) => (take(&mut open, room), room),
            None => {
                sequences.push(Vec::new());
                (sequences.len() - 1, longest)
            }
        };
        sequences[sequence].push(document);
        if room > length {
            open.entry(room - length).or_default().push(sequence);
        }
    }
    sequences.iter_mut().for_each(|own| own.sort_unstable());
    sequences.sort_unstable();
    sequences
}

/// One of the sequences with so much room.
fn take(open: &mut BTreeMap<u32, Vec<usize>>, room: u32) -> usize {
    let with_room = open.get_mut(&room).expect("the room was found there");
    let sequence = with_room.pop().expect("none is left without sequences");
    if with_room.is_empty() {
        open.remove(&room);
    }
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fits_together_is_together() {
        assert_eq!(
            best_fit(&[3, 7, 5, 5, 10], 10, 0),
            [vec![0, 1], vec![2, 3], vec![4]]
        );
    }

    #[test]
    fn the_seed_decides_between_equals() {
        let lengths = [4; 60];
        assert_eq!(best_fit(&lengths, 9, 1), best_fit(&lengths, 9, 1));
        assert_ne!(best_fit(&lengths, 9, 1), best_fit(&lengths, 9, 2));
    }

    proptest! {
        #[test]
        fn every_document_is_in_one_sequence_that_holds_it(
            lengths in proptest::collection::vec(1_u32..=50, 0..200), seed: u64,
        ) {
            let sequences = best_fit(&lengths, 50, seed);
            let tokens = |own: &Vec<u32>| own.iter().map(|&at| lengths[at as usize]).sum::<u32>();
            prop_assert!(sequences.iter().all(|own| tokens(own) <= 50));
            // At most one sequence can be half empty.
            prop_assert!(sequences.iter().filter(|own| tokens(own) <= 25).count() <= 1);
            let mut all = sequences.concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..lengths.len() as u32).collect::<Vec<_>>());
        }
    }
}
