use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;
use crate::manifest::Manifest;

mod folder;

/// A tensor whose bytes all say which step they were saved at.
fn source(name: &str, dtype: Dtype, shape: &[usize], fill: u8) -> TensorSource<'static> {
    let bytes = vec![fill; shape.iter().product::<usize>() * dtype.size()];
    TensorSource {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        fetch: Box::new(move || Ok(bytes.clone())),
    }
}

fn write_tokenizer(dir: &Path) -> Result<()> {
    let path = dir.join("tokenizer.json");
    fs::write(&path, "{}").map_err(|cause| Error::io(&path, "write", cause))
}

fn contents(step: u64) -> BundleContents<'static> {
    let fill = step as u8;
    BundleContents {
        step,
        model: vec![
            source("layer.weight", Dtype::F32, &[3, 5], fill),
            source("bias", Dtype::BF16, &[7], fill),
        ],
        optimizer: vec![
            source("codes", Dtype::U8, &[15], fill),
            source("absmax", Dtype::F32, &[], fill),
        ],
        trainer: json!({ "step": step }),
        config_toml: format!("steps = {step}\n"),
        tokenizer: &write_tokenizer,
        folder: &[],
    }
}

/// A bundle directory into which the given steps were saved.
fn saved(steps: &[u64]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    for &step in steps {
        writer.save(&contents(step)).unwrap();
    }
    dir
}

fn best(step: u64, loss: f64) -> Best {
    Best {
        step,
        loss,
        evaluated: "a text".to_string(),
    }
}

fn prepare(dir: &Path, older: usize) -> Result<BundleWriter> {
    BundleWriter::new(Lock::acquire(dir)?, older, &|_| Ok(()))
}

fn checkpoint(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("checkpoints/step-{step:06}"))
}

fn folders(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.join(CHECKPOINTS))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Opens the bundle and checks that all of it was saved at one step, which it returns.
fn opened_step(dir: &Path) -> u64 {
    let bundle = Bundle::open(dir, &|_| Ok(())).unwrap();
    let step = bundle.step();
    assert_eq!(bundle.trainer()["step"], step);
    assert_eq!(bundle.config_toml(), format!("steps = {step}\n"));
    for file in [
        bundle.model_tensors().unwrap(),
        bundle.optimizer_tensors().unwrap(),
    ] {
        for name in file.names() {
            let tensor = file.read(&name).unwrap();
            assert!(
                tensor.bytes.iter().all(|&byte| byte == step as u8),
                "{name}"
            );
        }
    }
    step
}

fn open_error(dir: &Path) -> String {
    let error = Bundle::open(dir, &|_| Ok(())).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    error.to_string()
}

fn flip_a_byte(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    // In place, as a disk error would: through every hard link.
    let mut file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all(&bytes).unwrap();
}

/// Replaces a file's contents and makes the manifest agree, to get past the hashes.
fn replace_consistently(dir: &Path, step: u64, name: &str, bytes: &[u8]) {
    let folder = checkpoint(dir, step);
    let old = Manifest::read(&folder).unwrap().unwrap();
    fs::write(folder.join(name), bytes).unwrap();
    let mut files = old.files.clone();
    files.insert(name.into(), disk::read_entry(&folder.join(name)).unwrap());
    fs::remove_file(folder.join(manifest::MANIFEST)).unwrap();
    Manifest::new(old.sequence, old.step, files)
        .unwrap()
        .write(&folder)
        .unwrap();
    fs::remove_file(dir.join(manifest::MANIFEST)).unwrap();
}

#[test]
fn what_was_saved_is_read_back() {
    let dir = saved(&[9]);
    assert_eq!(opened_step(dir.path()), 9);
    let bundle = Bundle::open(dir.path(), &|_| Ok(())).unwrap();
    let model = bundle.model_tensors().unwrap();
    assert_eq!(model.names(), ["layer.weight", "bias"]);
    let weight = model.read("layer.weight").unwrap();
    assert_eq!((weight.dtype, weight.shape), (Dtype::F32, vec![3, 5]));
    assert!(bundle.tokenizer_dir().join("tokenizer.json").is_file());
}

#[test]
fn every_element_type_is_read_back() {
    let all = [
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::U8,
        Dtype::I32,
        Dtype::U32,
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("all.safetensors");
    let sources: Vec<_> = all
        .iter()
        .map(|&dtype| source(&format!("{dtype:?}"), dtype, &[3], 1))
        .collect();
    tensors::write(&path, &sources).unwrap();
    let file = TensorFile::open(&path).unwrap();
    let read: Vec<Dtype> = all
        .iter()
        .map(|dtype| file.read(&format!("{dtype:?}")).unwrap().dtype)
        .collect();
    assert_eq!(read, all);
}

#[test]
fn the_reference_reader_accepts_the_weights() {
    let dir = saved(&[2]);
    let bytes = fs::read(dir.path().join(MODEL)).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header % 8, 0);
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("layer.weight").unwrap().data(), [2; 60]);
}

