//! Matrix products in bfloat16 with sums in f32, on processors that have instructions for them.
//!
//! Both factors are rounded to bf16 as they are copied, whatever they are kept in, into tiles of 16 by 32 numbers: of the left
//! factor 16 rows of 32 summands, of the right one 16 pairs of summands of 16 columns. That is what AMX multiplies, and what
//! AVX-512's dot products of pairs read as well. A task holds some lines of one factor in the second-level cache, and 32 of the
//! other come by at a time.

use super::pack::{Ahead, Right};
use super::{COPIES, Numbers, View, end_of, on_threads, scratch, share};
use crate::{profile, team};
use std::ops::Range;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod plain;

/// What multiplies. The instructions are to be asked for where [`unit()`] gives them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Advanced Matrix Extensions of Intel's servers.
    Amx,
    /// `vdpbf16ps`.
    Avx512,
    /// Plain loops that give what the former gives, to the bit.
    LikeAmx,
    /// As well.
    LikeAvx512,
}

impl Unit {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512 => "AVX-512 BF16",
            Self::LikeAmx | Self::LikeAvx512 => "plain loops",
        }
    }

    /// Those that this processor has, the fastest first.
    pub(crate) fn all() -> Vec<Self> {
        #[cfg(target_arch = "x86_64")]
        if avx512::is_here() {
            let amx = amx::is_here().then_some(Self::Amx);
            return amx.into_iter().chain([Self::Avx512]).collect();
        }
        Vec::new()
    }
}

/// So many rounds of the instructions of [`unit()`] on registers alone, by the calling thread; the operations of all of them.
pub(crate) fn spin(rounds: usize) -> Option<usize> {
    // SAFETY: a unit that this processor has.
    #[cfg(target_arch = "x86_64")]
    let of_a_round = unsafe {
        match unit()? {
            Unit::Amx => {
                let _tiles = amx::Tiles::configure();
                amx::spin(rounds)
            }
            Unit::Avx512 => avx512::spin(rounds),
            Unit::LikeAmx | Unit::LikeAvx512 => return None,
        }
    };
    #[cfg(not(target_arch = "x86_64"))]
    let of_a_round = unit().map(|_| 0)?;
    Some(rounds * of_a_round)
}

/// What products in bf16 run on here, if that is faster than f32.
pub fn unit() -> Option<Unit> {
    static UNIT: OnceLock<Option<Unit>> = OnceLock::new();
    *UNIT.get_or_init(|| {
        let first = Unit::all().into_iter().next()?;
        // Intel's have half the rate of multiply-adds in f32, AMD's have twice it.
        let pays = first == Unit::Amx || is_amd();
        pays.then_some(first)
    })
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    // The letters of the maker's name: "AuthenticAMD".
    std::arch::x86_64::__cpuid(0).ebx == u32::from_le_bytes(*b"Auth")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_amd() -> bool {
    false
}

/// Where a result goes.
#[derive(Debug)]
pub enum Out<'a> {
    F32(&'a mut [f32]),
    /// Rounded to bf16. There are at most [`DEPTH`] summands.
    Bf16(&'a mut [u16]),
}

impl Out<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(all) => all.len(),
            Self::Bf16(all) => all.len(),
        }
    }
}

/// Summands that are added at once at most.
pub const DEPTH: usize = 1024;
/// Rows and columns of a tile of the result.
const SIDE: usize = 16;
/// Summands of a tile.
const DEEP: usize = 32;
/// Numbers of a tile.
const TILE: usize = SIDE * DEEP;
/// Rows and columns that are computed at once: two tiles each.
const BLOCK: usize = 2 * SIDE;
/// Numbers of the copies of a task: as many bytes as products in f32 take.
const ROOM: usize = 2 * COPIES;
/// Of these, for the lines that come by.
const PANEL: usize = BLOCK * DEPTH;
/// Summands at once that are enough to hold all lines of a factor for, rather than to copy the other one again.
const WORTH_HOLDING: usize = 384;
/// Multiplications below which a product is computed by one thread.
const WORTH_SPLITTING: usize = 1 << 22;

/// Sums of a block of the result.
#[repr(C, align(64))]
struct Sums([[f32; BLOCK]; BLOCK]);

/// What is done with the sums, and where: rows of the result are `stride` apart.
#[derive(Clone, Copy)]
struct Target {
    start: Start,
    stride: usize,
    scale: f32,
    /// Added to what is there.
    add: bool,
}

#[derive(Clone, Copy)]
enum Start {
    F32(*mut f32),
    Bf16(*mut u16),
}

