//! Parameters and their gradients.

use aios_tensor::Ops;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// What a parameter is to the optimizer and in a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamInfo {
    /// Name in the published checkpoints.
    pub name: String,
    /// Shape in the published checkpoints; the tensor itself is always a matrix.
    pub shape: Vec<usize>,
    /// Whether weight decay applies: to every matrix that multiplies, a tied table among them since it
    /// is the head too; not to what is only looked up or added, which are embeddings, positions and
    /// biases.
    pub decay: bool,
    /// Whether the optimizer changes it; the initial carry is saved but fixed.
    pub trained: bool,
}

impl ParamInfo {
    /// A table whose rows are looked up.
    pub fn is_embedding(&self) -> bool {
        self.name.ends_with("embedding_weight")
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A named matrix of the model.
#[derive(Clone, Debug)]
pub struct Param<B: Backend> {
    pub info: ParamInfo,
    /// Place of its gradient and of its optimizer state.
    pub index: usize,
    pub value: Tensor<B, 2>,
}

/// Sums of gradients in f32, one slot a parameter, empty until something is added.
#[derive(Clone, Debug)]
pub struct Gradients<B: Backend> {
    slots: Vec<Option<Tensor<B, 2>>>,
    /// Gradients of rows looked up in the embedding's table, with the rows' ids, which wait: they are
    /// less than the table's own as long as they are fewer.
    lookups: Vec<(Vec<i32>, Tensor<B, 2>)>,
}

impl<B: Ops> Gradients<B> {
    /// Nothing yet, for `parameters` parameters.
    pub fn new(parameters: usize) -> Self {
        Self {
            slots: vec![None; parameters],
            lookups: Vec::new(),
        }
    }

    /// Let the gradient of looked-up rows wait: see [`super::ActV1::settle`].
    pub fn wait(&mut self, ids: &[i32], rows: Tensor<B, 2>) {
        self.lookups.push((ids.to_vec(), rows));
    }

    /// Take out what waits, in the order in which it came.
    pub fn take_waiting(&mut self) -> Vec<(Vec<i32>, Tensor<B, 2>)> {
        std::mem::take(&mut self.lookups)
    }

    /// Add the gradient of a linear layer's weight.
    pub fn add_linear(&mut self, weight: &Param<B>, dy: &Tensor<B, 2>, x: &Tensor<B, 2>) {
        self.change(weight, |sum| B::linear_backward_weight(sum, dy, x));
    }

    /// Replace a parameter's sum: `change` gets the old one, if there is one.
    pub fn change(
        &mut self,
        parameter: &Param<B>,
        change: impl FnOnce(Option<Tensor<B, 2>>) -> Tensor<B, 2>,
    ) {
        let slot = &mut self.slots[parameter.index];
        *slot = Some(change(slot.take()));
    }

    /// The sum of one parameter.
    pub fn get(&self, parameter: &Param<B>) -> Option<&Tensor<B, 2>> {
        self.slots[parameter.index].as_ref()
    }

    /// Take one parameter's sum out, which frees its memory once it has been used.
    pub fn take(&mut self, parameter: &Param<B>) -> Option<Tensor<B, 2>> {
        self.slots[parameter.index].take()
    }

    /// Euclidean norm over everything.
    pub fn norm(&self) -> f64 {
        let all: Vec<_> = self.slots.iter().flatten().collect();
        B::sum_of_squares(&all).sqrt()
    }
}