#[test]
fn an_optimizer_without_state_is_fine() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    let stateless = BundleContents {
        optimizer: Vec::new(),
        ..contents(1)
    };
    writer.save(&stateless).unwrap();
    assert!(
        Bundle::open(dir.path(), &|_| Ok(()))
            .unwrap()
            .optimizer_tensors()
            .unwrap()
            .names()
            .is_empty()
    );
}

#[test]
fn the_report_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let report = prepare(dir.path(), 0).unwrap().save(&contents(4)).unwrap();
    assert_eq!(report.path, checkpoint(dir.path(), 4));
    let top = [
        MODEL,
        OPTIMIZER,
        TRAINER,
        CONFIG,
        "tokenizer/tokenizer.json",
    ];
    let bytes: u64 = top
        .iter()
        .map(|name| fs::metadata(dir.path().join(name)).unwrap().len())
        .sum();
    assert_eq!(report.bytes, bytes);
}

#[test]
fn the_newest_and_the_one_before_are_kept() {
    let dir = saved(&[10, 20, 30]);
    assert_eq!(folders(dir.path()), ["step-000020", "step-000030"]);
    assert_eq!(opened_step(dir.path()), 30);
}

#[test]
fn as_many_checkpoints_are_kept_as_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 1).unwrap();
    for step in 1..=5 {
        writer.save(&contents(step)).unwrap();
    }
    assert_eq!(
        folders(dir.path()),
        ["step-000003", "step-000004", "step-000005"]
    );
    assert_eq!(opened_step(&checkpoint(dir.path(), 4)), 4);
}

#[test]
fn files_of_others_in_the_directory_stay() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("metrics.jsonl");
    fs::create_dir_all(dir.path().join("checkpoints/mine")).unwrap();
    let mut open_log = fs::File::create(&log).unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    for step in 1..=4 {
        writer.save(&contents(step)).unwrap();
        writeln!(open_log, "{step}").unwrap();
    }
    assert_eq!(fs::read_to_string(&log).unwrap(), "1\n2\n3\n4\n");
    assert!(dir.path().join("checkpoints/mine").is_dir());
}

#[test]
fn a_file_that_is_no_longer_part_of_the_bundle_goes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.save(&contents(1)).unwrap();
    let bare = BundleContents {
        tokenizer: &|_| Ok(()),
        ..contents(2)
    };
    writer.save(&bare).unwrap();
    assert!(!dir.path().join("tokenizer/tokenizer.json").exists());
}

#[test]
fn a_run_that_starts_over_is_the_newest_though_its_steps_are_fewer() {
    let dir = saved(&[100, 200]);
    prepare(dir.path(), 0).unwrap().save(&contents(5)).unwrap();
    assert_eq!(opened_step(dir.path()), 5);
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    assert_eq!(opened_step(dir.path()), 5);
}

#[test]
fn the_same_step_can_be_saved_again() {
    let dir = saved(&[7]);
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.save(&contents(7)).unwrap();
    assert_eq!(folders(dir.path()), ["step-000007", "step-000007-replaced"]);
    writer.save(&contents(7)).unwrap();
    assert_eq!(
        folders(dir.path()),
        ["step-000007", "step-000007-replaced-2"]
    );
    assert_eq!(opened_step(dir.path()), 7);
}

#[test]
fn an_earlier_run_set_aside_outlives_the_saves_of_the_next() {
    let dir = saved(&[100, 200]);
    let mut writer = prepare(dir.path(), 0).unwrap();
    let aside = writer.set_earlier_run_aside().unwrap().unwrap().path;
    for step in 1..=4 {
        writer.save(&contents(step)).unwrap();
    }
    assert_eq!(opened_step(&aside), 200);
    assert_eq!(
        folders(dir.path()),
        ["earlier-run", "step-000003", "step-000004"]
    );
}

/// Starts over once for each step, and saves that step.
fn started_over(dir: &Path, older: usize, steps: &[u64]) {
    for &step in steps {
        let mut writer = prepare(dir, older).unwrap();
        writer.set_earlier_run_aside().unwrap();
        writer.save(&contents(step)).unwrap();
    }
}

#[test]
fn each_run_set_aside_has_a_place_of_its_own() {
    let dir = saved(&[200]);
    started_over(dir.path(), 2, &[3, 4, 5]);
    let aside = |name: &str| opened_step(&dir.path().join(CHECKPOINTS).join(name));
    assert_eq!(
        ["earlier-run", "earlier-run-2", "earlier-run-3"].map(aside),
        [200, 3, 4]
    );
    assert_eq!(opened_step(dir.path()), 5);
}

#[test]
fn of_runs_set_aside_the_least_trained_go_and_the_last_stays() {
    let dir = saved(&[200]);
    started_over(dir.path(), 1, &[3, 4, 5, 6]);
    let steps = |dir: &Path| -> Vec<u64> {
        let aside = folders(dir)
            .into_iter()
            .filter(|name| name.starts_with(EARLIER_RUN));
        let mut steps: Vec<u64> = aside
            .map(|name| opened_step(&dir.join(CHECKPOINTS).join(name)))
            .collect();
        steps.sort_unstable();
        steps
    };
    assert_eq!(steps(dir.path()), [5, 200]);
    started_over(dir.path(), 0, &[7]);
    assert_eq!(steps(dir.path()), [6]);
}

