//! How tensors are read in f32, and kept in the format of the result.

use super::Matrix;
use crate::{AttentionShape, Precision, dtype};
use aios_kernels as kernels;
use burn::tensor::{Bytes, DType, Int, Tensor, TensorPrimitive};
use burn_flex::{Flex, FlexTensor, Layout};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use kernels::half::Half;
use kernels::matmul::{Numbers, View};
use kernels::team::Each;
use rayon::prelude::*;
use std::borrow::Cow;
use std::ops::Range;

/// Rows that are widened to f32 at a time: enough for the matrix products to run at nearly full
/// speed, and little beside the whole.
pub(super) const PIECE: usize = 256;

/// Rows that a thread widens at a time where each row is computed by itself, so that they stay in its cache.
const ROWS_AT_ONCE: usize = 32;

/// Rows that are in f32 at a time at most, where a tensor is kept in such a format.
pub fn widened_rows(format: Precision) -> usize {
    let by_threads = ROWS_AT_ONCE * kernels::team::threads();
    match multiplied_in(dtype(format)) {
        true => by_threads,
        false => by_threads.max(PIECE),
    }
}

/// Rows of a product that are in f32 at a time, where it is kept in less and its sums are so deep.
pub fn summed_rows(format: Precision, depth: usize) -> usize {
    match multiplied_in(dtype(format)) && !fits_one_sum(dtype(format), depth) {
        true => PIECE,
        false => 0,
    }
}

/// Whether so many numbers of a format are summed up at once in a product that is kept in it.
pub(super) fn fits_one_sum(format: DType, inputs: usize) -> bool {
    format == DType::F32 || inputs <= kernels::matmul::bf16::DEPTH
}

/// A contiguous tensor whose elements can be read in f32; shares the storage if it already is one.
pub(super) struct Rows(FlexTensor);

impl Rows {
    pub(super) fn of<const D: usize>(t: Tensor<Flex, D>) -> Self {
        let t = t.into_primitive().tensor();
        match t.is_contiguous() {
            true => Self(t),
            false => {
                kernels::buffer::require(t.layout().num_elements() * t.dtype().size());
                Self(t.to_contiguous())
            }
        }
    }

    /// The matrix, if nobody else reads its numbers.
    pub(super) fn alone(self) -> Result<Matrix, Self> {
        match self.0.is_unique() {
            true => Ok(wrap(self.0)),
            false => Err(self),
        }
    }

    pub(super) fn format(&self) -> DType {
        self.0.dtype()
    }

    pub(super) fn len(&self) -> usize {
        self.0.layout().num_elements()
    }