// SAFETY: tasks write different elements, as is said where they do.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

impl Target {
    /// From an element on.
    fn from(self, row: usize, col: usize) -> Self {
        let at = row * self.stride + col;
        let start = match self.start {
            Start::F32(start) => Start::F32(start.wrapping_add(at)),
            Start::Bf16(start) => Start::Bf16(start.wrapping_add(at)),
        };
        Self { start, ..self }
    }
}

/// A factor as it is copied: number k of line i is `numbers[first + i * line + k * depth]`, where a line is a row of the left
/// factor or a column of the right one, and one of the two distances is 1.
#[derive(Clone, Copy)]
pub struct Lines<'a> {
    numbers: Numbers<'a>,
    first: usize,
    line: usize,
    depth: usize,
}

impl<'a> Lines<'a> {
    /// Numbers in f32.
    ///
    /// # Panics
    /// If neither distance is 1.
    pub fn new(data: &'a [f32], line: usize, depth: usize) -> Self {
        assert!(line == 1 || depth == 1, "distances {line} and {depth}");
        Self {
            numbers: Numbers::F32(data),
            first: 0,
            line,
            depth,
        }
    }

    fn left(a: View<'a>) -> Self {
        Self {
            numbers: a.numbers,
            first: 0,
            line: a.row_stride,
            depth: a.col_stride,
        }
    }

    fn right(b: View<'a>) -> Self {
        Self::left(b.t())
    }

    fn from(self, line: usize, depth: usize) -> Self {
        let first = self.first + line * self.line + depth * self.depth;
        Self { first, ..self }
    }

    /// What so many lines of so many numbers are copied from.
    fn ahead(self, lines: usize, depth: usize) -> Ahead {
        let right = Right {
            numbers: self.numbers,
            first: self.first,
            row: self.depth,
            col: self.line,
            depth,
            cols: lines,
        };
        Ahead::of(&right)
    }

    /// How long copying a number takes, in some unit: it is read, and perhaps turned.
    fn cost(&self, turned: bool) -> usize {
        let read = match self.numbers {
            Numbers::F32(_) => 4,
            Numbers::Half(..) => 2,
        };
        read + if turned { 2 } else { 0 }
    }
}

/// `out = scale * a b` (or `out += ...` if `accumulate`), both factors rounded to bf16; rows of `out` are `out_stride` apart.
///
/// The result does not depend on the number of threads. Subnormal numbers count as zeros.
///
/// # Panics
/// If the shapes do not fit, or `out` is too short or in bf16 with a deeper sum than [`DEPTH`].
pub fn matmul(out: Out, out_stride: usize, a: View, b: View, scale: f32, accumulate: bool) {
    let unit = unit().unwrap_or(Unit::LikeAvx512);
    let _note = profile::note("product", || (2 * a.rows * a.cols * b.cols, 0));
    by(unit, out, out_stride, a, b, (scale, accumulate));
}

fn by(unit: Unit, out: Out, out_stride: usize, a: View, b: View, finish: (f32, bool)) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "inner dimensions differ");
    assert!(end_of(m, out_stride, n) <= out.len());
    assert!(n <= out_stride || m <= 1, "rows of the result overlap");
    let whole = matches!(out, Out::F32(_)) || k <= DEPTH;
    assert!(whole, "a sum in bf16 in parts");
    if m == 0 || n == 0 {
        return;
    }
    let product = Product {
        unit,
        out: Target {
            start: match out {
                Out::F32(out) => Start::F32(out.as_mut_ptr()),
                Out::Bf16(out) => Start::Bf16(out.as_mut_ptr()),
            },
            stride: out_stride,
            scale: finish.0,
            add: finish.1,
        },
        left: Lines::left(a),
        right: Lines::right(b),
        size: [m, n, k],
    };
    let threads = match m * n * k >= WORTH_SPLITTING {
        true => team::threads(),
        false => 1,
    };
    let [row_parts, col_parts] = product.parts(threads);
    on_threads(threads, row_parts * col_parts, |task| {
        let rows = blocks(m, task / col_parts, row_parts);
        let cols = blocks(n, task % col_parts, col_parts);
        scratch(|scratch| product.part(rows, cols, scratch));
    });
}

