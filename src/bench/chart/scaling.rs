//! Time and memory of attention over the sequence length, both axes logarithmic.

use super::{Area, Drawn, INK, font, write};
use crate::bench::attention::{Row, Table};
use crate::error::Result;
use crate::ops::AttentionPath;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use std::path::Path;

const SIZE: (u32, u32) = (980, 460);
/// Left upper corners and size of the two plots.
const LEFT: [i32; 2] = [70, 560];
const TOP: i32 = 96;
const PLOT: (i32, i32) = (390, 300);
const MIB: f64 = 1024.0 * 1024.0;

/// One line: a path with or without a window.
type Line = (AttentionPath, bool);

const LINES: [(Line, RGBColor); 4] = [
    ((AttentionPath::Sdpa, false), RGBColor(228, 87, 86)),
    ((AttentionPath::Sdpa, true), RGBColor(238, 160, 59)),
    ((AttentionPath::Flash, false), RGBColor(76, 120, 168)),
    ((AttentionPath::Flash, true), RGBColor(84, 162, 75)),
];

/// Forward and backward pass at the table's first head size.
///
/// # Errors
/// A file that cannot be written.
pub fn attention(path: &Path, table: &Table) -> Result<()> {
    write(path, SIZE, |area| draw(area, table))
}

fn draw(area: &Area, table: &Table) -> Drawn {
    let head_dim = table.rows.first().map_or(0, |row| row.head_dim);
    let shown = |row: &&Row| row.head_dim == head_dim && row.pass == "forward+backward";
    let rows: Vec<&Row> = table.rows.iter().filter(shown).collect();
    let title = format!(
        "Causal attention, forward and backward, {} x {} heads of {head_dim}, {}, on {}",
        table.batch_size,
        table.heads,
        table.dtype.as_str(),
        table.device
    );
    area.draw(&Text::new(title, (LEFT[0], 12), font(16, HPos::Left)))?;
    legend(area, &rows)?;
    plot(area, LEFT[0], "time, ms", &rows, |row| row.ms)?;
    plot(
        area,
        LEFT[1],
        "memory beside the inputs, MiB",
        &rows,
        |row| Some(row.extra_bytes? as f64 / MIB),
    )
}

fn legend(area: &Area, rows: &[&Row]) -> Drawn {
    let window = rows.iter().map(|row| row.window).max().unwrap_or(0);
    let mut x = LEFT[0];
    for (line, color) in LINES {
        if !rows.iter().any(|row| of(row) == line && row.ms.is_some()) {
            continue;
        }
        let mut text = line.0.as_str().to_string();
        if line.1 {
            text += &format!(", window {window}");
        }
        area.draw(&Rectangle::new([(x, 42), (x + 12, 54)], color.filled()))?;
        x += 60 + 7 * text.len() as i32;
        let at = (x - 42 - 7 * text.len() as i32, 40);
        area.draw(&Text::new(text, at, font(13, HPos::Left)))?;
    }
    Ok(())
}

fn of(row: &Row) -> Line {
    (row.path, row.window > 0)
}

/// A range of powers of a base, and pixels along it.
struct Axis {
    base: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn new(base: f64, values: &[f64]) -> Self {
        let logs = || values.iter().map(|v| v.max(1e-6).log(base));
        let from = (logs().fold(f64::MAX, f64::min) + 1e-9).floor();
        let to = (logs().fold(f64::MIN, f64::max) - 1e-9).ceil();
        let to = to.max(from + 1.0);
        Self { base, from, to }
    }

    /// Where a value lies, from 0 to 1.
    fn at(&self, value: f64) -> f64 {
        (value.max(1e-6).log(self.base) - self.from) / (self.to - self.from)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> {
        (self.from as i32..=self.to as i32).map(|power| self.base.powi(power))
    }
}

fn plot(area: &Area, left: i32, title: &str, rows: &[&Row], value: Value) -> Drawn {
    area.draw(&Text::new(
        title.to_string(),
        (left, TOP - 26),
        font(14, HPos::Left),
    ))?;
    let points = |line: Line| -> Vec<(f64, f64)> {
        let of_line = rows.iter().filter(|row| of(row) == line);
        of_line
            .filter_map(|row| Some((row.seq_len as f64, value(row)?)))
            .collect()
    };
    let all: Vec<(f64, f64)> = LINES.iter().flat_map(|(line, _)| points(*line)).collect();
    if all.is_empty() {
        let none = Text::new("nothing was measured", (left, TOP), font(14, HPos::Left));
        return area.draw(&none);
    }
    let x = Axis::new(2.0, &all.iter().map(|p| p.0).collect::<Vec<_>>());
    let y = Axis::new(10.0, &all.iter().map(|p| p.1).collect::<Vec<_>>());
    let place = |(at_x, at_y): (f64, f64)| {
        let right = x.at(at_x) * f64::from(PLOT.0);
        let down = (1.0 - y.at(at_y)) * f64::from(PLOT.1);
        (left + right as i32, TOP + down as i32)
    };
    grid(area, left, &x, &y)?;
    for (line, color) in LINES {
        let points: Vec<_> = points(line).into_iter().map(place).collect();
        for point in &points {
            area.draw(&Circle::new(*point, 4, color.filled()))?;
        }
        // Lines without a window are wider, since in memory one with a window covers them.
        let width = if line.1 { 2 } else { 6 };
        area.draw(&PathElement::new(points, color.stroke_width(width)))?;
    }
    Ok(())
}

type Value = fn(&Row) -> Option<f64>;

fn grid(area: &Area, left: i32, x: &Axis, y: &Axis) -> Drawn {
    let (right, bottom) = (left + PLOT.0, TOP + PLOT.1);
    let faint = INK.mix(0.3);
    for tick in y.ticks() {
        let at = TOP + ((1.0 - y.at(tick)) * f64::from(PLOT.1)) as i32;
        area.draw(&PathElement::new(vec![(left, at), (right, at)], faint))?;
        area.draw(&Text::new(
            tick.to_string(),
            (left - 8, at - 7),
            font(12, HPos::Right),
        ))?;
    }
    for tick in x.ticks() {
        let at = left + (x.at(tick) * f64::from(PLOT.0)) as i32;
        area.draw(&PathElement::new(vec![(at, TOP), (at, bottom)], faint))?;
        area.draw(&Text::new(
            tick.to_string(),
            (at, bottom + 8),
            font(12, HPos::Center),
        ))?;
    }
    area.draw(&Text::new(
        "tokens",
        (right, bottom + 28),
        font(12, HPos::Right),
    ))
}
