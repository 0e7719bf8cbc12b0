//! What the optimizer keeps of a parameter, in one format or another.

use crate::eight_bit::EightBit;
use crate::moments::Moments;
use aios_nn::Param;
use aios_tensor::adamw_8bit::{self, Moment, dequantized};
use aios_tensor::{AdamWStep, Ops, floats};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use std::ops::Range;

/// AdamW's state of one parameter.
pub trait Record<B: Ops> {
    /// Update a value by its gradient.
    fn step(
        self: Box<Self>,
        value: Tensor<B, 2>,
        gradient: Tensor<B, 2>,
        step: &AdamWStep,
    ) -> (Tensor<B, 2>, Box<dyn Record<B>>);

    /// Mean and mean square, if these are in f32 and all that an update takes: such are updated together. Otherwise the record.
    ///
    /// # Errors
    /// Is the record again.
    fn into_moments(self: Box<Self>) -> Result<[Tensor<B, 2>; 2], Box<dyn Record<B>>>;

    /// Bytes on the device.
    fn bytes(&self) -> u64;

    /// The same as tensors to be saved, of a parameter of this shape.
    fn tensors<'a>(&'a self, shape: &[usize]) -> Vec<RecordTensor<'a>>;
}

/// A tensor of a record, fetched from its device when its turn to be written comes.
pub struct RecordTensor<'a> {
    /// What follows the parameter's name.
    pub suffix: String,
    pub shape: Vec<usize>,
    pub contents: Contents<'a>,
}

/// What gives a tensor's elements, row-major.
pub enum Contents<'a> {
    F32(Box<dyn Fn() -> Vec<f32> + 'a>),
    U8(Box<dyn Fn() -> Vec<u8> + 'a>),
}

/// A moment as it was saved.
pub enum SavedMoment {
    F32(Vec<f32>),
    Codes { codes: Vec<u8>, absmax: Vec<f32> },
}

impl SavedMoment {
    /// Those of these elements, which begin with a block.
    pub fn part(self, elements: &Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(values[elements.clone()].to_vec()),
            Self::Codes { codes, absmax } => {
                let start = adamw_8bit::blocks(elements.start);
                let blocks = start..start + adamw_8bit::blocks(elements.len());
                Self::Codes {
                    codes: codes[elements.clone()].to_vec(),
                    absmax: absmax[blocks].to_vec(),
                }
            }
        }
    }

    /// The values, or those that the codes stand for.
    pub(crate) fn into_floats(self, moment: Moment) -> Vec<f32> {
        match self {
            Self::F32(values) => values,
            Self::Codes { codes, absmax } => dequantized(&codes, &absmax, moment),
        }
    }
}

/// The moments in the order in which they are saved.
pub const MOMENTS: [Moment; 2] = [Moment::Mean, Moment::Square];

/// What a moment's name ends in.
pub fn suffix(moment: Moment) -> &'static str {
    match moment {
        Moment::Mean => "m",
        Moment::Square => "v",
    }
}

impl Moments {
    /// An empty record of a parameter, or of a part of these dimensions of one.
    pub fn zeros<B: Ops>(self, parameter: &Param<B>, dims: [usize; 2]) -> Box<dyn Record<B>> {
        let elements = dims[0] * dims[1];
        let bytes = match self.is_8bit_for(parameter) {
            true => adamw_8bit::state_bytes(elements),
            false => 8 * elements as u64,
        };
        B::require(usize::try_from(bytes).unwrap_or(usize::MAX));
        match self.is_8bit_for(parameter) {
            true => Box::new(EightBit::zeros(elements, &parameter.device())),
            false => {
                let zeros = || Tensor::zeros(dims, &parameter.device());
                Box::new(F32([zeros(), zeros()]))
            }
        }
    }

    /// A record of a parameter, or of a part of these dimensions of one, with these moments, converted where they were saved in the other format.
    pub fn restored<B: Ops>(
        self,
        parameter: &Param<B>,
        dims: [usize; 2],
        [m, v]: [SavedMoment; 2],
    ) -> Box<dyn Record<B>> {
        if self.is_8bit_for(parameter) {
            return Box::new(EightBit::restored(parameter, [m, v]));
        }
        let saved = [(m, Moment::Mean), (v, Moment::Square)];
        Box::new(F32(saved.map(|(saved, moment)| {
            let data = TensorData::new(saved.into_floats(moment), dims);
            Tensor::from_data(data, &parameter.device())
        })))
    }

    fn is_8bit_for<B: Backend>(self, parameter: &Param<B>) -> bool {
        self.is_8bit(parameter.info.elements(), parameter.info.is_embedding())
    }
}

/// A record of these moments, in f32 and in the parameter's shape.
pub fn of_moments<B: Ops>(moments: [Tensor<B, 2>; 2]) -> Box<dyn Record<B>> {
    Box::new(F32(moments))
}

/// Mean and mean squared gradient, in the parameter's shape.
struct F32<B: Backend>([Tensor<B, 2>; 2]);

impl<B: Ops> Record<B> for F32<B> {
    fn step(
        self: Box<Self>,
        value: Tensor<B, 2>,
        gradient: Tensor<B, 2>,
        step: &AdamWStep,
    ) -> (Tensor<B, 2>, Box<dyn Record<B>>) {
        let (value, moments) = B::adamw(value, gradient, Some(self.0), step);
        (value, Box::new(Self(moments)))
    }

    fn into_moments(self: Box<Self>) -> Result<[Tensor<B, 2>; 2], Box<dyn Record<B>>> {
        Ok(self.0)
    }

    fn bytes(&self) -> u64 {
        let elements = |tensor: &Tensor<B, 2>| tensor.dims().iter().product::<usize>();
        4 * self.0.iter().map(elements).sum::<usize>() as u64
    }

    fn tensors<'a>(&'a self, shape: &[usize]) -> Vec<RecordTensor<'a>> {
        let each = MOMENTS.into_iter().zip(&self.0);
        each.map(|(moment, tensor)| RecordTensor {
            suffix: suffix(moment).to_string(),
            shape: shape.to_vec(),
            contents: Contents::F32(Box::new(|| floats(tensor.clone()))),
        })
        .collect()
    }
}
