//! A model's parameters, made one after the other.

use aios_base::error::Result;
use aios_base::storage::Storage;
use aios_kernels::ggml::Format;
use aios_kernels::nf4;
use aios_nn::{Init, Param, ParamInfo};
use aios_tensor::{Ops, stored_in};
use burn::tensor::backend::Backend;

/// Gives each parameter's values: drawn anew or read from a file.
pub type ParamSource<'a> = &'a mut dyn FnMut(&ParamInfo, Init) -> Result<Values>;

/// A parameter's values as they come.
pub struct Values {
    /// Row-major in the parameter's published shape.
    pub numbers: Vec<f32>,
    /// What they are to be held in, if that is not what the layout says.
    pub storage: Option<Storage>,
    /// In place of the numbers, what is in few bits already.
    pub packed: Option<Packed>,
}

/// Numbers in few bits.
pub enum Packed {
    Nf4(nf4::Packed),
    /// Of ggml's, row after row.
    Blocks(Format, Vec<u8>),
}

impl From<Packed> for Values {
    fn from(packed: Packed) -> Self {
        let storage = match &packed {
            Packed::Nf4(_) => Storage::Nf4,
            Packed::Blocks(format, _) => stored_in(*format),
        };
        Self {
            numbers: Vec::new(),
            storage: Some(storage),
            packed: Some(packed),
        }
    }
}

impl From<Vec<f32>> for Values {
    fn from(numbers: Vec<f32>) -> Self {
        Self {
            numbers,
            storage: None,
            packed: None,
        }
    }
}

/// Values drawn anew, which depend on the seed and on each parameter alone.
pub fn drawn(seed: u64) -> impl FnMut(&ParamInfo, Init) -> Result<Values> {
    move |info, init| Ok(init.values(info.elements(), seed, &info.name).into())
}

/// Makes the parameters of a layout in its order.
pub(crate) struct Parameters<'a, B: Backend> {
    device: &'a B::Device,
    source: ParamSource<'a>,
    layout: std::iter::Enumerate<std::vec::IntoIter<(ParamInfo, Init)>>,
    /// Frozen weights in 16 bits are decoded where the device has no such format, rather than held in f32.
    pub decodes_halves: bool,
}

impl<'a, B: Ops> Parameters<'a, B> {
    pub fn new(
        layout: Vec<(ParamInfo, Init)>,
        device: &'a B::Device,
        source: ParamSource<'a>,
    ) -> Self {
        Self {
            device,
            source,
            layout: layout.into_iter().enumerate(),
            decodes_halves: false,
        }
    }

    pub fn next(&mut self) -> Result<Param<B>> {
        let (index, (info, init)) = self.layout.next().expect("the layout has every parameter");
        let Values {
            numbers,
            storage,
            packed,
        } = (self.source)(&info, init)?;
        let storage = storage.unwrap_or(info.storage);
        let info = ParamInfo { storage, ..info };
        Ok(match packed {
            None if self.decodes_halves => Param::of_halves(info, index, numbers, self.device),
            None => Param::of_values(info, index, numbers, self.device),
            Some(Packed::Nf4(nf4)) => Param::of_nf4(info, index, nf4, self.device),
            Some(Packed::Blocks(format, bytes)) => {
                Param::of_blocks(info, index, format, &bytes, self.device)
            }
        })
    }

    /// The next one, if the model has it.
    pub fn next_if(&mut self, there: bool) -> Result<Option<Param<B>>> {
        there.then(|| self.next()).transpose()
    }
}
