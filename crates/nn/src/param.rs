//! Parameters and their gradients.

use aios_tensor::{Ops, Precision};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor};
use std::cell::RefCell;

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
    /// Whether the optimizer changes it. What is not trained costs no gradient and no state.
    pub trained: bool,
}

impl ParamInfo {
    /// A table whose rows are looked up.
    pub fn is_embedding(&self) -> bool {
        let tables = [
            "embedding_weight",
            "embed_tokens.weight",
            "wte.weight",
            "wpe.weight",
        ];
        tables.iter().any(|table| self.name.ends_with(table))
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// In which format parameters are held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightFormat {
    #[default]
    F32,
    /// Matrices in bf16. Vectors, which are biases and the weights of norms, stay in f32: they are few, and norms compute
    /// in it.
    Bf16,
}

impl WeightFormat {
    /// That of one parameter.
    pub fn of(self, info: &ParamInfo) -> Precision {
        match (self, info.shape.len()) {
            (Self::Bf16, 2..) => Precision::Bf16,
            _ => Precision::F32,
        }
    }

    /// Bytes of these parameters.
    pub fn bytes<'a>(self, parameters: impl IntoIterator<Item = &'a ParamInfo>) -> u64 {
        let bytes = |info: &ParamInfo| (self.of(info).bytes() * info.elements()) as u64;
        parameters.into_iter().map(bytes).sum()
    }
}

/// A named matrix of the model.
///
/// Its value can be changed through a shared reference, so that one visitor ([`Visit`]) serves reading and writing, and
/// layers can be shared by what decorates them.
#[derive(Debug)]
pub struct Param<B: Backend> {
    pub info: ParamInfo,
    /// Place of its gradient and of its optimizer state.
    pub index: usize,
    value: RefCell<Tensor<B, 2>>,
}

impl<B: Backend> Param<B> {
    pub fn new(info: ParamInfo, index: usize, value: Tensor<B, 2>) -> Self {
        Self {
            info,
            index,
            value: RefCell::new(value),
        }
    }

    /// Another handle on the value.
    pub fn value(&self) -> Tensor<B, 2> {
        self.value.borrow().clone()
    }

    /// Rows and columns of the matrix.
    pub fn dims(&self) -> [usize; 2] {
        self.value.borrow().dims()
    }

    /// The format in which the value is held.
    pub fn dtype(&self) -> DType {
        self.value.borrow().dtype()
    }

    pub fn device(&self) -> B::Device {
        self.value.borrow().device()
    }

    /// Change the value. `change` gets the only handle on it, since a tensor held twice could not be changed in place.
    pub fn change<T>(&self, change: impl FnOnce(Tensor<B, 2>) -> (Tensor<B, 2>, T)) -> T {
        let placeholder = Tensor::empty([1, 1], &self.device());
        let (value, result) = change(self.value.replace(placeholder));
        self.value.replace(value);
        result
    }
}

/// What has parameters.
pub trait Visit<B: Backend> {
    /// Show each parameter, in the order of their index.
    fn visit<'a>(&'a self, each: &mut dyn FnMut(&'a Param<B>));

    /// All of them.
    fn params(&self) -> Vec<&Param<B>> {
        let mut all = Vec::new();
        self.visit(&mut |param| all.push(param));
        all
    }
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

    /// Let the gradient of looked-up rows wait until somebody takes it out to settle it.
    pub fn wait(&mut self, ids: &[i32], rows: Tensor<B, 2>) {
        self.lookups.push((ids.to_vec(), rows));
    }

    /// Take out what waits, in the order in which it came.
    pub fn take_waiting(&mut self) -> Vec<(Vec<i32>, Tensor<B, 2>)> {
        std::mem::take(&mut self.lookups)
    }

    /// Replace a parameter's sum, if it is trained: `change` gets the old one, if there is one.
    pub fn change(
        &mut self,
        parameter: &Param<B>,
        change: impl FnOnce(Option<Tensor<B, 2>>) -> Tensor<B, 2>,
    ) {
        if parameter.info.trained {
            let slot = &mut self.slots[parameter.index];
            *slot = Some(change(slot.take()));
        }
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
