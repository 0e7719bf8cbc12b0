//! The operations on the CPU: Burn's `Flex` tensors, `aios-kernels` loops.
//!
//! Arithmetic is in f32, but for products of what is kept in bf16, where the processor has instructions for them. Otherwise
//! half precision is a way to keep activations here: they are widened piece by piece as an operation reads them, and its
//! result is rounded.

use crate::attention::{AttentionPath, AttentionShape, Visible};
use crate::{
    Activation, AdamWStep, Affine, Codes, CrossEntropy, Dropping, LossPath, NormGradients,
    NormShape, Ops, Rope, RoundingKey, SideBySide, State8bit, TokenLosses, Turn, attention, stored,
};
use aios_kernels as kernels;
use burn::tensor::{DType, FloatDType, Tensor};
use burn_flex::Flex;
use kernels::cross_entropy::WeightGradient;
use kernels::matmul::{Element, Numbers, View};
use kernels::profile::{self, Note};
use rows::{
    Factor, Kept, Rows, bits_matrix, fits_one_sum, ints, matrix, multiplied_in, owned, read,
    tensor, update, update_bits, wrap, zeros,
};
use std::ops::Range;

pub use rows::{summed_rows, widened_rows};

mod few;
mod heads;
mod rows;

type Matrix = Tensor<Flex, 2>;

impl Ops for Flex {
    const ON_HOST: bool = true;

    fn convert<const D: usize>(tensor: Tensor<Self, D>, format: FloatDType) -> Tensor<Self, D> {
        let _note = note("convert", &[&tensor, &tensor]);
        let dims = tensor.dims();
        let rows = Rows::of(tensor);
        let mut out = Kept::new(rows.len(), format.into());
        out.push(rows.all());
        out.tensor(dims)
    }

    fn require(bytes: usize) {
        kernels::buffer::require(bytes);
    }

    #[cfg(feature = "ndarray")]
    fn self_check(check: crate::Check, device: &Self::Device) -> aios_base::error::Result<()> {
        use crate::{Check, NdarrayBackend, check};
        match check {
            Check::AdamW8bit => {
                check::check_adamw_8bit::<Self, NdarrayBackend>(device, &check::FEW_ELEMENTS)
            }
            other => other.against::<Self, NdarrayBackend>(device),
        }
    }

    fn nf4_dense(of: &stored::Nf4<Self>, dims: [usize; 2], _: DType) -> Matrix {
        let _note = profile::note("decode NF4", || (0, 9 * dims[0] * dims[1] / 2));
        let n = dims[0] * dims[1];
        // Made by `Stored`, all are contiguous and as long as their storage.
        let words = ints(&of.codes);
        let words = words.as_slice::<i32>().expect("i32");
        let values = match &of.absmax {
            stored::Absmax::Plain(absmax) => {
                kernels::nf4::dequantize(words, &Rows::of(absmax.clone()).all(), n)
            }
            stored::Absmax::Nested {
                codes,
                nested,
                offset,
            } => {
                let codes = ints(codes);
                let codes = codes.as_slice::<i32>().expect("i32").iter();
                let mut codes: Vec<u8> = codes.flat_map(|word| word.to_le_bytes()).collect();
                codes.truncate(kernels::nf4::blocks(n));
                let nested = Rows::of(nested.clone());
                let absmax = kernels::nf4::absmaxes(&codes, &nested.all(), *offset);
                kernels::nf4::dequantize(words, &absmax, n)
            }
        };
        tensor(values, dims)
    }

    fn q8_0_dense(of: &stored::Q8_0<Self>, dims: [usize; 2], _: DType) -> Matrix {
        let _note = profile::note("decode Q8_0", || (0, 5 * dims[0] * dims[1]));
        let (codes, scales) = (ints(&of.codes), Rows::of(of.scales.clone()));
        let codes = codes.as_slice::<i32>().expect("i32");
        let n = dims[0] * dims[1];
        tensor(kernels::q8_0::dequantize(codes, &scales.all(), n), dims)
    }

