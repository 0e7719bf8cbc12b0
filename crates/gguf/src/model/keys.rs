//! Keys of a file that an architecture has.

use aios_base::error::{Error, Result};

use crate::metadata::Metadata;
use crate::value::Value;

/// Keys of an architecture.
pub(crate) struct Keys<'a> {
    pub(crate) metadata: &'a Metadata,
    pub(crate) architecture: &'a str,
}

impl Keys<'_> {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub(crate) fn wrong(&self, name: &str, is: &str) -> Error {
        self.metadata.wrong(&format!("{} is {is}", self.key(name)))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>> {
        self.metadata.text(&self.key(name))
    }

    pub(crate) fn float(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.key(name))
    }

    /// A number of things; one for each layer only if it is the same of all.
    pub(crate) fn count(&self, name: &str) -> Result<Option<u32>> {
        let key = self.key(name);
        let number = match self.metadata.get(&key) {
            Some(Value::Array(array)) => {
                let all = array.integers();
                let same = all.filter(|all| all.windows(2).all(|pair| pair[0] == pair[1]));
                let first = same.as_ref().and_then(|all| all.first());
                let first = first.and_then(|first| u64::try_from(*first).ok());
                Some(first.ok_or_else(|| {
                    self.wrong(name, "not the same in all layers, which is not supported")
                })?)
            }
            _ => self.metadata.number(&key)?,
        };
        number
            .map(|number| {
                u32::try_from(number).map_err(|_| {
                    self.wrong(name, &format!("{number}, which is more than any model has"))
                })
            })
            .transpose()
    }

    pub(crate) fn needed(&self, name: &str) -> Result<u32> {
        let count = self.count(name)?.filter(|count| *count > 0);
        count.ok_or_else(|| {
            self.metadata.wrong(&format!(
                "there is no {}, or it is 0: a model of this architecture needs it",
                self.key(name)
            ))
        })
    }

    pub(crate) fn epsilon(&self, name: &str) -> Result<f64> {
        let epsilon = self.float(name)?.filter(|epsilon| *epsilon > 0.0);
        epsilon.ok_or_else(|| {
            self.metadata.wrong(&format!(
                "there is no {}, or it is not above 0: a model of this architecture needs it",
                self.key(name)
            ))
        })
    }
}