/// [`matmul`] by the calling thread of small matrices, whose copies have room in one task's.
///
/// # Panics
/// If a matrix is too short for its size, or has nothing.
pub fn small(
    unit: Unit,
    out: &mut [f32],
    out_stride: usize,
    left: Lines,
    right: Lines,
    size: [usize; 3],
    (scale, add): (f32, bool),
) {
    let [m, n, k] = size;
    let holds = |lines: &Lines, count: usize| {
        let end = match lines.depth {
            1 => end_of(count, lines.line, k),
            depth => end_of(k, depth, count),
        };
        end <= lines.numbers.len()
    };
    assert!(m > 0 && n > 0 && k > 0);
    assert!(holds(&left, m) && holds(&right, n));
    assert!(n <= out_stride && end_of(m, out_stride, n) <= out.len());
    let out = Target {
        start: Start::F32(out.as_mut_ptr()),
        stride: out_stride,
        scale,
        add,
    };
    let product = Product {
        unit,
        out,
        left,
        right,
        size,
    };
    scratch(|scratch| product.part(0..m, 0..n, scratch));
}

/// Part `i` of `parts` of some lines, in whole blocks.
fn blocks(lines: usize, i: usize, parts: usize) -> Range<usize> {
    let of = share(lines.div_ceil(BLOCK), i, parts);
    of.start * BLOCK..lines.min(of.end * BLOCK)
}

/// Some lines, so many at a time.
fn in_steps(lines: &Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = lines.end;
    lines
        .clone()
        .step_by(step)
        .map(move |start| start..end.min(start + step))
}

struct Product<'a> {
    unit: Unit,
    out: Target,
    left: Lines<'a>,
    right: Lines<'a>,
    /// Rows, columns, summands.
    size: [usize; 3],
}

