//! `aios report`: what metrics files say, as one HTML page that needs no network.
//!
//! Rust reads the files and makes the tables; the page's script draws the charts, with uPlot, which is small enough to go
//! into every page.

mod page;
mod run;
mod tables;
mod watch;

pub use run::Run;
pub use watch::Server;

use crate::error::{Error, Result};
use serde::Serialize;
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// All that the page shows.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every run of the files, in their order.
    pub runs: Vec<Run>,
    tables: tables::Tables,
    /// One line on what was read.
    pub status: String,
    /// Changes when a file does.
    stamp: String,
    /// Seconds between two looks for news; `None` in a file.
    watch: Option<u64>,
}

impl Report {
    /// Read metrics files, for a page that looks for news after so many seconds if `watch` says so.
    ///
    /// # Errors
    /// A file that cannot be read, or files without a single run.
    pub fn read(paths: &[PathBuf], watch: Option<u64>) -> Result<Self> {
        let stamp = stamp(paths);
        let mut runs = Vec::new();
        let mut left_out = Vec::new();
        let mut unreadable = 0;
        for path in paths {
            let read = run::read(path)?;
            match read.runs.is_empty() {
                true => left_out.push(path.display().to_string()),
                false => unreadable += read.unreadable,
            }
            runs.extend(read.runs);
        }
        if runs.is_empty() {
            return Err(nothing(paths));
        }
        name_apart(&mut runs);
        Ok(Self {
            tables: tables::Tables::new(&runs),
            status: status(&runs, unreadable, &left_out),
            stamp,
            watch,
            runs,
        })
    }

    /// The page, whole.
    pub fn to_html(&self) -> String {
        page::render(self)
    }

    /// What the page's script takes.
    fn to_json(&self) -> String {
        // Texts and finite numbers can all be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

fn nothing(paths: &[PathBuf]) -> Error {
    let shown: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    Error::failed(format!(
        "no run in {}: a metrics file is what aios train --log-file writes",
        shown.join(", ")
    ))
}

/// Lengths and times of the files, which change with every line.
fn stamp(paths: &[PathBuf]) -> String {
    let of = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(format!("{}-{}", meta.len(), time.as_nanos()))
    };
    let parts: Vec<_> = (paths.iter())
        .map(|path| of(path).unwrap_or_else(|| "gone".to_string()))
        .collect();
    parts.join("_")
}

fn status(runs: &[Run], unreadable: usize, left_out: &[String]) -> String {
    let steps: usize = runs.iter().map(Run::steps).sum();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let last = runs.iter().map(|run| run.last_time.as_str()).max();
    let mut text = format!("{}, {}", count(runs.len(), "run"), count(steps, "step"));
    if let Some((day, time)) = last.and_then(|time| Some((time.get(..10)?, time.get(11..19)?))) {
        text += &format!(", last update {day} {time} UTC");
    }
    if unreadable > 0 {
        text += &format!("; {} could not be read", count(unreadable, "line"));
    }
    if !left_out.is_empty() {
        text += &format!("; no run in {}", left_out.join(", "));
    }
    text
}

/// Runs are told apart by their file's name, with its folder and a number where that is not enough.
fn name_apart(runs: &mut [Run]) {
    let stems: Vec<_> = runs.iter().map(|run| run.name.clone()).collect();
    let paths: Vec<_> = runs.iter().map(|run| run.path.clone()).collect();
    for (i, run) in runs.iter_mut().enumerate() {
        let elsewhere = |(j, stem): (usize, &String)| *stem == stems[i] && paths[j] != paths[i];
        if stems.iter().enumerate().any(elsewhere)
            && let Some(folder) = Path::new(&paths[i]).parent()
            && let Some(folder) = folder.file_name()
        {
            run.name = format!("{}/{}", folder.to_string_lossy(), run.name);
        }
    }
    let mut taken = HashSet::new();
    for run in runs {
        let name = run.name.clone();
        let mut number = 1;
        while !taken.insert(run.name.clone()) {
            number += 1;
            run.name = format!("{name} ({number})");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    const RUN: &str = r#"{"time":"2026-01-02T03:04:05.0Z","event":"start","config":{"lr":0.1}}
{"time":"2026-01-02T03:04:06.0Z","event":"step","step":1,"ce":2.5}
"#;

    #[test]
    fn runs_of_the_same_name_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let twice = format!("{RUN}{RUN}");
        let paths = [
            write(dir.path(), "a/m.jsonl", &twice),
            write(dir.path(), "b/m.jsonl", RUN),
            write(dir.path(), "other.jsonl", RUN),
        ];
        let report = Report::read(&paths, None).unwrap();
        let names: Vec<_> = report.runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["a/m", "a/m (2)", "b/m", "other"]);
        let status = "4 runs, 4 steps, last update 2026-01-02 03:04:06 UTC";
        assert_eq!(report.status, status);
    }

    #[test]
    fn the_stamp_changes_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [write(dir.path(), "m.jsonl", RUN)];
        let before = stamp(&paths);
        assert_eq!(stamp(&paths), before);
        write(dir.path(), "m.jsonl", &format!("{RUN}{RUN}"));
        assert_ne!(stamp(&paths), before);
    }

    #[test]
    fn a_file_without_a_run_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [write(dir.path(), "notes.txt", "nothing of ours\n")];
        let error = Report::read(&paths, None).unwrap_err().to_string();
        assert!(error.contains("notes.txt"), "{error}");
        assert!(error.contains("--log-file"), "{error}");
    }
}