    fn ggml_dense(of: &stored::Blocks<Self>, dims: [usize; 2], _: DType) -> Matrix {
        let n = dims[0] * dims[1];
        let _note = profile::note(of.format.name(), || (0, 5 * n));
        // Made by `Stored`, the words are contiguous; what they are in memory are the bytes that they were made of.
        let words = ints(&of.words);
        tensor(kernels::ggml::dequantize(of.format, words.bytes(), n), dims)
    }

    fn linear_forward_stored(x: &Matrix, w: &stored::Stored<Self>) -> Matrix {
        let tokens = x.dims()[0];
        let takes = w.has_whole_rows() && !matches!(w.codes, stored::Packed::Halves(_));
        if tokens > kernels::few::MOST || tokens == 0 || !takes {
            return Self::linear_forward(x, &w.dense());
        }
        let _note = note("linear", &[x]);
        Rows::of(x.clone()).map(tokens, |x, _| few::product(&x, w))
    }

    fn linear_forward(x: &Matrix, w: &Matrix) -> Matrix {
        let _note = note("linear", &[x, w]);
        Factor::of(x).times(read(w).view().t())
    }

    fn linear_backward_input(dy: &Matrix, w: &Matrix) -> Matrix {
        let _note = note("linear, input gradient", &[dy, w]);
        Factor::of(dy).times(read(w).view())
    }

    fn linear_backward_weight(sum: Option<Matrix>, dy: &Matrix, x: &Matrix) -> Matrix {
        let _note = note("linear, weight gradient", &[dy, x]);
        let outputs = dy.dims()[1];
        let (dy, x) = (Factor::of(dy), Factor::of(x));
        let with = |rows: &Range<usize>, f: &mut dyn FnMut(View, View)| {
            dy.with(rows, |dy| x.with(rows, |x| f(dy, x)));
        };
        let mut pieces = dy.pieces().into_iter();
        let sum = sum.unwrap_or_else(|| {
            let mut own = Vec::new();
            with(&pieces.next().unwrap_or_default(), &mut |dy, x| {
                own = kernels::matmul::linear_backward_weight(dy, x);
            });
            matrix(own, outputs)
        });
        update(sum, |sum| {
            for rows in pieces {
                with(&rows, &mut |dy, x| {
                    kernels::matmul::add_linear_backward_weight(sum, dy, x);
                });
            }
        })
    }

    fn add_linear_forward(sum: Matrix, x: &Matrix, w: &Matrix) -> Matrix {
        let _note = note("linear", &[x, w, &sum]);
        match added_as_kept(&sum, x) {
            true => add_product(sum, x, read(w).view().t()),
            false => sum + Self::linear_forward(x, w),
        }
    }

    fn add_linear_backward_input(sum: Matrix, dy: &Matrix, w: &Matrix) -> Matrix {
        let _note = note("linear, input gradient", &[dy, w, &sum]);
        match added_as_kept(&sum, dy) {
            true => add_product(sum, dy, read(w).view()),
            false => sum + Self::linear_backward_input(dy, w),
        }
    }

    fn linear_forward_all(x: &Matrix, weights: &[SideBySide<Self>]) -> Matrix {
        let _note = note("linear", &[x]);
        let format = x.dtype();
        let alike = |matrix: &Matrix| {
            let inputs = matrix.dims()[1];
            matrix.dtype() == format && multiplied_in(format) && fits_one_sum(format, inputs)
        };
        let added = weights.iter().flat_map(|one| &one.added);
        if !alike(x) || !added.map(|[x, _]| x).all(alike) {
            // What is kept in another format is multiplied in pieces.
            return crate::one_by_one(x, weights);
        }
        let rows = x.dims()[0];
        match format {
            DType::F32 => matrix(side_by_side::<f32>(x, weights), rows),
            format => bits_matrix(side_by_side::<u16>(x, weights), rows, format),
        }
    }

    fn read_often(columns: Matrix) -> Matrix {
        match multiplied_in(columns.dtype()) {
            // Where they lie.
            true => columns,
            false => attention::copied(columns, 0),
        }
    }