    /// The matrix that it is, as products read it.
    pub(super) fn view(&self) -> View<'_> {
        let [rows, cols] = self.0.layout().shape().dims();
        View::of(self.numbers(), rows, cols, cols)
    }

    /// Everything in f32, without a copy if it is kept so.
    pub(super) fn all(&self) -> Cow<'_, [f32]> {
        self.elements(0..self.len())
    }

    /// These of `of` rows.
    pub(super) fn rows(&self, rows: &Range<usize>, of: usize) -> Cow<'_, [f32]> {
        let width = self.len() / of.max(1);
        self.elements(rows.start * width..rows.end * width)
    }

    pub(super) fn elements(&self, range: Range<usize>) -> Cow<'_, [f32]> {
        match self.numbers() {
            Numbers::F32(numbers) => Cow::Borrowed(&numbers[range]),
            Numbers::Half(bits, format) => Cow::Owned(kernels::half::widen(&bits[range], format)),
        }
    }

    /// Everything as it is kept.
    pub(super) fn numbers(&self) -> Numbers<'_> {
        // Contiguous since it was made.
        let first = self.0.layout().start_offset();
        stored(&self.0).part(first..first + self.len())
    }

    /// All rows at once if they are f32 already, else piece by piece.
    pub(super) fn pieces(&self, of: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        self.split(of, PIECE)
    }

    pub(super) fn split(
        &self,
        of: usize,
        piece: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        let piece = match self.format() {
            DType::F32 => of.max(1),
            _ => piece,
        };
        let start = (0..of).step_by(piece);
        start.map(move |start| start..of.min(start + piece))
    }

    /// A matrix of `rows` rows in the format of this one, computed in f32 from its rows.
    pub(super) fn map(
        &self,
        rows: usize,
        mut f: impl FnMut(Cow<[f32]>, &Range<usize>) -> Vec<f32>,
    ) -> Matrix {
        let mut kept = None;
        for piece in self.pieces(rows) {
            let out = f(self.rows(&piece, rows), &piece);
            let width = out.len() / piece.len();
            kept.get_or_insert_with(|| Kept::new(rows * width, self.format()))
                .push(out);
        }
        kept.map_or_else(|| matrix(Vec::new(), 0), |kept| kept.matrix(rows))
    }

    /// [`Rows::map`] of rows that are computed each by itself, some on each thread; and what else `f` gives, in the order of
    /// the rows.
    pub(super) fn map_apart<R: Send>(
        &self,
        rows: usize,
        f: impl Fn(Cow<[f32]>, &Range<usize>) -> (Vec<f32>, R) + Sync,
    ) -> (Matrix, Vec<R>) {
        if self.format() == DType::F32 || rows == 0 {
            let all = 0..rows;
            let (out, more) = f(self.all(), &all);
            return (matrix(out, rows), vec![more]);
        }
        let piece = |i: usize| i * ROWS_AT_ONCE..rows.min((i + 1) * ROWS_AT_ONCE);
        let compute = |range: &Range<usize>| f(self.rows(range, rows), range);
        // The first one says how wide the result is.
        let (first, more) = compute(&piece(0));
        let width = first.len() / piece(0).len();
        let mut others: Vec<Option<R>> = (1..rows.div_ceil(ROWS_AT_ONCE)).map(|_| None).collect();
        let mut bits = kernels::buffer::zeros(rows * width);
        let format = half_format(self.format());
        let (head, tail) = bits.split_at_mut(first.len());
        kernels::half::narrow_into(head, &first, format);
        tail.par_chunks_mut((ROWS_AT_ONCE * width).max(1))
            .zip(&mut others)
            .enumerate()
            .each(|(i, (bits, other))| {
                let (out, more) = compute(&piece(i + 1));
                kernels::half::narrow_into(bits, &out, format);
                *other = Some(more);
            });
        let more = std::iter::once(more).chain(others.into_iter().flatten());
        (bits_matrix(bits, rows, self.format()), more.collect())
    }

    /// The same, where `f` gives nothing else.
    pub(super) fn map_rows(
        &self,
        rows: usize,
        f: impl Fn(Cow<[f32]>, &Range<usize>) -> Vec<f32> + Sync,
    ) -> Matrix {
        self.map_apart(rows, |all, range| (f(all, range), ())).0
    }

    /// The same in pieces of whole sequences: all if they are f32, else one by one. `f` also gets
    /// the shape of its piece.
    pub(super) fn map_sequences(
        &self,
        shape: &AttentionShape,
        mut f: impl FnMut(Cow<[f32]>, &Range<usize>, &AttentionShape) -> Vec<f32>,
    ) -> Matrix {
        let tokens = shape.batch * shape.seq;
        let mut kept: Option<Kept> = None;
        for piece in self.split(tokens, shape.seq) {
            let batch = piece.len() / shape.seq;
            let shape = AttentionShape { batch, ..*shape };
            let out = f(self.rows(&piece, tokens), &piece, &shape);
            let width = out.len() / piece.len();
            kept.get_or_insert_with(|| Kept::new(tokens * width, self.format()))
                .push(out);
        }
        kept.map_or_else(|| matrix(Vec::new(), 0), |kept| kept.matrix(tokens))
    }
}

