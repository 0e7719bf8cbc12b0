//! `aios report`: what metrics files say, as one HTML page that needs no network.
//!
//! Rust reads the files and makes the tables; the page's script draws the charts, with uPlot, which is small enough to go
//! into every page.

mod file;
mod output;
mod page;
mod run;
mod samples;
mod tables;
mod thin;
mod watch;

pub use file::{check, kind_of};
pub use output::Output;
pub use watch::Server;

use aios_base::error::{Error, Result};
use file::MetricsFile;
use run::Run;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use thin::Shown;

/// All that the page shows.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Every run of the files, in their order.
    runs: Vec<Shown>,
    tables: tables::Tables,
    /// One line on what was read.
    pub status: String,
    /// One line on what is left out, if anything is.
    pub thinned: Option<String>,
    /// Changes when a file does.
    stamp: String,
    /// Seconds between two looks for news; `None` in a file.
    watch: Option<u64>,
}

/// Metrics files, each read once however often a report of them is made.
#[derive(Debug)]
pub struct Reader {
    files: Vec<MetricsFile>,
    watch: Option<u64>,
}

impl Reader {
    /// Files for pages that look for news after so many seconds if `watch` says so.
    pub fn new(paths: &[PathBuf], watch: Option<u64>) -> Self {
        Self {
            files: paths.iter().map(|path| MetricsFile::new(path)).collect(),
            watch,
        }
    }

    /// Changes with every line of a file.
    pub fn stamp(&self) -> String {
        let parts: Vec<_> = self.files.iter().map(|file| stamp(file.path())).collect();
        parts.join("_")
    }

    /// The report as of now.
    ///
    /// # Errors
    /// A file that cannot be read, or files without a single run.
    pub fn read(&mut self) -> Result<Report> {
        let stamp = self.stamp();
        for file in &mut self.files {
            file.update()?;
        }
        let runs: Vec<&Run> = self.files.iter().flat_map(MetricsFile::runs).collect();
        if runs.is_empty() {
            return Err(nothing(&self.files));
        }
        let names = names(&runs);
        let shown: Vec<Shown> = (runs.iter().zip(names))
            .map(|(run, name)| Shown::new(run, name))
            .collect();
        Ok(Report {
            tables: tables::Tables::new(&runs),
            status: status(&runs, &self.files),
            thinned: thinned(&runs, &shown),
            stamp,
            watch: self.watch,
            runs: shown,
        })
    }
}

impl Report {
    /// Read metrics files for a page that stays as it is.
    ///
    /// # Errors
    /// As [`Reader::read`].
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        Reader::new(paths, None).read()
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

fn nothing(files: &[MetricsFile]) -> Error {
    Error::failed(format!(
        "no run in {}: a metrics file is what aios train --log-file writes",
        shown(files.iter())
    ))
}

fn shown<'a>(files: impl Iterator<Item = &'a MetricsFile>) -> String {
    let paths: Vec<_> = files.map(|f| f.path().display().to_string()).collect();
    paths.join(", ")
}

/// Length and time of a file, which change with every line.
fn stamp(path: &Path) -> String {
    let of = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        Some(format!("{}-{}", meta.len(), time.as_nanos()))
    };
    of(path).unwrap_or_else(|| "gone".to_string())
}

fn status(runs: &[&Run], files: &[MetricsFile]) -> String {
    let steps: usize = runs.iter().map(|run| run.steps()).sum();
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let last = runs.iter().map(|run| run.last_time.as_str()).max();
    let mut text = format!("{}, {}", count(runs.len(), "run"), count(steps, "step"));
    if let Some((day, time)) = last.and_then(|time| Some((time.get(..10)?, time.get(11..19)?))) {
        text += &format!(", last update {day} {time} UTC");
    }
    let has_run = |file: &&MetricsFile| file.runs().next().is_some();
    let (with, without): (Vec<_>, Vec<_>) = files.iter().partition(has_run);
    let unreadable = with.iter().map(|file| file.unreadable()).sum();
    if unreadable > 0 {
        text += &format!("; {} could not be read", count(unreadable, "line"));
    }
    if !without.is_empty() {
        text += &format!("; no run in {}", shown(without.into_iter()));
    }
    text
}

/// What the charts leave out, in one line.
fn thinned(runs: &[&Run], shown: &[Shown]) -> Option<String> {
    let parts = runs.iter().zip(shown);
    let parts: Vec<_> = parts.filter_map(|(run, s)| s.left_out(run)).collect();
    (!parts.is_empty()).then(|| {
        format!(
            "Not all is shown. {}. Of each of many stretches of steps there are the lowest and the highest value of every line, \
             where they are, and the first and the last step of the run; of events that lie close together the last one, with \
             their number; of samples every second, every fourth and so on, and the last. The tables are of all steps; \
             smoothing is of the points shown.",
            parts.join("; ")
        )
    })
}

/// Runs are told apart by their file's name, with its folder and a number where that is not enough.
fn names(runs: &[&Run]) -> Vec<String> {
    let mut files: HashMap<&str, HashSet<&str>> = HashMap::new();
    for run in runs {
        files.entry(&run.name).or_default().insert(&run.path);
    }
    let mut taken = HashSet::new();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let mut names = Vec::new();
    for run in runs {
        let folder = Path::new(&run.path).parent().and_then(Path::file_name);
        let base = match folder {
            Some(folder) if files[run.name.as_str()].len() > 1 => {
                format!("{}/{}", folder.to_string_lossy(), run.name)
            }
            _ => run.name.clone(),
        };
        let number = numbers.entry(base.clone()).or_insert(0);
        let mut name = base.clone();
        while !taken.insert(name.clone()) {
            *number += 1;
            name = format!("{base} ({})", *number + 1);
        }
        names.push(name);
    }
    names
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
        let report = Report::read(&paths).unwrap();
        let names: Vec<_> = report.runs.iter().map(|run| run.name.as_str()).collect();
        assert_eq!(names, ["a/m", "a/m (2)", "b/m", "other"]);
        let status = "4 runs, 4 steps, last update 2026-01-02 03:04:06 UTC";
        assert_eq!(report.status, status);
    }

    #[test]
    fn the_stamp_changes_with_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [write(dir.path(), "m.jsonl", RUN)];
        let reader = Reader::new(&paths, None);
        let before = reader.stamp();
        assert_eq!(reader.stamp(), before);
        write(dir.path(), "m.jsonl", &format!("{RUN}{RUN}"));
        assert_ne!(reader.stamp(), before);
    }

    #[test]
    fn a_file_without_a_run_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [write(dir.path(), "notes.txt", "nothing of ours\n")];
        let error = Report::read(&paths).unwrap_err().to_string();
        assert!(error.contains("notes.txt"), "{error}");
        assert!(error.contains("--log-file"), "{error}");
    }
}
