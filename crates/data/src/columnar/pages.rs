//! The pages of a column, one after the other.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::schema::types::ColumnDescriptor;

use crate::columnar::codec::{check_size, decompressed};
use crate::columnar::delta;
use crate::columnar::thrift::{self, Fields, Flaw};
use crate::text::Meter;

/// How much is read to find the header of a page in, and how much at most: it may quote two values.
const HEADER_BYTES: u64 = 16 << 10;
const LONGEST_HEADER: u64 = 16 << 20;
/// Kinds of pages, as the format numbers them.
const DATA: i64 = 0;
const INDEX: i64 = 1;
const DICTIONARY: i64 = 2;
const DATA_2: i64 = 3;

/// Where pages lie in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    at: u64,
    left: u64,
}

impl Place {
    /// From a start, a length and the size of the file; nothing if it lies outside.
    pub(super) fn new((start, length): (u64, u64), size: u64) -> Option<Self> {
        let inside = start.checked_add(length).is_some_and(|end| end <= size);
        inside.then_some(Self {
            at: start,
            left: length,
        })
    }
}

pub(super) struct Pages {
    file: Arc<File>,
    place: Place,
    compression: Compression,
    /// Values may be missing.
    optional: bool,
    /// Bits of the number that says whether one is.
    level_bits: usize,
    /// A row may have several.
    repeated: bool,
    meter: Arc<Meter>,
}

impl Pages {
    pub(super) fn new(
        file: Arc<File>,
        place: Place,
        compression: Compression,
        column: &ColumnDescriptor,
        meter: Arc<Meter>,
    ) -> Self {
        let levels = column.max_def_level().unsigned_abs();
        Self {
            file,
            place,
            compression,
            optional: levels > 0,
            level_bits: (16 - levels.leading_zeros()) as usize,
            repeated: column.max_rep_level() > 0,
            meter,
        }
    }

    fn next_page(&mut self) -> Result<Option<Page>> {
        while self.place.left > 0 {
            let header = self.header()?;
            let kind = number(&header, 1)?;
            let size = small(&header, 2)?;
            let bytes = self.take(small(&header, 3)? as u64)?;
            let page = match kind {
                DATA => self.data(inner(&header, 5)?, &bytes, size)?,
                DICTIONARY => self.dictionary(inner(&header, 7)?, &bytes, size)?,
                DATA_2 => self.data_2(inner(&header, 8)?, &bytes, size)?,
                INDEX => continue,
                kind => return Err(flaw(format!("a page of unknown kind {kind}"))),
            };
            return Ok(Some(page));
        }
        Ok(None)
    }

    /// The header that comes next, which is passed then.
    fn header(&mut self) -> Result<Fields> {
        let mut length = HEADER_BYTES;
        loop {
            let there = length.min(self.place.left);
            let bytes = self.read(there)?;
            match thrift::fields(&bytes) {
                Ok((fields, length)) => {
                    self.pass(length as u64);
                    return Ok(fields);
                }
                Err(Flaw::CutOff) if there == length && length < LONGEST_HEADER => length *= 4,
                Err(what) => return Err(flaw(format!("header of a page: {}", what.in_words()))),
            }
        }
    }

