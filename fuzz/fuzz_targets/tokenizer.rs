//! A tokenizer's files: a `tokenizer.json`, then, after a byte that is in no text, a `tokenizer_config.json`, what a bundle
//! holds beside it, and a text to encode.

#![no_main]

use std::fs;

use aios_data::Tokenizer;
use aios_fuzz::{file, folder, in_proportion, pass_over_contained_panics};
use libfuzzer_sys::fuzz_target;

const COMPANIONS: [&str; 2] = ["tokenizer_config.json", "aios_tokenizer.json"];
/// Words, blanks, digits, a control token, what is outside ASCII, and a character in parts.
const TEXT: &str =
    "Hello  world, 12345\n\t<|endoftext|> caf\u{E9} \u{1F980} e\u{301} \u{FB01} \u{FDFA}";

fuzz_target!(init: pass_over_contained_panics(), |input: &[u8]| {
    in_proportion(input, || read(input));
});

fn read(input: &[u8]) {
    let mut parts = input.split(|&byte| byte == 0xFF);
    file("tokenizer.json", &[parts.next().unwrap_or_default()]);
    for name in COMPANIONS {
        match parts.next().filter(|part| !part.is_empty()) {
            Some(part) => drop(file(name, &[part])),
            None => drop(fs::remove_file(folder().join(name))),
        }
    }
    let text = parts.next().map(String::from_utf8_lossy);
    if let Ok(tokenizer) = Tokenizer::load_directory(folder(), &mut |_, _| Ok(())) {
        use_all_of(&tokenizer, TEXT);
        text.iter().for_each(|text| use_all_of(&tokenizer, text));
    }
}

fn use_all_of(tokenizer: &Tokenizer, text: &str) {
    assert!((tokenizer.end_of_text() as usize) < tokenizer.vocab_size());
    if let Ok(ids) = tokenizer.encode(text) {
        let known = |&id: &u32| (id as usize) < tokenizer.vocab_size();
        assert!(ids.iter().all(known), "an id that no embedding has");
        let _ = tokenizer.decode(&ids);
    }
    let first: Vec<u32> = (0..tokenizer.vocab_size().min(64) as u32).collect();
    let _ = tokenizer.decode(&first);
}