#[test]
fn runs_set_aside_do_not_count_among_those_kept() {
    let dir = saved(&[200]);
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.set_earlier_run_aside().unwrap();
    for step in 10..13 {
        writer.save(&contents(step)).unwrap();
    }
    assert_eq!(
        folders(dir.path()),
        ["earlier-run", "step-000011", "step-000012"]
    );
}

#[test]
fn a_run_that_saved_nothing_leaves_the_earlier_one_where_it_is() {
    let dir = saved(&[200]);
    for _ in 0..2 {
        let writer = prepare(dir.path(), 0).unwrap();
        let aside = writer.set_earlier_run_aside().unwrap().unwrap().path;
        assert_eq!(opened_step(&aside), 200);
    }
    assert_eq!(folders(dir.path()), ["earlier-run"]);
}

#[test]
fn a_run_without_a_step_is_not_set_aside() {
    let dir = saved(&[0]);
    let writer = prepare(dir.path(), 0).unwrap();
    assert_eq!(writer.set_earlier_run_aside().unwrap(), None);
}

#[test]
fn there_is_nothing_to_set_aside_in_a_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    let writer = prepare(dir.path(), 0).unwrap();
    assert_eq!(writer.set_earlier_run_aside().unwrap(), None);
}

#[test]
fn a_bundle_without_its_checkpoints_folder_is_opened_and_not_overwritten() {
    let dir = saved(&[50]);
    fs::remove_dir_all(dir.path().join(CHECKPOINTS)).unwrap();
    assert_eq!(opened_step(dir.path()), 50);
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.save(&contents(60)).unwrap();
    assert_eq!(opened_step(&checkpoint(dir.path(), 50)), 50);
    assert_eq!(opened_step(dir.path()), 60);
}

#[test]
fn the_best_checkpoint_outlives_newer_ones_until_there_is_a_better() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    let mut keep = |step: u64, loss: Option<f64>| {
        let saved = writer.save(&contents(step)).unwrap();
        let best = loss.map(|loss| best(step, loss));
        let place = best.map(|best| writer.keep_best(&saved.path, best).unwrap());
        assert_eq!(
            writer.best().map(|best| best.step),
            Some(if step < 5 { 1 } else { 5 })
        );
        place
    };
    keep(1, Some(2.5));
    for step in 2..5 {
        keep(step, None);
    }
    assert_eq!(
        folders(dir.path()),
        ["best-step-000001", "step-000003", "step-000004"]
    );
    let place = keep(5, Some(2.25)).unwrap();
    assert_eq!(opened_step(&place), 5);
    assert_eq!(
        folders(dir.path()),
        ["best-step-000005", "step-000004", "step-000005"]
    );
    assert_eq!(opened_step(dir.path()), 5);
}

#[test]
fn the_best_of_a_run_that_is_started_over_goes_aside_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    let saved = writer.save(&contents(1)).unwrap();
    let best = best(1, 2.5);
    writer.keep_best(&saved.path, best).unwrap();
    writer.save(&contents(2)).unwrap();
    writer.set_earlier_run_aside().unwrap();
    assert_eq!(writer.best(), None);
    let place = |name: &str| dir.path().join(CHECKPOINTS).join(name);
    assert_eq!(opened_step(&place("earlier-run")), 2);
    assert_eq!(opened_step(&place("earlier-run-best")), 1);
    for step in [3, 4] {
        writer.save(&contents(step)).unwrap();
        writer.set_earlier_run_aside().unwrap();
    }
    assert!(!place("earlier-run-best").exists());
}

// A bundle from elsewhere, and directories of others.

/// What `victim` holds must not change, whatever a bundle has in the place of a file or a folder.
#[cfg(unix)]
#[test]
fn links_in_a_bundle_lead_nowhere() {
    use std::os::unix::fs::symlink;
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    for name in [
        ".lock",
        "checkpoints",
        "tokenizer",
        MODEL,
        CONFIG,
        "manifest.json",
    ] {
        fs::write(&victim, "of value").unwrap();
        fs::write(outside.path().join("tokenizer.json"), "of value").unwrap();
        let dir = saved(&[1]);
        let path = dir.path().join(name);
        let target = if path.is_dir() {
            outside.path()
        } else {
            &victim
        };
        match path.is_dir() {
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        symlink(target, &path).unwrap();
        let error = prepare(dir.path(), 0).unwrap_err().to_string();
        assert!(error.contains("link"), "{name}: {error}");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "of value");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2, "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_checkpoint_with_a_link_or_a_pipe_in_it_is_damaged_and_keeps_nobody_waiting() {
    let outside = tempfile::tempdir().unwrap();
    for name in [MODEL, TRAINER, "tokenizer/tokenizer.json", "manifest.json"] {
        for pipe in [false, true] {
            let dir = saved(&[1]);
            fs::remove_file(dir.path().join("manifest.json")).unwrap();
            let path = checkpoint(dir.path(), 1).join(name);
            let copy = outside.path().join("copy");
            fs::copy(&path, &copy).unwrap();
            fs::remove_file(&path).unwrap();
            if pipe {
                let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
                // SAFETY: a valid string that ends with NUL.
                assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
            } else {
                std::os::unix::fs::symlink(&copy, &path).unwrap();
            }
            assert!(open_error(dir.path()).contains("must not hold"), "{name}");
        }
    }
}

#[test]
fn a_lock_that_is_something_else_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let lock = dir.path().join(".lock");
    for text in ["my notes", &"1".repeat(30)] {
        fs::write(&lock, text).unwrap();
        let error = prepare(dir.path(), 0).unwrap_err().to_string();
        assert!(error.contains("of another program"), "{error}");
        assert_eq!(fs::read_to_string(&lock).unwrap(), text);
    }
}

