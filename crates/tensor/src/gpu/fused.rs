//! Functions of the tensors of a device as operations in Burn's fusion stream.

use burn::tensor::{DType, Tensor, TensorPrimitive};
use burn_cubecl::element::BoolElement;
use burn_cubecl::fusion::FusionCubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{Fusion, FusionBackend, FusionRuntime, FusionTensor};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};
use std::fmt;
use std::marker::PhantomData;

/// A GPU's backend, fusion and all.
pub(super) type Gpu<R, BT> = Fusion<CubeBackend<R, f32, i32, BT>>;
pub(super) type Matrix<R, BT> = Tensor<Gpu<R, BT>, 2>;

/// A tensor of any element type as the fusion stream knows it.
pub(super) type Lazy<R> = FusionTensor<FusionCubeRuntime<R>>;

/// What a result will be.
pub(super) type Outline = (burn::tensor::Shape, DType);

/// Queue `function` behind everything that its inputs come from.
///
/// An input that nothing else holds reaches the function as the only owner of its buffer, so that
/// the function may write its result there. `name` is the operation's in Burn's traces.
pub(super) fn queue<R, BT, const INPUTS: usize, const OUTPUTS: usize>(
    name: &'static str,
    inputs: [Lazy<R>; INPUTS],
    outputs: [Outline; OUTPUTS],
    function: impl Fn([CubeTensor<R>; INPUTS]) -> [CubeTensor<R>; OUTPUTS] + Send + Sync + 'static,
) -> [Lazy<R>; OUTPUTS]
where
    R: CubeRuntime,
    BT: BoolElement,
{
    queue_with::<R, BT, INPUTS, OUTPUTS>(name, inputs, vec![], outputs, move |inputs, _| {
        function(inputs)
    })
}

/// The same with further inputs, which the function gets behind the others.
pub(super) fn queue_with<R, BT, const INPUTS: usize, const OUTPUTS: usize>(
    name: &'static str,
    inputs: [Lazy<R>; INPUTS],
    further: Vec<Lazy<R>>,
    outputs: [Outline; OUTPUTS],
    function: impl Fn([CubeTensor<R>; INPUTS], Vec<CubeTensor<R>>) -> [CubeTensor<R>; OUTPUTS]
    + Send
    + Sync
    + 'static,
) -> [Lazy<R>; OUTPUTS]
where
    R: CubeRuntime,
    BT: BoolElement,
{
    let client = inputs[0].client.clone();
    let inputs: Vec<Lazy<R>> = inputs.into_iter().chain(further).collect();
    let streams = OperationStreams::with_inputs(&inputs);
    let outputs =
        outputs.map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype));
    let inputs: Vec<TensorIr> = inputs.into_iter().map(FusionTensor::into_ir).collect();
    let description = CustomOpIr::new(name, &inputs, &outputs);
    let queued = Queued::<_, BT, INPUTS, OUTPUTS> {
        description: description.clone(),
        function,
        types: PhantomData,
    };
    client
        .register(streams, OperationIr::Custom(description), queued)
        .outputs()
}

/// The tensor of floats of a backend that has such a stream.
pub(super) fn float<B, R, const D: usize>(tensor: Lazy<R>) -> Tensor<Fusion<B>, D>
where
    B: FusionBackend<FusionRuntime = FusionCubeRuntime<R>>,
    R: CubeRuntime,
{
    Tensor::from_primitive(TensorPrimitive::Float(tensor))
}

struct Queued<F, BT, const INPUTS: usize, const OUTPUTS: usize> {
    description: CustomOpIr,
    function: F,
    types: PhantomData<fn() -> BT>,
}

impl<F, BT, const INPUTS: usize, const OUTPUTS: usize> fmt::Debug
    for Queued<F, BT, INPUTS, OUTPUTS>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description.id)
    }
}

impl<F, R, BT, const INPUTS: usize, const OUTPUTS: usize> Operation<FusionCubeRuntime<R>>
    for Queued<F, BT, INPUTS, OUTPUTS>
where
    R: CubeRuntime,
    BT: BoolElement,
    F: Fn([CubeTensor<R>; INPUTS], Vec<CubeTensor<R>>) -> [CubeTensor<R>; OUTPUTS] + Send + Sync,
{
    fn execute(
        &self,
        handles: &mut HandleContainer<<FusionCubeRuntime<R> as FusionRuntime>::FusionHandle>,
    ) {
        // A `CubeTensor` carries its element type: all of them may pass as floats here.
        let mut inputs = (self.description.inputs.iter())
            .map(|input| handles.get_float_tensor::<CubeBackend<R, f32, i32, BT>>(input));
        let first = std::array::from_fn(|_| inputs.next().expect("as many as were queued"));
        let further = inputs.collect();
        for (output, tensor) in
            (self.description.outputs.iter()).zip((self.function)(first, further))
        {
            handles.register_float_tensor::<CubeBackend<R, f32, i32, BT>>(&output.id, tensor);
        }
    }
}

#[cfg(test)]
#[cfg(feature = "wgpu")]
mod tests {
    use super::*;
    use crate::WgpuBackend;
    use crate::gpu::on_wgpu::tried_on;
    use cubecl::wgpu::WgpuRuntime;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Whether the function may write its input, with or without another holder of it.
    fn may_write(shared: bool) -> Option<bool> {
        let device = tried_on()?;
        let tensor = Tensor::<WgpuBackend, 1>::from_floats([1.0, 2.0], &device) * 2.0;
        let other = shared.then(|| tensor.clone());
        let seen = Arc::new(AtomicBool::new(false));
        let see = seen.clone();
        let tensor = tensor.into_primitive().tensor();
        let outline = (tensor.shape.clone(), tensor.dtype);
        let [result] = queue::<WgpuRuntime, u32, 1, 1>("test", [tensor], [outline], move |[t]| {
            see.store(t.can_mut(), Ordering::Relaxed);
            [t]
        });
        let result = Tensor::<WgpuBackend, 1>::from_primitive(TensorPrimitive::Float(result));
        assert_eq!(result.to_data().to_vec::<f32>().unwrap(), [2.0, 4.0]);
        drop(other);
        Some(seen.load(Ordering::Relaxed))
    }

    #[test]
    fn an_input_of_its_own_may_be_written_on_wgpu() {
        if let Some(may) = may_write(false) {
            assert!(may);
        }
    }

    #[test]
    fn a_shared_input_may_not_be_written_on_wgpu() {
        if let Some(may) = may_write(true) {
            assert!(!may);
        }
    }
}
