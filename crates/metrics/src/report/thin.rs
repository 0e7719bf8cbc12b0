//! What a page shows of a run that has more steps than a screen has columns.
//!
//! The columns of a run stay aligned: one choice of steps serves all of them, made so that no spike of any is lost.

use crate::report::run::{Columns, Mark, Run, StepTimes, words};
use crate::report::samples::Sample;
use aios_base::error::shortened;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// Most points of a line.
const MOST_POINTS: usize = 4000;
/// Most marks of a kind.
const MOST_MARKS: usize = 300;
/// Most kinds of operations.
const MOST_OPERATIONS: usize = 15;
/// Most characters of a generated text.
const MOST_OF_A_SAMPLE: usize = 5_000;

/// One run, as the page's script takes it.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// Its own among all runs.
    pub name: String,
    pub path: String,
    pub columns: Columns,
    pub evals: Columns,
    pub marks: Vec<ShownMark>,
    /// What the texts begin with.
    pub prompt: String,
    pub samples: Vec<Sample>,
    pub operations: Option<StepTimes>,
}

/// A mark, and how many others of its kind it stands for.
#[derive(Debug, Serialize)]
pub struct ShownMark {
    #[serde(flatten)]
    pub mark: Mark,
    pub more: usize,
}

impl Shown {
    /// What to show of a run, by its own name among all.
    pub fn new(run: &Run, name: String) -> Self {
        Self {
            name,
            path: run.path.clone(),
            columns: with_numbers(thinned(&run.columns, MOST_POINTS)),
            evals: with_numbers(thinned(&run.evals, MOST_POINTS)),
            marks: marks(run, MOST_MARKS),
            prompt: prompt(run),
            samples: run.samples.iter().map(sample).collect(),
            operations: run.operations.as_ref().map(slowest),
        }
    }

    /// What is left out, in words; `None` if nothing is.
    pub fn left_out(&self, run: &Run) -> Option<String> {
        let mut parts = Vec::new();
        for (what, all, shown) in [
            ("steps", &run.columns, &self.columns),
            ("evaluations", &run.evals, &self.evals),
        ] {
            let (all, shown) = (rows(all), rows(shown));
            if shown < all {
                parts.push(format!("{shown} of {all} {what}"));
            }
        }
        let texts = run.samples.count();
        if (self.samples.len() as u64) < texts {
            parts.push(format!("{} of {texts} samples", self.samples.len()));
        }
        if self.marks.len() < run.marks.len() {
            parts.push(format!(
                "{} of {} events",
                self.marks.len(),
                run.marks.len()
            ));
        }
        (!parts.is_empty()).then(|| format!("{}: {}", self.name, parts.join(", ")))
    }
}

fn rows(columns: &Columns) -> usize {
    columns.get("step").map_or(0, Vec::len)
}

/// Those that have a number: older versions wrote fewer.
fn with_numbers(mut columns: Columns) -> Columns {
    columns.retain(|_, values| values.iter().any(Option::is_some));
    columns
}

/// Columns of at most so many rows: of each of many stretches of rows those where a column has its lowest or its highest
/// value; and the first and the last row.
fn thinned(columns: &Columns, most: usize) -> Columns {
    let rows = rows(columns);
    if rows <= most {
        return columns.clone();
    }
    let stretches = most / 2;
    let range = |at: usize| at * rows / stretches..(at + 1) * rows / stretches;
    let extremes: Vec<Vec<Extremes>> = (columns.values())
        .map(|values| {
            let of = |at| lowest_and_highest(values, range(at));
            (0..stretches).map(of).collect()
        })
        .collect();
    // Stretches are joined until what is kept of them is little enough.
    let mut joined = 1;
    let mut kept = kept(columns, &extremes, joined);
    while kept.len() > most && joined < stretches {
        joined += 1;
        kept = self::kept(columns, &extremes, joined);
    }
    let choose = |values: &Vec<Option<f32>>| kept.iter().map(|&row| values[row]).collect();
    (columns.iter())
        .map(|(name, values)| (name.clone(), choose(values)))
        .collect()
}

/// Rows of the lowest and the highest value in a stretch, as far as there are values.
type Extremes = [Option<usize>; 2];

/// The rows to keep with so many stretches joined, in order.
fn kept(columns: &Columns, extremes: &[Vec<Extremes>], joined: usize) -> Vec<usize> {
    let mut kept = vec![0, rows(columns) - 1];
    for (values, extremes) in columns.values().zip(extremes) {
        for together in extremes.chunks(joined) {
            let rows = together.iter().flatten().flatten().copied();
            kept.extend(lowest_and_highest(values, rows).into_iter().flatten());
        }
    }
    kept.sort_unstable();
    kept.dedup();
    kept
}

