//! The figures, as JSON and in Markdown.

use crate::bench::attention::Request;
use crate::bench::attention::case::{Outcome, PASSES, Taken, scores_bytes};
use crate::bench::outcome::{Unmeasured, verdict};
use aios_base::error::Result;
use aios_base::execution::Kind;
use aios_device::Adapter;
use aios_tensor::{AttentionPath, AttentionShape, Precision};
use serde::Serialize;

/// One path and pass at one shape.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub head_dim: usize,
    /// 0 for none.
    pub window: usize,
    pub pass: &'static str,
    pub seq_len: usize,
    pub path: AttentionPath,
    /// Median, synchronised.
    pub ms: Option<f64>,
    pub repeats: usize,
    /// Of the work that the mask leaves.
    pub tflops: Option<f64>,
    /// Beyond the inputs, at most; results included.
    pub extra_bytes: Option<u64>,
    /// Of all scores in f32.
    pub extra_of_scores: Option<f64>,
    /// Speed and memory relative to SDPA's.
    pub speedup: Option<f64>,
    pub memory_of_sdpa: Option<f64>,
    /// Why it was not measured.
    pub error: Option<Unmeasured>,
}

/// How time and memory grow with the sequence: exponents of a straight line in logarithms.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    pub head_dim: usize,
    pub window: usize,
    pub pass: &'static str,
    pub path: AttentionPath,
    pub time: f64,
    pub memory: Option<f64>,
}

/// All rows, and what they were measured on.
#[derive(Clone, Debug, Serialize)]
pub struct Table {
    pub benchmark: &'static str,
    pub version: &'static str,
    pub device: String,
    pub backend: Kind,
    pub dtype: Precision,
    pub batch_size: usize,
    pub heads: usize,
    pub rows: Vec<Row>,
    pub growth: Vec<Growth>,
}

impl Row {
    pub(super) fn of(shape: &AttentionShape, path: AttentionPath, outcome: Outcome) -> Vec<Self> {
        let passes = PASSES.into_iter().zip(outcome);
        let row = |(pass, outcome): (&'static str, Result<Taken, Unmeasured>)| {
            let taken = outcome.as_ref().ok().copied();
            let flops = flops(shape) * if pass == PASSES[0] { 1.0 } else { 3.5 };
            Self {
                head_dim: shape.head_dim,
                window: shape.window,
                pass,
                seq_len: shape.seq,
                path,
                ms: taken.map(|t| t.seconds * 1e3),
                repeats: taken.map_or(0, |t| t.repeats),
                tflops: taken.map(|t| flops / t.seconds / 1e12),
                extra_bytes: taken.map(|t| t.bytes),
                extra_of_scores: taken.map(|t| t.bytes as f64 / scores_bytes(shape) as f64),
                speedup: None,
                memory_of_sdpa: None,
                error: outcome.err(),
            }
        };
        passes.map(row).collect()
    }

    fn key(&self) -> (usize, usize, &'static str, usize) {
        (self.head_dim, self.window, self.pass, self.seq_len)
    }
}

/// Operations of a forward pass: two products over the keys that each query sees.
fn flops(shape: &AttentionShape) -> f64 {
    let seq = shape.seq as f64;
    let most = match shape.window {
        0 => seq,
        window => seq.min(window as f64),
    };
    // The first queries see 1, 2, ... keys, all others the most.
    let seen = most * (most + 1.0) / 2.0 + (seq - most) * most;
    4.0 * seen * shape.batch as f64 * (shape.heads * shape.head_dim) as f64
}

