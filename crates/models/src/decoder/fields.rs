//! Values of a config.json by their names, with errors that say which one is wrong.

use aios_base::config::LARGEST_COUNT;
use aios_base::error::{Error, Result};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// The entries of config.json, or of an object in it.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// # Errors
    /// It is no JSON object.
    pub fn of(config: &'a Value) -> Result<Self> {
        let object = config.as_object();
        object.map(Self).ok_or_else(|| {
            Error::failed("config.json is not a JSON object: it is no model's configuration")
        })
    }

    /// What is there and not null.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// An object in it.
    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>> {
        self.typed(name, "an object", |value| value.as_object().map(Fields))
    }

    /// A number of things: from 1 to the most that any of them can be.
    pub fn count(&self, name: &str) -> Result<Option<usize>> {
        self.whole(name, 1..=LARGEST_COUNT)
    }

    /// The same, or where the file says nothing, not even null, what transformers takes then.
    pub fn count_or(&self, name: &str, usual: Option<usize>) -> Result<Option<usize>> {
        match self.0.contains_key(name) {
            true => self.count(name),
            false => Ok(usual),
        }
    }

    /// A count without a default.
    pub fn needed(&self, name: &str) -> Result<usize> {
        self.count(name)?.ok_or_else(|| missing(name))
    }

    /// A whole number in this range.
    pub fn whole(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        self.typed(name, &whole_numbers(&range), |value| within(value, &range))
    }

    /// A list of whole numbers in this range.
    pub fn wholes(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<Vec<usize>>> {
        let what = format!("a list of which each is {}", whole_numbers(&range));
        self.typed(name, &what, |value| {
            let each = value.as_array()?.iter();
            each.map(|value| within(value, &range)).collect()
        })
    }

    /// A finite number.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a finite number", |value| {
            value.as_f64().filter(|number| number.is_finite())
        })
    }

    /// A number above zero.
    pub fn positive(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number above 0", |value| {
            value.as_f64().filter(|n| n.is_finite() && *n > 0.0)
        })
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    /// A list of finite numbers.
    pub fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.typed(name, "a list of finite numbers", |value| {
            let each = value.as_array()?.iter();
            each.map(|n| n.as_f64().filter(|n| n.is_finite())).collect()
        })
    }

    /// A list of strings.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(name, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    fn typed<T>(
        &self,
        name: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| {
            let mut shown = value.to_string();
            if shown.chars().count() > 40 {
                shown = shown.chars().take(40).chain("…".chars()).collect();
            }
            Error::failed(format!("config.json: {name} is {shown}: it must be {what}"))
        })
    }
}

fn whole_numbers(range: &RangeInclusive<usize>) -> String {
    format!("a whole number from {} to {}", range.start(), range.end())
}

fn within(value: &Value, range: &RangeInclusive<usize>) -> Option<usize> {
    let number = usize::try_from(value.as_u64()?).ok()?;
    range.contains(&number).then_some(number)
}

/// A value that has no default is not there.
pub fn missing(name: &str) -> Error {
    Error::failed(format!(
        "config.json has no {name}, which a model of this type needs"
    ))
}