    fn sum(a: Matrix, b: &Matrix) -> Matrix {
        let _note = note("sum", &[&a, &a, b]);
        if a.dtype() != DType::F32 || b.dtype() != DType::F32 {
            return a + b.clone();
        }
        let (rows, b) = (a.dims()[0], read(b));
        let a = Rows::of(a);
        match a.alone() {
            Ok(a) => update(a, |a| kernels::rows::add(a, &b.all())),
            Err(a) => matrix(kernels::rows::sum_of(&a.all(), &b.all()), rows),
        }
    }

    fn side_by_side(parts: Vec<Matrix>) -> Matrix {
        let all: Vec<&Matrix> = parts.iter().chain(&parts).collect();
        let _note = note("copy", &all);
        let rows = parts[0].dims()[0];
        let widths: Vec<usize> = parts.iter().map(|part| part.dims()[1]).collect();
        let parts: Vec<Rows> = parts.into_iter().map(Rows::of).collect();
        rows::side_by_side(&parts, &widths, rows)
    }

    fn add_rms_norm(x: Matrix, a: Matrix, eps: f32) -> (Matrix, Matrix) {
        let _note = note("norm", &[&x, &x, &a]);
        let [t, width] = x.dims();
        let (x, a) = (read(&x), read(&a));
        let (y, scales) = x.map_apart(t, |x, rows| {
            kernels::norm::add_rms_norm(&x, &a.rows(rows, t), width, eps)
        });
        (y, tensor(joined(scales), [t, 1]))
    }

    fn add_rms_norm_backward(y: &Matrix, scale: &Matrix, dy: &Matrix) -> Matrix {
        let _note = note("norm, gradient", &[y, dy, dy]);
        let [t, width] = y.dims();
        let (y, scale, dy) = (read(y), read(scale), read(dy));
        y.map_rows(t, |y, rows| {
            let (scale, dy) = (scale.rows(rows, t), dy.rows(rows, t));
            kernels::norm::add_rms_norm_backward(&y, &scale, &dy, width)
        })
    }

    fn norm(x: &Matrix, affine: Affine<Self>, shape: &NormShape) -> Matrix {
        let _note = note("norm", &[x, x]);
        let [t, width] = x.dims();
        let read = |matrix: Option<&Matrix>| matrix.map(read);
        let (weight, bias) = (read(affine.weight), read(affine.bias));
        let (weight, bias) = (weight.as_ref().map(Rows::all), bias.as_ref().map(Rows::all));
        let affine = kernels::scaled_norm::Affine {
            weight: weight.as_deref(),
            bias: bias.as_deref(),
        };
        self::read(x).map_rows(t, |x, _| {
            kernels::scaled_norm::norm(&x, affine, width, shape)
        })
    }

