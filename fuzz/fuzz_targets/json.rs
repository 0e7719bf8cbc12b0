//! JSON objects with a text in each: one a line, one after the other, or in an array.

#![no_main]

use aios_base::config::{BadRecords, CorpusOptions, TextFormat};
use aios_data::each_document;
use aios_fuzz::{choice, file, filler, in_proportion};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 2] = ["records.jsonl", "records.json"];
const FIELDS: [&str; 4] = ["text", "a.b", "a.1.b", "a.b.c"];

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let Some((choice, json)) = choice(input) else {
        return;
    };
    let before = filler(choice, b' ', json);
    let name = NAMES[usize::from(choice & 1)];
    let options = CorpusOptions {
        text_field: FIELDS[usize::from(choice >> 1 & 3)].to_string(),
        text_format: TextFormat::Json,
        bad_records: match choice >> 3 & 1 {
            0 => BadRecords::Error,
            _ => BadRecords::Skip,
        },
        ..CorpusOptions::new(file(name, &[&before, json]))
    };
    let _ = each_document(&options, &mut |_, _| Ok(()));
}
