//! Tensors read to the host.

use crate::Ops;
use crate::cross_entropy::floats as whole;
use burn::tensor::Tensor;

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
