//! Hugging Face decoders against transformers: see tests/golden/README.md.

pub mod features;
mod folders;
mod packed;
mod positions;

use crate::common::lab::{Events, Lab, assert_same_brain};
use crate::common::{Golden, assert_close, root};
use aios_base::micro_batch::{IGNORE, MicroBatch};
use aios_hf::{Folder, Weights};
use aios_models::Architecture;
use aios_models::decoder::{Decoder, HfModel};
use aios_tensor::Ops;
use serde_json::json;
use std::path::{Path, PathBuf};

/// A tiny model's folder, and what transformers computes of it.
pub struct Tiny {
    pub path: PathBuf,
    pub golden: Golden,
}

impl Tiny {
    fn open(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            golden: Golden::open(&path.join("golden.safetensors")),
        }
    }

    /// One of those in the repository, by its name.
    pub fn named(name: &str) -> Self {
        Self::open(&folder(name))
    }

    /// Its description, for sequences as long as the data.
    pub fn model(&self) -> HfModel {
        let folder = Folder::open(&self.path).unwrap();
        HfModel::new(folder.config().clone(), self.batch().seq, 0).unwrap()
    }

    pub fn on<B: Ops>(&self, device: &B::Device) -> Decoder<B> {
        self.built(&self.model(), device)
    }

    /// The same by another description.
    pub fn built<B: Ops>(&self, model: &HfModel, device: &B::Device) -> Decoder<B> {
        let weights = Weights::open(&Folder::open(&self.path).unwrap()).unwrap();
        let source =
            &mut |info: &aios_nn::ParamInfo, _| weights.read_f32(&info.name).map(Into::into);
        Decoder::build(model, model.max_seq_len(), device, source).unwrap()
    }

    /// The golden data.
    pub fn batch(&self) -> MicroBatch {
        batch_of(&self.golden)
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Golden data with labels of the next token.
pub fn batch_of(golden: &Golden) -> MicroBatch {
    let (inputs, labels) = (golden.ints("input_ids"), golden.ints("labels"));
    let seq = inputs.len() / 2;
    let next = |labels: &[i32]| {
        let mut next = labels[1..].to_vec();
        next.push(IGNORE);
        next
    };
    MicroBatch {
        labels: labels.chunks(seq).flat_map(next).collect(),
        inputs,
        seq,
        ..MicroBatch::default()
    }
}

/// The folder of one of the tiny models.
pub fn folder(name: &str) -> PathBuf {
    root().join("tests/golden/decoders/a").join(name)
}

/// The golden rows as a data set, `rows.jsonl`.
pub fn write_rows(lab: &Lab, golden: &Golden) {
    let (ids, labels) = (golden.ints("input_ids"), golden.ints("labels"));
    let seq = ids.len() / 2;
    let rows = ids.chunks(seq).zip(labels.chunks(seq));
    let line = |(ids, labels)| format!("{}\n", json!({"input_ids": ids, "labels": labels}));
    lab.write("rows.jsonl", rows.map(line).collect::<String>());
}

/// Four steps are the same as two, and two more after a resume; `train` trains a brain of a name, with these flags.
#[track_caller]
pub fn assert_resumes(lab: &Lab, train: impl Fn(&str, &str) -> Events) {
    train("a", "--steps 4");
    train("b", "--steps 2");
    lab.succeed(
        "finetune --resume --brain-name b --bundle-dir brains --steps 4 --device cpu --quiet",
    );
    assert_same_brain(&lab.brain("a"), &lab.brain("b"));
}

/// Every folder of decoders in `$GOLDEN_DIR`, or the repository.
pub fn all() -> Vec<Tiny> {
    let dir = std::env::var_os("GOLDEN_DIR");
    let dir = dir.map_or_else(|| root().join("tests/golden"), PathBuf::from);
    let folders = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).unwrap();
        let mut all: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all
    };
    let sets = folders(&dir.join("decoders"));
    let models = sets.iter().flat_map(|set| folders(set));
    models.map(|path| Tiny::open(&path)).collect()
}

#[track_caller]
pub fn assert_near(what: &str, got: f64, want: f64, tolerance: f64) {
    // Written so that NaN fails.
    assert!(
        (got - want).abs() <= tolerance,
        "{what}: {got}, expected {want} to {tolerance:e}"
    );
}

#[track_caller]
pub fn assert_gradient(what: &str, got: &[f32], want: &[f32]) {
    assert_close(what, got, want, 1e-4);
}
