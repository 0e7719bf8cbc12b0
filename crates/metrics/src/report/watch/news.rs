//! What is served: made once for all clients, and again when the files have changed.

use crate::report::{Reader, Report};
use aios_base::error::Result;
use hyper::body::Bytes;
use std::path::PathBuf;

/// The newest report.
pub struct News {
    reader: Reader,
    made: Option<Made>,
}

struct Made {
    report: Report,
    page: Option<Bytes>,
    data: Option<Bytes>,
}

impl News {
    /// Reports of these files, for pages that look for news after so many seconds.
    pub fn new(paths: &[PathBuf], pause: u64) -> Self {
        Self {
            reader: Reader::new(paths, Some(pause)),
            made: None,
        }
    }

    /// The whole page.
    ///
    /// # Errors
    /// A file that cannot be read, or no run in any.
    pub fn page(&mut self) -> Result<Bytes> {
        let Made { report, page, .. } = self.newest()?;
        let page = page.get_or_insert_with(|| report.to_html().into());
        Ok(page.clone())
    }

    /// The report's data, or `None` if nothing has changed since the one with this stamp.
    ///
    /// # Errors
    /// As [`News::page`].
    pub fn since(&mut self, stamp: &str) -> Result<Option<Bytes>> {
        if self.reader.stamp() == stamp {
            return Ok(None);
        }
        let Made { report, data, .. } = self.newest()?;
        let data = data.get_or_insert_with(|| report.to_json().into());
        Ok(Some(data.clone()))
    }

    fn newest(&mut self) -> Result<&mut Made> {
        let stamp = self.reader.stamp();
        let made = match self.made.take().filter(|made| made.report.stamp == stamp) {
            Some(made) => made,
            None => Made {
                report: self.reader.read()?,
                page: None,
                data: None,
            },
        };
        Ok(self.made.insert(made))
    }
}