#[test]
fn files_of_others_by_the_names_of_a_bundles_are_not_replaced() {
    for name in [
        MODEL,
        OPTIMIZER,
        TRAINER,
        CONFIG,
        "manifest.json",
        "tokenizer/a",
        "checkpoints/step-000002/model",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{\"name\": \"mine\"}").unwrap();
        let error = prepare(dir.path(), 0).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let first = name.split('/').next().unwrap();
        assert!(error.to_string().contains(first), "{error}");
        assert!(!dir.path().join(".lock").exists());
    }
}

#[test]
fn an_edit_of_a_file_in_the_directory_reaches_no_checkpoint_and_is_kept() {
    let dir = saved(&[1]);
    for name in [CONFIG, TRAINER, "tokenizer/tokenizer.json", MODEL] {
        let path = dir.path().join(name);
        let text = [fs::read(&path).unwrap(), b"# mine".to_vec()].concat();
        // As an editor does that replaces the file; one that writes in place reaches a hard link of the weights.
        if name == MODEL {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, &text).unwrap();
        assert_eq!(opened_step(dir.path()), 1);
    }
    prepare(dir.path(), 0).unwrap().save(&contents(2)).unwrap();
    assert_eq!(opened_step(dir.path()), 2);
    let kept = fs::read(dir.path().join("config.toml.changed")).unwrap();
    assert_eq!(kept, b"steps = 1\n# mine");
    assert!(dir.path().join("model.safetensors.changed").exists());
    assert!(dir.path().join("tokenizer/tokenizer.json.changed").exists());
}

#[test]
fn an_edit_is_told_from_damage() {
    let dir = saved(&[1]);
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    let path = checkpoint(dir.path(), 1).join(CONFIG);
    let saved = fs::metadata(&path).unwrap().modified().unwrap();
    for (later, words) in [(0, "is damaged"), (60, "was changed after it was saved")] {
        fs::write(&path, "steps = 3\n").unwrap();
        let time = saved + std::time::Duration::from_secs(later);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
        let message = open_error(dir.path());
        assert!(message.contains(words), "{message}");
    }
}

/// A manifest of its own, sealed as it should be.
fn forged(dir: &Path, change: impl FnOnce(&mut Manifest)) {
    let folder = checkpoint(dir, 1);
    let mut manifest = Manifest::read(&folder).unwrap().unwrap();
    change(&mut manifest);
    fs::remove_file(folder.join(manifest::MANIFEST)).unwrap();
    fs::remove_file(dir.join(manifest::MANIFEST)).unwrap();
    Manifest::new(manifest.sequence, manifest.step, manifest.files)
        .unwrap()
        .write(&folder)
        .unwrap();
}

/// Says that each of the large files has so many bytes.
fn lengthen(manifest: &mut Manifest, bytes: u64) {
    for name in [MODEL, OPTIMIZER] {
        manifest.files.get_mut(name).unwrap().bytes = bytes;
    }
}

#[test]
fn checkpoints_that_claim_more_than_can_be_counted_together_are_no_obstacle() {
    let steps: Vec<u64> = (1..=33).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), steps.len()).unwrap();
    for &step in &steps {
        let folder = writer.save(&contents(step)).unwrap().path;
        let mut manifest = Manifest::read(&folder).unwrap().unwrap();
        lengthen(&mut manifest, 1 << 58);
        fs::remove_file(folder.join(manifest::MANIFEST)).unwrap();
        Manifest::new(manifest.sequence, step, manifest.files)
            .unwrap()
            .write(&folder)
            .unwrap();
    }
    assert_eq!(writer.replaceable_bytes(), u64::MAX);
    writer.require_room(1, false).unwrap();
}

