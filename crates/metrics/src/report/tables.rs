//! The report's tables: rows of a label and one text a run.

use crate::report::run::{Run, shown, words};
use aios_base::error::shortened;
use aios_base::meter::format_bytes;
use aios_base::numbers::readable;
use indicatif::HumanCount;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A label, then one value a run.
type Row = Vec<String>;

#[derive(Debug, Serialize)]
pub struct Tables {
    results: Vec<Row>,
    evaluations: Vec<Row>,
    setup: Vec<Row>,
    settings: Vec<Row>,
}

impl Tables {
    pub fn new(runs: &[&Run]) -> Self {
        let row = |(label, value): &(&str, fn(&Run) -> String)| {
            let values = runs.iter().map(|run| shortened(&value(run)));
            [label.to_string()].into_iter().chain(values).collect()
        };
        Self {
            results: RESULTS.iter().map(row).collect(),
            evaluations: evaluations(runs),
            setup: SETUP.iter().map(row).collect(),
            settings: settings(runs),
        }
    }
}

type Column = (&'static str, fn(&Run) -> String);

/// Steps of the end that a result is the mean of: one is noise.
const LAST: usize = 10;

const RESULTS: [Column; 12] = [
    ("state", state),
    ("steps", |run| {
        let skipped = count(run, "skipped");
        match skipped {
            0 => run.at().step.to_string(),
            n => format!("{}, {n} of them skipped", run.at().step),
        }
    }),
    ("tokens", |run| grouped(run.at().tokens_seen)),
    ("cross-entropy, mean of the last 10 steps", |run| {
        let all = run.columns.get("ce").map_or(&[][..], Vec::as_slice);
        let last: Vec<f64> = (all.iter().rev().take(LAST))
            .filter_map(|ce| ce.map(f64::from))
            .collect();
        let mean = last.iter().sum::<f64>() / last.len() as f64;
        text(last.first().map(|_| mean), |ce| {
            format!("{} (perplexity {})", readable(ce, 4), readable(ce.exp(), 1))
        })
    }),
    ("lowest cross-entropy of a step", |run| {
        text(run.numbers("ce").reduce(f64::min), |ce| readable(ce, 4))
    }),
    ("last evaluation", |run| {
        let losses = run.evals.get("loss").map_or(0, Vec::len);
        text(losses.checked_sub(1), |last| evaluation(run, last))
    }),
    ("tokens per second, median", |run| {
        text(median(run.numbers("tokens_per_second")), |speed| {
            readable(speed, 1)
        })
    }),
    ("time in steps", |run| duration(run.at().seconds_trained)),
    ("slowest rank", slowest),
    ("peak memory on the device", |run| most(run, "peak_bytes")),
    ("peak memory on the host's heap", |run| {
        most(run, "host_peak_bytes")
    }),
    ("out of memory, fallbacks, resumes", |run| {
        let [oom, fallback, resume] =
            ["oom_backoff", "fallback", "resume"].map(|kind| count(run, kind));
        format!("{oom}, {fallback}, {resume}")
    }),
];

const SETUP: [Column; 12] = [
    ("file", |run| run.path.clone()),
    ("device", |run| words(&run.start, "device")),
    ("backend", |run| words(&run.start, "backend")),
    ("ranks", |run| {
        let ranks = object(run, "ranks");
        let size = ranks.get("size").and_then(Value::as_u64);
        let by = words(&ranks, "library");
        size.map_or("1".to_string(), |size| {
            joined(&[size.to_string(), by], " by ")
        })
    }),
    ("parameters", |run| {
        let parameters = run.start.get("parameters").and_then(Value::as_u64);
        text(parameters, grouped)
    }),
    ("tokenizer", |run| words(&run.start, "tokenizer")),
    ("attention", |run| choice(run, "attention", "path")),
    ("precision", |run| choice(run, "precision", "compute")),
    ("optimizer", |run| {
        let optimizer = object(run, "optimizer");
        let bytes = optimizer.get("state_bytes").and_then(Value::as_u64);
        let size = bytes.map_or(String::new(), format_bytes);
        joined(&[words(&optimizer, "kind"), size], ", state ")
    }),
    ("gradient checkpointing", |run| {
        words(&run.start, "checkpointing")
    }),
    ("sequences", |run| words(&run.start, "sequences")),
    ("aios", |run| words(&run.start, "version")),
];

/// Which rank the others wait for, and how much longer it computes than they do.
fn slowest(run: &Run) -> String {
    let ranks = run.ranks.iter().copied().enumerate();
    let Some((rank, seconds)) = ranks.max_by(|a, b| a.1.total_cmp(&b.1)) else {
        return "-".to_string();
    };
    let mean = run.ranks.iter().sum::<f64>() / run.ranks.len() as f64;
    let object = object(run, "ranks");
    let of = |name: &str| Some(object.get(name)?.get(rank)?.as_str()?.to_string());
    let place: Vec<String> = ["hosts", "devices"].into_iter().filter_map(of).collect();
    format!(
        "rank {rank} ({}): {} times the mean",
        place.join(", "),
        readable(seconds / mean, 2)
    )
}

fn state(run: &Run) -> String {
    match &run.end {
        Some(end) => words(end, "reason"),
        None => "running, or cut off".to_string(),
    }
}

fn object(run: &Run, name: &str) -> Map<String, Value> {
    let object = run.start.get(name).and_then(Value::as_object);
    object.cloned().unwrap_or_default()
}

fn choice(run: &Run, name: &str, what: &str) -> String {
    let choice = object(run, name);
    joined(&[words(&choice, what), words(&choice, "reason")], ": ")
}

/// Without what is missing: older versions said less.
fn joined(parts: &[String], with: &str) -> String {
    let there: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|p| !p.is_empty())
        .collect();
    there.join(with)
}

