//! Values of a JSON object, and what is said of those that are not as they must be.

use crate::failure::Failure;
use aios_base::error::shortened;
use serde_json::{Map, Value};

/// Characters of a client's text that an error repeats.
const SHOWN: usize = 80;

pub struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    pub fn of(body: &'a Value) -> Result<Self, Failure> {
        match body.as_object() {
            Some(fields) => Ok(Self(fields)),
            None => {
                let shown = shown(body);
                Err(Failure::request(format!(
                    "the body is {shown}: it must be a JSON object"
                )))
            }
        }
    }

    /// What is in a field, unless that is null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let text = value.as_str();
        text.map(Some).ok_or_else(|| wrong(name, value, "a text"))
    }

    /// False where nothing is said.
    pub fn flag(&self, name: &str) -> Result<bool, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(false);
        };
        let flag = value.as_bool();
        flag.ok_or_else(|| wrong(name, value, "true or false"))
    }

    pub fn number(
        &self,
        name: &str,
        fine: impl Fn(f64) -> bool,
        wanted: &str,
    ) -> Result<Option<f64>, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .filter(|&number| number.is_finite() && fine(number));
        number.map(Some).ok_or_else(|| wrong(name, value, wanted))
    }

    /// A number without a fraction, which may be written as 5.0.
    pub fn whole(&self, name: &str, least: i128, most: i128) -> Result<Option<i128>, Failure> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = whole(value).filter(|number| (least..=most).contains(number));
        number.map(Some).ok_or_else(|| {
            wrong(
                name,
                value,
                &format!("a whole number from {least} to {most}"),
            )
        })
    }
}

fn whole(value: &Value) -> Option<i128> {
    let exact = value
        .as_i64()
        .map(i128::from)
        .or(value.as_u64().map(i128::from));
    // Beyond this, a float is no longer one whole number.
    let exact_below = 2f64.powi(53);
    let float = value
        .as_f64()
        .filter(|n| n.fract() == 0.0 && n.abs() < exact_below);
    exact.or(float.map(|n| n as i128))
}

/// Whether a field asks for nothing.
pub fn off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

pub fn wrong(name: &str, value: &Value, wanted: &str) -> Failure {
    let shown = shown(value);
    Failure::field(name, format!("is {shown}: it must be {wanted}"))
}

/// A value, or what kind of one it is, in few words.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "an object".to_string(),
        Value::String(text) => format!("\"{}\"", said(text)),
        other => other.to_string(),
    }
}

/// The beginning of a client's text, in one line.
pub fn said(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => shortened(text),
        Some((at, _)) => format!("{}…", shortened(&text[..at])),
    }
}