#[test]
fn a_manifest_that_lists_nothing_or_counts_too_far_is_damaged() {
    type Change = fn(&mut Manifest);
    let cases: [(Change, &str); 5] = [
        (|manifest| manifest.files.clear(), "does not list"),
        (
            |manifest| drop(manifest.files.remove(OPTIMIZER)),
            "does not list",
        ),
        (|manifest| manifest.sequence = u64::MAX, "counts to"),
        (|manifest| manifest.step = u64::MAX, "counts to"),
        (|manifest| lengthen(manifest, u64::MAX), "than any disk"),
    ];
    for (change, words) in cases {
        let dir = saved(&[1]);
        forged(dir.path(), change);
        let message = open_error(dir.path());
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_directory_whose_saves_are_counted_to_the_end_is_not_saved_into() {
    let dir = saved(&[1]);
    forged(dir.path(), |manifest| {
        manifest.sequence = manifest::LAST_SEQUENCE - 1
    });
    let error = prepare(dir.path(), 0).unwrap_err().to_string();
    assert!(error.contains("counts"), "{error}");
}

/// A file of a terabyte is made in an instant and read in an hour.
#[cfg(unix)]
#[test]
fn a_file_of_another_length_is_not_read() {
    let dir = saved(&[1]);
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    for name in [MODEL, CONFIG, "tokenizer/tokenizer.json", "manifest.json"] {
        let path = checkpoint(dir.path(), 1).join(name);
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(1 << 40).unwrap();
        let started = std::time::Instant::now();
        open_error(dir.path());
        assert!(started.elapsed().as_secs() < 5, "{name}");
        file.set_len(length).unwrap();
    }
}

#[test]
fn weights_that_are_no_numbers_are_damage_and_moments_may_have_overflowed() {
    let dir = saved(&[1]);
    for (name, value, whole) in [
        (MODEL, f32::NAN, false),
        (MODEL, f32::INFINITY, false),
        (OPTIMIZER, f32::NAN, false),
        (OPTIMIZER, f32::INFINITY, true),
    ] {
        let mut writer = prepare(dir.path(), 0).unwrap();
        let bad = || TensorSource {
            fetch: Box::new(move || Ok([0.5, value].map(f32::to_le_bytes).as_flattened().to_vec())),
            ..source("bad", Dtype::F32, &[2], 0)
        };
        let mut contents = contents(2);
        match name == MODEL {
            true => contents.model.push(bad()),
            false => contents.optimizer.push(bad()),
        }
        writer.save(&contents).unwrap();
        drop(writer);
        assert_eq!(
            Bundle::open(dir.path(), &|_| Ok(())).unwrap().step() == 2,
            whole
        );
        prepare(dir.path(), 0)
            .unwrap()
            .save(&self::contents(1))
            .unwrap();
    }
}

#[test]
fn a_checkpoint_that_is_found_wanting_is_passed_over_and_put_aside() {
    let dir = saved(&[1, 2]);
    let check = |bundle: &Bundle| match bundle.step() {
        2 => Err(Error::failed("lacks a tensor")),
        _ => Ok(()),
    };
    assert_eq!(Bundle::open(dir.path(), &check).unwrap().step(), 1);
    BundleWriter::new(Lock::acquire(dir.path()).unwrap(), 0, &check).unwrap();
    assert_eq!(folders(dir.path()), ["damaged-step-000002", "step-000001"]);
}

// What a training and a reader do at the same time.

#[test]
fn a_reader_beside_a_training_sees_one_whole_save_and_no_damage() {
    let dir = saved(&[1]);
    let place = dir.path().to_path_buf();
    let training = std::thread::spawn(move || {
        let mut writer = prepare(&place, 0).unwrap();
        for step in 2..60 {
            writer.save(&contents(step)).unwrap();
        }
    });
    let check = |bundle: &Bundle| {
        // Long enough for some saves.
        std::thread::sleep(std::time::Duration::from_millis(bundle.step() % 7));
        Ok(())
    };
    let mut newest = 0;
    while !training.is_finished() {
        let bundle = Bundle::open(dir.path(), &check).unwrap();
        let step = bundle.step();
        assert!(step >= newest);
        newest = step;
        let model = bundle.model_tensors().unwrap();
        let weight = model.read("layer.weight").unwrap();
        assert!(weight.bytes.iter().all(|&byte| byte == step as u8));
    }
    training.join().unwrap();
}

#[test]
fn a_directory_that_is_removed_under_a_training_is_made_anew() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("brain");
    let mut writer = prepare(&dir, 0).unwrap();
    writer.save(&contents(1)).unwrap();
    fs::remove_dir_all(dir.join(CHECKPOINTS)).unwrap();
    writer.save(&contents(2)).unwrap();
    if cfg!(unix) {
        fs::remove_dir_all(&dir).unwrap();
        writer.save(&contents(3)).unwrap();
        assert_eq!(opened_step(&dir), 3);
    }
    assert!(
        Lock::acquire(&dir).is_err(),
        "nobody else may train into it"
    );
}

#[cfg(unix)]
#[test]
fn a_lock_that_is_removed_under_a_training_is_taken_anew() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.save(&contents(1)).unwrap();
    fs::remove_file(dir.path().join(lock::LOCK)).unwrap();
    writer.save(&contents(2)).unwrap();
    assert_eq!(folders(dir.path()), ["step-000001", "step-000002"]);
    assert!(Lock::acquire(dir.path()).is_err());
}

/// A backup that is restored, or a copy of another run, under a training: what it saves is the newest nevertheless.
#[test]
fn checkpoints_of_another_run_that_appear_do_not_displace_a_save() {
    let other = saved(&[10, 20, 30, 40]);
    let dir = tempfile::tempdir().unwrap();
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.save(&contents(1)).unwrap();
    for step in [30, 40] {
        fs::rename(checkpoint(other.path(), step), checkpoint(dir.path(), step)).unwrap();
    }
    for step in [2, 3] {
        let report = writer.save(&contents(step)).unwrap();
        assert!(report.path.exists());
        assert_eq!(opened_step(dir.path()), step);
    }
}

