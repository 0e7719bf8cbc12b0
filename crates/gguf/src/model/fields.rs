//! Values of a config.json by their names.

use aios_base::error::{Error, Result};
use serde_json::{Map, Value};

/// The entries of a config.json, or of an object in it.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// For errors.
    file: &'static str,
}

impl<'a> Fields<'a> {
    /// # Errors
    /// It is no JSON object.
    pub(crate) fn of(config: &'a Value) -> Result<Self> {
        Self::of_file(config, "config.json")
    }

    /// The same of another file.
    pub(crate) fn of_file(config: &'a Value, file: &'static str) -> Result<Self> {
        let object = config.as_object();
        let object = object.ok_or_else(|| Error::failed(format!("{file} is not a JSON object")))?;
        Ok(Self { object, file })
    }

    /// Says what is wrong.
    pub(crate) fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::failed(format!("{}: {what}", self.file))
    }

    /// What is there, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// What is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>> {
        let file = self.file;
        self.typed(name, "an object", |value| {
            let object = value.as_object()?;
            Some(Self { object, file })
        })
    }

    /// An object that is there and has entries.
    pub(crate) fn filled(&self, name: &str) -> Result<Option<Self>> {
        let found = self.object(name)?;
        Ok(found.filter(|found| !found.object.is_empty()))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.object
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// A number of things, which files have as u32.
    pub(crate) fn count(&self, name: &str) -> Result<Option<u32>> {
        self.typed(name, "a whole number of 1 or more", |value| {
            let count = u32::try_from(value.as_u64()?).ok()?;
            (count > 0).then_some(count)
        })
    }

    /// A count without a default.
    pub(crate) fn needed(&self, name: &str) -> Result<u32> {
        let count = self.count(name)?;
        count.ok_or_else(|| self.missing(name))
    }

    /// A number above zero.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f64>> {
        self.typed(name, "a number above 0", |value| {
            value.as_f64().filter(|n| n.is_finite() && *n > 0.0)
        })
    }

    /// One without a default.
    pub(crate) fn needed_number(&self, name: &str) -> Result<f64> {
        let number = self.positive(name)?;
        number.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>> {
        self.typed(name, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.typed(name, "a string", Value::as_str)
    }

    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&'a str>>> {
        self.typed(name, "a list of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    pub(crate) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>> {
        self.typed(name, "a list of numbers", |value| {
            value.as_array()?.iter().map(Value::as_f64).collect()
        })
    }

    fn missing(&self, name: &str) -> Error {
        self.wrong(format!(
            "there is no {name}, which a model of this type needs"
        ))
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
            let shown: String = value.to_string().chars().take(40).collect();
            self.wrong(format!("{name} is {shown}: it must be {what}"))
        })
    }
}
