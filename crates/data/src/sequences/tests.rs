use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::{BatchOptions, Batches, Tokenizer};
use aios_base::config::{CorpusOptions, TextDocuments, TooLong};
use aios_base::micro_batch::MicroBatch;

/// Rows whose ids tell where they stand: `10 r`, `10 r + 1`, and so on in row `r`, of which the first is not to be learnt.
fn rows(lengths: &[usize]) -> String {
    let row = |(row, &length): (usize, &usize)| {
        let ids: Vec<usize> = (0..length).map(|at| 10 * row + at).collect();
        let mut labels: Vec<i64> = ids.iter().map(|&id| id as i64).collect();
        if length > 1 {
            labels[1] = -100;
        }
        format!("{{\"input_ids\": {ids:?}, \"labels\": {labels:?}}}\n")
    };
    lengths.iter().enumerate().map(row).collect()
}

fn write(name: &str, content: &str) -> (TempDir, CorpusOptions) {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join(name);
    std::fs::write(&path, content).unwrap();
    (root, CorpusOptions::new(path))
}

fn open(root: &Path, options: &CorpusOptions) -> Result<Arc<TokenCache>> {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    let directory = root.join("cache");
    TokenCache::open_or_build_in(&directory, options, &gpt2, &mut |_, _| Ok(())).map(Arc::new)
}

fn cache(name: &str, content: &str) -> Arc<TokenCache> {
    let (root, options) = write(name, content);
    open(root.path(), &options).unwrap()
}

fn error(content: &str) -> String {
    let (root, options) = write("rows.jsonl", content);
    let error = open(root.path(), &options).unwrap_err().to_string();
    assert!(
        !error.contains('\n') && error.contains("rows.jsonl"),
        "{error}"
    );
    error
}

const APART: Cutting = Cutting {
    pack_rows: false,
    documents: false,
    full_windows: false,
};
const PACKED: Cutting = Cutting {
    pack_rows: true,
    documents: false,
    full_windows: false,
};

fn options(seq_len: usize, shuffle: bool) -> BatchOptions {
    BatchOptions {
        seq_len,
        shuffle,
        chunk_windows: 100,
        start_offset: 0,
        seed: 3,
    }
}

fn all(sequences: &Sequences, longest: usize) -> Vec<(Vec<i32>, Vec<i32>)> {
    let one = |index| {
        let (mut inputs, mut labels) = (Vec::new(), Vec::new());
        sequences.sequence(index, longest, &mut inputs, &mut labels);
        (inputs, labels)
    };
    (0..sequences.sequences(longest)).map(one).collect()
}

#[test]
fn two_rows_are_one_batch_in_the_order_of_the_file() {
    let content = "{\"input_ids\": [5, 6, 7, 8], \"labels\": [-100, -100, 7, 8]}\n\
                   {\"input_ids\": [9, 4, 3, 2], \"labels\": [9, -100, 3, 2]}\n";
    let sequences = Sequences::new(cache("rows.jsonl", content), APART);
    let mut batches = Batches::new(sequences, options(16, false)).unwrap();
    assert_eq!(batches.windows_per_epoch(), 2);
    for epoch in 0..2 {
        assert_eq!(batches.epoch(), epoch);
        let expected = MicroBatch {
            inputs: vec![5, 6, 7, 8, 9, 4, 3, 2],
            labels: vec![IGNORE, 7, 8, IGNORE, IGNORE, 3, 2, IGNORE],
            seq: 4,
            first_sequence: 0,
            documents: vec![vec![4]; 2],
        };
        assert_eq!(batches.next_batch(2).unwrap(), expected);
    }
}

