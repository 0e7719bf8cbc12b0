//! What any engine has to do right, against plain loops: for tests.

use crate::Collectives;
use std::io::Write;

/// Elements of the slices: none, one, fewer than ranks, and lengths that nothing divides.
pub const LENGTHS: [usize; 6] = [0, 1, 3, 1000, 65_537, 3_000_001];

/// A number that depends on all its arguments, of either sign, and of sizes such that the order of a sum shows.
fn value(seed: usize, rank: usize, k: usize) -> f32 {
    let mut x = (seed as u64) << 40 ^ (rank as u64) << 32 ^ k as u64;
    x = x.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    x ^= x >> 32;
    let fraction = (x >> 40) as f32 / (1 << 23) as f32 - 1.0;
    fraction * (1 << (x & 15)) as f32
}

fn values(seed: usize, rank: usize, length: usize) -> Vec<f32> {
    (0..length).map(|k| value(seed, rank, k)).collect()
}

/// That `got` are the sums of elements `first..` over all ranks, but for rounding.
fn assert_sums(got: &[f32], seed: usize, ranks: usize, first: usize) {
    for (k, &got) in got.iter().enumerate() {
        let parts: Vec<f64> = (0..ranks)
            .map(|r| value(seed, r, first + k).into())
            .collect();
        let (sum, size) = (
            parts.iter().sum::<f64>(),
            parts.iter().map(|p| p.abs()).sum::<f64>(),
        );
        let off = (f64::from(got) - sum).abs();
        assert!(
            off <= size * ranks as f64 * f64::from(f32::EPSILON),
            "{k}: {got} for {sum}"
        );
    }
}

/// Of the bits.
fn hash(values: &[f32]) -> u64 {
    values.iter().fold(0xcbf2_9ce4_8422_2325, |hash, v| {
        (hash ^ u64::from(v.to_bits()))
            .wrapping_mul(0x100_0000_01b3)
            .rotate_left(23)
    })
}

/// That all ranks have the same bits.
fn assert_same(engine: &mut dyn Collectives, values: &[f32]) {
    let mine = hash(values).to_le_bytes();
    let mut all = vec![0; mine.len() * engine.size()];
    engine.all_gather(&mine, &mut all).unwrap();
    assert!(
        all.chunks(mine.len()).all(|hash| hash == mine),
        "{} elements differ",
        values.len()
    );
}

pub fn sum_everywhere(engine: &mut dyn Collectives, length: usize) {
    let mut sums = [vec![], vec![]];
    for sum in &mut sums {
        *sum = values(length, engine.rank(), length);
        engine.all_reduce(sum).unwrap();
        assert_same(engine, sum);
    }
    assert_sums(&sums[0], length, engine.size(), 0);
    assert_eq!(
        hash(&sums[0]),
        hash(&sums[1]),
        "two sums of the same {length}"
    );
}

pub fn sum_in_parts(engine: &mut dyn Collectives, length: usize) {
    let mine = values(length, engine.rank(), length * engine.size());
    let mut part = vec![0.0; length];
    engine.reduce_scatter(&mine, &mut part).unwrap();
    assert_sums(&part, length, engine.size(), engine.rank() * length);
}

pub fn gather(engine: &mut dyn Collectives, length: usize) {
    let of = |rank: usize| (0..length).map(move |k| (k * 7 + rank) as u8);
    let mut whole = vec![0; length * engine.size()];
    engine
        .all_gather(&of(engine.rank()).collect::<Vec<_>>(), &mut whole)
        .unwrap();
    assert!(
        whole.into_iter().eq((0..engine.size()).flat_map(of)),
        "{length}"
    );
}

pub fn broadcast(engine: &mut dyn Collectives, length: usize) {
    for root in 0..engine.size() {
        let sent = (0..length).map(|k| (k * 3 + root) as u8);
        let mut bytes = match engine.rank() == root {
            true => sent.clone().collect(),
            false => vec![0xff; length],
        };
        engine.broadcast(&mut bytes, root).unwrap();
        assert!(bytes.into_iter().eq(sent), "{length} from {root}");
    }
}

pub fn nan_stays(engine: &mut dyn Collectives) {
    let mut mine = values(1, engine.rank(), 1000);
    if engine.rank() == engine.size() - 1 {
        mine[17] = f32::NAN;
    }
    engine.all_reduce(&mut mine).unwrap();
    assert!(
        mine.iter()
            .enumerate()
            .all(|(k, v)| v.is_nan() == (k == 17))
    );
}

pub fn wrong_lengths_are_refused(engine: &mut dyn Collectives) {
    let wrong = engine.size() * 2 + 1;
    assert!(
        engine
            .reduce_scatter(&vec![0.0; wrong], &mut [0.0; 2])
            .is_err()
    );
    assert!(engine.all_gather(&[0; 2], &mut vec![0; wrong]).is_err());
    assert!(engine.broadcast(&mut [0], engine.size()).is_err());
}

/// What a test counts in what the ranks of a job say. In one write: other ranks say the same at the same time, and
/// `eprintln!` writes piece by piece.
pub fn say_all_well(engine: &dyn Collectives) {
    let (rank, size, library) = (engine.rank(), engine.size(), engine.library());
    let line = format!("\nrank {rank} of {size}: all well with {library}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
