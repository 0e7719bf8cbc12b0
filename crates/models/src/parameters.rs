//! A model's parameters, made one after the other.

use aios_base::error::Result;
use aios_nn::{Init, Param, ParamInfo};
use aios_tensor::Ops;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// Gives each parameter's values, row-major in its published shape: drawn anew or read from a file.
pub type ParamSource<'a> = &'a mut dyn FnMut(&ParamInfo, Init) -> Result<Vec<f32>>;

/// Values drawn anew, which depend on the seed and on each parameter alone.
pub fn drawn(seed: u64) -> impl FnMut(&ParamInfo, Init) -> Result<Vec<f32>> {
    move |info, init| Ok(init.values(info.elements(), seed, &info.name))
}

/// Makes the parameters of a layout in its order.
pub(crate) struct Parameters<'a, B: Backend> {
    device: &'a B::Device,
    source: ParamSource<'a>,
    layout: std::iter::Enumerate<std::vec::IntoIter<(ParamInfo, Init)>>,
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
        }
    }

    pub fn next(&mut self) -> Result<Param<B>> {
        let (index, (info, init)) = self.layout.next().expect("the layout has every parameter");
        let values = (self.source)(&info, init)?;
        let cols = *info.shape.last().expect("every parameter has a shape");
        let rows = values.len() / cols;
        let value = Tensor::from_data(TensorData::new(values, [rows, cols]), self.device);
        Ok(Param::new(info, index, value))
    }

    /// The next one, if the model has it.
    pub fn next_if(&mut self, there: bool) -> Result<Option<Param<B>>> {
        there.then(|| self.next()).transpose()
    }
}
