//! What only Gemma 3 has, as keys of a file.

use aios_base::error::Result;

use crate::model::config::{GEMMA3_PATTERN, LAYERS_OF_27B};
use crate::model::out::{Model, Pairs, Sizes};
use crate::model::rope::{Around, Rope, Scaling};

impl Model<'_> {
    pub(super) fn gemma3(&self, pairs: &mut Pairs, sizes: &Sizes) -> Result<()> {
        let config = &self.config;
        if config.positive("attn_logit_softcapping")?.is_some() {
            return self.no_place("there is attn_logit_softcapping");
        }
        if config.flag("use_bidirectional_attention")? == Some(true) {
            return self.no_place("use_bidirectional_attention is true");
        }
        if let Some(cap) = config.positive("final_logit_softcapping")? {
            pairs.float("final_logit_softcapping", cap);
        }
        pairs.float("rope.freq_base_swa", self.local_theta()?);
        if let Some(every) = self.every(sizes)? {
            let Some(window) = self.window()? else {
                return Err(
                    config.wrong("there are layers of sliding_attention, and no sliding_window")
                );
            };
            pairs.count("attention.sliding_window", window);
            if every != GEMMA3_PATTERN {
                pairs.count("attention.sliding_window_pattern", every);
            }
        }
        let (scalar, usual) = self.query_scalar(sizes)?;
        if scalar != usual {
            pairs.float("attention.scale", scalar.powf(-0.5));
        }
        Ok(())
    }

    /// Of the layers of Gemma 3 with a window.
    pub(super) fn local_theta(&self) -> Result<f64> {
        let config = &self.config;
        let newer = config.object("rope_parameters")?;
        let sliding = newer.map_or(Ok(None), |newer| newer.object("sliding_attention"))?;
        let theta = config.positive("rope_local_base_freq")?;
        let around = Around {
            theta: theta.unwrap_or(1e4),
            rotated: 0,
            positions: 1,
            original: None,
            share: 1.0,
            is_phi3: false,
        };
        let rope = Rope::of(sliding, &around)?;
        match rope.scaling {
            Scaling::None => Ok(rope.theta),
            _ => self.no_place("rotary embeddings of layers of sliding_attention are stretched"),
        }
    }

    /// Which layers of Gemma 3 see all, counted from 1: the multiples of this. None if all do.
    pub(super) fn every(&self, sizes: &Sizes) -> Result<Option<u32>> {
        let config = &self.config;
        let Some(types) = config.texts("layer_types")? else {
            let every = config
                .count("sliding_window_pattern")?
                .unwrap_or(GEMMA3_PATTERN);
            return Ok(Some(every).filter(|every| *every > 1));
        };
        if types.len() != sizes.layers as usize {
            return Err(config.wrong(format!(
                "layer_types has {} entries for {} layers",
                types.len(),
                sizes.layers
            )));
        }
        let full: Vec<bool> = types.iter().map(|name| *name == "full_attention").collect();
        if full.iter().all(|full| *full) {
            return Ok(None);
        }
        let fits = |every: &u32| {
            let mut layers = (1..=sizes.layers).zip(&full);
            layers.all(|(layer, full)| layer.is_multiple_of(*every) == *full)
        };
        // More than there are layers: none sees all.
        let candidates = [GEMMA3_PATTERN]
            .into_iter()
            .chain(2..=types.len() as u32 + 1);
        match candidates.into_iter().find(fits) {
            Some(every) => Ok(Some(every)),
            None => {
                self.no_place("layer_types does not have full_attention at every Nth layer alone")
            }
        }
    }

    /// What Gemma 3's scores are scaled by the root of, and what llama.cpp takes for it.
    pub(super) fn query_scalar(&self, sizes: &Sizes) -> Result<(f64, f64)> {
        let scalar = self.config.positive("query_pre_attn_scalar")?;
        let usual = match sizes.layers == LAYERS_OF_27B {
            true => sizes.hidden / sizes.heads,
            false => sizes.head_dim,
        };
        Ok((scalar.unwrap_or(256.0), f64::from(usual)))
    }
}
