//! JSON objects with the ids of tokens and their labels.

#![no_main]

use aios_base::config::{BadRecords, CorpusOptions, TextFormat};
use aios_data::each_document;
use aios_fuzz::{choice, file, filler, in_proportion};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 2] = ["rows.jsonl", "rows.json"];

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let Some((choice, json)) = choice(input) else {
        return;
    };
    let before = filler(choice, b' ', json);
    let options = CorpusOptions {
        text_format: match choice >> 1 & 1 {
            0 => TextFormat::Tokens,
            _ => TextFormat::Auto,
        },
        bad_records: match choice >> 2 & 1 {
            0 => BadRecords::Error,
            _ => BadRecords::Skip,
        },
        vocabulary: Some(288),
        ..CorpusOptions::new(file(NAMES[usize::from(choice & 1)], &[&before, json]))
    };
    let _ = each_document(&options, &mut |_, _| Ok(()));
}
