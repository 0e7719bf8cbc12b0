//! Charts of benchmark tables, as SVG or PNG.

mod png;
mod scaling;

pub use scaling::{attention, context};

use crate::bench::memory::{Row, Table};
use aios_base::error::{Error, Result, dangling};
use aios_train::step::Measured;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;

const WIDTH: u32 = 900;
const BAR: u32 = 34;
const LEFT: i32 = 150;
const RIGHT: i32 = 190;
const TOP: i32 = 70;
/// Readable on white and on dark pages alike.
const INK: RGBColor = RGBColor(110, 118, 129);

/// Parts of a bar, in the order they are stacked.
const PARTS: [(&str, RGBColor); 4] = [
    ("weights", RGBColor(76, 120, 168)),
    ("gradients", RGBColor(114, 183, 178)),
    ("optimizer", RGBColor(238, 202, 59)),
    ("activations and loss", RGBColor(228, 87, 86)),
];

/// Refuse a place where no chart can be written, before anything is measured.
///
/// # Errors
/// Another extension than `.svg` or `.png`, a folder that does not exist or cannot be written, or no file in its place.
pub fn check(path: &Path) -> Result<()> {
    let shown = path.display();
    if !has_extension(path, "svg") && !has_extension(path, "png") {
        return Err(Error::invalid(format!(
            "--chart {shown}: charts are SVG or PNG, name a file that ends in .svg or .png"
        )));
    }
    if dangling(path).is_some() {
        let missing = ErrorKind::NotFound.into();
        return Err(Error::io(path, "write the chart to", missing));
    }
    if let Some(folder) = path.parent()
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        let folder = folder.display();
        return Err(Error::invalid(format!(
            "--chart {shown}: there is no folder {folder}, create it first"
        )));
    }
    let there = path.exists();
    if there && !path.is_file() {
        return Err(Error::invalid(format!(
            "--chart {shown} is no file: name another one"
        )));
    }
    let opened = OpenOptions::new().append(true).create(true).open(path);
    opened.map_err(|cause| Error::io(path, "write the chart to", cause))?;
    if !there {
        // Should what is measured fail, no empty chart is left behind.
        fs::remove_file(path).map_err(|cause| Error::io(path, "try to write", cause))?;
    }
    Ok(())
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case(wanted))
}

/// Peak memory of each row as a bar of its parts, with its speed beside it.
///
/// # Errors
/// A file that cannot be written.
pub fn memory(path: &Path, table: &Table) -> Result<()> {
    let height = TOP as u32 + BAR * table.rows.len() as u32 + 30;
    write(path, (WIDTH, height), |area| draw(area, table))
}

fn write(path: &Path, size: (u32, u32), draw: impl FnOnce(&Area) -> Drawn) -> Result<()> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    draw(&area)
        .and_then(|()| area.present())
        .map_err(|cause| Error::failed(format!("cannot draw {}: {cause}", path.display())))?;
    drop(area);
    let bytes = match has_extension(path, "png") {
        true => png::render(&svg)?,
        false => svg.into_bytes(),
    };
    fs::write(path, bytes).map_err(|cause| Error::io(path, "write the chart to", cause))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>>;

fn draw(area: &Area, table: &Table) -> Drawn {
    let title = format!(
        "Peak memory of a training step, {} x {} x {} tokens, on {}",
        table.gradient_accumulation_steps, table.batch_size, table.max_seq_len, table.device
    );
    area.draw(&Text::new(title, (LEFT, 12), font(16, HPos::Left)))?;
    let mut x = LEFT;
    for (name, color) in PARTS {
        area.draw(&Rectangle::new([(x, 42), (x + 12, 54)], color.filled()))?;
        area.draw(&Text::new(name, (x + 18, 40), font(13, HPos::Left)))?;
        x += 40 + 7 * name.len() as i32;
    }
    let measured = |row: &Row| row.outcome.as_ref().map(|o| o.measured.clone());
    let most = table.rows.iter().filter_map(measured).map(|m| m.peak).max();
    for (i, row) in table.rows.iter().enumerate() {
        let y = TOP + i as i32 * BAR as i32;
        area.draw(&Text::new(
            row.name.clone(),
            (LEFT - 10, y + 6),
            font(14, HPos::Right),
        ))?;
        match measured(row) {
            Some(m) => bar(area, &m, y, most.unwrap_or(1).max(1))?,
            None => {
                let failed = row.error.as_ref().is_some_and(|error| error.failed);
                let why = if failed { "failed" } else { "does not fit" };
                area.draw(&Text::new(why, (LEFT, y + 6), font(14, HPos::Left)))?;
            }
        }
    }
    Ok(())
}

fn bar(area: &Area, m: &Measured, y: i32, most: u64) -> Drawn {
    let room = (WIDTH as i32 - LEFT - RIGHT) as u64;
    let at = |bytes: u64| LEFT + (bytes * room / most) as i32;
    let mut done = 0;
    for ((_, color), bytes) in PARTS
        .iter()
        .zip([m.weights, m.gradients, m.optimizer, m.peak])
    {
        // The last part is what remains of the peak.
        let end = m.peak.min(done + bytes);
        let corners = [(at(done), y), (at(end), y + BAR as i32 - 10)];
        area.draw(&Rectangle::new(corners, color.filled()))?;
        done = end;
    }
    let text = format!(
        "{:.0} MiB, {:.0} tokens/s",
        m.peak as f64 / (1 << 20) as f64,
        m.tokens_per_second
    );
    area.draw(&Text::new(
        text,
        (at(m.peak) + 8, y + 6),
        font(13, HPos::Left),
    ))
}

fn font(size: u32, side: HPos) -> TextStyle<'static> {
    let style = TextStyle::from(("sans-serif", size).into_font()).color(&INK);
    style.pos(Pos::new(side, VPos::Top))
}
