//! How far back the layers of a decoder see.

use crate::decoder::fields::Fields;
use crate::decoder::usual::Usual;
use aios_base::config::LARGEST_COUNT;
use aios_base::error::{Error, Result};

/// Windows of each layer, 0 for none, as transformers' classes have them.
pub fn windows(
    model_type: &str,
    fields: &Fields,
    layers: usize,
    usual: &Usual,
) -> Result<Vec<usize>> {
    let is_qwen = ["qwen2", "qwen3"].contains(&model_type);
    let window = fields.count_or("sliding_window", usual.window)?;
    let window = match model_type {
        "mistral" | "phi3" | "gemma3_text" => window,
        _ if is_qwen && fields.flag("use_sliding_window")? == Some(true) => window,
        _ => None,
    };
    let by_number = by_number(model_type, fields, layers, window.is_some())?;
    let of_class =
        || -> Result<Vec<usize>> { by_number.iter().map(|slides| of(window, *slides)).collect() };
    let Some(types) = fields.texts("layer_types")? else {
        return of_class();
    };
    let slide = by_type(&types, layers)?;
    let given = slide.iter().map(|slides| of(window, *slides));
    let given = given.collect::<Result<Vec<usize>>>()?;
    // The other families' classes do not read it.
    match is_qwen || model_type == "gemma3_text" || of_class()? == given {
        true => Ok(given),
        false => Err(Error::failed(format!(
            "config.json: layer_types and sliding_window contradict each other: in a model of type {model_type} all layers \
             have the window of sliding_window, or none"
        ))),
    }
}

fn of(window: Option<usize>, slides: bool) -> Result<usize> {
    match (slides, window) {
        (false, _) => Ok(0),
        (true, Some(window)) => Ok(window),
        (true, None) => Err(Error::failed(
            "config.json: there are layers of sliding_attention, and no sliding_window that a model of this type would use \
             (Qwen's also needs use_sliding_window)",
        )),
    }
}

/// Whether each layer has the window, where `layer_types` does not say so; `any` if there is one.
fn by_number(model_type: &str, fields: &Fields, layers: usize, any: bool) -> Result<Vec<bool>> {
    let first = match model_type {
        "gemma3_text" => {
            let every = fields.count("sliding_window_pattern")?.unwrap_or(6);
            return Ok((0..layers).map(|layer| (layer + 1) % every != 0).collect());
        }
        "qwen2" | "qwen3" => fields
            .whole("max_window_layers", 0..=LARGEST_COUNT)?
            .unwrap_or(28),
        _ => 0,
    };
    Ok((0..layers).map(|layer| any && layer >= first).collect())
}

/// The same by the types of the layers.
fn by_type(types: &[&str], layers: usize) -> Result<Vec<bool>> {
    if types.len() != layers {
        return Err(Error::failed(format!(
            "config.json: layer_types has {} entries for {layers} layers",
            types.len()
        )));
    }
    let each = types.iter().map(|name| match *name {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        other => Err(Error::failed(format!(
            "config.json: layers of type {other:?} are not supported; full_attention and sliding_attention are"
        ))),
    });
    each.collect()
}
