//! One field of a JSON object, found without holding the others.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::records::shorten;

/// How many names of fields an error lists, and how much of each.
const NAMES: usize = 12;
const NAME_BYTES: usize = 40;

/// What is in the wanted field.
pub(super) enum Found {
    Text(String),
    Missing,
    NoObject,
    /// Something else than a string.
    Other(&'static str),
}

/// What `json`, which is one object, has in `field`.
pub(super) fn wanted<'de, R: serde_json::de::Read<'de>>(
    json: &mut serde_json::Deserializer<R>,
    field: &str,
) -> Result<Found, serde_json::Error> {
    let found = Wanted::of(field).deserialize(&mut *json)?;
    json.end()?;
    Ok(found)
}

/// Looks for a field, or, without a path, takes the value itself.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    path: Option<&'a str>,
    /// This is the record, which has to be an object.
    is_record: bool,
}

impl<'a> Wanted<'a> {
    pub(super) fn of(field: &'a str) -> Self {
        Self {
            path: Some(field),
            is_record: true,
        }
    }

    fn inside(path: Option<&'a str>) -> Self {
        Self {
            path,
            is_record: false,
        }
    }

    /// What is found in a value that has no fields.
    fn plain(self, kind: &'static str) -> Found {
        match (self.is_record, self.path) {
            (true, _) => Found::NoObject,
            (_, Some(_)) => Found::Missing,
            (_, None) => Found::Other(kind),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Found;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Found, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(self.plain("true or false"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(self.plain("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(self.plain("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(self.plain("a number"))
    }

    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(self.plain("null"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Found, E> {
        Ok(match self.path {
            None => Found::Text(text.to_string()),
            Some(_) => self.plain("a string"),
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Found, A::Error> {
        let (first, rest) = match self.path {
            Some(path) => path
                .split_once('.')
                .map_or((path, None), |(first, rest)| (first, Some(rest))),
            None => ("", None),
        };
        let index = first.parse().ok().filter(|_| !self.is_record);
        let mut found = self.plain("an array");
        for at in 0_usize.. {
            let there_is = match index == Some(at) {
                true => {
                    let element = array.next_element_seed(Wanted::inside(rest))?;
                    element.map(|element| found = element)
                }
                false => array.next_element::<IgnoredAny>()?.map(drop),
            };
            if there_is.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// A name that is all of the path comes before one that is a part of it, whichever stands first.
    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Found, A::Error> {
        let mut best = 0;
        let mut found = match self.path {
            Some(_) => Found::Missing,
            None => Found::Other("an object"),
        };
        while let Some(matched) = object.next_key_seed(Name(self.path))? {
            let (Some(path), Some(length)) = (self.path, matched.filter(|&length| length >= best))
            else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            let rest = path.get(length + 1..);
            let inner = object.next_value_seed(Wanted::inside(rest))?;
            if !matches!(inner, Found::Missing) {
                (best, found) = (length, inner);
            }
        }
        Ok(found)
    }
}

/// Compares a name with the beginning of a path; gives its length if it matches.
struct Name<'a>(Option<&'a str>);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let rest = self.0.and_then(|path| path.strip_prefix(name));
        let matches = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        Ok(matches.then_some(name.len()))
    }
}

/// Names of the first fields of the object that `record` begins with.
pub(super) fn names(record: &[u8]) -> Vec<String> {
    names_up_to(record, NAMES)
}

/// The same of so many.
pub(super) fn names_up_to(record: &[u8], most: usize) -> Vec<String> {
    struct Names<'a>(&'a mut Vec<String>, usize);
    impl<'de> Visitor<'de> for Names<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            while let Some(name) = map.next_key::<String>()? {
                if self.0.len() == self.1 {
                    self.0.push("…".to_string());
                    return Ok(());
                }
                self.0.push(shorten(&name, NAME_BYTES));
                map.next_value::<IgnoredAny>()?;
            }
            Ok(())
        }
    }
    let mut names = Vec::new();
    let mut object = serde_json::Deserializer::from_slice(record);
    // Where the record is cut off or bad, those before have been found.
    let _ = object.deserialize_map(Names(&mut names, most));
    names
}
