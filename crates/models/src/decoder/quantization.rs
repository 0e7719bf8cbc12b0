//! What a config.json says of weights that are in few bits already.

use crate::decoder::fields::Fields;
use aios_base::error::{Error, Result};
use serde_json::Value;

const KEY: &str = "quantization_config";

/// Whether the weights of its linear layers are in bitsandbytes' NF4.
///
/// # Errors
/// They are in another format: names it.
pub fn is_nf4(config: &Value) -> Result<bool> {
    let Some(fields) = Fields::of(config)?.object(KEY)? else {
        return Ok(false);
    };
    let other = |format: &str| {
        Err(Error::failed(format!(
            "config.json: {KEY}: weights in {format} are not supported: take the model in bitsandbytes' nf4, or in bf16, f16 or \
             f32"
        )))
    };
    let is_on = |name| fields.get(name).and_then(Value::as_bool).unwrap_or(false);
    match fields.text("quant_method")? {
        // Older files have no such entry.
        Some("bitsandbytes") => {}
        None if is_on("load_in_4bit") || is_on("load_in_8bit") => {}
        Some(method) => return other(&format!("the format of {method:?}")),
        None => return other("a format without a name (quant_method)"),
    }
    match (is_on("load_in_8bit"), is_on("load_in_4bit")) {
        (true, _) => other("int8 (load_in_8bit)"),
        (_, false) => other("a format that is neither 4 bits nor 8"),
        // What bitsandbytes takes where nothing is said.
        _ => match fields.text("bnb_4bit_quant_type")?.unwrap_or("fp4") {
            "nf4" => Ok(true),
            format => other(format),
        },
    }
}

/// The configuration of the same model with weights that are not in few bits.
pub fn without_quantization(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(fields) = config.as_object_mut() {
        fields.remove(KEY);
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn formats_are_told_by_their_names() {
        let of = |config: Value| is_nf4(&json!({ "quantization_config": config }));
        let nf4 = json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_quant_type": "nf4"});
        assert!(of(nf4.clone()).unwrap());
        assert!(!of(Value::Null).unwrap());
        let with = |key: &str, value: Value| {
            let mut config = nf4.clone();
            config[key] = value;
            of(config).unwrap_err().to_string()
        };
        assert!(with("bnb_4bit_quant_type", json!("fp4")).contains("in fp4"));
        assert!(with("bnb_4bit_quant_type", Value::Null).contains("in fp4"));
        assert!(with("load_in_8bit", json!(true)).contains("int8"));
        assert!(with("quant_method", json!("gptq")).contains("gptq"));
        assert!(with("load_in_4bit", json!(false)).contains("neither"));
        assert!(of(json!({"bits": 4})).is_err() && of(json!(4)).is_err());
    }
}
