//! Parquet files with a column of texts.

#![no_main]

use aios_base::config::{BadRecords, CorpusOptions, TextDocuments};
use aios_data::each_document;
use aios_fuzz::{choice, file, in_proportion, pass_over_contained_panics};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

const FIELDS: [&str; 2] = ["text", "meta.body"];
/// A magic at both ends, and before the last the length of the footer.
const MAGIC: &[u8] = b"PAR1";

fuzz_target!(
    init: pass_over_contained_panics(),
    |input: &[u8]| {
        in_proportion(input, || read(input));
    }
);

// Most changes of a length would only move the footer's beginning into the midst of something.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
    let footer = footer(&data[..size]);
    let size = fuzzer_mutate(data, size, max_size);
    let magic = 1..1 + MAGIC.len();
    if let Some(place) = data[..size].get_mut(magic) {
        place.copy_from_slice(MAGIC);
    }
    if let (Some(footer), Some(at)) = (footer, size.checked_sub(8)) {
        data[at..at + 4].copy_from_slice(&footer.to_le_bytes());
        data[at + 4..size].copy_from_slice(MAGIC);
    }
    size
});

fn footer(data: &[u8]) -> Option<u32> {
    let (tail, _) = data.last_chunk::<8>()?.split_first_chunk::<4>()?;
    Some(u32::from_le_bytes(*tail))
}

fn read(input: &[u8]) {
    let Some((choice, bytes)) = choice(input) else {
        return;
    };
    let options = CorpusOptions {
        text_documents: TextDocuments::Whole,
        text_field: FIELDS[usize::from(choice & 1)].to_string(),
        bad_records: match choice >> 1 & 1 {
            0 => BadRecords::Error,
            _ => BadRecords::Skip,
        },
        ..CorpusOptions::new(file("table.parquet", &[bytes]))
    };
    let _ = each_document(&options, &mut |_, _| Ok(()));
}