/// Whether products of matrices in this format are computed in it, rather than in f32 piece by piece.
pub(super) fn multiplied_in(format: DType) -> bool {
    match format {
        DType::F32 => true,
        DType::BF16 => kernels::matmul::bf16::unit().is_some(),
        _ => false,
    }
}

/// A matrix that is multiplied: read as [`Rows`] are, but numbers that are multiplied as they are kept stay where they lie
/// if that is among the columns of a wider matrix, as the gradients of q, k and v do.
pub(super) struct Factor {
    rows: usize,
    cols: usize,
    source: Source,
}

pub(super) enum Source {
    Rows(Rows),
    /// With the distance of its rows.
    Within(FlexTensor, usize),
}

impl Factor {
    pub(super) fn of(t: &Matrix) -> Self {
        let [rows, cols] = t.dims();
        let flex = t.clone().into_primitive().tensor();
        let distance = match *flex.layout().strides() {
            [distance, 1] if multiplied_in(flex.dtype()) => usize::try_from(distance).ok(),
            _ => None,
        };
        let source = match distance.filter(|&distance| distance > cols) {
            Some(distance) => Source::Within(flex, distance),
            None => Source::Rows(read(t)),
        };
        Self { rows, cols, source }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    fn format(&self) -> DType {
        match &self.source {
            Source::Rows(all) => all.format(),
            Source::Within(flex, _) => flex.dtype(),
        }
    }

    /// All rows at once if they are multiplied as they are kept, else piece by piece.
    pub(super) fn pieces(&self) -> Vec<Range<usize>> {
        match &self.source {
            Source::Rows(all) if !multiplied_in(all.format()) => all.pieces(self.rows).collect(),
            _ => std::iter::once(0..self.rows).collect(),
        }
    }

    /// Do something with some rows, as they are multiplied.
    pub(super) fn with<R>(&self, rows: &Range<usize>, f: impl FnOnce(View) -> R) -> R {
        match &self.source {
            Source::Rows(all) if multiplied_in(all.format()) => {
                let elements = rows.start * self.cols..rows.end * self.cols;
                f(View::of(
                    all.numbers().part(elements),
                    rows.len(),
                    self.cols,
                    self.cols,
                ))
            }
            Source::Rows(all) => {
                let widened = all.rows(rows, self.rows);
                f(View::whole(&widened, rows.len(), self.cols))
            }
            Source::Within(flex, distance) => {
                let first = flex.layout().start_offset() + rows.start * distance;
                let numbers = stored(flex);
                let numbers = numbers.part(first..numbers.len());
                f(View::of(numbers, rows.len(), self.cols, *distance))
            }
        }
    }

    /// The product with a matrix, in the format of this one.
    pub(super) fn times(&self, right: View) -> Matrix {
        let all = 0..self.rows;
        if !multiplied_in(self.format()) {
            let Source::Rows(rows) = &self.source else {
                unreachable!("numbers within a matrix are multiplied as they are kept")
            };
            return rows.map(self.rows, |rows, range| {
                kernels::matmul::product(View::whole(&rows, range.len(), self.cols), right)
            });
        }
        match self.format() {
            DType::F32 => {
                let product = |left: View| kernels::matmul::product(left, right);
                matrix(self.with(&all, product), self.rows)
            }
            format => {
                let product = |left: View| kernels::matmul::product_in_bf16(left, right, PIECE);
                bits_matrix(self.with(&all, product), self.rows, format)
            }
        }
    }
}

/// All numbers of a tensor's memory.
fn stored(flex: &FlexTensor) -> Numbers<'_> {
    let bits = match flex.dtype() {
        DType::F32 => return Numbers::F32(flex.storage::<f32>()),
        DType::F16 => flex.storage::<f16>().reinterpret_cast(),
        DType::BF16 => flex.storage::<bf16>().reinterpret_cast(),
        other => unreachable!("{other:?} is no number format of the model's"),
    };
    Numbers::Half(bits, half_format(flex.dtype()))
}

