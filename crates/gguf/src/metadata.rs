//! Key-values of a file, asked for by the type that they must have.

use std::collections::{HashMap, HashSet};

use aios_base::error::{Error, Result, shortened};

use crate::value::{Array, Value};

/// Key-values in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    /// The file, for errors.
    place: String,
    entries: Vec<(String, Value)>,
    places: HashMap<String, usize>,
    /// Keys of texts that are no UTF-8.
    lossy: HashSet<String>,
}

impl Metadata {
    /// # Errors
    /// A key that is there twice, in words.
    pub(crate) fn of(
        entries: Vec<(String, Value)>,
        lossy: HashSet<String>,
    ) -> Result<Self, String> {
        let mut places = HashMap::new();
        for (at, (key, _)) in entries.iter().enumerate() {
            if places.insert(key.clone(), at).is_some() {
                return Err(format!("key {key} is there twice"));
            }
        }
        Ok(Self {
            place: String::new(),
            entries,
            places,
            lossy,
        })
    }

    pub(crate) fn said_of(self, place: String) -> Self {
        Self { place, ..self }
    }

    /// Keys and values in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries
            .iter()
            .map(|(key, value)| (key.as_str(), value))
    }

    /// What is under a key, of whatever type. A text that is no UTF-8 has U+FFFD in the place of what is not.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.places.get(key).map(|&at| &self.entries[at].1)
    }

    /// A text.
    ///
    /// # Errors
    /// It is something else, or no UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        let text = self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        });
        text.and_then(|text| self.faithful(key, text))
    }

    /// A whole number that is not negative, of any size.
    ///
    /// # Errors
    /// It is something else.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a whole number of 0 or more", |value| {
            u64::try_from(value.integer()?).ok()
        })
    }

    /// A finite number. One in f32 is the shortest decimal number that is rounded to it.
    ///
    /// # Errors
    /// It is something else.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite number", |value| {
            value.float().filter(|number| number.is_finite())
        })
    }

    /// True or false.
    ///
    /// # Errors
    /// It is something else.
    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// Texts.
    ///
    /// # Errors
    /// It is something else, or one of them is no UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        let texts = self.typed(key, "an array of texts", |value| match value {
            Value::Array(Array::Text(texts)) => Some(texts.as_slice()),
            _ => None,
        });
        texts.and_then(|texts| self.faithful(key, texts))
    }

    /// Numbers in f32, or in f64 that are rounded to it.
    ///
    /// # Errors
    /// It is something else.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(
            key,
            "an array of floating-point numbers",
            |value| match value {
                Value::Array(Array::F32(all)) => Some(all.clone()),
                Value::Array(Array::F64(all)) => Some(all.iter().map(|&n| n as f32).collect()),
                _ => None,
            },
        )
    }

    /// Whole numbers of any type.
    ///
    /// # Errors
    /// It is something else.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of whole numbers", |value| match value {
            Value::Array(array) => array.integers(),
            _ => None,
        })
    }

    /// What a key says is not as it must be.
    pub(crate) fn wrong(&self, what: &str) -> Error {
        Error::failed(shortened(&format!("{}: {what}", self.place)))
    }

    fn faithful<T>(&self, key: &str, found: Option<T>) -> Result<Option<T>> {
        match found {
            Some(_) if self.lossy.contains(key) => Err(self.wrong(&format!(
                "{key} has text that is no UTF-8: take another file of the model"
            ))),
            found => Ok(found),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        read(value).map(Some).ok_or_else(|| {
            self.wrong(&format!(
                "{key} is {}: it must be {what}",
                value.described()
            ))
        })
    }
}
