//! What became of the rows of a benchmark, and whether that is a success.

use aios_base::error::{Error, Result};
use serde::Serialize;

/// Why a row was not measured; in JSON that alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Unmeasured {
    pub why: String,
    /// It should have run: what does not fit, or what the device lacks from the outset, is no failure.
    #[serde(skip)]
    pub failed: bool,
}

impl Unmeasured {
    /// The device lacks something.
    pub fn lacking(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            failed: false,
        }
    }

    /// There is not the memory for it.
    pub fn unfit(why: impl std::fmt::Display) -> Self {
        Self::lacking(format!("does not fit: {why}"))
    }

    /// Something went wrong.
    pub fn failed(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            failed: true,
        }
    }
}

impl From<Error> for Unmeasured {
    fn from(error: Error) -> Self {
        match error {
            Error::OutOfMemory(cause) => Self::unfit(cause),
            error => Self::failed(error.to_string()),
        }
    }
}

/// The outcome of a benchmark, of what was in the way of each row, if anything was.
///
/// # Errors
/// Rows that failed, or not a single one that was measured.
pub fn verdict<'a>(rows: impl Iterator<Item = Option<&'a Unmeasured>>) -> Result<()> {
    let rows: Vec<_> = rows.collect();
    let failed = || rows.iter().flatten().filter(|row| row.failed);
    if let (Some(first), true) = (
        failed().next().or(rows.iter().flatten().next()),
        rows.iter().all(Option::is_some),
    ) {
        return Err(Error::failed(format!(
            "nothing was measured: {}",
            first.why
        )));
    }
    match failed().count() {
        0 => Ok(()),
        n => Err(Error::failed(format!(
            "{n} of {} rows could not be measured: the table says why",
            rows.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_benchmark_succeeds_if_something_was_measured_and_nothing_failed() {
        let unfit = Unmeasured::from(Error::OutOfMemory("64 GiB needed".into()));
        let failed = Unmeasured::from(Error::Device("it is gone".into()));
        let said = |rows: &[Option<&Unmeasured>]| {
            let verdict = verdict(rows.iter().copied());
            verdict.map_err(|error| error.to_string())
        };
        assert_eq!(said(&[None]), Ok(()));
        assert_eq!(said(&[None, Some(&unfit)]), Ok(()));
        let one = "1 of 3 rows could not be measured: the table says why";
        assert_eq!(said(&[None, Some(&unfit), Some(&failed)]), Err(one.into()));
        let none = "nothing was measured: does not fit: 64 GiB needed";
        assert_eq!(said(&[Some(&unfit), Some(&unfit)]), Err(none.into()));
        let none = "nothing was measured: it is gone";
        assert_eq!(said(&[Some(&unfit), Some(&failed)]), Err(none.into()));
    }
}
