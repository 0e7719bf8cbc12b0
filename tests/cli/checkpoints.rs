//! Bundles that are damaged or belong to another model.

use crate::common::lab::{Lab, assert_clear_error, stderr, tensors};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Overwrite the last byte, in place: the file in the bundle and the checkpoint's are one.
fn damage(path: &Path) {
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::End(-1)).unwrap();
    file.write_all(&[0xA5]).unwrap();
}

fn truncate(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(100).unwrap();
}

/// Every command that reads a bundle.
const READERS: [&str; 3] = [
    "generate brains/a --device cpu",
    "eval brains/a --file text.txt --device cpu",
    "train --quiet --device cpu --bundle-dir brains --brain-name a --resume --steps 9",
];

#[test]
fn damaged_checkpoint() {
    for (spoil, file) in [
        (damage as fn(&Path), "model.safetensors"),
        (truncate, "optimizer.safetensors"),
        (truncate, "trainer.json"),
        (truncate, "manifest.json"),
    ] {
        let lab = Lab::new();
        lab.train("a", "--steps 2");
        spoil(&lab.brain("a").join(file));
        // Where links cannot be made the files are copies.
        spoil(&lab.brain("a").join("checkpoints/step-000002").join(file));
        for reader in READERS {
            assert_clear_error(&lab.run(reader), 1, &["is intact", file]);
        }
    }
}

#[test]
fn damaged_newest_checkpoint_falls_back_to_the_one_before() {
    let lab = Lab::new();
    lab.train("a", "--steps 4 --save-every 2");
    for folder in ["a", "a/checkpoints/step-000004"] {
        damage(&lab.brain(folder).join("model.safetensors"));
    }
    let output = lab.try_train("a", "--resume --steps 6");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("model.safetensors is damaged"), "{text}");
    assert_eq!(lab.events("a").of("resume")[0]["step"], 2);
}

#[test]
fn no_bundle_to_read() {
    let lab = Lab::new();
    for command in ["generate brains/none", "eval brains/none --file text.txt"] {
        assert_clear_error(&lab.run(command), 1, &["no bundle in brains/none"]);
    }
}

/// Resume with another shape of the model: an error that names the flag and leaves the bundle
/// alone.
fn mismatch(trained_with: &str, flag: &str) {
    let lab = Lab::new();
    lab.train("a", &format!("--steps 2 {trained_with}"));
    let model = lab.brain("a").join("model.safetensors");
    let before = tensors(&model);
    let output = lab.run(&format!(
        "train --bundle-dir brains --brain-name a --resume {flag}"
    ));
    let (name, _) = flag.split_once(' ').unwrap();
    assert_clear_error(&output, 2, &["trained with", name, "without --resume"]);
    assert!(tensors(&model) == before, "the weights changed");
    lab.train("a", &format!("--resume --steps 4 {trained_with}"));
}

#[test]
fn resuming_with_another_width() {
    mismatch("", "--hidden-size 64");
}

#[test]
fn resuming_with_other_layers() {
    mismatch("", "--h-layers 2");
    mismatch("--l-layers 2", "--l-layers 1");
}

#[test]
fn resuming_with_other_heads() {
    mismatch("", "--num-heads 4");
}

#[test]
fn resuming_with_other_positions() {
    mismatch("", "--pos-encodings learned");
    mismatch("--pos-encodings learned", "--max-seq-len 32");
}

#[test]
fn resuming_with_another_tokenizer() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let output = lab.try_train("a", "--resume --steps 4 --model gpt2");
    assert_clear_error(&output, 2, &["another tokenizer", "gpt2"]);
}

#[test]
fn initial_weights_of_another_width() {
    let lab = Lab::new();
    lab.train("teacher", "--steps 1");
    let flags = "--student-init brains/teacher --steps 1";
    let output = lab.try_train("a", &format!("{flags} --hidden-size 64"));
    assert_clear_error(&output, 1, &["shape", "model flags"]);
    let output = lab.try_train("a", "--student-init text.txt");
    assert_clear_error(&output, 1, &["text.txt"]);
    let output = lab.try_train("a", "--student-init nowhere");
    assert_clear_error(&output, 1, &["nowhere"]);
}
