//! What a layer saved is kept in bf16, though it is computed in f32.
//!
//! Around a checkpointed layer this halves the inputs that wait for the backward pass. What is recomputed from them starts
//! from rounded numbers, so that gradients differ by about one part in 256.

use aios_nn::{
    Aside, Backward, Cached, Context, Format, Kept, Layer, Param, Saved, Saves, SharedLayer, Visit,
};
use aios_tensor::{Ops, in_format};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use std::ops::Range;

/// What is kept instead of this.
pub fn cost(saves: Vec<Saves>) -> Vec<Saves> {
    let halved = |saves| Saves {
        format: Format::Half,
        ..saves
    };
    saves.into_iter().map(halved).collect()
}

/// A layer whose saved matrices are kept in bf16.
pub struct Bf16Inputs<B: Ops>(pub SharedLayer<B>);

struct Rounded<B: Backend> {
    tensor: Tensor<B, 2>,
    format: DType,
}

impl<B: Ops> Aside<B> for Rounded<B> {
    fn fetch(self: Box<Self>) -> Tensor<B, 2> {
        in_format(self.tensor, self.format)
    }
}

fn rounded<B: Ops>(tensor: Tensor<B, 2>) -> Kept<B> {
    Kept::Aside(Box::new(Rounded {
        format: tensor.dtype(),
        tensor: in_format(tensor, DType::BF16),
    }))
}

impl<B: Ops> Visit<B> for Bf16Inputs<B> {
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>)) {
        self.0.visit(each);
    }
}

impl<B: Ops> Layer<B> for Bf16Inputs<B> {
    fn forward(&self, ctx: &Context<B>, x: Tensor<B, 2>, cached: Cached<B>) -> Tensor<B, 2> {
        self.0.forward(ctx, x, cached)
    }

    fn forward_saving(
        &self,
        ctx: &Context<B>,
        x: Tensor<B, 2>,
        cached: Cached<B>,
    ) -> (Tensor<B, 2>, Saved<B>) {
        let (y, saved) = self.0.forward_saving(ctx, x, cached);
        (y, saved.kept_as(&mut rounded))
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        saved: Saved<B>,
        dy: Tensor<B, 2>,
        pass: &mut Backward<B>,
        cached: Cached<B>,
    ) -> Tensor<B, 2> {
        self.0.backward(ctx, saved, dy, pass, cached)
    }

    fn saves(&self) -> Vec<Saves> {
        cost(self.0.saves())
    }

    fn blocks(&self) -> Range<usize> {
        self.0.blocks()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_tensor::CpuBackend;

    #[test]
    fn what_is_kept_comes_back_rounded_and_in_its_format() {
        let device = Default::default();
        let x = Tensor::<CpuBackend, 2>::from_data([[1.0, 1.0 + 1.0 / 512.0]], &device);
        let mut saved = Saved::new([x]).kept_as(&mut rounded);
        let [back] = saved.matrices();
        assert_eq!(back.dtype(), DType::F32);
        assert_eq!(back.into_data().to_vec::<f32>().unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn it_costs_two_bytes_a_number() {
        let x = Saves {
            name: "input",
            numbers: 8,
            format: Format::Activations,
            shared: false,
        };
        assert_eq!(aios_nn::saved_bytes(&cost(vec![x]), 4), 16);
    }
}