/// The first of each, since columns that do not move then agree on a row.
fn lowest_and_highest(values: &[Option<f32>], rows: impl Iterator<Item = usize>) -> Extremes {
    let mut found: [Option<(usize, f32)>; 2] = [None; 2];
    for row in rows {
        let Some(value) = values[row] else { continue };
        let [lowest, highest] = &mut found;
        if lowest.is_none_or(|(_, least)| value < least) {
            *lowest = Some((row, value));
        }
        if highest.is_none_or(|(_, most)| value > most) {
            *highest = Some((row, value));
        }
    }
    found.map(|found| found.map(|(row, _)| row))
}

/// At most so many marks of each kind: of those that lie close together the last one, which counts the others, and the
/// very first.
fn marks(run: &Run, most: usize) -> Vec<ShownMark> {
    let mut count = BTreeMap::new();
    for mark in &run.marks {
        *count.entry(mark.kind).or_insert(0) += 1;
    }
    let end = u128::from(run.at().step.max(1));
    let place = |mark: &Mark| u128::from(mark.at.step) * (most as u128 - 2) / end;
    let mut shown: Vec<Option<ShownMark>> = Vec::new();
    // Of each kind the last one: its place, and where it stands. The very first has a place of its own.
    let mut last: BTreeMap<&str, (Option<u128>, usize)> = BTreeMap::new();
    for mark in &run.marks {
        let mut more = 0;
        if count[mark.kind] > most {
            let here = last.contains_key(mark.kind).then(|| place(mark));
            if let Some((there, at)) = last.insert(mark.kind, (here, shown.len()))
                && there.is_some()
                && there == here
                && let Some(before) = shown[at].take()
            {
                more = before.more + 1;
            }
        }
        let text = shortened(&mark.text);
        let mark = Mark {
            text,
            ..mark.clone()
        };
        shown.push(Some(ShownMark { mark, more }));
    }
    shown.into_iter().flatten().collect()
}

/// What the run's texts begin with, if a text that is cut still does.
fn prompt(run: &Run) -> String {
    let config = run.start.get("config").and_then(Value::as_object);
    let prompt = config.map_or(String::new(), |config| words(config, "sample_prompt"));
    match prompt.len() <= MOST_OF_A_SAMPLE {
        true => prompt,
        false => String::new(),
    }
}

/// The operations that take longest.
fn slowest(times: &StepTimes) -> StepTimes {
    let mut times = times.clone();
    times.operations.sort_by(|a, b| b.1.total_cmp(&a.1));
    times.operations.truncate(MOST_OPERATIONS);
    for (name, ..) in &mut times.operations {
        *name = shortened(name);
    }
    times
}

