//! Tables with a header line and a text in one of their columns.

#![no_main]

use aios_base::config::{BadRecords, CorpusOptions, CsvSeparator, TextFormat};
use aios_data::each_document;
use aios_fuzz::{choice, file, filler, in_proportion};
use libfuzzer_sys::fuzz_target;

const HEADER: &[u8] = b"text,b\n";

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let Some((choice, rows)) = choice(input) else {
        return;
    };
    // A long row before, if any, so that the others lie across a buffer's end.
    let before = match &filler(choice, b'a', rows)[..] {
        [] => Vec::new(),
        filler => [HEADER, filler, b",b\n"].concat(),
    };
    let options = CorpusOptions {
        text_format: TextFormat::Csv,
        csv_separator: match choice & 3 {
            0 => CsvSeparator::Comma,
            1 => CsvSeparator::Tab,
            _ => CsvSeparator::Auto,
        },
        bad_records: match choice >> 2 & 1 {
            0 => BadRecords::Error,
            _ => BadRecords::Skip,
        },
        ..CorpusOptions::new(file("rows.csv", &[&before, rows]))
    };
    let _ = each_document(&options, &mut |_, _| Ok(()));
}
