//! What several test files share.
#![allow(dead_code)]

pub mod lab;

use aios_adapters::{ALL_LINEAR, Lora, Targets};
use aios_base::config::DeviceChoice;
use aios_device as backend;
use aios_device::Selected;
use aios_device::Selection;
use aios_tensor::{CpuBackend, Ops};
use safetensors::{Dtype, SafeTensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The folder that has `tests/` in it: `$AIOS_TEST_ROOT`, for tests that run elsewhere than they were built, else the
/// repository.
pub fn root() -> PathBuf {
    std::env::var_os("AIOS_TEST_ROOT")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The program under test: `$AIOS_TEST_BINARY`, else the one built with the tests.
pub fn program() -> PathBuf {
    std::env::var_os("AIOS_TEST_BINARY")
        .map_or_else(|| env!("CARGO_BIN_EXE_aios").into(), PathBuf::from)
}

/// LoRA of rank 8 beside all linear layers.
pub fn lora(dropout: f64) -> Lora {
    Lora {
        rank: 8,
        alpha: 16.0,
        rslora: false,
        dora: false,
        targets: Targets::of_flag(ALL_LINEAR),
        exclude: None,
        ranks: Vec::new(),
        alphas: Vec::new(),
        whole: Vec::new(),
        dropout,
        tied: false,
    }
}

/// A safetensors file in memory, with its metadata.
pub struct Golden {
    bytes: Vec<u8>,
    metadata: HashMap<String, String>,
}

impl Golden {
    pub fn open(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let metadata = header.metadata().clone().unwrap_or_default();
        Self { bytes, metadata }
    }

    pub fn text(&self, key: &str) -> &str {
        &self.metadata[key]
    }

    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// A number of the metadata, or the default if the file does not give it.
    pub fn number(&self, key: &str, default: usize) -> usize {
        let text = self.metadata.get(key);
        text.map_or(default, |t| t.parse().unwrap())
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let (dtype, data) = self.raw(name);
        assert_eq!(dtype, Dtype::F32, "{name}");
        let floats = data.chunks_exact(4);
        floats
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    /// Whether there is a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        file.tensor(name).is_ok()
    }

    pub fn ints(&self, name: &str) -> Vec<i32> {
        let (dtype, data) = self.raw(name);
        assert_eq!(dtype, Dtype::I32, "{name}");
        let ints = data.chunks_exact(4);
        ints.map(|b| i32::from_le_bytes(b.try_into().unwrap()))
            .collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let (dtype, data) = self.raw(name);
        assert_eq!(dtype, Dtype::U8, "{name}");
        data
    }

    fn raw(&self, name: &str) -> (Dtype, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.bytes).unwrap();
        let view = file.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        (view.dtype(), view.data().to_vec())
    }
}

/// Golden files whose name starts with `prefix`, in `$GOLDEN_DIR` or `tests/golden`.
pub fn golden_files(prefix: &str) -> Vec<PathBuf> {
    let dir =
        std::env::var_os("GOLDEN_DIR").map_or_else(|| root().join("tests/golden"), PathBuf::from);
    let entries = std::fs::read_dir(&dir).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.file_name().unwrap().to_string_lossy().starts_with(prefix))
        .collect();
    files.sort();
    assert!(
        !files.is_empty(),
        "no {prefix}*.safetensors in {}",
        dir.display()
    );
    files
}

/// Largest difference, relative to the largest value of `want` (but to 0.01 at least: a gradient
/// that vanishes leaves rounding errors behind).
pub fn relative_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let scale = want.iter().fold(1e-2_f32, |m, v| m.max(v.abs()));
    let differences = got.iter().zip(want).map(|(g, w)| (g - w).abs() / scale);
    differences.fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

#[track_caller]
pub fn assert_close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    let difference = relative_difference(got, want);
    // Written so that NaN fails.
    assert!(
        difference <= tolerance,
        "{what}: off by {difference:e}, allowed {tolerance:e}"
    );
}

/// The wgpu adapter to test on (software Vulkan will do), or `None` where the machine has none.
///
/// With `AIOS_REQUIRE_WGPU` set, as `scripts/test` does on Linux, none is a failure.
pub fn wgpu() -> Option<Selection> {
    opened(&DeviceChoice::Wgpu(None), "AIOS_REQUIRE_WGPU")
}

/// The CUDA device to test on, or `None` where the machine has none, which with
/// `AIOS_REQUIRE_CUDA` set is a failure.
pub fn cuda() -> Option<Selection> {
    opened(&DeviceChoice::Cuda(0), "AIOS_REQUIRE_CUDA")
}

/// The reference, or `None` in a program built without it.
pub fn ndarray() -> Option<Selection> {
    opened(&DeviceChoice::Ndarray, "AIOS_REQUIRE_NDARRAY")
}

fn opened(choice: &DeviceChoice, required_by: &str) -> Option<Selection> {
    match backend::select(choice) {
        Ok(selection) => {
            selection.adapter.selected.open().unwrap();
            Some(selection)
        }
        Err(error) if std::env::var_os(required_by).is_some() => panic!("{error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            None
        }
    }
}

/// Work that runs on whichever backend a device needs.
pub trait DeviceJob {
    /// What the work gives.
    type Output;

    /// Do it.
    fn run<B: Ops>(self, device: B::Device) -> Self::Output;
}

/// Run a job on a device.
pub fn on<J: DeviceJob>(selected: &Selected, job: J) -> J::Output {
    match selected {
        Selected::Cpu => job.run::<CpuBackend>(Default::default()),
        #[cfg(feature = "ndarray")]
        Selected::Ndarray => job.run::<aios_tensor::NdarrayBackend>(Default::default()),
        #[cfg(feature = "cuda")]
        Selected::Cuda(device) => job.run::<aios_tensor::CudaBackend>(device.clone()),
        #[cfg(feature = "wgpu")]
        Selected::Wgpu { device, .. } => job.run::<aios_tensor::WgpuBackend>(device.clone()),
        #[allow(unreachable_patterns)]
        other => panic!("{other:?} was not built in"),
    }
}

/// Run something on [`wgpu`] or [`cuda`], if the machine has it.
pub fn run_on(device: Option<Selection>, job: impl DeviceJob<Output = ()>) {
    if let Some(device) = device {
        on(&device.adapter.selected, job);
    }
}