    /// The next bytes, which are not passed.
    fn read(&self, length: u64) -> Result<Vec<u8>> {
        self.meter.check()?;
        let mut file = &*self.file;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.place.at))?;
        file.take(length).read_to_end(&mut bytes)?;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        }
    }

    fn take(&mut self, length: u64) -> Result<Vec<u8>> {
        if length > self.place.left {
            return Err(flaw("a page is longer than what there is of it"));
        }
        let bytes = self.read(length)?;
        self.pass(length);
        Ok(bytes)
    }

    fn pass(&mut self, length: u64) {
        self.place.at += length;
        self.place.left -= length;
        self.meter.add(length);
    }

    fn dictionary(&self, header: &Fields, bytes: &[u8], size: usize) -> Result<Page> {
        let values = decompressed(self.compression, bytes, size).map_err(flaw)?;
        let count = small(header, 1)?;
        // Each has four bytes at least.
        if count > values.len() / 4 {
            return Err(flaw("a dictionary has fewer entries than it says"));
        }
        Ok(Page::DictionaryPage {
            buf: values.into(),
            num_values: count as u32,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        })
    }

    fn data(&self, header: &Fields, bytes: &[u8], size: usize) -> Result<Page> {
        let page = decompressed(self.compression, bytes, size).map_err(flaw)?;
        let count = small(header, 1)?;
        let level_encoding = match number(header, 3)? {
            3 => Encoding::RLE,
            #[expect(deprecated)]
            4 => Encoding::BIT_PACKED,
            other => return Err(flaw(format!("levels of unknown encoding {other}"))),
        };
        let in_runs = |from: usize| {
            let length = page.get(from..).and_then(<[u8]>::first_chunk);
            let length = length.ok_or_else(|| flaw(LEVELS))?;
            Ok::<_, ParquetError>(from + 4 + u32::from_le_bytes(*length) as usize)
        };
        let repetitions = match self.repeated {
            false => 0,
            true => {
                // Levels of a list take next to no room, and memory is asked for each.
                check_size(count.saturating_mul(8), page.len()).map_err(flaw)?;
                in_runs(0)?
            }
        };
        let levels = match (self.optional, level_encoding) {
            (false, _) => repetitions,
            (true, Encoding::RLE) => in_runs(repetitions)?,
            (true, _) => repetitions + (count * self.level_bits).div_ceil(8),
        };
        let (encoding, buf) = self.values(page, levels, number(header, 2)?, count)?;
        Ok(Page::DataPage {
            buf,
            num_values: count as u32,
            encoding,
            def_level_encoding: level_encoding,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        })
    }

    fn data_2(&self, header: &Fields, bytes: &[u8], size: usize) -> Result<Page> {
        let [count, nulls, rows] = [small(header, 1)?, small(header, 2)?, small(header, 3)?];
        let [definitions, repetitions] = [small(header, 5)?, small(header, 6)?];
        let levels = definitions.saturating_add(repetitions);
        let wrong = nulls > count || (repetitions > 0 && !self.repeated);
        if levels > bytes.len() || levels > size || wrong {
            return Err(flaw(LEVELS));
        }
        if self.repeated {
            check_size(count.saturating_mul(8), size).map_err(flaw)?;
        }
        let (levels_bytes, values) = bytes.split_at(levels);
        let compression = match header.number(7) {
            Some(0) => Compression::UNCOMPRESSED,
            _ => self.compression,
        };
        // Of no value there may be nothing at all.
        let values = match size - levels {
            0 => Vec::new(),
            size => decompressed(compression, values, size).map_err(flaw)?,
        };
        let page = [levels_bytes, &values].concat();
        let (encoding, buf) = self.values(page, levels, number(header, 4)?, count)?;
        Ok(Page::DataPageV2 {
            buf,
            num_values: count as u32,
            encoding,
            num_nulls: nulls as u32,
            num_rows: rows as u32,
            def_levels_byte_len: definitions as u32,
            rep_levels_byte_len: repetitions as u32,
            // It is so no longer.
            is_compressed: false,
            statistics: None,
        })
    }

    /// A page whose values stand behind `levels` bytes, in an encoding that takes no room of its own.
    fn values(
        &self,
        mut page: Vec<u8>,
        levels: usize,
        encoding: i64,
        count: usize,
    ) -> Result<(Encoding, Bytes)> {
        if levels > page.len() {
            return Err(flaw(LEVELS));
        }
        let prefixes = match encoding {
            0 => return Ok((Encoding::PLAIN, page.into())),
            2 | 8 => return Ok((Encoding::RLE_DICTIONARY, page.into())),
            6 => false,
            7 => true,
            other => return Err(flaw(format!("texts of unknown encoding {other}"))),
        };
        let mut most = page.len();
        while check_size(most * 2, page.len()).is_ok() {
            most *= 2;
        }
        // A number takes eight bytes, and as little as a part of a bit in the file.
        check_size(count.saturating_mul(8), page.len()).map_err(flaw)?;
        let values = delta::plain(&page[levels..], prefixes, count, most).map_err(flaw)?;
        page.truncate(levels);
        page.extend(values);
        Ok((Encoding::PLAIN, page.into()))
    }
}

const LEVELS: &str = "a page has no place for what it says about missing values";

fn flaw(what: impl ToString) -> ParquetError {
    ParquetError::General(what.to_string())
}

fn number(fields: &Fields, id: i64) -> Result<i64> {
    let missing = || flaw("header of a page: a number is missing");
    fields.number(id).ok_or_else(missing)
}

/// A number that a length or count can be.
fn small(fields: &Fields, id: i64) -> Result<usize> {
    let number = number(fields, id)?;
    let size = i32::try_from(number)
        .ok()
        .and_then(|number| usize::try_from(number).ok());
    size.ok_or_else(|| flaw(format!("header of a page: {number} is no length")))
}

fn inner(fields: &Fields, id: i64) -> Result<&Fields> {
    let missing = || flaw("header of a page: what kind of page it is is missing");
    fields.inner(id).ok_or_else(missing)
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_page().transpose()
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.next_page()
    }

    // Rows are neither looked for nor passed over here.
    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        Err(flaw("internal error: pages come one after the other"))
    }

    // Whether a row goes on in the next page is seen there.
    fn at_record_boundary(&mut self) -> Result<bool> {
        Ok(self.place.left == 0)
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.next_page().map(drop)
    }
}
