//! What a layer saved is kept in bf16, though it is computed in f32.
//!
//! Around a checkpointed layer this halves the inputs that wait for the backward pass. What is recomputed from them starts
//! from rounded numbers, so that gradients differ by about one part in 256.

use crate::saved_as::SavedAs;
use aios_nn::{Format, Kept, Saves, SharedLayer};
use aios_tensor::{Ops, in_format};
use burn::tensor::{DType, Tensor};
use std::rc::Rc;

/// What is kept instead of this.
pub fn cost(saves: Vec<Saves>) -> Vec<Saves> {
    let halved = |saves| Saves {
        format: Format::Half,
        ..saves
    };
    saves.into_iter().map(halved).collect()
}

/// The layer with its saved matrices in bf16.
pub fn rounded_inputs<B: Ops>(layer: SharedLayer<B>) -> SharedLayer<B> {
    Rc::new(SavedAs {
        layer,
        keep: rounded,
        cost,
    })
}

fn rounded<B: Ops>(tensor: Tensor<B, 2>) -> Kept<B> {
    let format = tensor.dtype();
    let rounded = in_format(tensor, DType::BF16);
    Kept::Aside(Box::new(move || in_format(rounded, format)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aios_nn::Saved;
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
