//! Parameters and their gradients.

use aios_base::config::WeightsDtype;
use aios_base::storage::Storage;
use aios_kernels::ggml::Format;
use aios_kernels::nf4::Packed;
use aios_tensor::{Ops, Stored, in_format};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};
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
    /// In which format its numbers are held.
    pub storage: Storage,
}

impl ParamInfo {
    /// Bytes of its numbers.
    pub fn bytes(&self) -> u64 {
        self.storage.bytes(self.elements())
    }

    /// In which format its numbers are held in a run that asks for this one of what is trained. Vectors, which are biases
    /// and the weights of norms, stay what they are: they are few, and norms compute in f32.
    pub fn held_in(&self, weights: WeightsDtype) -> Storage {
        match (weights, self.trained, self.shape.len()) {
            (WeightsDtype::Bf16, true, 2..) => Storage::Bf16,
            _ => self.storage,
        }
    }

    /// Bytes of these parameters in such a run.
    pub fn bytes_in<'a>(
        weights: WeightsDtype,
        parameters: impl IntoIterator<Item = &'a Self>,
    ) -> u64 {
        let bytes = |info: &Self| info.held_in(weights).bytes(info.elements());
        parameters.into_iter().map(bytes).sum()
    }

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

/// A named matrix of the model.
///
/// Its value can be changed through a shared reference, so that one visitor ([`Visit`]) serves reading and writing, and
/// layers can be shared by what decorates them.
#[derive(Debug)]
pub struct Param<B: Backend> {
    pub info: ParamInfo,
    /// Place of its gradient and of its optimizer state.
    pub index: usize,
    value: RefCell<Value<B>>,
    cast: RefCell<Cast<B>>,
}

/// The value in the format that it is multiplied in.
#[derive(Debug)]
enum Cast<B: Backend> {
    /// Made whenever it is asked for.
    Passing,
    /// Made once and kept until the value changes; few parameters have one.
    Kept(Option<Box<Tensor<B, 2>>>),
}

/// The numbers of a parameter.
#[derive(Debug)]
enum Value<B: Backend> {
    Dense(Tensor<B, 2>),
    /// Decoded whenever it is asked for.
    Stored(Stored<B>),
}

impl<B: Ops> Param<B> {
    pub fn new(info: ParamInfo, index: usize, value: Tensor<B, 2>) -> Self {
        Self {
            info,
            index,
            value: RefCell::new(Value::Dense(value)),
            cast: RefCell::new(Cast::Passing),
        }
    }

    /// Of values given row after row, which are held as the parameter says; in f32 if the device has no such format.
    ///
    /// # Panics
    /// With `aios_kernels::buffer::OutOfMemory`.
    pub fn of_values(info: ParamInfo, index: usize, values: Vec<f32>, device: &B::Device) -> Self {
        let cols = *info.shape.last().expect("every parameter has a shape");
        let dims = [values.len() / cols, cols];
        let of_stored = |values: &Vec<f32>| Stored::of(values, dims, info.storage, device);
        if let Some(stored) = for_long::<B, _, _>(device, info.bytes(), &values, of_stored) {
            return Self::of_stored(info, index, stored);
        }
        let format = match info.storage {
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::BF16,
            _ => DType::F32,
        };
        let data = TensorData::new(values, dims).convert_dtype(format);
        let bytes = info.bytes();
        let value = match B::supports_dtype(device, format) {
            true => for_long::<B, _, _>(device, bytes, data, |data| {
                Tensor::from_data(data, (device, format))
            }),
            false => {
                for_long::<B, _, _>(device, bytes, data, |data| Tensor::from_data(data, device))
            }
        };
        Self::new(info, index, value)
    }

