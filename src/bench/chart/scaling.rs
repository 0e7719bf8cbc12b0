//! Quantities over the sequence length, both axes logarithmic.

use crate::bench::chart::{Area, Drawn, INK, font, write};
use crate::bench::{attention, context};
use aios_base::error::Result;
use aios_tensor::AttentionPath;
use plotters::prelude::*;
use plotters::style::text_anchor::HPos;
use std::path::Path;

const SIZE: (u32, u32) = (980, 460);
/// Left upper corners and size of the two plots.
const LEFT: [i32; 2] = [70, 560];
const TOP: i32 = 96;
const PLOT: (i32, i32) = (390, 300);
const MIB: f64 = 1024.0 * 1024.0;

const RED: RGBColor = RGBColor(228, 87, 86);
const ORANGE: RGBColor = RGBColor(238, 160, 59);
const BLUE: RGBColor = RGBColor(76, 120, 168);
const GREEN: RGBColor = RGBColor(84, 162, 75);
const VIOLET: RGBColor = RGBColor(150, 100, 170);
const TEAL: RGBColor = RGBColor(60, 160, 160);

/// What one line shows.
struct Line<'a, R> {
    label: String,
    color: RGBColor,
    width: u32,
    rows: Vec<&'a R>,
}

/// A quantity of a row over the row's length.
struct Quantity<R> {
    title: &'static str,
    length: fn(&R) -> f64,
    value: fn(&R) -> Option<f64>,
}

/// Time and memory of attention, forward and backward pass, at the table's first head size.
///
/// # Errors
/// A file that cannot be written.
pub fn attention(path: &Path, table: &attention::Table) -> Result<()> {
    const LINES: [((AttentionPath, bool), RGBColor); 4] = [
        ((AttentionPath::Sdpa, false), RED),
        ((AttentionPath::Sdpa, true), ORANGE),
        ((AttentionPath::Flash, false), BLUE),
        ((AttentionPath::Flash, true), GREEN),
    ];
    let head_dim = table.rows.first().map_or(0, |row| row.head_dim);
    let shown = |row: &&attention::Row| row.head_dim == head_dim && row.pass == "forward+backward";
    let rows: Vec<_> = table.rows.iter().filter(shown).collect();
    let window = rows.iter().map(|row| row.window).max().unwrap_or(0);
    let lines = LINES.map(|((path, windowed), color)| Line {
        label: match windowed {
            true => format!("{}, window {window}", path.as_str()),
            false => path.as_str().to_string(),
        },
        color,
        // Lines without a window are wider, since in memory one with a window covers them.
        width: if windowed { 2 } else { 6 },
        rows: (rows.iter().copied())
            .filter(|row| row.path == path && (row.window > 0) == windowed)
            .collect(),
    });
    let title = format!(
        "Causal attention, forward and backward, {} x {} heads of {head_dim}, {}, on {}",
        table.batch_size,
        table.heads,
        table.dtype.as_str(),
        table.device
    );
    let time = Quantity::<attention::Row> {
        title: "time, ms",
        length: |row| row.seq_len as f64,
        value: |row| row.ms,
    };
    let memory = Quantity {
        title: "memory beside the inputs, MiB",
        value: |row: &attention::Row| Some(row.extra_bytes? as f64 / MIB),
        ..time
    };
    draw(path, title, &lines, &[time, memory])
}

