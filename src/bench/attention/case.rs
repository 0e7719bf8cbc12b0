//! One shape of attention on both paths, in turns.

use crate::backend::{Kind, MemoryMeter, confirmed};
use crate::bench::outcome::Unmeasured;
use crate::error::Result;
use crate::memory::meter::{format_bytes, peak_bytes, reset_peak};
use crate::ops::attention::{GPU_INDEXABLE, SDPA_BACKWARD_BUFFERS, SDPA_FORWARD_BUFFERS};
use crate::ops::{AttentionPath, AttentionShape, Ops, Precision, in_format};
use burn::tensor::{Distribution, Tensor};
use std::time::Instant;

/// A path is not measured again once it has taken this long in a case.
const LONG_ENOUGH: f64 = 10.0;

/// Forward pass alone, and forward and backward.
pub const PASSES: [&str; 2] = ["forward", "forward+backward"];

/// What a pass took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken {
    /// Median.
    pub seconds: f64,
    pub bytes: u64,
    pub repeats: usize,
}

/// Both passes.
pub type Outcome = [Result<Taken, Unmeasured>; 2];

/// What the device has.
pub struct Limits {
    pub free: Option<u64>,
    pub largest_buffer: Option<u64>,
}

pub struct Case<'a, B: Ops> {
    pub shape: AttentionShape,
    pub precision: Precision,
    pub kind: Kind,
    pub meter: &'a MemoryMeter,
    pub device: &'a B::Device,
}

struct Inputs<B: Ops> {
    qkv: Tensor<B, 2>,
    d_out: Tensor<B, 2>,
}

/// One path of a case on its way.
struct Series {
    path: AttentionPath,
    backward: bool,
    seconds: Vec<f64>,
    outcome: Result<u64, Unmeasured>,
}

