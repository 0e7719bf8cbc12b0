//! The dynamic map: which value each code stands for, and which code is the nearest to a value.

use std::sync::LazyLock;

/// Equal cells into which [-1, 1] is cut for the way from a value to its code.
pub(super) const CELLS: usize = 65_536;
/// Code of 0 in the signed map.
pub(super) const ZERO: u8 = 127;

/// A dynamic map.
pub struct Map {
    /// Value of each code, ascending.
    pub values: [f32; 256],
    /// Code of each cell: the one nearest to the cell's centre.
    ///
    /// Going through cells is what bitsandbytes does, and has an effect worth keeping: 0 lies in
    /// the cell above it, so that the smallest second moment of a block becomes 1.6e-5 of the
    /// largest instead of 0. Exact nearest codes let it vanish while the first moment does not,
    /// and the quotient throws the parameter away.
    ///
    /// What is beyond the last cell is there to be read with it, four bytes at once, and means nothing.
    nearest: Box<[u8; CELLS + 3]>,
    /// Code of zero itself, whatever its cell says; `None` for what is to stay off zero.
    pub(super) zero: Option<u8>,
}

/// The map of the mean gradient.
pub static SIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(true));
/// The map of the mean squared gradient.
pub static UNSIGNED: LazyLock<Map> = LazyLock::new(|| Map::new(false));

impl Map {
    fn new(signed: bool) -> Self {
        let values = dynamic_map(signed);
        let mut nearest = Box::new([0; CELLS + 3]);
        let mut code = 0;
        for (cell, nearest) in nearest.iter_mut().take(CELLS).enumerate() {
            let centre = cell as f32 * (2.0 / 65_535.0) - 1.0;
            let distance = |code: usize| (centre - values[code]).abs();
            while code < 255 && distance(code + 1) < distance(code) {
                code += 1;
            }
            *nearest = code as u8;
        }
        Self {
            values,
            nearest,
            zero: signed.then_some(ZERO),
        }
    }

    /// This code, or the next one towards zero whose value times `absmax` is no further from it than
    /// `most`.
    #[inline(always)]
    pub(super) fn at_most(&self, most: f32, mut code: u8, absmax: f32, zero: u8) -> u8 {
        while code != zero && self.values[usize::from(code)].abs() * absmax > most {
            code = if code > zero { code - 1 } else { code + 1 };
        }
        code
    }

    /// Code of each cell, and three bytes more.
    #[inline(always)]
    pub(super) fn cells(&self) -> &[u8; CELLS + 3] {
        &self.nearest
    }

    /// Code of the cell that a value in [-1, 1] lies in; of NaN that of the first cell.
    pub fn code_of_cell(&self, value: f32) -> u8 {
        let cell = ((value + 1.0) * 32_767.5 + 0.5) as usize;
        self.nearest[cell.min(CELLS - 1)]
    }

    /// First cell of each code, ascending: a value's code is the last one whose first cell is not
    /// above the value's. For devices that rather search 256 entries than hold a table of all cells.
    pub fn first_cells(&self) -> [u32; 256] {
        let mut first = [0; 256];
        for (code, first) in first.iter_mut().enumerate() {
            *first = self.nearest[..CELLS].partition_point(|&c| usize::from(c) < code) as u32;
        }
        first
    }
}

/// `create_dynamic_map` of bitsandbytes, to the last bit.
///
/// Decade by decade, 10^-6 to 10^0, the middles of equal parts of [0.1, 1]: 1, 2, 4 ... 64 parts if
/// signed (and the same below zero), else twice as many; then 0 and 1.
fn dynamic_map(signed: bool) -> [f32; 256] {
    let mut values = vec![0.0, 1.0];
    for decade in 0..7 {
        let parts = 1_usize << if signed { decade } else { decade + 1 };
        let scale = 10_f64.powi(decade - 6) as f32;
        for part in 0..parts {
            let middle = (boundary(part, parts) + boundary(part + 1, parts)) / 2.0;
            values.push(scale * middle);
            if signed {
                values.push(-scale * middle);
            }
        }
    }
    values.resize(256, 0.0);
    values.sort_by(f32::total_cmp);
    std::array::from_fn(|i| values[i])
}

/// Point `i` of `parts + 1` from 0.1 to 1, as `torch.linspace` has it: counted from the nearer end.
fn boundary(i: usize, parts: usize) -> f32 {
    let step = (1.0 - 0.1_f32) / parts as f32;
    match i < parts.div_ceil(2) {
        true => step.mul_add(i as f32, 0.1),
        false => (-step).mul_add((parts - i) as f32, 1.0),
    }
}