/// Peak memory and speed of a training step, form by form.
///
/// # Errors
/// A file that cannot be written.
pub fn context(path: &Path, table: &context::Table) -> Result<()> {
    // Where lines lie on each other, the ones drawn first are wider.
    let styles = [
        (RED, 3),
        (ORANGE, 9),
        (BLUE, 5),
        (VIOLET, 3),
        (GREEN, 3),
        (TEAL, 3),
    ];
    let mut forms: Vec<&str> = table.rows.iter().map(|row| row.form).collect();
    forms.dedup();
    let line = |(form, (color, width)): (&str, (RGBColor, u32))| Line {
        label: form.to_string(),
        color,
        width,
        rows: table.rows.iter().filter(|row| row.form == form).collect(),
    };
    let lines: Vec<_> = forms.into_iter().zip(styles).map(line).collect();
    let limit = match table.memory_limit {
        Some(limit) => format!(", at most {:.0} MiB", limit as f64 / MIB),
        None => String::new(),
    };
    let title = format!(
        "A training step, sequences: {}, window {}, chunks of {}{limit}, on {}",
        table.batch_size, table.window_size, table.chunk_size, table.device
    );
    let memory = Quantity::<context::Row> {
        title: "peak memory, MiB",
        length: |row| row.max_seq_len as f64,
        value: |row| Some(row.outcome?.trial.peak as f64 / MIB),
    };
    let speed = Quantity {
        title: "tokens a second",
        value: |row: &context::Row| Some(row.outcome?.trial.tokens_per_second),
        ..memory
    };
    draw(path, title, &lines, &[memory, speed])
}

fn draw<R>(path: &Path, title: String, lines: &[Line<R>], plots: &[Quantity<R>; 2]) -> Result<()> {
    write(path, SIZE, |area| {
        area.draw(&Text::new(title, (LEFT[0], 12), font(16, HPos::Left)))?;
        let any = |line: &&Line<R>| line.rows.iter().any(|row| (plots[0].value)(row).is_some());
        let lines: Vec<_> = lines.iter().filter(any).collect();
        legend(area, &lines)?;
        for (left, quantity) in LEFT.into_iter().zip(plots) {
            plot(area, left, &lines, quantity)?;
        }
        Ok(())
    })
}

fn legend<R>(area: &Area, lines: &[&Line<R>]) -> Drawn {
    let mut x = LEFT[0];
    for line in lines {
        area.draw(&Rectangle::new(
            [(x, 42), (x + 12, 54)],
            line.color.filled(),
        ))?;
        area.draw(&Text::new(
            line.label.clone(),
            (x + 18, 40),
            font(13, HPos::Left),
        ))?;
        x += 60 + 7 * line.label.len() as i32;
    }
    Ok(())
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

fn plot<R>(area: &Area, left: i32, lines: &[&Line<R>], quantity: &Quantity<R>) -> Drawn {
    area.draw(&Text::new(
        quantity.title,
        (left, TOP - 26),
        font(14, HPos::Left),
    ))?;
    let points = |line: &Line<R>| -> Vec<(f64, f64)> {
        let point = |row: &&R| Some(((quantity.length)(row), (quantity.value)(row)?));
        line.rows.iter().filter_map(point).collect()
    };
    let all: Vec<(f64, f64)> = lines.iter().flat_map(|line| points(line)).collect();
    if all.is_empty() {
        let none = Text::new("nothing was measured", (left, TOP), font(14, HPos::Left));
        return area.draw(&none);
    }
    let x = Axis::new(2.0, &all.iter().map(|p| p.0).collect::<Vec<_>>());
    let values: Vec<f64> = all.iter().map(|p| p.1).collect();
    let [least, most] =
        [f64::min, f64::max].map(|pick| values.iter().copied().fold(values[0], pick));
    let y = Axis::new(if most < 16.0 * least { 2.0 } else { 10.0 }, &values);
    let place = |(at_x, at_y): (f64, f64)| {
        let right = x.at(at_x) * f64::from(PLOT.0);
        let down = (1.0 - y.at(at_y)) * f64::from(PLOT.1);
        (left + right as i32, TOP + down as i32)
    };
    grid(area, left, &x, &y)?;
    for line in lines {
        let points: Vec<_> = points(line).into_iter().map(place).collect();
        for point in &points {
            area.draw(&Circle::new(*point, 4, line.color.filled()))?;
        }
        area.draw(&PathElement::new(
            points,
            line.color.stroke_width(line.width),
        ))?;
    }
    Ok(())
}

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