impl<B: Ops> Case<'_, B> {
    /// The outcome of each path.
    pub fn measure(
        &self,
        paths: &[AttentionPath],
        limits: &Limits,
        repeats: usize,
    ) -> Vec<(AttentionPath, Outcome)> {
        let mut series = self.series(paths, limits);
        if series.iter().any(|series| series.outcome.is_ok()) {
            match self.inputs() {
                Ok(inputs) => self.measure_all(&mut series, &inputs, repeats),
                Err(error) => {
                    let why = Unmeasured::from(error);
                    let runs = series.iter_mut().filter(|series| series.outcome.is_ok());
                    runs.for_each(|series| series.outcome = Err(why.clone()));
                }
            }
        }
        let mut outcomes = series
            .into_iter()
            .map(|series| (series.path, series.taken()));
        let mut all = Vec::new();
        while let (Some((path, forward)), Some((_, both))) = (outcomes.next(), outcomes.next()) {
            all.push((path, [forward, both]));
        }
        all
    }

    fn measure_all(&self, series: &mut [Series], inputs: &Inputs<B>, repeats: usize) {
        // The first run warms up: it compiles, tunes and fills pools. Its memory counts.
        for series in series.iter_mut() {
            self.add(series, inputs, true);
        }
        for _ in 0..repeats {
            for series in series.iter_mut() {
                let spent: f64 = series.seconds.iter().sum();
                if series.seconds.is_empty() || spent < LONG_ENOUGH {
                    self.add(series, inputs, false);
                }
            }
        }
    }

    /// Forward, then forward and backward, of each path.
    fn series(&self, paths: &[AttentionPath], limits: &Limits) -> Vec<Series> {
        let series = |(path, runs): (AttentionPath, Result<(), Unmeasured>)| {
            [false, true].map(|backward| Series {
                path,
                backward,
                seconds: Vec::new(),
                outcome: runs
                    .clone()
                    .and_then(|()| self.fits(path, backward, limits))
                    .map(|()| 0),
            })
        };
        let paths = paths.iter().map(|&path| (path, self.runs(path)));
        paths.flat_map(series).collect()
    }

    fn runs(&self, path: AttentionPath) -> Result<(), Unmeasured> {
        match path {
            AttentionPath::Sdpa => Ok(()),
            AttentionPath::Flash => match self.has_flash() {
                Ok(true) => Ok(()),
                Ok(false) => Err(Unmeasured::lacking("this device has no kernel for it")),
                Err(error) => Err(error.into()),
            },
        }
    }

    fn fits(&self, path: AttentionPath, backward: bool, limits: &Limits) -> Result<(), Unmeasured> {
        let needed = self.input_bytes() + self.predicted(path, backward);
        if let Some(free) = limits.free
            && needed > free
        {
            let (needed, free) = (format_bytes(needed), format_bytes(free));
            return Err(Unmeasured::unfit(format!(
                "needs {needed}, there are {free}"
            )));
        }
        let tensor = match path {
            AttentionPath::Sdpa => scores_bytes(&self.shape).max(self.input_bytes()),
            AttentionPath::Flash => self.input_bytes(),
        };
        let largest = limits.largest_buffer;
        match largest.map(|bytes| bytes.min(4 * GPU_INDEXABLE)) {
            Some(largest) if tensor > largest => Err(Unmeasured::unfit(format!(
                "a tensor of {}, the device takes {}",
                format_bytes(tensor),
                format_bytes(largest)
            ))),
            _ => Ok(()),
        }
    }

    /// Whether the device has a kernel for such shapes; asked with a short sequence.
    fn has_flash(&self) -> Result<bool> {
        let shape = AttentionShape {
            batch: 1,
            seq: 64,
            heads: 1,
            ..self.shape
        };
        confirmed::<B, _>(self.device, || {
            let dims = [1, shape.heads, shape.seq, shape.head_dim];
            let x = in_format(Tensor::zeros(dims, self.device), self.precision.dtype());
            B::flash_attention(&x, &x, &x, &shape).is_some()
        })
    }

    /// Bytes beyond the inputs, a little too low on either path: what is refused is told apart later.
    fn predicted(&self, path: AttentionPath, backward: bool) -> u64 {
        let s = &self.shape;
        let activations = s.batch * s.seq * s.heads * s.head_dim * self.precision.bytes();
        let copies = if backward { 4 } else { 1 };
        let buffers = match (path, backward) {
            (AttentionPath::Flash, _) => 0,
            (AttentionPath::Sdpa, false) => SDPA_FORWARD_BUFFERS,
            (AttentionPath::Sdpa, true) => SDPA_BACKWARD_BUFFERS,
        };
        (copies * activations) as u64 + buffers as u64 * scores_bytes(s)
    }

    /// Of the projection while it is drawn, in f32; it is the larger of the two.
    fn input_bytes(&self) -> u64 {
        let s = &self.shape;
        3 * 4 * (s.batch * s.seq * s.heads * s.head_dim) as u64
    }

    fn inputs(&self) -> Result<Inputs<B>> {
        let s = &self.shape;
        let (tokens, width) = (s.batch * s.seq, s.heads * s.head_dim);
        let random = |columns| {
            let spread = Distribution::Uniform(-1.0, 1.0);
            let x = Tensor::<B, 2>::random([tokens, columns], spread, self.device);
            in_format(x, self.precision.dtype())
        };
        confirmed::<B, _>(self.device, || Inputs {
            qkv: random(3 * width),
            d_out: random(width),
        })
    }

    fn add(&self, series: &mut Series, inputs: &Inputs<B>, warm_up: bool) {
        let Ok(most) = series.outcome else { return };
        match self.run(series.path, series.backward, inputs) {
            Ok((seconds, bytes)) => {
                series.outcome = Ok(most.max(bytes));
                // Nothing is compiled on a CPU: a warm-up that is this slow is a measurement.
                let counts = self.kind == Kind::Cpu && seconds > LONG_ENOUGH;
                if !warm_up || counts {
                    series.seconds.push(seconds);
                }
            }
            Err(error) => series.outcome = Err(error.into()),
        }
    }

    /// Seconds and bytes of one run.
    fn run(&self, path: AttentionPath, backward: bool, inputs: &Inputs<B>) -> Result<(f64, u64)> {
        let [in_use, most] = self.begin()?;
        let start = Instant::now();
        let kept = confirmed::<B, _>(self.device, || {
            let (out, lse) = B::attention_fused(&inputs.qkv, &self.shape, path);
            let gradient = backward.then(|| {
                let (qkv, d_out) = (&inputs.qkv, &inputs.d_out);
                B::attention_fused_backward(qkv, &out, &lse, d_out, &self.shape, path)
            });
            (out, lse, gradient)
        })?;
        let seconds = start.elapsed().as_secs_f64();
        let after = self.memory()?;
        drop(kept);
        // What a GPU's pools take is whole pages, and none if there is room in one: results are there.
        let bytes = after[1].saturating_sub(most);
        let bytes = bytes.max(after[0].saturating_sub(in_use));
        Ok((seconds, bytes))
    }

    /// What is there before a run.
    fn begin(&self) -> Result<[u64; 2]> {
        if self.kind != Kind::Cpu {
            // Else the pools would serve a run from what an earlier one took.
            confirmed::<B, _>(self.device, || B::memory_cleanup(self.device))?;
        }
        reset_peak();
        self.memory()
    }

    /// In use now; and at most: on the CPU the exact peak, on a GPU what its pools took from the
    /// device.
    fn memory(&self) -> Result<[u64; 2]> {
        let sample = confirmed::<B, _>(self.device, || self.meter.sample())??;
        let most = match self.kind {
            Kind::Cpu => peak_bytes(),
            Kind::Cuda | Kind::Wgpu => sample.reserved_bytes,
        };
        Ok([sample.in_use_bytes, most])
    }
}

impl Series {
    fn taken(mut self) -> Result<Taken, Unmeasured> {
        let bytes = self.outcome?;
        self.seconds.sort_by(f64::total_cmp);
        Ok(Taken {
            seconds: self.seconds[self.seconds.len() / 2],
            bytes,
            repeats: self.seconds.len(),
        })
    }
}

/// Bytes of all scores in f32.
pub fn scores_bytes(s: &AttentionShape) -> u64 {
    4 * (s.batch * s.heads) as u64 * (s.seq as u64).pow(2)
}
