//! The operations on the CPU: Burn's `Flex` tensors, `aios-kernels` loops.

use super::attention::{self, AttentionPath, AttentionShape};
use super::{AdamWStep, Codes, CrossEntropy, Ops, Rope, State8bit, Turn};
use aios_kernels as kernels;
use burn::tensor::{Bytes, Tensor, TensorPrimitive};
use burn_flex::{Flex, FlexTensor, Layout};
use kernels::attention::Heads;

type Matrix = Tensor<Flex, 2>;

impl Ops for Flex {
    fn linear_forward(x: &Matrix, w: &Matrix) -> Matrix {
        let ([t, inputs], [outputs, _]) = (x.dims(), w.dims());
        let (x, w) = (read(x), read(w));
        matrix(
            kernels::matmul::linear(x.get(), w.get(), t, inputs, outputs),
            t,
        )
    }

    fn linear_backward_input(dy: &Matrix, w: &Matrix) -> Matrix {
        let ([t, _], [outputs, inputs]) = (dy.dims(), w.dims());
        let (dy, w) = (read(dy), read(w));
        matrix(
            kernels::matmul::linear_backward_input(dy.get(), w.get(), t, inputs, outputs),
            t,
        )
    }

    fn linear_backward_weight(sum: Option<Matrix>, dy: &Matrix, x: &Matrix) -> Matrix {
        let ([t, outputs], [_, inputs]) = (dy.dims(), x.dims());
        let (dy, x) = (read(dy), read(x));
        let sum = sum.unwrap_or_else(|| zeros(outputs, inputs));
        update(sum, |sum| {
            kernels::matmul::linear_backward_weight(sum, dy.get(), x.get(), t, inputs, outputs);
        })
    }

    fn add_rms_norm(x: Matrix, a: Matrix, eps: f32) -> (Matrix, Matrix) {
        let [t, width] = x.dims();
        let (x, a) = (read(&x), read(&a));
        let (y, scale) = kernels::norm::add_rms_norm(x.get(), a.get(), width, eps);
        (matrix(y, t), matrix(scale, t))
    }

    fn add_rms_norm_backward(y: &Matrix, scale: &Matrix, dy: &Matrix) -> Matrix {
        let [t, width] = y.dims();
        let (y, scale, dy) = (read(y), read(scale), read(dy));
        let dx = kernels::norm::add_rms_norm_backward(y.get(), scale.get(), dy.get(), width);
        matrix(dx, t)
    }

    fn swiglu(gate_up: &Matrix) -> Matrix {
        let [t, width] = gate_up.dims();
        matrix(kernels::swiglu::swiglu(read(gate_up).get(), width / 2), t)
    }

    fn swiglu_backward(gate_up: &Matrix, dy: &Matrix) -> Matrix {
        let [t, inner] = dy.dims();
        let (gate_up, dy) = (read(gate_up), read(dy));
        matrix(
            kernels::swiglu::swiglu_backward(gate_up.get(), dy.get(), inner),
            t,
        )
    }

    fn rope(qkv: Matrix, table: &Rope<Self>, shape: &AttentionShape, turn: Turn) -> Matrix {
        let (cos, sin) = (read(&table.cos), read(&table.sin));
        let shape = kernels::rope::Shape {
            seq: shape.seq,
            offset: 0,
            heads: shape.heads,
            head_dim: shape.head_dim,
        };
        update(qkv, |qkv| {
            kernels::rope::rotate(qkv, cos.get(), sin.get(), shape, turn);
        })
    }

    fn flash_attention(
        q: &Tensor<Self, 4>,
        k: &Tensor<Self, 4>,
        v: &Tensor<Self, 4>,
        shape: &AttentionShape,
    ) -> Option<(Tensor<Self, 4>, Tensor<Self, 3>)> {
        let (seq_q, seq_kv) = (q.dims()[2], k.dims()[2]);
        let [q, k, v] = [q, k, v].map(position_major);
        let kernel = kernel_shape(shape, seq_q, seq_kv);
        let (out, lse) = kernels::attention::forward(
            rows_of(q.get(), shape, seq_q),
            rows_of(k.get(), shape, seq_kv),
            rows_of(v.get(), shape, seq_kv),
            kernel,
        );
        let lse = tensor(lse, [shape.batch, shape.heads, seq_q]);
        Some((head_major(out, shape, seq_q), lse))
    }

