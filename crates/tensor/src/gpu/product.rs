//! Products of matrices in half precision whose sums stay as precise as they are made.

use crate::gpu::fused::{Matrix, float, queue};
use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::matmul::{MatmulStrategy, matmul};
use burn_cubecl::tensor::CubeTensor;

/// `a b` in f32, of factors in one format. Burn's own product has the format of its factors: a gradient in f16 that is larger
/// than 65,504, as a scaled one may be, would be infinite before anything is added to it.
pub(super) fn in_f32<R, BT>(a: Matrix<R, BT>, b: Matrix<R, BT>) -> Matrix<R, BT>
where
    R: CubeRuntime,
    BT: BoolElement,
{
    let outline = ([a.dims()[0], b.dims()[1]].into(), DType::F32);
    let inputs = [a, b].map(|t| t.into_primitive().tensor());
    let run = |[a, b]: [CubeTensor<R>; 2]| {
        let product = matmul(a, b, None, MatmulStrategy::default(), DType::F32);
        // As Burn's own: among the kernels is one that takes whatever there is.
        [product.expect("two matrices that fit")]
    };
    let [product] = queue::<R, BT, 2, 1>("matmul_in_f32", inputs, [outline], run);
    float(product)
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod tests {
    use crate::gpu::on_wgpu::tried_on;
    use crate::{Ops, WgpuBackend, floats};
    use burn::tensor::backend::Backend;
    use burn::tensor::{DType, FloatDType, Tensor};

    /// Sums that a number in f16 cannot be.
    #[test]
    fn a_gradient_of_half_precision_is_as_large_as_its_sum_on_wgpu() {
        let Some(device) = tried_on() else {
            return;
        };
        if !WgpuBackend::supports_dtype(&device, DType::F16) {
            return;
        }
        for (tokens, outputs, inputs) in [(33, 2, 64), (70, 72, 40)] {
            let half = |rows, cols, value| {
                let all = Tensor::<WgpuBackend, 2>::full([rows, cols], value, &device);
                all.cast(FloatDType::F16)
            };
            let (dy, x) = (half(tokens, outputs, 200.0), half(tokens, inputs, 100.0));
            let sum = Tensor::full([outputs, inputs], 0.25, &device);
            let want = tokens as f32 * 20_000.0;
            let alone = WgpuBackend::linear_backward_weight(None, &dy, &x);
            assert_eq!(alone.dtype(), DType::F32);
            assert!(floats(alone).iter().all(|&got| got == want));
            let added = WgpuBackend::linear_backward_weight(Some(sum), &dy, &x);
            assert!(floats(added).iter().all(|&got| got == want + 0.25));
        }
    }
}
