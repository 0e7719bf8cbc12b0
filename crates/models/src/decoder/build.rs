//! A decoder's parts, made of its table of parameters one after the other.

use crate::decoder::config::{DecoderConfig, Naming};
use crate::parameters::{ParamSource, Parameters};
use aios_adapters::{LoraLayer, Module};
use aios_base::error::Result;
use aios_nn::{DecoderBlock, DecoderShape, Init, Linear, Norm, ParamInfo, Projection};
use aios_tensor::{Ops, Share};

/// Makes layers of the parameters that come next.
pub struct Builder<'a, B: Ops> {
    config: &'a DecoderConfig,
    pub parameters: Parameters<'a, B>,
}

impl<'a, B: Ops> Builder<'a, B> {
    /// By a table of all parameters.
    pub fn new(
        config: &'a DecoderConfig,
        layout: Vec<(ParamInfo, Init)>,
        device: &'a B::Device,
        source: ParamSource<'a>,
    ) -> Self {
        Self {
            config,
            parameters: Parameters::new(layout, device, source),
        }
    }

    pub fn norm(&mut self) -> Result<Norm<B>> {
        let config = self.config;
        Ok(Norm {
            shape: config.norm,
            weight: self.parameters.next_if(config.norm_weights)?,
            bias: self
                .parameters
                .next_if(config.norm_weights && config.norm.centered)?,
        })
    }

    fn norm_if(&mut self, there: bool) -> Result<Option<Norm<B>>> {
        there.then(|| self.norm()).transpose()
    }

    fn linear(&mut self, bias: bool) -> Result<Linear<B>> {
        let weight = self.parameters.next()?;
        Ok(Linear {
            bias: self.parameters.next_if(bias)?,
            transposed: self.config.naming == Naming::Gpt2,
            ..Linear::new(weight)
        })
    }

    /// Puts an adapter around the layer of a module.
    pub fn adapt<'b>(
        &mut self,
        module: &Module,
        mut linears: impl Iterator<Item = &'b Linear<B>>,
    ) -> Result<()> {
        let adapter = LoraLayer {
            a: self.parameters.next()?,
            b: self.parameters.next()?,
            magnitude: self.parameters.next_if(module.dora)?,
            scale: module.scale as f32,
            dropout: Share::of(module.dropout),
        };
        // Narrow, and read by up to seven products a micro-batch.
        adapter.a.keep_cast();
        adapter.b.keep_cast();
        if let Some(linear) = linears.find(|linear| linear.name() == module.name) {
            adapter.start(linear);
            let _ = linear.adapter.set(Box::new(adapter));
        }
        Ok(())
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
            Naming::HrmTextParts => (4, 2),
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
