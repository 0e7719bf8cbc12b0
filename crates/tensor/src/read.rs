//! Tensors read to the host.

use crate::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// The tensor's elements on the host, in f32, read as many rows at a time as the backend takes ([`Ops::read_bytes`]).
///
/// # Panics
/// If the device fails, which [`crate::confirmed`] turns into an error.
pub fn floats<B: Ops, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let shape = tensor.shape();
    let (elements, rows) = (shape.num_elements(), tensor.dims()[0]);
    let rows_at_once = B::read_bytes().map_or(rows, |most| {
        let row = tensor.dtype().size() * elements / rows.max(1);
        (most / row.max(1)).max(1)
    });
    if rows_at_once >= rows {
        return whole(tensor);
    }
    let mut all = Vec::with_capacity(elements);
    for first in (0..rows).step_by(rows_at_once) {
        let some = rows_at_once.min(rows - first);
        all.extend(whole(tensor.clone().narrow(0, first, some)));
    }
    all
}

/// The elements of some vectors on the host, in f32: one wait for the device rather than one each.
pub fn floats_of_all<B: Backend>(vectors: Vec<Tensor<B, 1>>) -> Vec<Vec<f32>> {
    let lengths: Vec<usize> = vectors.iter().map(|vector| vector.dims()[0]).collect();
    let mut rest = match vectors.is_empty() {
        true => Vec::new(),
        false => whole(Tensor::cat(vectors, 0)),
    }
    .into_iter();
    let mut next = |length| rest.by_ref().take(length).collect();
    lengths.into_iter().map(&mut next).collect()
}

/// All elements in one read, whatever the backend takes at a time: for what is small.
pub(crate) fn whole<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor
        .into_data()
        .convert::<f32>()
        .into_vec()
        .expect("converted to f32 just above")
}