#[test]
fn shuffled_rows_come_in_the_seeds_order_and_go_on_where_they_were() {
    let cache = cache("rows.jsonl", &rows(&[3; 20]));
    let new = |seed| {
        let options = BatchOptions {
            seed,
            ..options(8, true)
        };
        Batches::new(Sequences::new(Arc::clone(&cache), APART), options).unwrap()
    };
    let firsts = |batch: MicroBatch| {
        batch
            .inputs
            .iter()
            .step_by(3)
            .copied()
            .collect::<Vec<i32>>()
    };
    let order = |seed| firsts(new(seed).next_batch(20).unwrap());
    let in_order: Vec<i32> = (0..20).map(|row| 10 * row).collect();
    let mut sorted = order(3);
    assert_eq!(sorted, order(3));
    assert_ne!(sorted, order(4));
    assert_ne!(sorted, in_order);
    sorted.sort_unstable();
    assert_eq!(sorted, in_order);
    let mut whole = new(3);
    whole.next_batch(7).unwrap();
    let mut resumed = new(3);
    assert_eq!(resumed.seek(&whole.position()), crate::Resumed::Exactly);
    assert_eq!(
        resumed.next_batch(30).unwrap(),
        whole.next_batch(30).unwrap()
    );
}

#[test]
fn rows_are_padded_cut_off_and_counted() {
    let sequences = Sequences::new(cache("rows.jsonl", &rows(&[2, 5, 1])), APART);
    let expected = [
        (vec![0, 1], vec![IGNORE, IGNORE]),
        (vec![10, 11, 12], vec![IGNORE, 12, IGNORE]),
        (vec![20], vec![IGNORE]),
    ];
    assert_eq!(all(&sequences, 3), expected);
    assert_eq!(sequences.cut_off(3), (1, 2));
    assert_eq!((sequences.cut_off(5), sequences.predicted()), ((0, 0), 5));
    let batch = Batches::new(sequences, options(3, false))
        .unwrap()
        .next_batch(3)
        .unwrap();
    assert_eq!(batch.inputs, [0, 1, 0, 10, 11, 12, 20, 0, 0]);
    assert_eq!((batch.seq, batch.valid_tokens()), (3, 1));
}

#[test]
fn packed_rows_follow_each_other() {
    let sequences = Sequences::new(cache("rows.jsonl", &rows(&[2, 3, 2])), PACKED);
    let expected = [
        (vec![0, 1, 10, 11], vec![IGNORE, 10, IGNORE, 12]),
        (vec![12, 20], vec![20, IGNORE]),
    ];
    assert_eq!(all(&sequences, 4), expected);
    assert_eq!(sequences.cut_off(1), (0, 0));
}

#[test]
fn rows_without_labels_learn_all_and_padding_is_left_out() {
    let content = "{\"text_id\": 7, \"input_ids\": [1, 2, 3], \"attention_mask\": [1, 1, 1]}\n\
                   {\"input_ids\": [0, 4, 5, 0], \"attention_mask\": [0, 1, 1, 0]}\n";
    let sequences = Sequences::new(cache("rows.jsonl", content), APART);
    let expected = [
        (vec![1, 2, 3], vec![2, 3, IGNORE]),
        (vec![4, 5], vec![5, IGNORE]),
    ];
    assert_eq!(all(&sequences, 8), expected);
}