    /// The same, where a frozen matrix in 16 bits is decoded for each product if the device has no such format.
    ///
    /// # Panics
    /// With `aios_kernels::buffer::OutOfMemory`.
    pub fn of_halves(info: ParamInfo, index: usize, values: Vec<f32>, device: &B::Device) -> Self {
        let format = match info.storage {
            Storage::F16 => DType::F16,
            Storage::Bf16 => DType::BF16,
            _ => return Self::of_values(info, index, values, device),
        };
        let held = info.trained || info.shape.len() < 2 || B::supports_dtype(device, format);
        if held || !B::DECODES_HALVES {
            return Self::of_values(info, index, values, device);
        }
        let cols = *info.shape.last().expect("every parameter has a shape");
        let (dims, storage) = ([values.len() / cols, cols], info.storage);
        let make = |values: &Vec<f32>| Stored::of_halves(values, dims, storage, device);
        let stored = for_long::<B, _, _>(device, info.bytes(), &values, make);
        Self::of_stored(info, index, stored.expect("16 bits"))
    }

    /// Of a matrix that is in NF4 already.
    pub fn of_nf4(info: ParamInfo, index: usize, nf4: Packed, device: &B::Device) -> Self {
        let cols = *info.shape.last().expect("every parameter has a shape");
        let dims = [info.elements() / cols.max(1), cols];
        let make = |nf4| Stored::of_nf4(nf4, dims, device);
        let stored = for_long::<B, _, _>(device, info.bytes(), nf4, make);
        Self::of_stored(info, index, stored)
    }

    /// Of a matrix that is in blocks of ggml's already, row after row.
    ///
    /// # Panics
    /// If the bytes are not those of whole blocks with as many values.
    pub fn of_blocks(
        info: ParamInfo,
        index: usize,
        format: Format,
        bytes: &[u8],
        device: &B::Device,
    ) -> Self {
        let cols = *info.shape.last().expect("every parameter has a shape");
        let dims = [info.elements() / cols.max(1), cols];
        let make = |bytes| Stored::of_blocks(format, bytes, dims, device);
        let stored = for_long::<B, _, _>(device, info.bytes(), bytes, make);
        Self::of_stored(info, index, stored)
    }

    /// Of a matrix that is held in few bits.
    pub fn of_stored(info: ParamInfo, index: usize, stored: Stored<B>) -> Self {
        Self {
            value: RefCell::new(Value::Stored(stored)),
            cast: RefCell::new(Cast::Passing),
            info,
            index,
        }
    }

    /// `x wᵀ`: `[T, cols]` to `[T, rows]`.
    pub fn product(&self, x: &Tensor<B, 2>) -> Tensor<B, 2> {
        match &*self.value.borrow() {
            Value::Dense(_) => B::linear_forward(x, &self.value_in(x.dtype())),
            Value::Stored(stored) => B::linear_forward_stored(x, stored),
        }
    }

    /// Rows of the matrix, in the format in which the value is given.
    pub fn rows(&self, ids: &Tensor<B, 1, Int>) -> Tensor<B, 2> {
        match &*self.value.borrow() {
            Value::Dense(value) => value.clone().select(0, ids.clone()),
            Value::Stored(stored) => stored.rows(ids),
        }
    }

    /// Whether it is decoded whenever it is asked for.
    pub fn is_stored(&self) -> bool {
        matches!(&*self.value.borrow(), Value::Stored(_))
    }

    /// Another handle on the value; a matrix of its own in f32 if it is held in few bits.
    pub fn value(&self) -> Tensor<B, 2> {
        match &*self.value.borrow() {
            Value::Dense(value) => value.clone(),
            Value::Stored(stored) => stored.dense(),
        }
    }

    /// From now on the value is converted once for many products, as autocast of PyTorch does: for what is multiplied again and
    /// again in a step. Until the value changes that costs the bytes of the other format.
    pub fn keep_cast(&self) {
        self.cast.replace(Cast::Kept(None));
    }

