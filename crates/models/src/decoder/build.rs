//! A decoder's parts, made of its table of parameters one after the other.

use crate::actv1::ParamSource;
use crate::decoder::config::{DecoderConfig, Naming};
use crate::decoder::layout::layout;
use aios_base::error::Result;
use aios_nn::{DecoderBlock, DecoderShape, Init, Linear, Norm, Param, ParamInfo, Projection};
use aios_tensor::Ops;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};

/// Makes the parameters in the order of the layout.
pub struct Builder<'a, 's, B: Backend> {
    config: &'a DecoderConfig,
    device: &'a B::Device,
    source: ParamSource<'s>,
    layout: std::iter::Enumerate<std::vec::IntoIter<(ParamInfo, Init)>>,
}

impl<'a, 's, B: Ops> Builder<'a, 's, B> {
    pub fn new(config: &'a DecoderConfig, device: &'a B::Device, source: ParamSource<'s>) -> Self {
        Self {
            config,
            device,
            source,
            layout: layout(config).into_iter().enumerate(),
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

    fn next_if(&mut self, there: bool) -> Result<Option<Param<B>>> {
        there.then(|| self.next()).transpose()
    }

    pub fn norm(&mut self) -> Result<Norm<B>> {
        let config = self.config;
        Ok(Norm {
            shape: config.norm,
            weight: self.next_if(config.norm_weights)?,
            bias: self.next_if(config.norm_weights && config.norm.centered)?,
        })
    }

    fn norm_if(&mut self, there: bool) -> Result<Option<Norm<B>>> {
        there.then(|| self.norm()).transpose()
    }

    fn linear(&mut self, bias: bool) -> Result<Linear<B>> {
        Ok(Linear {
            weight: self.next()?,
            bias: self.next_if(bias)?,
            transposed: self.config.naming == Naming::Gpt2,
        })
    }

    fn projection(&mut self, parts: usize, bias: bool) -> Result<Projection<B>> {
        let parts = (0..parts).map(|_| self.linear(bias));
        Ok(Projection {
            parts: parts.collect::<Result<_>>()?,
        })
    }

    pub fn block(&mut self, number: usize, shape: DecoderShape) -> Result<DecoderBlock<B>> {
        let config = self.config;
        let (qkv, up) = match config.naming {
            Naming::Llama => (3, 2),
            Naming::Phi3 | Naming::Gpt2 | Naming::HrmText => (1, 1),
        };
        let qk_norm = shape.qk_norm.is_some();
        Ok(DecoderBlock {
            shape,
            number,
            before_attention: self.norm_if(config.pre_norms)?,
            qkv: self.projection(qkv, config.qkv_bias)?,
            q_norm: self.norm_if(qk_norm)?,
            k_norm: self.norm_if(qk_norm)?,
            o: self.linear(config.o_bias)?,
            after_attention: self.norm_if(shape.post_norms)?,
            before_mlp: self.norm_if(config.pre_norms)?,
            up: self.projection(up, config.mlp_bias)?,
            down: self.linear(config.mlp_bias)?,
            after_mlp: self.norm_if(shape.post_norms)?,
        })
    }
}
