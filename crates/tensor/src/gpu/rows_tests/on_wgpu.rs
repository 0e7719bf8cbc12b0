//! On a device that takes WGSL.

use super::*;
use crate::WgpuBackend;
use crate::gpu::on_wgpu::tried_on;
use burn::tensor::backend::Backend;

#[test]
fn kernels_over_rows_compute_as_the_cpu_does_on_wgpu() {
    let Some(device) = tried_on() else {
        return;
    };
    for format in [DType::F32, DType::F16] {
        if !WgpuBackend::supports_dtype(&device, format) {
            continue;
        }
        let got = results::<WgpuBackend>(&device, format);
        let want = results::<CpuBackend>(&Default::default(), format);
        for ((case, got), (_, want)) in got.iter().zip(&want) {
            assert_same(case, format, got, want);
        }
        assert_eq!(bits(&got), bits(&results::<WgpuBackend>(&device, format)));
    }
}

fn bits(results: &Results) -> Vec<u32> {
    let numbers = results.iter().flat_map(|(_, numbers)| numbers);
    numbers.map(|x| x.to_bits()).collect()
}
