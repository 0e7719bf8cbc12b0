//! One shape of attention on both paths, in turns.

use crate::bench::outcome::Unmeasured;
use aios_base::error::Result;
use aios_base::execution::Kind;
use aios_base::meter::{format_bytes, peak_bytes, reset_peak};
use aios_device::MemoryMeter;
use aios_engine::{AttentionRun, OpenDevice};
use aios_tensor::attention::{
    GPU_INDEXABLE, SDPA_BACKWARD_BUFFERS, SDPA_CPU_BUFFERS, SDPA_FORWARD_BUFFERS,
};
use aios_tensor::{AttentionPath, AttentionShape, Precision};
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

pub struct Case<'a> {
    pub shape: AttentionShape,
    pub precision: Precision,
    pub kind: Kind,
    pub meter: &'a MemoryMeter,
    pub device: &'a dyn OpenDevice,
    pub attention: Box<dyn AttentionRun>,
}

/// One path of a case on its way.
struct Series {
    path: AttentionPath,
    backward: bool,
    seconds: Vec<f64>,
    outcome: Result<u64, Unmeasured>,
}

impl Case<'_> {
    /// The outcome of each path.
    pub fn measure(
        &mut self,
        paths: &[AttentionPath],
        limits: &Limits,
        repeats: usize,
    ) -> Vec<(AttentionPath, Outcome)> {
        let mut series = self.series(paths, limits);
        if series.iter().any(|series| series.outcome.is_ok()) {
            match self.attention.draw() {
                Ok(()) => self.measure_all(&mut series, repeats),
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

    fn measure_all(&mut self, series: &mut [Series], repeats: usize) {
        // The first run warms up: it compiles, tunes and fills pools. Its memory counts.
        for series in series.iter_mut() {
            self.add(series, true);
        }
        for _ in 0..repeats {
            for series in series.iter_mut() {
                let spent: f64 = series.seconds.iter().sum();
                if series.seconds.is_empty() || spent < LONG_ENOUGH {
                    self.add(series, false);
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
            AttentionPath::Flash => match self.attention.has_flash() {
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

    /// Bytes beyond the inputs, a little too low on either path: what is refused is told apart later.
    fn predicted(&self, path: AttentionPath, backward: bool) -> u64 {
        let s = &self.shape;
        let activations = s.batch * s.seq * s.heads * s.head_dim * self.precision.bytes();
        let copies = if backward { 4 } else { 1 };
        let buffers = match (path, self.kind, backward) {
            (AttentionPath::Flash, ..) => 0,
            (AttentionPath::Sdpa, Kind::Cpu, false) => 1,
            (AttentionPath::Sdpa, Kind::Cpu, true) => SDPA_CPU_BUFFERS,
            (AttentionPath::Sdpa, _, false) => SDPA_FORWARD_BUFFERS,
            (AttentionPath::Sdpa, _, true) => SDPA_BACKWARD_BUFFERS,
        };
        (copies * activations) as u64 + buffers as u64 * scores_bytes(s)
    }

    /// Of the projection while it is drawn, in f32; it is the larger of the two.
    fn input_bytes(&self) -> u64 {
        let s = &self.shape;
        4 * (s.batch * s.seq * s.qkv_width()) as u64
    }

    fn add(&mut self, series: &mut Series, warm_up: bool) {
        let Ok(most) = series.outcome else { return };
        match self.run(series.path, series.backward) {
            Ok((seconds, bytes)) => {
                series.outcome = Ok(most.max(bytes));
                // Nothing is compiled on a CPU: a warm-up that is this slow is a measurement.
                let counts = !self.kind.is_gpu() && seconds > LONG_ENOUGH;
                if !warm_up || counts {
                    series.seconds.push(seconds);
                }
            }
            Err(error) => series.outcome = Err(error.into()),
        }
    }

    /// Seconds and bytes of one run.
    fn run(&mut self, path: AttentionPath, backward: bool) -> Result<(f64, u64)> {
        let [in_use, most] = self.begin()?;
        let start = Instant::now();
        self.attention.run(path, backward)?;
        let seconds = start.elapsed().as_secs_f64();
        let after = self.memory()?;
        self.attention.release();
        // What a GPU's pools take is whole pages, and none if there is room in one: results are there.
        let bytes = after[1].saturating_sub(most);
        let bytes = bytes.max(after[0].saturating_sub(in_use));
        Ok((seconds, bytes))
    }

    /// What is there before a run.
    fn begin(&self) -> Result<[u64; 2]> {
        if self.kind.is_gpu() {
            // Else the pools would serve a run from what an earlier one took.
            self.device.release_memory();
        }
        reset_peak();
        self.memory()
    }

    /// In use now; and at most: on the CPU the exact peak, on a GPU what its pools took from the
    /// device.
    fn memory(&self) -> Result<[u64; 2]> {
        self.device.confirm()?;
        let sample = self.meter.sample()?;
        let most = match self.kind.is_gpu() {
            false => peak_bytes(),
            true => sample.reserved_bytes,
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