    fn flash_attention_backward(
        saved: &attention::Saved<Self>,
        d_out: &Tensor<Self, 4>,
        shape: &AttentionShape,
    ) -> Option<[Tensor<Self, 4>; 3]> {
        let (seq_q, seq_kv) = (saved.q.dims()[2], saved.k.dims()[2]);
        let inputs = [&saved.q, &saved.k, &saved.v, &saved.out, d_out].map(position_major);
        let [q, k, v, out, d_out] = inputs;
        let lse = read(&saved.lse);
        let saved = kernels::attention::Saved {
            q: rows_of(q.get(), shape, seq_q),
            k: rows_of(k.get(), shape, seq_kv),
            v: rows_of(v.get(), shape, seq_kv),
            out: out.get(),
            lse: lse.get(),
        };
        let kernel = kernel_shape(shape, seq_q, seq_kv);
        let [dq, dk, dv] = kernels::attention::backward(saved, d_out.get(), kernel);
        Some([
            head_major(dq, shape, seq_q),
            head_major(dk, shape, seq_kv),
            head_major(dv, shape, seq_kv),
        ])
    }

    fn attention_fused(
        qkv: &Matrix,
        shape: &AttentionShape,
        path: AttentionPath,
    ) -> (Matrix, Tensor<Self, 3>) {
        if path == AttentionPath::Sdpa {
            return attention::fused(qkv, shape, path);
        }
        let qkv = read(qkv);
        let [q, k, v] = parts(qkv.get(), shape);
        let kernel = kernel_shape(shape, shape.seq, shape.seq);
        let (out, lse) = kernels::attention::forward(q, k, v, kernel);
        let lse = tensor(lse, [shape.batch, shape.heads, shape.seq]);
        (matrix(out, shape.batch * shape.seq), lse)
    }

    fn attention_fused_backward(
        qkv: &Matrix,
        out: &Matrix,
        lse: &Tensor<Self, 3>,
        d_out: &Matrix,
        shape: &AttentionShape,
        path: AttentionPath,
    ) -> Matrix {
        if path == AttentionPath::Sdpa {
            return attention::fused_backward(qkv, out, lse, d_out, shape, path);
        }
        let (qkv, out, lse, d_out) = (read(qkv), read(out), read(lse), read(d_out));
        let [q, k, v] = parts(qkv.get(), shape);
        let saved = kernels::attention::Saved {
            q,
            k,
            v,
            out: out.get(),
            lse: lse.get(),
        };
        let kernel = kernel_shape(shape, shape.seq, shape.seq);
        let d_qkv = kernels::attention::backward_fused(saved, d_out.get(), kernel);
        matrix(d_qkv, shape.batch * shape.seq)
    }

    fn cross_entropy(z: &Matrix, w: &Matrix, labels: &[i32]) -> CrossEntropy {
        let hidden = z.dims()[1];
        kernels::cross_entropy::forward(read(z).get(), read(w).get(), labels, hidden)
    }

    fn cross_entropy_backward(
        z: &Matrix,
        w: &Matrix,
        labels: &[i32],
        weights: &[f32],
        dw: Option<Matrix>,
    ) -> (CrossEntropy, Matrix, Matrix) {
        let ([t, hidden], [vocabulary, _]) = (z.dims(), w.dims());
        let (z, w) = (read(z), read(w));
        let mut result = None;
        let dw = update(dw.unwrap_or_else(|| zeros(vocabulary, hidden)), |dw| {
            let (z, w) = (z.get(), w.get());
            let forward_backward = kernels::cross_entropy::forward_backward;
            result = Some(forward_backward(z, w, labels, weights, dw, hidden));
        });
        let (loss, dz) = result.expect("set by the call above");
        (loss, matrix(dz, t), dw)
    }

    fn embedding_gradient(
        sum: Option<Matrix>,
        entries: usize,
        ids: &[i32],
        rows: Matrix,
        scale: f32,
    ) -> Matrix {
        let width = rows.dims()[1];
        let rows = read(&rows);
        update(sum.unwrap_or_else(|| zeros(entries, width)), |sum| {
            kernels::rows::scatter_add(sum, ids, rows.get(), width, scale);
        })
    }

    fn sum_of_squares(tensors: &[&Matrix]) -> f64 {
        let squares = |t: &&Matrix| kernels::rows::sum_of_squares(read(t).get());
        tensors.iter().map(squares).sum()
    }