#[cfg(unix)]
#[test]
fn another_runs_directory_in_the_place_of_a_trainings_is_set_aside() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("brain");
    let mut writer = prepare(&dir, 0).unwrap();
    writer.save(&contents(1)).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let other = saved(&[30, 40]);
    fs::rename(other.path(), &dir).unwrap();
    let report = writer.save(&contents(2)).unwrap();
    assert!(report.path.exists());
    assert_eq!(opened_step(&dir), 2);
    assert!(folders(&dir).contains(&"earlier-run".to_string()));
}

#[test]
fn a_disk_that_is_too_small_is_told_before_training() {
    let dir = tempfile::tempdir().unwrap();
    let writer = prepare(dir.path(), 0).unwrap();
    writer.require_room(1000, true).unwrap();
    let error = writer.require_room(1 << 60, false).unwrap_err().to_string();
    assert!(error.contains("free some disk space"), "{error}");
}

// What a crash leaves behind, at each stage of a save.

#[test]
fn a_crash_while_writing_leaves_the_previous_checkpoint() {
    let dir = saved(&[1, 2]);
    let unfinished = dir.path().join("checkpoints/.unfinished-4711");
    fs::create_dir(&unfinished).unwrap();
    fs::write(unfinished.join(MODEL), "half of").unwrap();
    assert_eq!(opened_step(dir.path()), 2);
    prepare(dir.path(), 0).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(opened_step(dir.path()), 2);
}

#[test]
fn a_crash_between_moving_the_same_step_aside_and_the_commit_leaves_it_open() {
    let dir = saved(&[1, 2]);
    fs::rename(
        checkpoint(dir.path(), 2),
        dir.path().join("checkpoints/step-000002-replaced-3"),
    )
    .unwrap();
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    assert_eq!(opened_step(dir.path()), 2);
}

#[test]
fn a_crash_after_the_commit_leaves_the_new_checkpoint() {
    let dir = saved(&[1, 2]);
    let newer = saved(&[10, 20, 30]);
    fs::rename(checkpoint(newer.path(), 30), checkpoint(dir.path(), 30)).unwrap();
    assert_eq!(opened_step(dir.path()), 30);
}

#[test]
fn a_crash_while_publishing_leaves_the_new_checkpoint() {
    let dir = saved(&[1, 2]);
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    fs::remove_file(dir.path().join(MODEL)).unwrap();
    fs::hard_link(
        checkpoint(dir.path(), 1).join(MODEL),
        dir.path().join(MODEL),
    )
    .unwrap();
    assert_eq!(opened_step(dir.path()), 2);
    prepare(dir.path(), 0).unwrap().save(&contents(3)).unwrap();
    fs::remove_dir_all(dir.path().join(CHECKPOINTS)).unwrap();
    assert_eq!(opened_step(dir.path()), 3);
}

/// Also where nothing is left to train, so that nothing is saved again.
#[test]
fn after_a_crash_before_publishing_the_next_start_does_it() {
    let dir = saved(&[1, 2]);
    let newer = saved(&[10, 20, 30]);
    fs::rename(checkpoint(newer.path(), 30), checkpoint(dir.path(), 30)).unwrap();
    prepare(dir.path(), 0).unwrap();
    fs::remove_dir_all(dir.path().join(CHECKPOINTS)).unwrap();
    assert_eq!(opened_step(dir.path()), 30);
}

#[test]
fn a_crash_while_removing_old_checkpoints_leaves_the_new_one() {
    let dir = saved(&[1, 2]);
    let doomed = dir.path().join("checkpoints/.unfinished-step-000001");
    fs::rename(checkpoint(dir.path(), 1), &doomed).unwrap();
    fs::remove_file(doomed.join(MODEL)).unwrap();
    assert_eq!(opened_step(dir.path()), 2);
    prepare(dir.path(), 0).unwrap();
    assert_eq!(folders(dir.path()), ["step-000002"]);
}

/// The writer that the next test kills: it saves without end.
#[test]
#[ignore = "run by a_writer_killed_at_any_time_leaves_a_whole_bundle"]
fn writer_to_be_killed() {
    let Some(dir) = std::env::var_os("AIOS_TEST_BUNDLE") else {
        return;
    };
    let mut writer = prepare(Path::new(&dir), 0).unwrap();
    for step in (1..=200).cycle() {
        folder::save_all(&mut writer, step);
    }
}

#[test]
fn a_writer_killed_at_any_time_leaves_a_whole_bundle() {
    let dir = saved(&[1]);
    let (_, tests) = module_path!().split_once("::").unwrap();
    for round in 0..8 {
        let mut writer = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                &format!("{tests}::writer_to_be_killed"),
                "--ignored",
            ])
            .env("AIOS_TEST_BUNDLE", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(15 + 7 * round));
        writer.kill().unwrap();
        writer.wait().unwrap();
        opened_step(dir.path());
    }
}

// Damage.

