//! How text is cut before tokens are merged: llama.cpp's names, and the pre-tokenizers of `tokenizers` that they mean.

use serde_json::{Value, json};

/// GPT-2's, which `tokenizers` has built in.
pub(crate) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// Every digit by itself.
pub(crate) const DIGIT: &str = r"\p{N}";

/// Punctuation in a row, as `tokenizers` takes it: with the symbols of ASCII.
pub(crate) const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|`]+";

/// Llama 3's and cl100k's: numbers in threes.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 2's: digits one by one.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen 3.5's: marks belong to letters.
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's since Nemo.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// o200k's.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The group of contractions as it is usually written, and as llama.cpp writes it, which knows no `(?i:`.
const CONTRACTIONS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
    r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
];

/// A way to cut text.
pub(crate) struct Pre {
    /// llama.cpp's; the first is written into files.
    pub names: &'static [&'static str],
    /// Applied one after the other, each to the pieces of those before, which it cuts at its matches.
    pub cuts: &'static [&'static str],
    /// A piece that is a token is that token, whatever the merges.
    pub ignore_merges: bool,
    /// What `add_bos_token` is where a file does not say.
    pub add_bos: bool,
    /// The models' own tokenizers compose characters first. llama.cpp does not: of text that is not composed its ids
    /// differ from those that the model learnt.
    pub nfc: bool,
}

/// Those known, on bytes. The first with the same cuts and `ignore_merges` is the one that files are given.
const KNOWN: [Pre; 13] = [
    Pre::plain(&["gpt-2", "phi-2"], &[GPT2]),
    Pre::plain(&["mpt", "olmo"], &[GPT2]).composing(),
    Pre::plain(&["smollm", "starcoder", "refact"], &[DIGIT, GPT2]),
    Pre::plain(&["command-r"], &[DIGIT, GPT2]).composing(),
    Pre::plain(
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        &[LLAMA3],
    )
    .whole_words(),
    Pre::plain(&["dbrx", "smaug-bpe"], &[LLAMA3]),
    Pre::plain(&["qwen2"], &[QWEN2]).composing(),
    Pre::plain(
        &["deepseek-r1-qwen", "kormo", "f2llmv2", "megrez"],
        &[QWEN2],
    ),
    Pre::plain(&["qwen35"], &[QWEN35]).composing(),
    Pre::plain(&["tekken"], &[TEKKEN]).whole_words(),
    Pre::plain(&["gpt-4o", "llama4", "kanana2", "talkie"], &[GPT4O]),
    Pre::plain(&["falcon"], &[PUNCTUATION, GPT2, "[0-9][0-9][0-9]"]),
    Pre::plain(
        &["deepseek-coder"],
        &[
            "[\r\n]",
            r"\s?\p{L}+",
            r"\s?\p{P}+",
            "[一-龥ࠀ-一가-퟿]+",
            DIGIT,
        ],
    ),
];

/// Names of text that is not cut at all, and whose tokens are no bytes: blanks are `▁`, and merges run over all of it.
/// llama.cpp always puts `bos` before a text of the first.
pub(crate) const UNCUT: [&str; 2] = ["gemma4", "sarvam-moe"];

impl Pre {
    const fn plain(names: &'static [&'static str], cuts: &'static [&'static str]) -> Self {
        Self {
            names,
            cuts,
            ignore_merges: false,
            add_bos: false,
            nfc: false,
        }
    }

    const fn composing(self) -> Self {
        Self { nfc: true, ..self }
    }

    const fn whole_words(self) -> Self {
        Self {
            ignore_merges: true,
            add_bos: true,
            ..self
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        const ALL: &[Pre] = &KNOWN;
        ALL.iter().find(|pre| pre.names.contains(&name))
    }

    /// The one that cuts so.
    pub fn that_cuts(cuts: &[String], ignore_merges: bool) -> Option<&'static Self> {
        const ALL: &[Pre] = &KNOWN;
        ALL.iter()
            .find(|pre| pre.ignore_merges == ignore_merges && pre.cuts == cuts)
    }

    /// All names, for an error.
    pub fn all_names() -> String {
        let names = KNOWN.iter().flat_map(|pre| pre.names.iter().copied());
        names.chain(UNCUT).collect::<Vec<_>>().join(", ")
    }

    /// As a `pre_tokenizer`.
    pub fn json(&self) -> Value {
        let bytes = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        let steps = match self.cuts {
            [GPT2] => return bytes(true),
            [DIGIT, GPT2] => vec![
                json!({"type": "Digits", "individual_digits": true}),
                bytes(true),
            ],
            cuts => {
                let split = |cut: &&str| json!({"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": false});
                let mut steps: Vec<Value> = cuts.iter().map(split).collect();
                steps.push(bytes(false));
                steps
            }
        };
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

/// GPT-2's contractions as `tokenizers` has them.
const SHORT: [&str; 2] = [r"'s|'t|'re|'ve|'m|'ll|'d| ?", r"'(?:[sdmt]|ll|ve|re)| ?"];

/// A regular expression in the spelling of the table.
pub(crate) fn spelled(cut: &str) -> String {
    let [usual, llama] = CONTRACTIONS;
    let [long, short] = SHORT;
    let cut = cut.replace(llama, usual).replace(short, long);
    // What is left is a piece anyway.
    match format!(r"{cut}|\s+") == GPT2 {
        true => GPT2.to_string(),
        false => cut,
    }
}
