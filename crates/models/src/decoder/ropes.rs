//! Which rotary tables a config.json describes: one for all layers, or Gemma 3's two.

use crate::decoder::fields::Fields;
use crate::decoder::rope::{Around, RopeConfig};
use crate::decoder::usual::Usual;
use aios_base::error::{Error, Result};
use serde_json::Map;

/// Where transformers 4 describes rotary embeddings, and 5.
pub const PLACES: [&str; 2] = ["rope_scaling", "rope_parameters"];
/// Kinds of layers that have tables of their own in Gemma 3.
pub const KINDS: [&str; 2] = ["full_attention", "sliding_attention"];

/// The table of all layers. Of two descriptions the one in the older place wins, as in transformers.
///
/// # Errors
/// A description that makes no sense.
pub fn one_rope(fields: &Fields, head_dim: usize, usual: &Usual) -> Result<RopeConfig> {
    let [older, newer] = PLACES.map(|place| fields.object(place));
    let (older, newer) = (older?.filter(|found| !found.0.is_empty()), newer?);
    let beside = "original_max_position_embeddings";
    let around = Around {
        original: fields.count(beside)?.or(usual.original),
        is_phi3: usual.original.is_some(),
        ..around(fields, head_dim, usual)?
    };
    RopeConfig::of(older.or(newer), &around)
}

fn around(fields: &Fields, head_dim: usize, usual: &Usual) -> Result<Around> {
    let positions = fields.count("max_position_embeddings")?;
    Ok(Around {
        theta: fields.positive("rope_theta")?.unwrap_or(10_000.0),
        share: fields.positive("partial_rotary_factor")?.unwrap_or(1.0),
        head_dim,
        positions: positions.unwrap_or(usual.positions),
        original: None,
        is_phi3: false,
    })
}

/// Of the layers that see all, and of those with a window. What one of them is not described by, transformers makes up for:
/// plain tables, of `rope_theta`, else 1e6, and of `rope_local_base_freq`, else 1e4. An older description is laid over that
/// of the layers that see all.
///
/// # Errors
/// A description that makes no sense, or is of no kind of layers.
pub fn ropes_of_gemma3(fields: &Fields, head_dim: usize, usual: &Usual) -> Result<Vec<RopeConfig>> {
    let [older, newer] = PLACES.map(|place| fields.object(place));
    let (older, newer) = (older?, newer?);
    let of_kind = |kind| newer.map_or(Ok(None), |newer| newer.object(kind));
    if let Some(name) = newer.and_then(|newer| newer.0.keys().find(|name| !is_kind(name))) {
        return Err(Error::failed(format!(
            "config.json: rope_parameters has an entry {name}: in a model of type gemma3_text they are two descriptions, {}",
            KINDS.join(" and ")
        )));
    }
    let [full, sliding] = KINDS.map(of_kind);
    let around = around(fields, head_dim, usual)?;
    let theta = |name, usual| Ok::<f64, Error>(fields.positive(name)?.unwrap_or(usual));
    let mut of_full = full?.map_or_else(Map::new, |full| full.0.clone());
    of_full.extend(older.map_or_else(Map::new, |older| older.0.clone()));
    let of_full = RopeConfig::of(
        Some(Fields(&of_full)),
        &Around {
            theta: theta("rope_theta", 1e6)?,
            ..around
        },
    )?;
    let of_sliding = RopeConfig::of(
        sliding?,
        &Around {
            theta: theta("rope_local_base_freq", 1e4)?,
            ..around
        },
    )?;
    Ok(vec![of_full, of_sliding])
}

fn is_kind(name: &str) -> bool {
    KINDS.contains(&name)
}
