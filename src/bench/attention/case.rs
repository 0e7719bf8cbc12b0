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

#[derive(Clone, Copy)]
struct Memory {
    in_use: u64,
    most: u64,
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
        for series in series.iter_mut().filter(|series| series.outcome.is_ok()) {
            self.warm_up(series);
        }
        if self.kind.is_gpu() {
            // Memory is measured with empty pools, which these runs fill.
            for series in series.iter_mut().filter(|series| series.outcome.is_ok()) {
                let run = self.time(series.path, series.backward);
                series.note(run.map(|_| 0));
            }
        }
        for _ in 0..repeats {
            for series in series.iter_mut().filter(|series| series.wants_more()) {
                self.repeat(series);
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

    /// The first run; on a GPU, which compiles and tunes in it, a second one that tells its memory.
    fn warm_up(&mut self, series: &mut Series) {
        let (path, backward) = (series.path, series.backward);
        match self.kind.is_gpu() {
            true => {
                let compiled = self.time(path, backward);
                series.note(compiled.and_then(|_| self.needed(path, backward)));
            }
            false => {
                let run = self.time_and_bytes(path, backward);
                // Nothing is compiled on a CPU: a warm-up that is this slow is a measurement.
                if let Ok((seconds, _)) = run
                    && seconds > LONG_ENOUGH
                {
                    series.seconds.push(seconds);
                }
                series.note(run.map(|(_, bytes)| bytes));
            }
        }
    }

    fn repeat(&mut self, series: &mut Series) {
        let run = match self.kind.is_gpu() {
            // What the pools took is known, and looking at it would empty them.
            true => self.time(series.path, series.backward).map(|s| (s, 0)),
            false => self.time_and_bytes(series.path, series.backward),
        };
        if let Ok((seconds, _)) = run {
            series.seconds.push(seconds);
        }
        series.note(run.map(|(_, bytes)| bytes));
    }

    /// Seconds of one run.
    fn time(&mut self, path: AttentionPath, backward: bool) -> Result<f64> {
        let start = Instant::now();
        self.attention.run(path, backward)?;
        let seconds = start.elapsed().as_secs_f64();
        self.attention.release();
        Ok(seconds)
    }

    /// Seconds and bytes of one run on the CPU.
    fn time_and_bytes(&mut self, path: AttentionPath, backward: bool) -> Result<(f64, u64)> {
        reset_peak();
        let before = self.memory()?;
        let start = Instant::now();
        self.attention.run(path, backward)?;
        let seconds = start.elapsed().as_secs_f64();
        let bytes = self.memory()?.beyond(before);
        self.attention.release();
        Ok((seconds, bytes))
    }

    /// Bytes of one run on a GPU, whose pools are empty before and after it.
    fn needed(&mut self, path: AttentionPath, backward: bool) -> Result<u64> {
        self.device.release_memory();
        let before = self.memory()?;
        self.attention.run_to_measure(path, backward)?;
        let bytes = self.memory()?.beyond(before);
        self.attention.release();
        self.device.release_memory();
        Ok(bytes)
    }

    /// In use now; and at most: on the CPU the exact peak, on a GPU what its pools took from the
    /// device.
    fn memory(&self) -> Result<Memory> {
        self.device.confirm()?;
        let sample = self.meter.sample()?;
        let most = match self.kind.is_gpu() {
            false => peak_bytes(),
            true => sample.reserved_bytes,
        };
        Ok(Memory {
            in_use: sample.in_use_bytes,
            most,
        })
    }
}

impl Memory {
    /// What is more than before. Pools take nothing where there is room in a page that they had to keep: results are there.
    fn beyond(self, before: Self) -> u64 {
        let most = self.most.saturating_sub(before.most);
        most.max(self.in_use.saturating_sub(before.in_use))
    }
}

impl Series {
    fn wants_more(&self) -> bool {
        let spent: f64 = self.seconds.iter().sum();
        self.outcome.is_ok() && (self.seconds.is_empty() || spent < LONG_ENOUGH)
    }

    fn note(&mut self, run: Result<u64>) {
        if let Ok(most) = self.outcome {
            self.outcome = run.map(|bytes| bytes.max(most)).map_err(Unmeasured::from);
        }
    }

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