#[test]
fn damage_to_the_newest_goes_back_to_the_one_before() {
    let dir = saved(&[1, 2]);
    flip_a_byte(&checkpoint(dir.path(), 2).join(OPTIMIZER), 170);
    assert_eq!(opened_step(dir.path()), 1);
}

#[test]
fn a_damaged_checkpoint_does_not_take_the_place_of_a_good_one() {
    let dir = saved(&[2, 4]);
    flip_a_byte(&checkpoint(dir.path(), 4).join(OPTIMIZER), 170);
    let mut writer = prepare(dir.path(), 0).unwrap();
    writer.save(&contents(3)).unwrap();
    assert_eq!(
        folders(dir.path()),
        ["damaged-step-000004", "step-000002", "step-000003"]
    );
    flip_a_byte(&checkpoint(dir.path(), 3).join(OPTIMIZER), 170);
    assert_eq!(opened_step(dir.path()), 2);
}

#[test]
fn a_damaged_checkpoint_is_set_aside_once() {
    let dir = saved(&[2, 4]);
    flip_a_byte(&checkpoint(dir.path(), 4).join(OPTIMIZER), 170);
    for _ in 0..3 {
        prepare(dir.path(), 0).unwrap();
        assert_eq!(opened_step(dir.path()), 2);
    }
    assert_eq!(folders(dir.path()), ["damaged-step-000004", "step-000002"]);
}

#[test]
fn a_whole_copy_of_a_damaged_checkpoint_takes_its_place() {
    let dir = saved(&[2, 4]);
    let damaged = checkpoint(dir.path(), 4).join(OPTIMIZER);
    let mut bytes = fs::read(&damaged).unwrap();
    bytes[170] ^= 1;
    // A new file: the one in the directory itself stays as it is.
    fs::remove_file(&damaged).unwrap();
    fs::write(&damaged, bytes).unwrap();
    prepare(dir.path(), 0).unwrap();
    assert_eq!(opened_step(&checkpoint(dir.path(), 4)), 4);
}

#[test]
fn the_only_checkpoint_stays_where_it_is_though_it_is_damaged() {
    let dir = saved(&[1]);
    flip_a_byte(&checkpoint(dir.path(), 1).join(OPTIMIZER), 170);
    prepare(dir.path(), 0).unwrap();
    assert!(open_error(dir.path()).contains("optimizer.safetensors is damaged"));
}

/// A folder gets its name when it is complete: a manifest that is not there was taken away.
#[test]
fn a_checkpoint_without_its_manifest_is_damaged_and_set_aside() {
    let dir = saved(&[1, 2]);
    fs::remove_file(checkpoint(dir.path(), 2).join(manifest::MANIFEST)).unwrap();
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    assert_eq!(opened_step(dir.path()), 1);
    prepare(dir.path(), 0).unwrap();
    assert_eq!(folders(dir.path()), ["damaged-step-000002", "step-000001"]);
    let alone = saved(&[1]);
    fs::remove_file(checkpoint(alone.path(), 1).join(manifest::MANIFEST)).unwrap();
    fs::remove_file(alone.path().join(manifest::MANIFEST)).unwrap();
    let error = open_error(alone.path());
    assert!(error.contains("manifest.json is missing"), "{error}");
}

#[test]
fn a_flipped_byte_in_any_file_is_found_and_the_file_named() {
    for name in [
        MODEL,
        OPTIMIZER,
        TRAINER,
        CONFIG,
        "tokenizer/tokenizer.json",
        "manifest.json",
    ] {
        let dir = saved(&[1]);
        fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
        flip_a_byte(&checkpoint(dir.path(), 1).join(name), 1);
        let message = open_error(dir.path());
        assert!(
            message.contains(Path::new(name).file_name().unwrap().to_str().unwrap()),
            "{message}"
        );
    }
}

#[test]
fn a_changed_digit_in_the_manifest_is_found() {
    let dir = saved(&[1]);
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    let path = checkpoint(dir.path(), 1).join(manifest::MANIFEST);
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("\"step\": 1", "\"step\": 3");
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(open_error(dir.path()).contains("manifest.json is damaged"));
}

#[test]
fn a_truncated_file_is_named() {
    let dir = saved(&[1]);
    let file = fs::OpenOptions::new()
        .write(true)
        .open(dir.path().join(MODEL))
        .unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(100).unwrap();
    let expected = format!("model.safetensors is truncated: 100 of {length} bytes are left");
    assert!(open_error(dir.path()).contains(&expected));
}

#[test]
fn a_missing_file_is_named() {
    let dir = saved(&[1]);
    fs::remove_file(checkpoint(dir.path(), 1).join(OPTIMIZER)).unwrap();
    fs::remove_file(dir.path().join(OPTIMIZER)).unwrap();
    assert!(open_error(dir.path()).contains("optimizer.safetensors is missing"));
}

#[test]
fn a_file_missing_from_the_directory_itself_is_found_in_the_checkpoint() {
    let dir = saved(&[1, 2]);
    fs::remove_file(dir.path().join(MODEL)).unwrap();
    assert_eq!(opened_step(dir.path()), 2);
}