/// A matrix of so many rows of which the bits are there.
pub(super) fn bits_matrix(bits: Vec<u16>, rows: usize, format: DType) -> Matrix {
    let filled = bits.len();
    let kept = Kept::Bits {
        bits,
        filled,
        format,
    };
    kept.matrix(rows)
}

pub(super) fn read<const D: usize>(t: &Tensor<Flex, D>) -> Rows {
    Rows::of(t.clone())
}

/// Matrices of `rows` rows beside one another, in the format that all of them have.
pub(super) fn side_by_side(parts: &[Rows], widths: &[usize], rows: usize) -> Matrix {
    let mut numbers = Vec::new();
    let mut bits = Vec::new();
    for (part, &width) in parts.iter().zip(widths) {
        match part.numbers() {
            Numbers::F32(all) => numbers.push((all, width)),
            Numbers::Half(all, _) => bits.push((all, width)),
        }
    }
    if bits.is_empty() {
        return matrix(kernels::rows::side_by_side(&numbers, rows), rows);
    }
    let bits = kernels::rows::side_by_side(&bits, rows);
    bits_matrix(bits, rows, parts[0].format())
}

pub(super) fn half_format(format: DType) -> Half {
    match format {
        DType::F16 => Half::F16,
        _ => Half::Bf16,
    }
}

/// Elements computed in f32, kept in the format of the result.
pub(super) enum Kept {
    Floats(Vec<f32>),
    Bits {
        bits: Vec<u16>,
        filled: usize,
        format: DType,
    },
}

impl Kept {
    /// Room for `n` elements.
    pub(super) fn new(n: usize, format: DType) -> Self {
        match format {
            DType::F32 => Self::Floats(Vec::new()),
            format => Self::Bits {
                bits: kernels::buffer::zeros(n),
                filled: 0,
                format,
            },
        }
    }

    pub(super) fn push<'a>(&mut self, values: impl Into<Cow<'a, [f32]>>) {
        let values = values.into();
        match self {
            // All at once, as a rule: then the buffer is taken over.
            Self::Floats(all) if all.is_empty() => *all = values.into_owned(),
            Self::Floats(all) => all.extend_from_slice(&values),
            Self::Bits {
                bits,
                filled,
                format,
            } => {
                let end = *filled + values.len();
                let target = &mut bits[*filled..end];
                kernels::half::narrow_into(target, &values, half_format(*format));
                *filled = end;
            }
        }
    }

    pub(super) fn matrix(self, rows: usize) -> Matrix {
        let n = match &self {
            Self::Floats(all) => all.len(),
            Self::Bits { bits, .. } => bits.len(),
        };
        self.tensor([rows, n / rows.max(1)])
    }

    pub(super) fn tensor<const D: usize>(self, shape: [usize; D]) -> Tensor<Flex, D> {
        let (bytes, format) = match self {
            Self::Floats(all) => (Bytes::from_elems(all), DType::F32),
            Self::Bits {
                bits,
                format: DType::F16,
                ..
            } => (
                Bytes::from_elems(bits.reinterpret_into::<f16>()),
                DType::F16,
            ),
            Self::Bits { bits, .. } => (
                Bytes::from_elems(bits.reinterpret_into::<bf16>()),
                DType::BF16,
            ),
        };
        let layout = Layout::contiguous(shape.to_vec().into());
        wrap(FlexTensor::new(bytes, layout, format))
    }
}

/// The tensor's storage, holding exactly its elements, for writing in place.
pub(super) fn owned(t: Matrix) -> FlexTensor {
    let t = t.into_primitive().tensor();
    let bytes = t.layout().num_elements() * t.dtype().size();
    let whole = t.is_contiguous() && t.bytes().len() == bytes;
    if whole && t.is_unique() {
        return t;
    }
    kernels::buffer::require(bytes);
    // What is shared is copied when it is written to.
    match whole {
        true => t,
        false => t.to_contiguous(),
    }
}