    /// The value for a product with what is in this format. What computes on the host converts as it reads.
    pub fn value_in(&self, format: DType) -> Tensor<B, 2> {
        let value = match &*self.value.borrow() {
            Value::Dense(value) => value.clone(),
            Value::Stored(stored) => return stored.dense_in(format),
        };
        match &mut *self.cast.borrow_mut() {
            Cast::Kept(kept) if !B::ON_HOST && value.dtype() != format => {
                let of_format = kept.take().filter(|cast| cast.dtype() == format);
                let cast = of_format.unwrap_or_else(|| Box::new(in_format(value, format)));
                Tensor::clone(kept.insert(cast))
            }
            _ => value,
        }
    }

    /// Rows and columns of the matrix.
    pub fn dims(&self) -> [usize; 2] {
        match &*self.value.borrow() {
            Value::Dense(value) => value.dims(),
            Value::Stored(stored) => stored.dims,
        }
    }

    /// The format in which the value is given.
    pub fn dtype(&self) -> DType {
        match &*self.value.borrow() {
            Value::Dense(value) => value.dtype(),
            Value::Stored(_) => DType::F32,
        }
    }

    pub fn device(&self) -> B::Device {
        match &*self.value.borrow() {
            Value::Dense(value) => value.device(),
            Value::Stored(stored) => stored.device(),
        }
    }

    /// Change the value. `change` gets the only handle on it, since a tensor held twice could not be changed in place.
    pub fn change<T>(&self, change: impl FnOnce(Tensor<B, 2>) -> (Tensor<B, 2>, T)) -> T {
        let (value, result) = change(self.take());
        self.put(value);
        result
    }

    /// The value, of which this is the only handle, until another one is [`Param::put`] in its place.
    pub fn take(&self) -> Tensor<B, 2> {
        self.forget_cast();
        let placeholder = Value::Dense(Tensor::empty([1, 1], &self.device()));
        match self.value.replace(placeholder) {
            Value::Dense(value) => value,
            Value::Stored(stored) => stored.dense(),
        }
    }

    fn forget_cast(&self) {
        if let Cast::Kept(kept) = &mut *self.cast.borrow_mut() {
            *kept = None;
        }
    }

    /// A value in place of the one that was taken.
    pub fn put(&self, value: Tensor<B, 2>) {
        self.forget_cast();
        self.value.replace(Value::Dense(value));
    }
}

/// Bytes from which on a matrix has pages of its own on a GPU; smaller ones share.
const OWN_PAGE_BYTES: u64 = 1 << 20;

/// What `make` puts on the device in so many bytes, which stays there. A GPU's pools hand out slices of pages of up to a quarter
/// of its memory: what stays gets just what it needs instead, and so does all that is as large, such as its gradient.
fn for_long<B: Ops, I: Send, O: Send>(
    device: &B::Device,
    bytes: u64,
    input: I,
    make: impl Fn(I) -> O + Send,
) -> O {
    match bytes >= OWN_PAGE_BYTES {
        true => B::memory_persistent_allocations(device, input, make),
        false => make(input),
    }
}

/// What has parameters.
pub trait Visit<B: Backend> {
    /// Show each parameter.
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

    /// Where one parameter's sum is.
    pub(crate) fn slot(&mut self, parameter: &Param<B>) -> &mut Option<Tensor<B, 2>> {
        &mut self.slots[parameter.index]
    }

    /// Take one parameter's sum out, which frees its memory once it has been used.
    pub fn take(&mut self, parameter: &Param<B>) -> Option<Tensor<B, 2>> {
        self.slots[parameter.index].take()
    }

    /// Vectors whose elements add up to the sum of squares over everything, still on the device.
    pub fn squares(&self) -> Vec<Tensor<B, 1>> {
        let all: Vec<_> = self.slots.iter().flatten().collect();
        B::squares(&all)
    }

    /// Euclidean norm over everything.
    pub fn norm(&self) -> f64 {
        let all: Vec<_> = self.slots.iter().flatten().collect();
        B::sum_of_squares(&all).sqrt()
    }
}