#[test]
fn weights_that_are_not_safetensors_are_named() {
    let dir = saved(&[1]);
    replace_consistently(dir.path(), 1, MODEL, b"PK\x03\x04 this is a zip file");
    assert!(open_error(dir.path()).contains("model.safetensors is not a safetensors file"));
}

#[test]
fn tensors_that_end_beyond_all_numbers_are_no_safetensors_file() {
    const LONGEST: usize = (1 << 61) - 1;
    let tensor = |index: usize| {
        let offsets = [index * LONGEST, (index + 1) * LONGEST];
        let tensor = json!({"dtype": "U8", "shape": [LONGEST], "data_offsets": offsets});
        (index.to_string(), tensor)
    };
    let header: serde_json::Map<_, _> = (0..8).map(tensor).collect();
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(MODEL);
    fs::write(&path, file).unwrap();
    let error = TensorFile::open(&path).unwrap_err().to_string();
    assert!(error.contains("0 bytes follow its header"), "{error}");
}

#[test]
fn trainer_state_that_is_not_json_is_named() {
    let dir = saved(&[1]);
    replace_consistently(dir.path(), 1, TRAINER, b"{ step: ");
    assert!(open_error(dir.path()).contains("trainer.json is not valid JSON"));
}

#[test]
fn a_manifest_that_is_not_json_is_named() {
    let dir = saved(&[1]);
    fs::remove_file(dir.path().join(manifest::MANIFEST)).unwrap();
    fs::write(checkpoint(dir.path(), 1).join(manifest::MANIFEST), "{").unwrap();
    assert!(open_error(dir.path()).contains("manifest.json is not a valid manifest"));
}

#[test]
fn a_manifest_cannot_name_files_outside_its_folder() {
    let dir = saved(&[1]);
    let folder = checkpoint(dir.path(), 1);
    let mut files = Manifest::read(&folder).unwrap().unwrap().files;
    files.insert(
        "../../../victim".into(),
        disk::read_entry(&folder.join(CONFIG)).unwrap(),
    );
    let other = tempfile::tempdir().unwrap();
    Manifest::new(9, 9, files)
        .unwrap()
        .write(other.path())
        .unwrap();
    assert!(Manifest::read(other.path()).is_err());
}

#[test]
fn a_directory_without_a_bundle_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("nowhere")] {
        assert!(!Bundle::exists(&path));
        assert!(open_error(&path).starts_with("no bundle in"));
    }
}

// Saving that cannot work.

#[test]
fn a_failed_save_leaves_the_previous_checkpoint_and_no_remains() {
    let dir = saved(&[1, 2]);
    let mut writer = prepare(dir.path(), 0).unwrap();
    let full = || Error::io("disk", "write", std::io::ErrorKind::StorageFull.into());
    let failing = BundleContents {
        tokenizer: &|_| Err(full()),
        ..contents(3)
    };
    let message = writer.save(&failing).unwrap_err().to_string();
    assert!(
        message.contains("step 3") && message.contains("free some disk space"),
        "{message}"
    );
    assert_eq!(folders(dir.path()), ["step-000001", "step-000002"]);
    assert_eq!(opened_step(dir.path()), 2);
    writer.save(&contents(3)).unwrap();
    assert_eq!(opened_step(dir.path()), 3);
}

#[test]
fn a_tensor_of_the_wrong_length_is_not_saved() {
    let dir = saved(&[1]);
    let mut wrong = contents(2);
    wrong.model[0].shape = vec![3, 6];
    let message = prepare(dir.path(), 0)
        .unwrap()
        .save(&wrong)
        .unwrap_err()
        .to_string();
    assert!(message.contains("layer.weight"), "{message}");
    assert_eq!(opened_step(dir.path()), 1);
}

#[test]
fn two_tensors_of_one_name_are_not_saved() {
    let dir = saved(&[1]);
    let mut twice = contents(2);
    twice.model.push(source("bias", Dtype::U8, &[1], 0));
    let message = prepare(dir.path(), 0)
        .unwrap()
        .save(&twice)
        .unwrap_err()
        .to_string();
    assert!(message.contains("two tensors are called bias"), "{message}");
}

#[test]
fn a_second_process_is_refused_while_the_first_trains() {
    let dir = tempfile::tempdir().unwrap();
    let first = prepare(dir.path(), 0).unwrap();
    let error = prepare(dir.path(), 0).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("is training into"), "{error}");
    drop(first);
    prepare(dir.path(), 0).unwrap();
}

#[test]
fn a_file_in_the_place_of_the_directory_is_found_out_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bundle");
    fs::write(&path, "").unwrap();
    let error = prepare(&path, 0).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("--bundle-dir"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_directory_that_cannot_be_written_is_found_out_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let locked = dir.path().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let is_root = fs::write(locked.join("probe"), "").is_ok();
    let outcome = prepare(&locked, 0);
    // The superuser may write anywhere.
    assert_eq!(outcome.is_ok(), is_root);
}

#[test]
fn preparing_leaves_no_remains() {
    let dir = tempfile::tempdir().unwrap();
    prepare(dir.path(), 0).unwrap();
    assert!(folders(dir.path()).is_empty());
}
