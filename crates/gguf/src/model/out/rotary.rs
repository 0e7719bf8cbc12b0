//! How positions are turned, as keys of a file.

use aios_base::error::Result;

use crate::model::out::{Model, Pairs, Sizes};
use crate::model::rope::{Around, Rope, Scaling};

const ORIGINAL: &str = "original_max_position_embeddings";
/// What transformers takes for it in Phi-3.
const PHI3_ORIGINAL: u32 = 4096;

impl Model<'_> {
    pub(super) fn put_rope(&self, pairs: &mut Pairs, sizes: &Sizes) -> Result<()> {
        let rope = self.rope()?;
        let rotated = self.rotated(&rope, sizes)?;
        let architecture = self.family.architecture;
        let is_phi3 = architecture == "phi3";
        for (key, value) in rope.scaling.keys() {
            // llama.cpp's converter does not write it there either.
            if !(is_phi3 && key == "rope.scaling.type") {
                pairs.put(key, value);
            }
        }
        if is_phi3 && rope.scaling.original().is_none() {
            let original = self.config.count(ORIGINAL)?.unwrap_or(PHI3_ORIGINAL);
            if !matches!(rope.scaling, Scaling::Yarn(_) | Scaling::Llama3(_)) {
                pairs.count("rope.scaling.original_context_length", original);
            }
        }
        pairs.float("rope.freq_base", rope.theta);
        if self.family.permuted || is_phi3 {
            pairs.count("rope.dimension_count", rotated);
        }
        Ok(())
    }

    /// Of a head, how many numbers are turned; and that llama.cpp can do that.
    pub(super) fn rotated(&self, rope: &Rope, sizes: &Sizes) -> Result<u32> {
        let rotated = (rope.share * f64::from(sizes.head_dim)) as u32;
        if rotated < 2 || rotated > sizes.head_dim || !rotated.is_multiple_of(2) {
            return Err(self.config.wrong(format!(
                "partial_rotary_factor is {}: it must turn from 2 to {} numbers of a head, in pairs",
                rope.share, sizes.head_dim
            )));
        }
        // llama.cpp ends where it meets another number of them.
        if rotated != sizes.head_dim && self.family.architecture != "phi3" {
            return self.no_place(&format!("partial_rotary_factor is {}", rope.share));
        }
        let architecture = self.family.architecture;
        let has_place = match rope.scaling {
            Scaling::Llama3(_) => ["llama", "granite"].contains(&architecture),
            Scaling::LongRope(_) => ["llama", "phi3"].contains(&architecture),
            _ => true,
        };
        match has_place {
            true => Ok(rotated),
            false => self.no_place("rotary embeddings are of type llama3 or longrope"),
        }
    }

    /// The table of all layers, or of those of Gemma 3 that see all.
    pub(super) fn rope(&self) -> Result<Rope> {
        let config = &self.config;
        let is_phi3 = self.family.architecture == "phi3";
        let beside = config.count(ORIGINAL)?;
        let positions = config.count("max_position_embeddings")?;
        let around = Around {
            theta: config.positive("rope_theta")?.unwrap_or(self.usual.theta),
            rotated: 0,
            positions: positions.unwrap_or(self.usual.positions),
            original: beside.or(is_phi3.then_some(PHI3_ORIGINAL)),
            share: config.positive("partial_rotary_factor")?.unwrap_or(1.0),
            is_phi3,
        };
        let (older, newer) = (
            config.filled("rope_scaling")?,
            config.object("rope_parameters")?,
        );
        if self.family.architecture != "gemma3" {
            return Rope::of(older.or(newer), &around);
        }
        let full = newer.map_or(Ok(None), |newer| newer.object("full_attention"))?;
        let own = full.map_or(Ok(None), |full| full.positive("rope_theta"))?;
        let around = Around {
            theta: own.unwrap_or(around.theta),
            original: None,
            ..around
        };
        Rope::of(older.or(full), &around)
    }
}
