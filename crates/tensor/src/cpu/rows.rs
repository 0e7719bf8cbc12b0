//! How tensors are read in f32, and kept in the format of the result.

use super::Matrix;
use crate::AttentionShape;
use aios_kernels as kernels;
use burn::tensor::{Bytes, DType, Int, Tensor, TensorPrimitive};
use burn_flex::{Flex, FlexTensor, Layout};
use half::slice::HalfFloatSliceExt;
use half::vec::HalfBitsVecExt;
use half::{bf16, f16};
use kernels::half::Half;
use kernels::matmul::{Numbers, View};
use std::borrow::Cow;
use std::ops::Range;

/// Rows that are widened to f32 at a time: enough for the matrix products to run at nearly full
/// speed, and little beside the whole.
pub const PIECE: usize = 256;

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
        const READ: &str = "made contiguous when read";
        let bits = match self.format() {
            DType::F32 => return Numbers::F32(self.0.as_slice().expect(READ)),
            DType::F16 => self.0.as_slice::<f16>().expect(READ).reinterpret_cast(),
            DType::BF16 => self.0.as_slice::<bf16>().expect(READ).reinterpret_cast(),
            other => unreachable!("{other:?} is no number format of the model's"),
        };
        Numbers::Half(bits, half_format(self.format()))
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

/// A matrix that is multiplied: read as [`Rows`] are, but f32 numbers stay where they lie if that is among the columns of
/// a wider matrix, as the gradients of q, k and v do.
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
            [distance, 1] if flex.dtype() == DType::F32 => usize::try_from(distance).ok(),
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

    pub(super) fn pieces(&self) -> Vec<Range<usize>> {
        match &self.source {
            Source::Rows(all) => all.pieces(self.rows).collect(),
            Source::Within(..) => std::iter::once(0..self.rows).collect(),
        }
    }

    /// Do something with some rows in f32.
    pub(super) fn with<R>(&self, rows: &Range<usize>, f: impl FnOnce(View) -> R) -> R {
        match &self.source {
            Source::Rows(all) => f(View::whole(
                &all.rows(rows, self.rows),
                rows.len(),
                self.cols,
            )),
            Source::Within(flex, distance) => {
                let first = flex.layout().start_offset() + rows.start * distance;
                let numbers = &flex.storage::<f32>()[first..];
                f(View::new(numbers, rows.len(), self.cols, *distance))
            }
        }
    }

    /// A matrix of as many rows in the format of this one, computed in f32 from its rows.
    pub(super) fn map(&self, mut f: impl FnMut(View) -> Vec<f32>) -> Matrix {
        match &self.source {
            Source::Rows(all) => all.map(self.rows, |rows, range| {
                f(View::whole(&rows, range.len(), self.cols))
            }),
            Source::Within(..) => matrix(self.with(&(0..self.rows), f), self.rows),
        }
    }
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
    let kept = Kept::Bits {
        filled: rows * widths.iter().sum::<usize>(),
        bits: kernels::rows::side_by_side(&bits, rows),
        format: parts[0].format(),
    };
    kept.matrix(rows)
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
    let bytes = t.layout().num_elements() * 4;
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