    fn norm_backward(
        x: &Matrix,
        affine: Affine<Self>,
        shape: &NormShape,
        dy: &Matrix,
        trained: bool,
    ) -> NormGradients<Self> {
        let _note = note("norm, gradient", &[x, dy, dy]);
        let [t, width] = x.dims();
        let (x, dy) = (read(x), read(dy));
        let weight = affine.weight.map(read);
        let weight = weight.as_ref().map(Rows::all);
        let (dx, parts) = x.map_apart(t, |x, rows| {
            let dy = dy.rows(rows, t);
            let found =
                kernels::scaled_norm::norm_backward(&x, weight.as_deref(), &dy, width, shape);
            (found.dx, [found.weight, found.bias])
        });
        let mut sums = kernels::buffer::zeros(2 * width);
        for own in parts.iter().map(|own| own.iter().flatten()) {
            sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
        let d_bias = sums.split_off(width);
        NormGradients {
            dx,
            weight: affine
                .weight
                .filter(|_| trained)
                .map(|_| tensor(sums, [1, width])),
            bias: affine
                .bias
                .filter(|_| trained)
                .map(|_| tensor(d_bias, [1, width])),
        }
    }

    fn activation(x: &Matrix, kind: Activation) -> Matrix {
        let _note = note("activation", &[x, x]);
        let t = x.dims()[0];
        read(x).map_rows(t, |x, _| kernels::activation::apply(&x, kind))
    }

    fn activation_backward(x: &Matrix, dy: &Matrix, kind: Activation) -> Matrix {
        let _note = note("activation, gradient", &[x, dy, dy]);
        let t = x.dims()[0];
        let (x, dy) = (read(x), read(dy));
        x.map_rows(t, |x, rows| {
            kernels::activation::apply_backward(&x, &dy.rows(rows, t), kind)
        })
    }

    fn gated(gate_up: &Matrix, kind: Activation) -> Matrix {
        let _note = note("activation", &[gate_up]);
        let [t, width] = gate_up.dims();
        read(gate_up).map_rows(t, |gate_up, _| {
            kernels::activation::gated(&gate_up, width / 2, kind)
        })
    }

    fn gated_backward(gate_up: &Matrix, dy: &Matrix, kind: Activation) -> Matrix {
        let _note = note("activation, gradient", &[gate_up, gate_up, dy]);
        let [t, inner] = dy.dims();
        let (gate_up, dy) = (read(gate_up), read(dy));
        gate_up.map_rows(t, |gate_up, rows| {
            kernels::activation::gated_backward(&gate_up, &dy.rows(rows, t), inner, kind)
        })
    }

    fn swiglu(gate_up: &Matrix) -> Matrix {
        let _note = note("activation", &[gate_up]);
        let [t, width] = gate_up.dims();
        read(gate_up).map_rows(t, |gate_up, _| kernels::swiglu::swiglu(&gate_up, width / 2))
    }

    fn swiglu_backward(gate_up: &Matrix, dy: &Matrix) -> Matrix {
        let _note = note("activation, gradient", &[gate_up, gate_up, dy]);
        let [t, inner] = dy.dims();
        let (gate_up, dy) = (read(gate_up), read(dy));
        gate_up.map_rows(t, |gate_up, rows| {
            kernels::swiglu::swiglu_backward(&gate_up, &dy.rows(rows, t), inner)
        })
    }

    fn rope(qkv: Matrix, table: &Rope<Self>, shape: &AttentionShape, turn: Turn) -> Matrix {
        let _note = note("RoPE", &[&qkv, &qkv]);
        let (cos, sin) = (read(&table.cos), read(&table.sin));
        let (cos, sin) = (cos.all(), sin.all());
        let kernel = kernels::rope::Shape {
            seq: shape.seq,
            offset: 0,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            rotated: 2 * table.cos.dims()[1],
        };
        if qkv.dtype() == DType::F32 {
            return update(qkv, |qkv| {
                kernels::rope::rotate(qkv, &cos, &sin, kernel, turn);
            });
        }
        rows::update_rows(qkv, shape.seq, |qkv, offset| {
            let seq = qkv.len() / shape.qkv_width();
            let kernel = kernels::rope::Shape {
                seq,
                offset,
                ..kernel
            };
            kernels::rope::rotate(qkv, &cos, &sin, kernel, turn);
        })
    }

    fn flash_attention(
        q: &Tensor<Self, 4>,
        k: &Tensor<Self, 4>,
        v: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> Option<(Tensor<Self, 4>, Tensor<Self, 3>)> {
        Some(heads::forward(
            AttentionPath::Flash,
            [q, k, v],
            shape,
            visible,
        ))
    }

    fn flash_attention_backward(
        saved: &attention::Saved<Self>,
        d_out: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> Option<[Tensor<Self, 4>; 3]> {
        let path = AttentionPath::Flash;
        Some(heads::backward(path, saved, d_out, shape, visible))
    }

    fn sdpa(
        q: &Tensor<Self, 4>,
        k: &Tensor<Self, 4>,
        v: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> (Tensor<Self, 4>, Tensor<Self, 3>) {
        heads::forward(AttentionPath::Sdpa, [q, k, v], shape, visible)
    }

    fn sdpa_backward(
        saved: &attention::Saved<Self>,
        d_out: &Tensor<Self, 4>,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
    ) -> [Tensor<Self, 4>; 3] {
        heads::backward(AttentionPath::Sdpa, saved, d_out, shape, visible)
    }

    fn attention_fused(
        qkv: &Matrix,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
        path: AttentionPath,
    ) -> (Matrix, Tensor<Self, 3>) {
        heads::fused(qkv, shape, visible, path)
    }

    fn attention_fused_backward(
        qkv: &Matrix,
        out: &Matrix,
        lse: &Tensor<Self, 3>,
        d_out: &Matrix,
        shape: &AttentionShape,
        visible: Option<&Visible<Self>>,
        path: AttentionPath,
    ) -> Matrix {
        heads::fused_backward([qkv, out, d_out], lse, shape, visible, path)
    }

    fn put_tokens(into: Tensor<Self, 3>, at: usize, tokens: Tensor<Self, 3>) -> Tensor<Self, 3> {
        rows::put_tokens(into, at, tokens)
    }

    fn cross_entropy(z: &Matrix, w: &Matrix, labels: &[i32], slice_bytes: usize) -> CrossEntropy {
        let _note = note("head and loss", &[z, w]);
        let hidden = z.dims()[1];
        let (z, w) = (read(z), read(w));
        let work = |z: Numbers| {
            kernels::cross_entropy::forward(z, w.numbers(), labels, hidden, slice_bytes)
        };
        as_multiplied(&z, work)
    }

    fn cross_entropy_backward(
        z: &Matrix,
        w: &Matrix,
        labels: &[i32],
        weights: &[f32],
        dw: Option<Matrix>,
        slice_bytes: usize,
    ) -> (TokenLosses<Self>, Matrix, Matrix) {
        with_weight_gradient(w, dw, |dw| {
            let path = LossPath::Fused { slice_bytes };
            head_and_loss(path, z, w, labels, weights, Some(dw))
        })
    }

    fn cross_entropy_backward_input(
        z: &Matrix,
        w: &Matrix,
        labels: &[i32],
        weights: &[f32],
        slice_bytes: usize,
    ) -> (TokenLosses<Self>, Matrix) {
        let path = LossPath::Fused { slice_bytes };
        head_and_loss(path, z, w, labels, weights, None)
    }

    fn cross_entropy_backward_input_plain(
        z: &Matrix,
        w: &Matrix,
        labels: &[i32],
        weights: &[f32],
    ) -> (TokenLosses<Self>, Matrix) {
        head_and_loss(LossPath::Plain, z, w, labels, weights, None)
    }

    fn cross_entropy_backward_plain(
        z: &Matrix,
        w: &Matrix,
        labels: &[i32],
        weights: &[f32],
        dw: Option<Matrix>,
    ) -> (TokenLosses<Self>, Matrix, Matrix) {
        with_weight_gradient(w, dw, |dw| {
            head_and_loss(LossPath::Plain, z, w, labels, weights, Some(dw))
        })
    }

    fn embedding_gradient(
        sum: Option<Matrix>,
        entries: usize,
        ids: &[i32],
        rows: Matrix,
        scale: f32,
    ) -> Matrix {
        let _note = note("embedding, gradient", &[&rows]);
        let width = rows.dims()[1];
        let rows = read(&rows);
        update(sum.unwrap_or_else(|| zeros(entries, width)), |sum| {
            kernels::rows::scatter_add(sum, ids, &rows.all(), width, scale);
        })
    }

    fn add_at(x: Matrix, seq: usize, position: usize, rows: Matrix) -> Matrix {
        let sequences = rows.dims()[0];
        let ids: Vec<i32> = (0..sequences)
            .map(|i| (i * seq + position) as i32)
            .collect();
        Self::embedding_gradient(Some(x), sequences * seq, &ids, rows, 1.0)
    }

    fn sum_of_squares(tensors: &[&Matrix]) -> f64 {
        let _note = note("norm of gradients", tensors);
        let squares = |t: &&Matrix| kernels::rows::sum_of_squares(&read(t).all());
        tensors.iter().map(squares).sum()
    }

    fn adamw(
        parameter: Matrix,
        gradient: Matrix,
        moments: Option<[Matrix; 2]>,
        step: &AdamWStep,
    ) -> (Matrix, [Matrix; 2]) {
        let _note = note(
            "AdamW",
            &[
                &parameter, &parameter, &gradient, &parameter, &parameter, &parameter, &parameter,
            ],
        );
        let [rows, cols] = parameter.dims();
        let gradient = read(&gradient);
        let [m, v] = moments.unwrap_or_else(|| [zeros(rows, cols), zeros(rows, cols)]);
        let [mut m, mut v] = [m, v].map(owned);
        let parameter = update(parameter, |p| {
            let (m, v) = (m.storage_mut(), v.storage_mut());
            kernels::adamw::adamw(p, &gradient.all(), m, v, *step);
        });
        (parameter, [m, v].map(wrap))
    }

    fn rounded_stochastically(values: Matrix, key: RoundingKey) -> Matrix {
        let _note = note("stochastic rounding", &[&values]);
        let ([rows, cols], values) = (values.dims(), read(&values));
        let mut bits = kernels::buffer::zeros(rows * cols);
        kernels::stochastic::round_into(&mut bits, &values.all(), key);
        bits_matrix(bits, rows, DType::BF16)
    }

    fn dropped(x: Matrix, dropping: &Dropping) -> Matrix {
        let _note = note("dropout", &[&x, &x]);
        let Dropping { key, tokens, share } = *dropping;
        if x.dtype() == DType::F32 {
            return update(x, |x| kernels::dropout::drop_from(x, tokens, key, share));
        }
        let [rows, width] = x.dims();
        rows::update_rows(x, rows, |x, first| {
            let tokens = &tokens[first..first + x.len() / width.max(1)];
            kernels::dropout::drop_from(x, tokens, key, share);
        })
    }

    fn adamw_8bit(
        parameter: Matrix,
        gradient: Matrix,
        state: State8bit<Self>,
        step: &AdamWStep,
    ) -> (Matrix, State8bit<Self>) {
        let _note = note(
            "AdamW, 8-bit",
            &[&parameter, &parameter, &gradient, &parameter],
        );
        let gradient = read(&gradient);
        let mut moments = [state.m, state.v].map(|Codes { codes, absmax }| {
            let absmax = absmax.into_primitive().tensor();
            // Made by `Codes`, both are contiguous and as long as their storage.
            (codes.into_primitive(), absmax)
        });
        let parameter = update(parameter, |p| {
            let [m, v] = moments.each_mut().map(|(codes, absmax)| {
                let (codes, absmax) = (codes.storage_mut(), absmax.storage_mut());
                kernels::adamw_8bit::Moment { codes, absmax }
            });
            kernels::adamw_8bit::adamw_8bit(p, &gradient.all(), m, v, *step);
        });
        let [m, v] = moments.map(|(codes, absmax)| Codes {
            codes: Tensor::from_primitive(codes),
            absmax: wrap(absmax),
        });
        (parameter, State8bit { m, v })
    }
}

/// Products in it note their own arithmetic.
fn note<const D: usize>(name: &'static str, tensors: &[&Tensor<Flex, D>]) -> Note {
    profile::note(name, || (0, bytes_of(tensors)))
}

fn bytes_of<const D: usize>(tensors: &[&Tensor<Flex, D>]) -> usize {
    let bytes = |t: &&Tensor<Flex, D>| t.shape().num_elements() * t.dtype().size();
    tensors.iter().map(bytes).sum()
}

/// Whether a product of `x` is added to `sum` without one of its own.
fn added_as_kept(sum: &Matrix, x: &Matrix) -> bool {
    let (format, inputs) = (sum.dtype(), x.dims()[1]);
    match format {
        DType::F32 => true,
        _ => format == x.dtype() && multiplied_in(format) && fits_one_sum(format, inputs),
    }
}

/// `sum + x right`, where [`added_as_kept`].
fn add_product(sum: Matrix, x: &Matrix, right: View) -> Matrix {
    let (x, outputs) = (Factor::of(x), sum.dims()[1]);
    match sum.dtype() {
        DType::F32 => update(sum, |sum| add_rows(sum, outputs, &x, right)),
        _ => update_bits(sum, |sum| add_rows(sum, outputs, &x, right)),
    }
}

fn add_rows<T: Element>(sum: &mut [T], outputs: usize, x: &Factor, right: View) {
    for rows in x.pieces() {
        let sum = &mut sum[rows.start * outputs..rows.end * outputs];
        x.with(&rows, |x| {
            kernels::matmul::add_product(sum, outputs, x, right)
        });
    }
}

/// [`Ops::linear_forward_all`] of what is multiplied as it is kept.
fn side_by_side<T: Element>(x: &Matrix, weights: &[SideBySide<Flex>]) -> Vec<T> {
    let outputs: Vec<usize> = weights.iter().map(|one| one.outputs).collect();
    let x = Factor::of(x);
    x.with(&(0..x.rows()), |x| {
        let mut all: Vec<T> = kernels::matmul::linear_side_by_side(x, &outputs, |i, multiply| {
            multiply(read(&(weights[i].weight)()).view());
        });
        let (width, mut column) = (outputs.iter().sum(), 0);
        for (one, outputs) in weights.iter().zip(&outputs) {
            if let Some([x, w]) = &one.added {
                let (x, w) = (Factor::of(x), read(w));
                x.with(&(0..x.rows()), |x| {
                    let columns = &mut all[column..];
                    kernels::matmul::add_product(columns, width, x, w.view().t());
                });
            }
            column += outputs;
        }
        all
    })
}

/// Do something with all numbers: in f32, or in the format in which they are multiplied.
fn as_multiplied<R>(all: &Rows, work: impl FnOnce(Numbers) -> R) -> R {
    match multiplied_in(all.format()) {
        true => work(all.numbers()),
        false => work(Numbers::F32(&all.all())),
    }
}

/// The only part, or all one after another.
fn joined(mut parts: Vec<Vec<f32>>) -> Vec<f32> {
    match parts.len() {
        1 => parts.remove(0),
        _ => parts.concat(),
    }
}

/// Head and loss; adds the gradient of `w` where that is wanted.
fn head_and_loss(
    path: LossPath,
    z: &Matrix,
    w: &Matrix,
    labels: &[i32],
    weights: &[f32],
    dw: Option<WeightGradient>,
) -> (TokenLosses<Flex>, Matrix) {
    let _note = note("head and loss", &[z, w]);
    use kernels::cross_entropy::{forward_backward, forward_backward_plain};
    let [t, hidden] = z.dims();
    let (z, w) = (read(z), read(w));
    let w = w.numbers();
    let (loss, d) = as_multiplied(&z, |z| match path {
        LossPath::Fused { slice_bytes } => {
            forward_backward(z, w, labels, weights, dw, hidden, slice_bytes)
        }
        LossPath::Plain => forward_backward_plain(z, w, labels, weights, dw, hidden),
    });
    let mut dz = Kept::new(t * hidden, z.format());
    dz.push(d);
    (TokenLosses::Read(loss), dz.tensor([t, hidden]))
}

/// What `work` gives, and the gradient of `w` that it adds to.
fn with_weight_gradient(
    w: &Matrix,
    sum: Option<Matrix>,
    work: impl FnOnce(WeightGradient) -> (TokenLosses<Flex>, Matrix),
) -> (TokenLosses<Flex>, Matrix, Matrix) {
    let Some(sum) = sum else {
        let mut dw = Vec::new();
        let (loss, dz) = work(WeightGradient::New(&mut dw));
        return (loss, dz, matrix(dw, w.dims()[0]));
    };
    let mut found = None;
    let dw = update(sum, |dw| found = Some(work(WeightGradient::Sum(dw))));
    let (loss, dz) = found.expect("update calls it once");
    (loss, dz, dw)
}