#[test]
fn what_is_wrong_with_a_row_is_named_with_its_line() {
    for (row, expected) in [
        (
            "{\"input_ids\": [1, 50257]}",
            "line 2: id 50257 at position 1 of input_ids is outside the vocabulary, whose ids are 0 to 50256",
        ),
        (
            "{\"input_ids\": [-1]}",
            "line 2: id -1 at position 0 of input_ids",
        ),
        (
            "{\"input_ids\": [1, 2], \"labels\": [1, -1]}",
            "line 2: id -1 at position 1 of labels",
        ),
        (
            "{\"input_ids\": [1, 2], \"labels\": [1]}",
            "line 2: labels has 1 entries and input_ids 2",
        ),
        ("{\"input_ids\": []}", "line 2: input_ids is empty"),
        (
            "{\"ids\": [1]}",
            "line 2: no field \"input_ids\" among [ids]",
        ),
        ("{\"input_ids\": [1.5]}", "line 2: not valid JSON"),
        ("{\"input_ids\": 1}", "line 2: not valid JSON"),
        (
            "{\"input_ids\": [1, 2, 3], \"attention_mask\": [1, 0, 1]}",
            "line 2: attention_mask hides token 1",
        ),
    ] {
        let error = error(&format!("{{\"input_ids\": [1]}}\n{row}\n"));
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_models_vocabulary_counts_if_it_is_another_one() {
    let (root, options) = write("rows.jsonl", "{\"input_ids\": [1, 50300]}\n");
    let with = |vocabulary| CorpusOptions {
        vocabulary: Some(vocabulary),
        ..options.clone()
    };
    let cache = open(root.path(), &with(50304)).unwrap();
    assert_eq!(
        all(&Sequences::new(cache, APART), 4),
        [(vec![1, 50300], vec![50300, IGNORE])]
    );
    assert!(open(root.path(), &with(50300)).is_err());
}

#[test]
fn rows_and_text_are_not_mixed() {
    let (root, options) = write("b.txt", "Some text.");
    std::fs::write(root.path().join("a.jsonl"), rows(&[2])).unwrap();
    let options = CorpusOptions {
        path: root.path().to_path_buf(),
        ..options
    };
    let error = open(root.path(), &options).unwrap_err().to_string();
    assert!(
        error.contains("a.jsonl holds rows of tokens and") && error.contains("b.txt text"),
        "{error}"
    );
}

#[test]
fn rows_are_read_from_a_cache_that_notices_damage() {
    let (root, options) = write("rows.jsonl", &rows(&[3, 4]));
    let before = open(root.path(), &options).unwrap();
    let again = open(root.path(), &options).unwrap();
    assert!(again.reused() && again.holds_rows());
    let sequences = |cache| all(&Sequences::new(cache, APART), 8);
    let expected = sequences(before);
    assert_eq!(sequences(Arc::clone(&again)), expected);
    let path = again.path().to_path_buf();
    let fingerprint = again.fingerprint().to_string();
    drop(again);
    let bytes = std::fs::read(&path).unwrap();
    for at in [bytes.len() - 1, bytes.len() - 18] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        std::fs::write(&path, &damaged).unwrap();
        let cache = open(root.path(), &options).unwrap();
        assert!(!cache.reused());
        assert_eq!(cache.fingerprint(), fingerprint);
        assert_eq!(sequences(cache), expected);
    }
}

#[test]
fn other_labels_are_another_corpus() {
    let fingerprint = |labels: &str| {
        let row = format!("{{\"input_ids\": [1, 2], \"labels\": {labels}}}\n");
        cache("rows.jsonl", &row).fingerprint().to_string()
    };
    assert_eq!(fingerprint("[1, 2]"), fingerprint("[1, 2]"));
    assert_ne!(fingerprint("[1, 2]"), fingerprint("[1, -100]"));
}

/// Numbers below 500 with a space, which are one token each.
fn numbers(from: usize, count: usize) -> String {
    (from..from + count).map(|n| format!(" {n}")).collect()
}

fn whole(root: &Path, files: &[(&str, &str)]) -> Arc<TokenCache> {
    for (name, text) in files {
        std::fs::write(root.join(name), text).unwrap();
    }
    let options = CorpusOptions {
        text_documents: TextDocuments::Whole,
        ..CorpusOptions::new(root)
    };
    open(root, &options).unwrap()
}

fn ids(cache: &TokenCache) -> Vec<u32> {
    let mut ids = Vec::new();
    cache.tokens(0..cache.len(), &mut ids);
    ids
}

#[test]
fn windows_of_a_whole_text_are_consecutive_and_the_last_one_may_be_shorter() {
    let root = tempfile::tempdir().unwrap();
    let cache = whole(root.path(), &[("a.txt", &numbers(0, 12))]);
    let tokens: Vec<i32> = ids(&cache).into_iter().map(|id| id as i32).collect();
    assert_eq!(tokens.len(), 12);
    let expected = [(0, 4), (4, 8), (8, 11)].map(|(start, end)| {
        (
            tokens[start..end].to_vec(),
            tokens[start + 1..end + 1].to_vec(),
        )
    });
    let sequences = Sequences::new(cache, APART);
    assert_eq!(all(&sequences, 4), expected);
    let full = sequences.cut(Cutting {
        full_windows: true,
        ..APART
    });
    assert_eq!(all(&full, 4), expected[..2]);
}

#[test]
fn an_end_of_text_stands_between_files_and_behind_records() {
    let gpt2 = Tokenizer::load("gpt2").unwrap();
    let encode = |text: &str| gpt2.encode(text).unwrap();
    let end = [50256];
    let root = tempfile::tempdir().unwrap();
    let (one, other) = ("\n\n One.\n\n \n", "Other<|endoftext|>, still\n");
    let cache = whole(root.path(), &[("a.txt", one), ("b.txt", other)]);
    let parts = [
        encode(one),
        end.to_vec(),
        encode("Other"),
        end.to_vec(),
        encode(", still\n"),
    ];
    assert_eq!(ids(&cache), parts.concat());
    assert_eq!(cache.documents(), 2);
    let first = encode(one).len() + 1;
    assert_eq!(
        [cache.document(0), cache.document(1)],
        [0..first, first..cache.len()]
    );
    let root = tempfile::tempdir().unwrap();
    let cache = whole(
        root.path(),
        &[(
            "a.jsonl",
            "{\"text\": \" a \\n\"}\n{\"text\": \"\"}\n{\"text\": \"b\"}\n",
        )],
    );
    let parts = [encode(" a \n"), end.to_vec(), encode("b"), end.to_vec()];
    assert_eq!(ids(&cache), parts.concat());
}

#[test]
fn a_share_of_the_documents_is_held_out_and_never_trained_on() {
    let text: String = (0..40)
        .map(|n| format!("{}\n\n", numbers(10 * n, 5)))
        .collect();
    let cache = cache("a.txt", &text);
    let sequences = Sequences::new(Arc::clone(&cache), PACKED);
    let [train, eval] = sequences.split(0.1, 7).unwrap();
    let tokens = |part: &Sequences| {
        let windows = all(part, 1000);
        assert_eq!(windows.len(), 1);
        let (inputs, labels) = &windows[0];
        [&inputs[..1], &labels[..]].concat()
    };
    let (train_tokens, eval_tokens) = (tokens(&train), tokens(&eval));
    let documents = |tokens: &[i32]| {
        let parts = tokens.split_inclusive(|&id| id == 50256);
        parts.map(<[i32]>::to_vec).collect::<Vec<_>>()
    };
    let (kept, held_out) = (documents(&train_tokens), documents(&eval_tokens));
    assert_eq!((kept.len(), held_out.len()), (36, 4));
    assert!(held_out.iter().all(|document| !kept.contains(document)));
    let again = sequences.split(0.1, 7).unwrap();
    assert_eq!(
        [tokens(&again[0]), tokens(&again[1])],
        [train_tokens, eval_tokens]
    );
    assert_ne!(tokens(&sequences.split(0.1, 8).unwrap()[1]), tokens(&eval));
    assert_ne!(train.fingerprint(), eval.fingerprint());
}

#[test]
fn of_rows_some_are_held_out_and_of_one_text_its_end() {
    let by_rows = Sequences::new(cache("rows.jsonl", &rows(&[2; 10])), APART);
    let [train, eval] = by_rows.split(0.01, 0).unwrap();
    assert_eq!((train.sequences(8), eval.sequences(8)), (9, 1));
    let mut both = [all(&train, 8), all(&eval, 8)].concat();
    both.sort();
    assert_eq!(both, all(&by_rows, 8));
    let root = tempfile::tempdir().unwrap();
    let text = Sequences::new(whole(root.path(), &[("a.txt", &numbers(0, 100))]), APART);
    let [train, eval] = text.split(0.1, 0).unwrap();
    assert_eq!((train.predicted(), eval.predicted()), (89, 9));
    assert_eq!(eval.bytes(), (text.bytes() as f64 / 10.0).round() as u64);
    let one = Sequences::new(cache("rows.jsonl", &rows(&[2])), APART);
    let error = one.split(0.5, 0).unwrap_err().to_string();
    assert!(
        error.contains("--eval-split 0.5") && error.contains("--eval-file"),
        "{error}"
    );
}

#[test]
fn very_many_documents_are_held_out_in_groups() {
    let held_out = held_out(1 << 25, 0.25 * f64::from(1 << 25), 0);
    let share = held_out.len() as f64 / f64::from(1 << 25);
    assert!((share - 0.25).abs() < 1e-6, "{share}");
    assert!(held_out.ranges().count() as u64 <= MOST_HELD_OUT);
}

#[test]
fn rows_without_a_trained_token_are_counted_and_are_not_all() {
    let row = |ids: &[i32], labels: &[i32]| {
        format!("{{\"input_ids\": {ids:?}, \"labels\": {labels:?}}}\n")
    };
    // A label of the first token is of no use, and neither is one that is cut off.
    let untrained = [
        row(&[1, 2], &[1, -100]),
        row(&[3], &[3]),
        row(&[4, 5, 6], &[-100, -100, 6]),
    ]
    .concat();
    let of = |content: &str, cutting| Sequences::new(cache("rows.jsonl", content), cutting);
    let good = of(&(untrained.clone() + &row(&[7, 8], &[7, 8])), APART);
    let found = |longest, most| good.untrained(longest, most, "it").ok();
    assert_eq!((found(2, 9), found(3, 9)), (Some(3), Some(2)));
    assert_eq!(found(2, 3), None);
    let error = Batches::new(of(&untrained, APART), options(2, false))
        .map(drop)
        .unwrap_err();
    assert_eq!(error.exit_code(), 1);
    let error = error.to_string();
    assert!(
        error.contains("3 sequences") && error.contains("-100"),
        "{error}"
    );
    let ignored = row(&[1, 2, 3], &[-100, -100, -100]);
    assert!(Batches::new(of(&ignored.repeat(3), PACKED), options(2, false)).is_err());
    let packed = of(&rows(&[1, 1, 1]), PACKED);
    assert_eq!(packed.untrained(1, 9, "it").unwrap(), 0);
}

#[test]
fn another_part_starts_over_and_says_why() {
    let root = tempfile::tempdir().unwrap();
    let cache = whole(root.path(), &[("a.txt", &numbers(0, 100))]);
    let text = Sequences::new(cache, APART);
    let [part, _] = text.split(0.1, 0).unwrap();
    let position = Batches::new(text, options(4, false)).unwrap().position();
    let mut batches = Batches::new(part, options(4, false)).unwrap();
    let crate::Resumed::StartedOver { reason } = batches.seek(&position) else {
        panic!("gone on with");
    };
    assert_eq!(
        reason,
        "what is trained on was all of the dataset and is the dataset without what --eval-split 0.1 by seed 0 holds out"
    );
}

#[test]
fn a_documents_parts_predict_each_token_once() {
    let content = "{\"text\": \"a b c d e f g\"}\n{\"text\": \"h\"}\n";
    let cutting = Cutting {
        documents: true,
        ..APART
    };
    let text = Sequences::new(cache("texts.jsonl", content), cutting);
    let cache = Arc::clone(text.cache());
    let arrangement = Arrangement {
        longest: 3,
        too_long: TooLong::Truncate,
        packing: Some(0),
    };
    let text = text.arranged(&arrangement).unwrap();
    let arranged = text.arrangement().unwrap();
    // Seven letters and the end of a text are parts of 3, 3 and 2.
    assert_eq!(cache.document(0).len(), 8);
    assert_eq!(
        (arranged.kept, arranged.tokens, arranged.trained),
        (4, 10, 8)
    );
    let mut learnt: Vec<i32> = Vec::new();
    for index in 0..text.sequences(3) {
        let (mut inputs, mut labels) = (Vec::new(), Vec::new());
        text.sequence(index, 3, &mut inputs, &mut labels);
        assert_eq!(inputs.len(), labels.len());
        assert_eq!(text.documents(index, 3).last(), Some(&inputs.len()));
        learnt.extend(labels.into_iter().filter(|&label| label != IGNORE));
    }
    let (ids, _) = cache.marks(0..cache.len());
    let mut expected: Vec<i32> = [&ids[1..8], &ids[9..]]
        .concat()
        .iter()
        .map(|&id| id as i32)
        .collect();
    learnt.sort_unstable();
    expected.sort_unstable();
    assert_eq!(learnt, expected);
}