/// Change the elements in place; in a copy, if the storage is shared or not f32.
pub(super) fn update(t: Matrix, f: impl FnOnce(&mut [f32])) -> Matrix {
    if t.dtype() != DType::F32 {
        let ([rows, cols], t) = (t.dims(), Rows::of(t));
        let mut values = t.all().into_owned();
        f(&mut values);
        let mut kept = Kept::new(rows * cols, t.format());
        drop(t);
        kept.push(values);
        return kept.matrix(rows);
    }
    let mut t = owned(t);
    f(t.storage_mut());
    wrap(t)
}

/// [`update`] of a matrix in 16 bits, as it is kept.
pub(super) fn update_bits(t: Matrix, f: impl FnOnce(&mut [u16])) -> Matrix {
    let mut t = owned(t);
    f(match t.dtype() {
        DType::F16 => t.storage_mut::<f16>().reinterpret_cast_mut(),
        _ => t.storage_mut::<bf16>().reinterpret_cast_mut(),
    });
    wrap(t)
}

/// Burn's own copies all of what it writes to.
pub(super) fn put_tokens(
    into: Tensor<Flex, 3>,
    at: usize,
    tokens: Tensor<Flex, 3>,
) -> Tensor<Flex, 3> {
    let ([batch, capacity, width], [_, n, _]) = (into.dims(), tokens.dims());
    let into = into.reshape([batch * capacity, width]);
    let tokens = Rows::of(tokens);
    let written = match tokens.numbers() {
        Numbers::F32(new) => update(into, |all| {
            put(all, capacity * width, at * width, new, n * width)
        }),
        Numbers::Half(new, _) => update_bits(into, |all| {
            put(all, capacity * width, at * width, new, n * width)
        }),
    };
    written.reshape([batch, capacity, width])
}

/// Into each sequence of `stride` numbers, from `at` on, its `n` new ones.
fn put<T: Copy>(all: &mut [T], stride: usize, at: usize, new: &[T], n: usize) {
    let sequences = all.chunks_mut(stride.max(1)).zip(new.chunks(n.max(1)));
    for (all, new) in sequences {
        all[at..at + n].copy_from_slice(new);
    }
}

/// [`update`] of a matrix in 16 bits whose rows are computed each by itself, `of` of them a sequence: `f` gets some rows in
/// f32, and the place of the first one in its sequence.
pub(super) fn update_rows(t: Matrix, of: usize, f: impl Fn(&mut [f32], usize) + Sync) -> Matrix {
    let (width, format) = (t.dims()[1].max(1), half_format(t.dtype()));
    update_bits(t, |bits| {
        let sequences = bits.chunks_mut((of * width).max(1));
        let pieces: Vec<_> = sequences
            .flat_map(|bits| bits.chunks_mut(ROWS_AT_ONCE * width).enumerate())
            .collect();
        pieces.into_par_iter().each(|(i, bits)| {
            let mut values = kernels::half::widen(bits, format);
            f(&mut values, i * ROWS_AT_ONCE);
            kernels::half::narrow_into(bits, &values, format);
        });
    })
}

pub(super) fn ints(t: &Tensor<Flex, 1, Int>) -> FlexTensor {
    t.clone().into_primitive()
}

pub(super) fn wrap<const D: usize>(t: FlexTensor) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(t))
}

pub(super) fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    Kept::Floats(data).tensor(shape)
}

pub(super) fn matrix(data: Vec<f32>, rows: usize) -> Matrix {
    Kept::Floats(data).matrix(rows)
}

pub(super) fn zeros(rows: usize, cols: usize) -> Matrix {
    matrix(kernels::buffer::zeros(rows * cols), rows)
}