    fn adamw(
        parameter: Matrix,
        gradient: Matrix,
        moments: Option<[Matrix; 2]>,
        step: &AdamWStep,
    ) -> (Matrix, [Matrix; 2]) {
        let [rows, cols] = parameter.dims();
        let gradient = read(&gradient);
        let [m, v] = moments.unwrap_or_else(|| [zeros(rows, cols), zeros(rows, cols)]);
        let [mut m, mut v] = [m, v].map(owned);
        let parameter = update(parameter, |p| {
            let (m, v) = (m.storage_mut(), v.storage_mut());
            kernels::adamw::adamw(p, gradient.get(), m, v, *step);
        });
        (parameter, [m, v].map(wrap))
    }

    fn adamw_8bit(
        parameter: Matrix,
        gradient: Matrix,
        state: State8bit<Self>,
        step: &AdamWStep,
    ) -> (Matrix, State8bit<Self>) {
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
            kernels::adamw_8bit::adamw_8bit(p, gradient.get(), m, v, *step);
        });
        let [m, v] = moments.map(|(codes, absmax)| Codes {
            codes: Tensor::from_primitive(codes),
            absmax: wrap(absmax),
        });
        (parameter, State8bit { m, v })
    }
}

/// A contiguous tensor whose elements can be read; shares the storage if it already is one.
struct Reader(FlexTensor);

impl Reader {
    fn get(&self) -> &[f32] {
        self.0
            .as_slice()
            .expect("made contiguous and f32 when read")
    }
}

fn read<const D: usize>(t: &Tensor<Flex, D>) -> Reader {
    let t = t.clone().into_primitive().tensor();
    match t.is_contiguous() {
        true => Reader(t),
        false => Reader(t.to_contiguous()),
    }
}

/// The tensor's storage, holding exactly its elements, for writing in place.
fn owned(t: Matrix) -> FlexTensor {
    let t = t.into_primitive().tensor();
    match t.is_contiguous() && t.bytes().len() == t.layout().num_elements() * 4 {
        true => t,
        false => t.to_contiguous(),
    }
}

/// Change the elements in place (in a copy, if the storage is shared).
fn update(t: Matrix, f: impl FnOnce(&mut [f32])) -> Matrix {
    let mut t = owned(t);
    f(t.storage_mut());
    wrap(t)
}

fn wrap<const D: usize>(t: FlexTensor) -> Tensor<Flex, D> {
    Tensor::from_primitive(TensorPrimitive::Float(t))
}

fn tensor<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<Flex, D> {
    let layout = Layout::contiguous(shape.to_vec().into());
    wrap(FlexTensor::new(
        Bytes::from_elems(data),
        layout,
        burn::tensor::DType::F32,
    ))
}

fn matrix(data: Vec<f32>, rows: usize) -> Matrix {
    let cols = data.len() / rows.max(1);
    tensor(data, [rows, cols])
}

fn zeros(rows: usize, cols: usize) -> Matrix {
    matrix(vec![0.0; rows * cols], rows)
}

fn kernel_shape(shape: &AttentionShape, seq_q: usize, seq_kv: usize) -> kernels::attention::Shape {
    kernels::attention::Shape {
        batch: shape.batch,
        heads: shape.heads,
        seq_q,
        seq_kv,
        head_dim: shape.head_dim,
        causal: shape.causal,
        window: shape.window,
        scale: shape.scale(),
    }
}

/// q, k and v inside a fused projection's output, without copying.
fn parts<'a>(qkv: &'a [f32], shape: &AttentionShape) -> [Heads<'a>; 3] {
    let width = shape.heads * shape.head_dim;
    [0, 1, 2].map(|part| Heads {
        data: &qkv[part * width..],
        batch_stride: shape.seq * 3 * width,
        head_stride: shape.head_dim,
        row_stride: 3 * width,
    })
}

/// `[batch, heads, seq, head_dim]` as contiguous `[batch, seq, heads, head_dim]`.
fn position_major(t: &Tensor<Flex, 4>) -> Reader {
    read(&t.clone().swap_dims(1, 2))
}

fn rows_of<'a>(data: &'a [f32], shape: &AttentionShape, seq: usize) -> Heads<'a> {
    let width = shape.heads * shape.head_dim;
    Heads {
        data,
        batch_stride: seq * width,
        head_stride: shape.head_dim,
        row_stride: width,
    }
}

fn head_major(data: Vec<f32>, shape: &AttentionShape, seq: usize) -> Tensor<Flex, 4> {
    tensor(data, [shape.batch, seq, shape.heads, shape.head_dim]).swap_dims(1, 2)
}
