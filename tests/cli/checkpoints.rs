//! Bundles that are damaged or belong to another model.

use crate::common::lab::{Lab, assert_clear_error, reseal, stderr, tensors};
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Overwrite the last byte, in place: weights in the bundle and the checkpoint's are one file.
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
    for command in [
        "generate --bundle-dir brains --brain-name none",
        "eval --bundle-dir brains --brain-name none --file text.txt",
    ] {
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

/// Changes a file of the newest checkpoint, and makes all hashes agree.
fn forge(lab: &Lab, step: u64, file: &str, from: &str, to: &str) {
    let folder = lab.brain(&format!("a/checkpoints/step-{step:06}"));
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "no {from} in {text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    reseal(&folder);
    std::fs::remove_file(lab.brain("a/manifest.json")).unwrap();
}

/// Numbers that no flag would take must not be taken from a bundle either: they would abort the program.
#[test]
fn numbers_in_a_bundle_have_the_limits_of_flags() {
    for (file, from, to) in [
        (
            "trainer.json",
            "\"max_seq_len\": 16",
            "\"max_seq_len\": 8589934592",
        ),
        (
            "trainer.json",
            "\"h_cycles\": 2",
            "\"h_cycles\": 1099511627776",
        ),
        (
            "trainer.json",
            "\"step\": 4",
            "\"step\": 18446744073709551615",
        ),
        (
            "trainer.json",
            "\"hidden_size\": 32",
            "\"hidden_size\": 16777216",
        ),
        ("config.toml", "h_cycles = 2", "h_cycles = 1099511627776"),
        ("config.toml", "\nsteps = 4", "\nsteps = 0"),
        ("config.toml", "\nlr = ", "\nlr = -"),
        (
            "config.toml",
            "max_seq_len = 16",
            "max_seq_len = 8589934592",
        ),
    ] {
        let lab = Lab::new();
        lab.train("a", "--steps 4 --save-every 2");
        forge(&lab, 4, file, from, to);
        for reader in READERS {
            let output = lab.run(reader);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(0), "{to}: {text}");
            assert!(
                text.contains("(step 2)") || text.contains("step-000004"),
                "{text}"
            );
        }
    }
}

#[test]
fn a_checkpoint_that_lacks_a_tensor_or_has_no_numbers_is_passed_over() {
    let spoil: [fn(&mut Vec<u8>); 2] = [
        // The last four bytes become those of NaN.
        |bytes| {
            let end = bytes.len();
            bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        },
        |bytes| {
            let at = bytes.windows(6).position(|word| word == b"q_head").unwrap();
            bytes[at..at + 6].copy_from_slice(b"q_hood");
        },
    ];
    for spoil in spoil {
        let lab = Lab::new();
        lab.train("a", "--steps 4 --save-every 2");
        let folder = lab.brain("a/checkpoints/step-000004");
        let path = folder.join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        spoil(&mut bytes);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
        reseal(&folder);
        std::fs::remove_file(lab.brain("a/manifest.json")).unwrap();
        let output = lab.run(READERS[0]);
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(
            text.contains("(step 2)") && text.contains("model.safetensors"),
            "{text}"
        );
    }
}

/// An editor, a note, a wrong setting: the checkpoint is what counts, and what was changed is kept.
#[test]
fn an_edit_in_the_bundle_harms_nothing() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let config = lab.brain("a").join("config.toml");
    let mut file = OpenOptions::new().append(true).open(&config).unwrap();
    file.write_all(b"# a note\n").unwrap();
    for reader in READERS {
        let output = lab.run(reader);
        let text = stderr(&output);
        assert!(output.status.success(), "{text}");
        assert!(text.contains("config.toml"), "{text}");
    }
    let kept = std::fs::read_to_string(lab.brain("a").join("config.toml.changed")).unwrap();
    assert!(kept.ends_with("# a note\n"));
    assert!(lab.succeed(READERS[0]).len() > 1);
}

/// A bundle from elsewhere that would have text appended to a file of the user's.
#[test]
fn what_a_bundle_says_to_write_is_not_followed() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    lab.write("profile", "# mine\n");
    forge(&lab, 2, "config.toml", "\"a.jsonl\"", "\"profile\"");
    let line = "train --quiet --device cpu --bundle-dir brains --brain-name a --resume --steps 3";
    let output = lab.run(line);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(
        std::fs::read_to_string(lab.path("profile")).unwrap(),
        "# mine\n"
    );
}

/// Numbers that a file may hold but no model has: the flags' limits hold for them too.
#[test]
fn numbers_beyond_every_limit_are_refused_before_anything_is_made() {
    let lab = Lab::new();
    lab.train("whole", "--steps 2");
    let huge = |key: &'static str, value: u64| {
        move |trainer: &mut serde_json::Value| trainer["model"][key] = value.into()
    };
    for (key, value) in [
        ("max_seq_len", 1 << 33),
        ("h_cycles", 1 << 40),
        ("l_cycles", u64::MAX),
        ("h_layers", 1 << 30),
        ("vocab_size", 1 << 60),
        ("num_heads", 0),
        ("hidden_size", 1 << 62),
        ("window_size", u64::MAX),
    ] {
        let name = format!("bad-{key}");
        lab.altered("whole", &name, |trainer, _| huge(key, value)(trainer));
        for reader in READERS {
            let reader = reader.replace("brains/a ", &format!("brains/{name} "));
            let reader = reader.replace("--brain-name a", &format!("--brain-name {name}"));
            assert_clear_error(&lab.run(&reader), 1, &["trainer.json"]);
        }
    }
}

#[test]
fn more_segments_than_any_run_has_are_refused() {
    let lab = Lab::new();
    lab.train("whole", "--steps 2");
    lab.altered("whole", "a", |_, config| {
        *config = config.replace("halt_max_steps = 2", "halt_max_steps = 16777216");
    });
    for reader in READERS {
        let words = ["config.toml", "--halt-max-steps is 16777216"];
        assert_clear_error(&lab.run(reader), 1, &words);
    }
}

/// Tables of positions are as long as the text, not as the longest there might be.
#[test]
fn a_short_text_needs_no_table_of_all_positions() {
    let lab = Lab::new();
    lab.train("whole", "--steps 2");
    lab.altered("whole", "a", |trainer, _| {
        trainer["model"]["max_seq_len"] = (1 << 24).into();
    });
    lab.altered("whole", "short", |_, _| {});
    let text = |name| {
        lab.succeed(&format!(
            "generate brains/{name} --device cpu --max-new-tokens 4"
        ))
    };
    assert_eq!(text("a"), text("short"));
    lab.succeed("eval brains/a --file text.txt --device cpu --batches 1");
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let lab = Lab::new();
    lab.train("a", "--steps 2");
    let mut bytes = std::fs::read(lab.brain("a").join("model.safetensors")).unwrap();
    let end = bytes.len();
    // The last tensor of the file is the last by name.
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    lab.write("teacher.safetensors", bytes);
    let output = lab.try_train("b", "--steps 2 --student-init teacher.safetensors");
    let words = ["teacher.safetensors", "q_head.weight", "NaN at [1, 31]"];
    assert_clear_error(&output, 1, &words);
    assert!(!stderr(&output).contains("--lr"));
}
