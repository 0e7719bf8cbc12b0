//! Offload: what a layer saved waits in host memory.

use crate::saved_as::SavedAs;
use aios_base::execution::Place;
use aios_nn::{Kept, Saves, SharedLayer};
use aios_tensor::{Ops, Placed};
use burn::tensor::Tensor;
use std::rc::Rc;

/// What is kept on the device instead of this: nothing.
pub fn cost(_: Vec<Saves>) -> Vec<Saves> {
    Vec::new()
}

/// The layer with its saved matrices on the host.
pub fn offloaded<B: Ops>(layer: SharedLayer<B>) -> SharedLayer<B> {
    Rc::new(SavedAs {
        layer,
        keep: to_host,
        cost,
    })
}

fn to_host<B: Ops>(tensor: Tensor<B, 2>) -> Kept<B> {
    let placed = Placed::new(tensor, Place::Host);
    Kept::Aside(Box::new(move || placed.fetch()))
}