impl Table {
    pub(super) fn new(request: &Request, adapter: &Adapter, mut rows: Vec<Row>) -> Self {
        let sdpa: Vec<Row> = rows
            .iter()
            .filter(|row| row.path == AttentionPath::Sdpa)
            .cloned()
            .collect();
        for row in rows
            .iter_mut()
            .filter(|row| row.path == AttentionPath::Flash)
        {
            let Some(other) = sdpa.iter().find(|other| other.key() == row.key()) else {
                continue;
            };
            let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b.filter(|b| *b > 0.0)?);
            row.speedup = ratio(other.ms, row.ms);
            let bytes = |row: &Row| row.extra_bytes.map(|bytes| bytes as f64);
            row.memory_of_sdpa = ratio(bytes(row), bytes(other));
        }
        Self {
            benchmark: "attention",
            version: env!("CARGO_PKG_VERSION"),
            device: adapter.name.clone(),
            backend: adapter.kind,
            dtype: request.precision,
            batch_size: request.batch,
            heads: request.heads,
            growth: growth(&rows),
            rows,
        }
    }

    /// Whether it was a success.
    ///
    /// # Errors
    /// Rows that failed, or not a single one that was measured.
    pub fn verdict(&self) -> Result<()> {
        verdict(self.rows.iter().map(|row| row.error.as_ref()))
    }

    /// As tables in Markdown.
    pub fn render(&self) -> String {
        let mut text = format!(
            "{}, {}, {} x {} heads, causal\n\n",
            self.device,
            self.dtype.as_str(),
            self.batch_size,
            self.heads
        );
        text += "| head dim | window | pass | tokens | path | ms | TFLOP/s | extra MiB | of N x N | \
                 speed of SDPA's | memory of SDPA's |\n";
        text += "| ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n";
        text.extend(self.rows.iter().map(line));
        text += "\n| head dim | window | pass | path | time grows as N^ | memory as N^ |\n";
        text += "| ---: | ---: | --- | --- | ---: | ---: |\n";
        for g in &self.growth {
            text += &format!(
                "| {} | {} | {} | {} {}{}|\n",
                g.head_dim,
                g.window,
                g.pass,
                g.path.as_str(),
                number(Some(g.time), 2),
                number(g.memory, 2)
            );
        }
        text + "\nextra: the most that was in use beside the inputs, results included (on a GPU what its \
                pools took for it, kept for reuse included); N x N: the scores of all heads in f32\n"
    }
}

fn line(row: &Row) -> String {
    let head = format!(
        "| {} | {} | {} | {} | {} ",
        row.head_dim,
        row.window,
        row.pass,
        row.seq_len,
        row.path.as_str()
    );
    if let Some(error) = &row.error {
        return format!("{head}| {} |\n", error.why);
    }
    let mib = row
        .extra_bytes
        .map(|bytes| bytes as f64 / f64::from(1 << 20));
    head + &number(row.ms, 2)
        + &number(row.tflops, 4)
        + &number(mib, 1)
        + &number(row.extra_of_scores, 4)
        + &number(row.speedup, 2)
        + &number(row.memory_of_sdpa, 4)
        + "|\n"
}

fn number(x: Option<f64>, digits: usize) -> String {
    match x {
        Some(x) => format!("| {x:.digits$} "),
        None => "| - ".to_string(),
    }
}

fn growth(rows: &[Row]) -> Vec<Growth> {
    let line = |row: &Row| (row.head_dim, row.window, row.pass, row.path);
    let mut lines = Vec::new();
    for row in rows {
        if !lines.contains(&line(row)) {
            lines.push(line(row));
        }
    }
    let of = |key: (usize, usize, &'static str, AttentionPath)| {
        let points = |value: fn(&Row) -> Option<f64>| -> Vec<(f64, f64)> {
            let all = rows.iter().filter(|row| line(row) == key);
            all.filter_map(|row| Some((row.seq_len as f64, value(row)?)))
                .collect()
        };
        let (head_dim, window, pass, path) = key;
        Some(Growth {
            head_dim,
            window,
            pass,
            path,
            time: slope(&points(|row| row.ms))?,
            memory: slope(&points(|row| {
                Some(row.extra_bytes? as f64).filter(|bytes| *bytes > 0.0)
            })),
        })
    };
    lines.into_iter().filter_map(of).collect()
}

/// Slope of the least-squares line through the logarithms of positive numbers; `None` below two different lengths.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.ln())).collect();
    let (sx, sy) = logs.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
    let (mx, my) = (sx / n, sy / n);
    let spread: f64 = logs.iter().map(|(x, _)| (x - mx).powi(2)).sum();
    let shared: f64 = logs.iter().map(|(x, y)| (x - mx) * (y - my)).sum();
    (spread > 0.0).then(|| shared / spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_exponents() {
        let square: Vec<_> = [512.0, 1024.0, 4096.0]
            .map(|n: f64| (n, 3.0 * n * n))
            .to_vec();
        assert!((slope(&square).unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(slope(&square[..1]), None);
        assert_eq!(slope(&[]), None);
    }

    #[test]
    fn work_is_that_which_the_mask_leaves() {
        let mut shape = AttentionShape::new(1, 4, 2, 8);
        assert_eq!(flops(&shape), 4.0 * 10.0 * 16.0);
        shape.window = 2;
        assert_eq!(flops(&shape), 4.0 * 7.0 * 16.0);
    }
}
