//! `aios bench attention`: time and memory of attention over the sequence length, on each path.

mod case;
mod table;

pub use table::{Growth, Row, Table};

use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result};
use aios_base::meter;
use aios_device::{Adapter, MemoryMeter, device_memory, largest_buffer_bytes, select};
use aios_tensor::{AttentionPath, AttentionShape, Precision};
use case::{Case, Limits};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Request {
    pub device: DeviceChoice,
    pub batch: usize,
    pub heads: usize,
    pub seq_lens: Vec<usize>,
    pub head_dims: Vec<usize>,
    /// Of the windowed cases; 0 for none.
    pub window: usize,
    pub paths: Vec<AttentionPath>,
    pub repeats: usize,
    pub precision: Precision,
    pub memory_limit: Option<u64>,
}

impl Request {
    /// Shapes in the order in which they are measured.
    fn shapes(&self) -> Vec<AttentionShape> {
        let windows: &[usize] = if self.window == 0 {
            &[0]
        } else {
            &[0, self.window]
        };
        let mut shapes = Vec::new();
        for &head_dim in &self.head_dims {
            for &window in windows {
                for &seq in &self.seq_lens {
                    shapes.push(AttentionShape {
                        window,
                        ..AttentionShape::new(self.batch, seq, self.heads, head_dim)
                    });
                }
            }
        }
        shapes
    }

    fn checked(&self, adapter: &Adapter) -> Result<()> {
        for (flag, values) in [
            ("--seq-lens", &self.seq_lens),
            ("--head-dims", &self.head_dims),
        ] {
            if values.is_empty() || values.contains(&0) {
                return Err(Error::invalid(format!(
                    "{flag}: give numbers of at least 1"
                )));
            }
        }
        if let Some(shape) = self.shapes().iter().find(|shape| !countable(shape)) {
            return Err(Error::invalid(format!(
                "{} x {} heads of {} over {} tokens: their bytes do not fit 63 bits; lower \
                 --seq-lens, --head-dims, --heads or --batch-size",
                shape.batch, shape.heads, shape.head_dim, shape.seq
            )));
        }
        let name = self.precision.as_str();
        match adapter.holds(name) {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "--dtype {name}: {} does not have it, only {}",
                adapter.name,
                adapter.dtypes.join(", ")
            ))),
        }
    }
}

/// Whether all sizes in bytes can be computed.
fn countable(shape: &AttentionShape) -> bool {
    let numbers = |sizes: [usize; 4]| {
        sizes
            .into_iter()
            .try_fold(1_u64, |product, size| product.checked_mul(size as u64))
    };
    // 4 bytes each, a few times over.
    let fits = |n: Option<u64>| n.is_some_and(|n| n < 1 << 56);
    let AttentionShape {
        batch, seq, heads, ..
    } = *shape;
    fits(numbers([batch, heads, seq, seq])) && fits(numbers([batch, heads, seq, shape.head_dim]))
}

/// Measure everything; `progress` gets a line before each shape.
///
/// # Errors
/// A device that is missing or lacks the number format.
pub fn measure(request: &Request, progress: &mut dyn FnMut(String)) -> Result<Table> {
    let adapter = select(&request.device)?.adapter;
    request.checked(&adapter)?;
    if !adapter.kind.is_gpu() {
        meter::set_limit(request.memory_limit);
    }
    let device = aios_backends::open(&adapter.selected)?;
    let meter = MemoryMeter::new(adapter.selected.clone());
    let mut rows = Vec::new();
    for shape in request.shapes() {
        let (seq, dim, window) = (shape.seq, shape.head_dim, shape.window);
        progress(format!(
            "sequence {seq}, head dim {dim}, window {window} ..."
        ));
        let limits = Limits {
            free: room(&adapter, request),
            largest_buffer: largest_buffer_bytes(&adapter)?,
        };
        let mut case = Case {
            shape,
            precision: request.precision,
            kind: adapter.kind,
            meter: &meter,
            device: &*device,
            attention: device.attention(shape, request.precision),
        };
        for (path, outcome) in case.measure(&request.paths, &limits, request.repeats) {
            rows.extend(Row::of(&shape, path, outcome));
        }
    }
    Ok(Table::new(request, &adapter, rows))
}

/// Bytes that may still be taken.
fn room(adapter: &Adapter, request: &Request) -> Option<u64> {
    let limit = request.memory_limit;
    match (device_memory(adapter).free_bytes, limit) {
        (Some(free), Some(limit)) => Some(free.min(limit)),
        (free, limit) => free.or(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_beyond_counting_are_told() {
        let shape = |batch, seq, head_dim| AttentionShape::new(batch, seq, 8, head_dim);
        assert!(countable(&shape(1, 1 << 20, 64)));
        assert!(!countable(&shape(1 << 63, 1, 64)));
        assert!(!countable(&shape(1, usize::MAX, 64)));
        assert!(!countable(&shape(1, 1, usize::MAX)));
    }
}