fn sample(sample: &Sample) -> Sample {
    let text = match sample.text.char_indices().nth(MOST_OF_A_SAMPLE) {
        None => sample.text.clone(),
        Some((end, _)) => {
            let left = sample.text[end..].chars().count();
            let shown = &sample.text[..end];
            format!("{shown}\n[{left} more characters are in the metrics file]")
        }
    };
    Sample {
        text,
        step: sample.step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::run::Lines;
    use std::path::Path;

    /// More than a page shows.
    const COUNT: u64 = 10_000;

    fn run(lines: impl Iterator<Item = String>) -> Run {
        let mut read = Lines::default();
        for line in lines {
            read.take(line.as_bytes(), Path::new("m.jsonl"));
        }
        read.runs().next().unwrap().clone()
    }

    /// Noise, but for a spike each way.
    fn steps(count: u64) -> impl Iterator<Item = String> {
        (1..=count).map(move |step| {
            let noise = (step * 7919 % 997) as f64 / 997.0;
            let ce = if step == 4321 { 1e9 } else { 3.0 + noise };
            let speed = if step == 7777 { 0.001 } else { 900.0 + 10.0 * noise };
            let skipped = step.is_multiple_of(2);
            format!(
                r#"{{"event":"step","step":{step},"ce":{ce},"tokens_per_second":{speed},"learning_rate":0.001,"tokens":8,"seconds":0.5,"skipped":{skipped}}}"#
            )
        })
    }

    #[test]
    fn no_spike_is_lost_and_every_point_is_true() {
        let run = run(steps(COUNT));
        let shown = Shown::new(&run, "a".into());
        let column = |name: &str| &shown.columns[name];
        let steps = column("step");
        assert!(steps.len() <= MOST_POINTS && steps.len() > MOST_POINTS / 2);
        assert!(
            shown
                .columns
                .values()
                .all(|values| values.len() == steps.len())
        );
        assert_eq!((steps[0], steps[steps.len() - 1]), (Some(1.0), Some(1e4)));
        for (name, step, value) in [("ce", 4321.0, 1e9), ("tokens_per_second", 7777.0, 0.001)] {
            let row = steps.iter().position(|&s| s == Some(step)).unwrap();
            assert_eq!(column(name)[row], Some(value), "{name}");
        }
        for (row, step) in steps.iter().enumerate() {
            let there = step.unwrap() as usize - 1;
            for (name, values) in &shown.columns {
                assert_eq!(values[row], run.columns[name][there], "{name} at {there}");
            }
        }
        let left_out = shown.left_out(&run).unwrap();
        assert!(left_out.starts_with("a: "), "{left_out}");
        assert!(left_out.contains("of 10000 steps"), "{left_out}");
        assert!(left_out.contains("of 5000 events"), "{left_out}");
    }

    #[test]
    fn every_stretch_keeps_its_lowest_and_highest() {
        let run = run(steps(COUNT));
        let values = &run.columns["ce"];
        let shown = Shown::new(&run, "a".into());
        let kept: Vec<usize> = (shown.columns["step"].iter().flatten())
            .map(|step| *step as usize - 1)
            .collect();
        // Wherever one looks, what is left out lies between what is shown.
        for range in (0..10_000).step_by(500).map(|from| from..from + 500) {
            let of = |rows: &mut dyn Iterator<Item = usize>| {
                rows.filter_map(|row| values[row])
                    .fold((f32::MAX, f32::MIN), |(a, b), v| (a.min(v), b.max(v)))
            };
            let all = of(&mut range.clone());
            let shown = of(&mut kept.iter().copied().filter(|row| range.contains(row)));
            assert_eq!(shown, all, "{range:?}");
        }
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let run = run(steps(MOST_POINTS as u64).take(500));
        let shown = Shown::new(&run, "a".into());
        assert_eq!(shown.columns, with_numbers(run.columns.clone()));
        assert!(shown.columns.contains_key("ce") && !shown.columns.contains_key("loss_scale"));
        assert_eq!(shown.marks.len(), 250);
        assert!(shown.marks.iter().all(|mark| mark.more == 0));
        assert_eq!(shown.left_out(&run), None);
    }

    #[test]
    fn marks_that_lie_close_together_are_one_that_counts_them() {
        let end = r#"{"event":"end","reason":"done"}"#.to_string();
        let run = run(steps(COUNT).chain([end]));
        let shown = Shown::new(&run, "a".into());
        let skipped: Vec<_> = (shown.marks.iter())
            .filter(|mark| mark.mark.kind == "skipped")
            .collect();
        assert!(skipped.len() <= MOST_MARKS && skipped.len() > MOST_MARKS / 2);
        let all: usize = skipped.iter().map(|mark| 1 + mark.more).sum();
        assert_eq!(all, 5000);
        assert_eq!((skipped[0].mark.at.step, skipped[0].more), (2, 0));
        assert_eq!(skipped[skipped.len() - 1].mark.at.step, COUNT);
        assert!(skipped.is_sorted_by_key(|mark| mark.mark.at.step));
        assert_eq!(shown.marks.last().unwrap().mark.kind, "end");
    }

    #[test]
    fn columns_without_a_number_do_no_harm() {
        let lines = (1..=9000).map(|step| format!(r#"{{"event":"step","step":{step},"ce":null}}"#));
        let shown = Shown::new(&run(lines), "a".into());
        assert!(!shown.columns.contains_key("ce"));
        let points = shown.columns["step"].len();
        assert!(points <= MOST_POINTS && points > 100, "{points}");
    }

    #[test]
    fn of_many_operations_the_slowest_are_shown() {
        let operations: Vec<_> = (0..100)
            .map(|n| format!(r#"{{"name":"{n}","calls":1,"seconds":{n}.0}}"#))
            .collect();
        let lines = [
            r#"{"event":"start","config":{"sample_prompt":"One"}}"#.to_string(),
            format!(
                r#"{{"event":"operations","steps":3,"seconds":9000.0,"operations":[{}]}}"#,
                operations.join(",")
            ),
        ];
        let shown = Shown::new(&run(lines.into_iter()), "a".into());
        let operations = shown.operations.unwrap().operations;
        assert_eq!(operations.len(), MOST_OPERATIONS);
        assert_eq!(operations[0], ("99".to_string(), 99.0, 1.0));
        assert_eq!(shown.prompt, "One");
    }

    #[test]
    fn of_many_samples_it_is_said_how_many_are_shown() {
        let samples =
            (1..=1000).map(|step| format!(r#"{{"event":"sample","step":{step},"text":"a"}}"#));
        let run = run(steps(10).chain(samples));
        let left_out = Shown::new(&run, "a".into()).left_out(&run).unwrap();
        assert!(left_out.ends_with(" of 1000 samples"), "{left_out}");
    }

    #[test]
    fn a_long_sample_is_cut_and_says_so() {
        let text = "é".repeat(MOST_OF_A_SAMPLE + 7);
        let shown = sample(&Sample { step: 1, text });
        assert!(
            shown
                .text
                .ends_with("[7 more characters are in the metrics file]")
        );
        assert!(shown.text.chars().count() < MOST_OF_A_SAMPLE + 60);
    }
}
