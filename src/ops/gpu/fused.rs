//! Functions of the tensors of a device as operations in Burn's fusion stream.

use burn::tensor::DType;
use burn_cubecl::element::BoolElement;
use burn_cubecl::fusion::FusionCubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeRuntime};
use burn_fusion::stream::{Operation, OperationStreams};
use burn_fusion::{FusionRuntime, FusionTensor};
use burn_ir::{CustomOpIr, HandleContainer, OperationIr, OperationOutput, TensorIr};
use std::fmt;
use std::marker::PhantomData;

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
    let client = inputs[0].client.clone();
    let streams = OperationStreams::with_inputs(&inputs);
    let outputs =
        outputs.map(|(shape, dtype)| TensorIr::uninit(client.create_empty_handle(), shape, dtype));
    let inputs = inputs.map(FusionTensor::into_ir);
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
    F: Fn([CubeTensor<R>; INPUTS]) -> [CubeTensor<R>; OUTPUTS] + Send + Sync,
{
    fn execute(
        &self,
        handles: &mut HandleContainer<<FusionCubeRuntime<R> as FusionRuntime>::FusionHandle>,
    ) {
        let (inputs, outputs) = self.description.as_fixed::<INPUTS, OUTPUTS>();
        // A `CubeTensor` carries its element type: all of them may pass as floats here.
        let inputs = std::array::from_fn(|i| {
            handles.get_float_tensor::<CubeBackend<R, f32, i32, BT>>(&inputs[i])
        });
        for (output, tensor) in outputs.iter().zip((self.function)(inputs)) {
            handles.register_float_tensor::<CubeBackend<R, f32, i32, BT>>(&output.id, tensor);
        }
    }
}