fn count(run: &Run, kind: &str) -> usize {
    run.marks.iter().filter(|mark| mark.kind == kind).count()
}

fn most(run: &Run, column: &str) -> String {
    let most = run.numbers(column).reduce(f64::max);
    text(most, |bytes| format_bytes(bytes as u64))
}

/// Thousands apart, as in 60,377,090.
fn grouped(number: u64) -> String {
    HumanCount(number).to_string()
}

fn text<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or("-".to_string(), show)
}

fn median(numbers: impl Iterator<Item = f64>) -> Option<f64> {
    let mut numbers: Vec<f64> = numbers.collect();
    if numbers.is_empty() {
        return None;
    }
    let (middle, even) = (numbers.len() / 2, numbers.len().is_multiple_of(2));
    let (below, upper, _) = numbers.select_nth_unstable_by(middle, f64::total_cmp);
    let lower = below.iter().copied().max_by(f64::total_cmp);
    match lower.filter(|_| even) {
        Some(lower) => Some(f64::midpoint(lower, *upper)),
        None => Some(*upper),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{seconds:.1} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

/// What an evaluation gave, by its place among those of the run.
fn evaluation(run: &Run, at: usize) -> String {
    let of = |name: &str| Some(f64::from(run.evals.get(name)?.get(at).copied()??));
    text(of("loss"), |loss| {
        // A perplexity may be beyond all numbers of a metrics file.
        let perplexity = of("perplexity").unwrap_or_else(|| loss.exp());
        let perplexity = readable(perplexity, 1);
        let bits = text(of("bits_per_byte"), |bits| readable(bits, 3));
        format!(
            "{} (perplexity {perplexity}, {bits} bits per byte)",
            readable(loss, 4)
        )
    })
}

/// Most evaluations that a table has, beside the last and the lowest of each run.
const MOST_EVALUATIONS: usize = 30;

/// A row a step that any run was evaluated at.
fn evaluations(runs: &[&Run]) -> Vec<Row> {
    let runs: Vec<Evaluations> = runs.iter().map(|run| Evaluations::of(run)).collect();
    let all: BTreeSet<u64> = runs.iter().flat_map(|run| run.at.keys().copied()).collect();
    let apart = all.len().div_ceil(MOST_EVALUATIONS).max(1);
    let mut steps: BTreeSet<u64> = all.into_iter().step_by(apart).collect();
    steps.extend(runs.iter().flat_map(|run| run.lowest));
    steps.extend(runs.iter().filter_map(|run| run.at.keys().next_back()));
    let row = |step: u64| {
        let values = runs.iter().map(|run| run.shown(step));
        [format!("step {}", grouped(step))]
            .into_iter()
            .chain(values)
            .collect()
    };
    steps.into_iter().map(row).collect()
}

/// The evaluations of a run by their steps.
struct Evaluations<'a> {
    run: &'a Run,
    at: BTreeMap<u64, usize>,
    /// The step of the lowest loss.
    lowest: Option<u64>,
}

impl<'a> Evaluations<'a> {
    fn of(run: &'a Run) -> Self {
        let column = |name: &str| run.evals.get(name).map_or(&[][..], Vec::as_slice);
        let steps = column("step").iter().map(|step| step.unwrap_or(0.0) as u64);
        let losses = steps.clone().zip(column("loss"));
        let losses = losses.filter_map(|(step, loss)| Some((step, (*loss)?)));
        Self {
            run,
            lowest: losses
                .min_by(|a, b| a.1.total_cmp(&b.1))
                .map(|(step, _)| step),
            at: steps.enumerate().map(|(at, step)| (step, at)).collect(),
        }
    }

    fn shown(&self, step: u64) -> String {
        let Some(at) = self.at.get(&step) else {
            return "-".to_string();
        };
        let lowest = match self.at.len() > 1 && self.lowest == Some(step) {
            true => ", the lowest",
            false => "",
        };
        evaluation(self.run, *at) + lowest
    }
}

/// Every key of every run's configuration.
fn settings(runs: &[&Run]) -> Vec<Row> {
    let configs: Vec<_> = runs.iter().map(|run| object(run, "config")).collect();
    let keys: BTreeSet<&String> = configs.iter().flat_map(|config| config.keys()).collect();
    let value = |config: &Map<String, Value>, key: &String| match config.get(key) {
        // Another version may not have had the key.
        None => "-".to_string(),
        Some(Value::Null) => "auto or none".to_string(),
        Some(value) => shortened(&shown(value)),
    };
    let row = |key: &&String| {
        let values = configs.iter().map(|config| value(config, key));
        [shortened(key)].into_iter().chain(values).collect()
    };
    keys.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(config: Value) -> Run {
        let start = json!({"device": "GPU", "backend": "wgpu", "config": config});
        let mut run = Run::default();
        run.start.clone_from(start.as_object().unwrap());
        run
    }

    #[test]
    fn settings_hold_every_key_of_every_run() {
        let runs = [
            run(json!({"lr": 0.1, "b": null})),
            run(json!({"a": [1, 2]})),
        ];
        let expected = [
            ["a", "-", "1, 2"],
            ["b", "auto or none", "-"],
            ["lr", "0.1", "-"],
        ];
        assert_eq!(Tables::new(&[&runs[0], &runs[1]]).settings, expected);
    }

    #[test]
    fn a_run_without_numbers_has_no_results_but_a_row_each() {
        let tables = Tables::new(&[&run(json!({}))]);
        let of = |label: &str| &tables.results.iter().find(|row| row[0] == label).unwrap()[1];
        assert_eq!(of("state"), "running, or cut off");
        assert_eq!(of("tokens per second, median"), "-");
        assert_eq!(of("cross-entropy, mean of the last 10 steps"), "-");
        assert_eq!(tables.setup[1], ["device", "GPU"]);
        let choices = tables
            .setup
            .iter()
            .filter(|row| row[0] == "attention" || row[0] == "optimizer");
        assert!(choices.into_iter().all(|row| row[1].is_empty()));
    }

    fn evaluated(losses: &[(f32, Option<f32>)]) -> Run {
        let mut run = run(json!({}));
        let (steps, losses) = losses
            .iter()
            .map(|(step, loss)| (Some(*step), *loss))
            .unzip();
        run.evals.insert("step".into(), steps);
        run.evals.insert("loss".into(), losses);
        run
    }

    #[test]
    fn evaluations_stand_beside_each_other_by_their_steps() {
        let runs = [
            evaluated(&[(10.0, Some(3.0)), (20.0, Some(2.0)), (30.0, Some(2.5))]),
            evaluated(&[(20.0, Some(1.0)), (25.0, None)]),
            run(json!({})),
        ];
        let of = |loss: &str, perplexity: &str| {
            format!("{loss} (perplexity {perplexity}, - bits per byte)")
        };
        let dash = || "-".to_string();
        let expected = [
            ["step 10".to_string(), of("3.0000", "20.1"), dash(), dash()],
            [
                "step 20".to_string(),
                of("2.0000", "7.4") + ", the lowest",
                of("1.0000", "2.7") + ", the lowest",
                dash(),
            ],
            ["step 25".to_string(), dash(), dash(), dash()],
            ["step 30".to_string(), of("2.5000", "12.2"), dash(), dash()],
        ];
        let runs: Vec<&Run> = runs.iter().collect();
        assert_eq!(Tables::new(&runs).evaluations, expected);
    }

    #[test]
    fn of_many_evaluations_the_lowest_and_the_last_are_there() {
        let losses: Vec<_> = (1..=1000u16)
            .map(|n| (f32::from(n), Some(if n == 777 { 1.0 } else { 2.0 })))
            .collect();
        let rows = evaluations(&[&evaluated(&losses)]);
        assert!(rows.len() <= MOST_EVALUATIONS + 2, "{}", rows.len());
        let of = |step: &str| rows.iter().find(|row| row[0] == step).unwrap()[1].as_str();
        assert!(of("step 777").ends_with("the lowest"));
        assert!(of("step 1,000").starts_with("2.0000"));
    }

    #[test]
    fn a_perplexity_beyond_measure_is_no_wall_of_digits() {
        let mut run = run(json!({}));
        let step = |ce: f32| ("ce".to_string(), vec![Some(ce)]);
        run.columns.extend([step(160.0)]);
        run.evals.insert("loss".into(), vec![Some(800.0)]);
        run.evals.insert("perplexity".into(), vec![None]);
        run.evals.insert("bits_per_byte".into(), vec![Some(2.5)]);
        let tables = Tables::new(&[&run]);
        let of = |label: &str| {
            &tables
                .results
                .iter()
                .find(|row| row[0].starts_with(label))
                .unwrap()[1]
        };
        assert_eq!(of("cross-entropy"), "160.0000 (perplexity 3.07e69)");
        assert_eq!(
            of("last evaluation"),
            "800.0000 (perplexity inf, 2.500 bits per byte)"
        );
    }

    #[test]
    fn numbers_are_read_easily() {
        let shown = [7, 999, 1000, 60_377_090].map(grouped);
        assert_eq!(shown, ["7", "999", "1,000", "60,377,090"]);
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
        let shown = [0.25, 61.0, 7325.0].map(duration);
        assert_eq!(shown, ["0.2 s", "1 min 1 s", "2 h 2 min"]);
    }
}
