//! A file of text of whatever kind: told by its content, decompressed, decoded, cut into documents.

#![no_main]

use aios_base::config::{BadRecords, CorpusOptions, TextDocuments};
use aios_data::each_document;
use aios_fuzz::{choice, file, filler, in_proportion};
use libfuzzer_sys::fuzz_target;

/// The name may say more, or other, than the content.
const NAMES: [&str; 4] = ["text", "text.txt", "text.txt.gz", "text.zst"];

fuzz_target!(|input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let Some((choice, text)) = choice(input) else {
        return;
    };
    let before = filler(choice, b'a', text);
    let name = NAMES[usize::from(choice & 3)];
    let options = CorpusOptions {
        text_documents: match choice >> 2 & 3 {
            0 => TextDocuments::Line,
            1 => TextDocuments::File,
            2 => TextDocuments::Whole,
            _ => TextDocuments::Blank,
        },
        bad_records: match choice >> 4 & 1 {
            0 => BadRecords::Error,
            _ => BadRecords::Skip,
        },
        ascii_only: choice >> 4 & 3 == 2,
        ..CorpusOptions::new(file(name, &[&before, text]))
    };
    let _ = each_document(&options, &mut |text, _| {
        assert!(!options.ascii_only || text.is_ascii());
        Ok(())
    });
}