impl Product<'_> {
    /// Whether it is the right factor that is held: the one of far fewer lines, so that the other is copied once, while what
    /// is copied next is on its way. Of two of about one size the right one, so that neighbours of the result are written one
    /// after another, unless it is larger and lies across the sums, and is better copied in whole rows.
    fn holds_right(&self) -> bool {
        let [m, n, _] = self.size;
        match (m.min(n) * 2 < m.max(n), m < n) {
            (true, left_is_small) => !left_is_small,
            (false, _) => self.sums_by_columns(),
        }
    }

    /// Whether how deep a sum is made at once follows from the columns alone. Of a left factor in rows, which are tokens, it must:
    /// what becomes of a token does not depend on how many others there are.
    fn sums_by_columns(&self) -> bool {
        let [m, n, _] = self.size;
        self.left.depth == 1 || (self.right.depth != 1 && m <= n)
    }

    /// Whatever the parts, so that the order of a sum does not depend on the threads.
    fn summands_at_once(&self) -> usize {
        let [m, n, depth] = self.size;
        let held = if self.sums_by_columns() { n } else { m };
        let room = (ROOM - PANEL) / held.next_multiple_of(BLOCK);
        let most = match depth > DEPTH && room >= WORTH_HOLDING {
            true => room.min(DEPTH),
            false => DEPTH,
        };
        let parts = depth.div_ceil(most).max(1);
        depth.div_ceil(parts).next_multiple_of(DEEP).max(DEEP)
    }

    /// Lines that are held at once, of so many summands.
    fn at_once(depth: usize) -> usize {
        (ROOM - PANEL) / depth / BLOCK * BLOCK
    }

    /// Parts of the rows and of the columns: those with which least is copied, of which each thread gets as much.
    fn parts(&self, threads: usize) -> [usize; 2] {
        let [m, n, _] = self.size;
        let most = [m, n].map(|lines| lines.div_ceil(BLOCK));
        let tasks = match threads {
            1 => 1,
            _ => threads * if m * n >= threads * (1 << 19) { 2 } else { 1 },
        };
        let at_once = Self::at_once(self.summands_at_once());
        let [left, right] = [
            m * self.left.cost(self.left.depth != 1),
            n * self.right.cost(self.right.depth == 1),
        ];
        let costs = |[rows, cols]: [usize; 2]| match self.holds_right() {
            true => rows * right + cols * n.div_ceil(cols).div_ceil(at_once) * left,
            false => cols * left + rows * m.div_ceil(rows).div_ceil(at_once) * right,
        };
        let splits = (1..=tasks).map(|rows| [rows.min(most[0]), tasks.div_ceil(rows).min(most[1])]);
        // Few blocks may not be enough for all.
        splits
            .min_by_key(|split| (tasks.saturating_sub(split[0] * split[1]), costs(*split)))
            .unwrap_or([1, 1])
    }

    /// What is in these rows and columns, by copies in `scratch`.
    fn part(&self, rows: Range<usize>, cols: Range<usize>, scratch: &mut [f32]) {
        assert!(scratch.len() * 2 >= ROOM);
        #[cfg(target_arch = "x86_64")]
        let _tiles = (self.unit == Unit::Amx).then(amx::Tiles::configure);
        let panel = scratch.as_mut_ptr().cast::<u16>();
        let copied = panel.wrapping_add(PANEL);
        let right = self.holds_right();
        let (held, passing) = match right {
            true => ((self.right, cols), (self.left, rows)),
            false => ((self.left, rows), (self.right, cols)),
        };
        let depth = self.size[2];
        let each = self.summands_at_once();
        for part in 0..depth.div_ceil(each).max(1) {
            let depth = (part * each).min(depth)..depth.min((part + 1) * each);
            let out = Target {
                add: self.out.add || part > 0,
                ..self.out
            };
            let copy = |to, (lines, range): (Lines, &Range<usize>), pairs| {
                // SAFETY: behind the panel there is room for `at_once` lines of this depth, and in it for a block of the
                // deepest; `by` and `small` checked that the numbers are there.
                unsafe {
                    let lines = lines.from(range.start, depth.start);
                    self.copy(to, lines, range.len(), depth.len(), pairs);
                }
            };
            let blocks = held.1.len().div_ceil(Self::at_once(each));
            let step = held.1.len().div_ceil(blocks).next_multiple_of(BLOCK);
            for held_lines in in_steps(&held.1, step) {
                copy(copied, (held.0, &held_lines), right);
                for lines in in_steps(&passing.1, BLOCK) {
                    copy(panel, (passing.0, &lines), !right);
                    let next = lines.end..passing.1.end.min(lines.end + BLOCK);
                    let next =
                        (passing.0.from(next.start, depth.start)).ahead(next.len(), depth.len());
                    let (rows, cols) = match right {
                        true => (&lines, &held_lines),
                        false => (&held_lines, &lines),
                    };
                    let factors = match right {
                        true => [panel, copied],
                        false => [copied, panel],
                    };
                    let size = [rows.len(), cols.len(), depth.len()];
                    // SAFETY: they were copied above; nobody else has these rows and columns.
                    unsafe { self.blocks(out.from(rows.start, cols.start), factors, size, next) };
                }
            }
        }
    }

    /// The product of lines that were copied, block by block.
    ///
    /// # Safety
    /// They were, with these lines and this depth, and the target has these rows and columns, for this task alone.
    unsafe fn blocks(
        &self,
        out: Target,
        [left, right]: [*mut u16; 2],
        [rows, cols, depth]: [usize; 3],
        next: Ahead,
    ) {
        let tiles = depth.div_ceil(DEEP);
        let mut sums = Sums([[0.0; BLOCK]; BLOCK]);
        let of = |lines: *mut u16, first: usize| lines.wrapping_add(first / SIDE * tiles * TILE);
        let blocks = rows.div_ceil(BLOCK) * cols.div_ceil(BLOCK);
        let mut block = 0;
        for row in (0..rows).step_by(BLOCK) {
            for col in (0..cols).step_by(BLOCK) {
                next.prefetch(block, blocks);
                block += 1;
                let (height, width) = (BLOCK.min(rows - row), BLOCK.min(cols - col));
                let (left, right, out) = (of(left, row), of(right, col), out.from(row, col));
                let sides = [height, width].map(|lines| lines.div_ceil(SIDE));
                // SAFETY: as the caller vouches.
                unsafe {
                    match self.unit {
                        #[cfg(target_arch = "x86_64")]
                        Unit::Amx | Unit::Avx512 => {
                            avx512::prefetch(out, height, width);
                            match self.unit {
                                Unit::Amx => amx::sums(&mut sums, left, right, tiles, sides),
                                _ => avx512::sums(&mut sums, left, right, tiles, sides),
                            }
                            avx512::finish(out, &sums, height, width);
                        }
                        unit => {
                            plain::sums(&mut sums, left, right, tiles, sides, unit);
                            plain::finish(out, &sums, height, width);
                        }
                    }
                }
            }
        }
    }

    /// Some lines of a factor from its first number on, in tiles: all of a tile's lines, one tile of the depth after another,
    /// and zeros where there is nothing.
    ///
    /// # Safety
    /// `to` has room for them, and the numbers are there.
    unsafe fn copy(&self, to: *mut u16, from: Lines, lines: usize, depth: usize, pairs: bool) {
        // SAFETY: as the caller vouches.
        unsafe {
            match self.unit {
                #[cfg(target_arch = "x86_64")]
                Unit::Amx | Unit::Avx512 => avx512::copy(to, from, lines, depth, pairs),
                _ => plain::copy(to, from, lines, depth, pairs),
            }
        }
    }
}

#[cfg(test)]
mod tests;
