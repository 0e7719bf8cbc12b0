//! Options of the model and of the data, each seen to do what it says.

use crate::common::lab::{Events, Lab, stderr};

/// A rate so small that no weight changes: the cross-entropy tells the windows apart.
const FROZEN: &str = "--lr 1e-30 --batch-size 1";

#[track_caller]
fn assert_near(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

/// The mean loss over the first and the last steps.
fn ends(events: &Events) -> (f64, f64) {
    let ce = events.steps("ce");
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (mean(&ce[..5]), mean(&ce[ce.len() - 5..]))
}

fn learns(flags: &str) {
    let lab = Lab::new();
    let events = lab.train("a", &format!("--steps 60 --lr 3e-3 --batch-size 4 {flags}"));
    let (first, last) = ends(&events);
    assert!(last < first - 1.5, "{flags}: from {first} to {last}");
}

#[test]
fn it_learns_with_rope() {
    learns("");
}

#[test]
fn it_learns_with_learned_positions() {
    learns("--pos-encodings learned");
}

#[test]
fn it_learns_with_tied_embeddings() {
    learns("--tie-embeddings");
}

#[test]
fn tied_embeddings_are_saved_once_and_serve_no_other_model() {
    let lab = Lab::new();
    lab.train("a", "--steps 2 --tie-embeddings");
    let saved = crate::common::lab::tensors(&lab.brain("a").join("model.safetensors"));
    assert!(!saved.contains_key("lm_head.weight"));
    lab.train("a", "--steps 3 --tie-embeddings --resume");
    let untied = lab.try_train("a", "--steps 4 --no-tie-embeddings --resume");
    let words = ["--tie-embeddings", "resume without"];
    crate::common::lab::assert_clear_error(&untied, 2, &words);
}

#[test]
fn it_learns_with_a_window() {
    learns("--window-size 4");
}

#[test]
fn it_learns_with_one_segment() {
    learns("--halt-max-steps 1");
}

#[test]
fn it_learns_with_three_segments_and_exact_reward() {
    learns("--halt-max-steps 3 --halt-reward exact");
}

#[test]
fn it_learns_with_plain_attention_and_a_constant_rate() {
    learns("--no-flash-attn --lr-schedule constant --warmup-steps 5 --weight-decay 0");
}

#[test]
fn one_segment_has_no_going_on_to_learn() {
    let events = Lab::new().train("a", "--steps 2 --halt-max-steps 1");
    assert_eq!(events.steps("q_continue_loss"), [0.0, 0.0]);
}

#[test]
fn the_reward_decides_what_halting_learns() {
    let lab = Lab::new();
    let exact = lab.train("a", "--steps 1 --halt-reward exact --lr 1e-30");
    // Nothing is right, so that the loss is that of a logit of -5 against 0.
    let expected = (-5.0_f64).exp().ln_1p();
    assert_near(&exact.steps("q_halt_loss"), &[expected]);
    // A text of one letter is soon predicted in part.
    lab.write("a.txt", "a".repeat(500));
    let easy = "--steps 12 --lr 1e-2 --dataset-file a.txt";
    let last = |events: &Events| *events.steps("q_halt_loss").last().unwrap();
    let accuracy = last(&lab.train("b", &format!("{easy} --halt-reward accuracy")));
    assert!(accuracy > 1.0, "{accuracy}");
}

#[test]
fn a_window_as_long_as_the_sequence_changes_nothing_and_a_short_one_does() {
    let lab = Lab::new();
    let loss = |name: &str, flags: &str| lab.train(name, &format!("--steps 2 {flags}")).steps("ce");
    let whole = loss("a", "");
    assert_near(&loss("b", "--window-size 16"), &whole);
    assert_ne!(loss("c", "--window-size 2"), whole);
}

#[test]
fn the_offset_leaves_windows_out() {
    let lab = Lab::new();
    let all = lab.train("a", &format!("--steps 5 {FROZEN}")).steps("ce");
    let flags = format!("--steps 3 {FROZEN} --dataset-start-offset 2");
    assert_near(&lab.train("b", &flags).steps("ce"), &all[2..]);
}

#[test]
fn another_order_has_the_same_windows() {
    let lab = Lab::new();
    let epoch = format!("{FROZEN} --steps 100000 --stop-after-epoch --dataset-chunk-size 50");
    let mut linear = lab
        .train("a", &format!("{epoch} --linear-dataset"))
        .steps("ce");
    let mut shuffled = lab
        .train("b", &format!("{epoch} --no-linear-dataset"))
        .steps("ce");
    let differing = linear.iter().zip(&shuffled).filter(|(a, b)| a != b).count();
    assert!(differing > linear.len() / 2, "{differing}");
    linear.sort_by(f64::total_cmp);
    shuffled.sort_by(f64::total_cmp);
    assert_near(&linear, &shuffled);
}

#[test]
fn ascii_only_leaves_out_the_rest() {
    let lab = Lab::new();
    lab.write("plain.txt", "caf au lait ".repeat(20));
    lab.write("accents.txt", "café au lait ".repeat(20));
    let train =
        |name: &str, flags: &str| lab.train(name, &format!("--steps 3 {flags}")).steps("ce");
    let plain = train("a", "--dataset-file plain.txt");
    assert_eq!(train("b", "--dataset-file accents.txt --ascii-only"), plain);
    assert_ne!(train("c", "--dataset-file accents.txt"), plain);
}

#[test]
fn documents_come_from_every_format() {
    let lab = Lab::new();
    lab.write("a.txt", "one two three four\n\nfive six seven eight nine");
    lab.write(
        "a.csv",
        "id,body\n1,one two three four\n2,five six seven eight nine\n",
    );
    lab.write(
        "a.jsonl",
        "{\"body\":\"one two three four\"}\n{\"body\":\"five six seven eight nine\"}\n",
    );
    let train = |file: &str, flags: &str| {
        let flags = format!("--steps 2 --dataset-file a.{file} {flags}");
        lab.train(file, &flags).steps("ce")
    };
    let text = train("txt", "");
    assert_eq!(train("csv", "--text-field body"), text);
    assert_eq!(train("jsonl", "--text-field body"), text);
}

#[test]
fn a_second_start_finds_the_tokens() {
    let lab = Lab::new();
    lab.train("a", "--steps 1");
    let written = |lab: &Lab| {
        let files = walk(&lab.path("cache"));
        assert_eq!(files.len(), 1, "{files:?}");
        std::fs::metadata(&files[0]).unwrap().modified().unwrap()
    };
    let before = written(&lab);
    lab.train("b", "--steps 1");
    assert_eq!(written(&lab), before);
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|e| e.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => walk(&path),
            false => vec![path],
        })
        .collect()
}

#[test]
fn old_checkpoints_are_kept_as_asked() {
    let lab = Lab::new();
    let flags = "--steps 6 --save-every 1 --keep-checkpoints";
    for (name, keep, kept) in [("few", 0, 2), ("more", 2, 4)] {
        lab.train(name, &format!("{flags} {keep}"));
        let folder = lab.brain(name).join("checkpoints");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), kept, "{name}");
    }
}

#[test]
fn starting_over_keeps_the_earlier_run() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let before = crate::common::lab::tensors(&lab.brain("a").join("model.safetensors"));
    let output = lab.try_train("a", "--steps 1 --seed 9");
    assert!(
        stderr(&output).contains("earlier-run"),
        "{}",
        stderr(&output)
    );
    let kept = lab
        .brain("a")
        .join("checkpoints/earlier-run/model.safetensors");
    assert!(crate::common::lab::tensors(&kept) == before);
}
