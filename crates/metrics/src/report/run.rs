//! Runs out of the lines of a metrics file.
//!
//! Runs append to their file. A `start` begins a new run, unless a `resume` or an `oom_backoff` came since the last one's
//! steps: then that run goes on, a `resume` with the run that saved the checkpoint, and steps after the one it goes on from
//! are those that were computed again. Lines of older versions lack fields, a crash leaves half a line: what is there is
//! shown.

use crate::report::samples::{Sample, Samples};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;

/// Numbers of a step that are drawn, by their names in the file.
const STEP: [&str; 6] = [
    "ce",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "loss_scale",
    "segments",
];
/// Those of its `memory`.
const MEMORY: [&str; 3] = ["in_use_bytes", "peak_bytes", "host_peak_bytes"];
/// Those of `by_purpose` in that.
const BY_PURPOSE: [&str; 5] = [
    "other_bytes",
    "weights_bytes",
    "optimizer_bytes",
    "gradients_bytes",
    "activations_bytes",
];
const EVAL: [&str; 3] = ["loss", "perplexity", "bits_per_byte"];

/// One run: columns for the charts, and the rest for the tables.
#[derive(Debug, Clone, Default)]
pub struct Run {
    /// The file's name without its extension.
    pub name: String,
    /// The file, for display.
    pub path: String,
    /// By name, one value a step, among them `step`, `tokens_seen` and `seconds_trained`.
    pub columns: Columns,
    /// The same for evaluations.
    pub evals: Columns,
    /// Events worth a mark in a chart.
    pub marks: Vec<Mark>,
    /// Generated texts.
    pub samples: Samples,
    /// Where the time of some steps went, of the last ones that were taken apart.
    pub operations: Option<StepTimes>,
    /// The `start` line, the last one if the run was resumed.
    pub start: Map<String, Value>,
    /// The `end` line, if the run ended and was not resumed since.
    pub end: Option<Map<String, Value>>,
    /// Time of the last line.
    pub last_time: String,
    /// Seconds that each rank of a job has computed.
    pub ranks: Vec<f64>,
    at: Where,
    /// A line says that what follows goes on with this run.
    goes_on: bool,
}

/// By name, values in single precision, which is more than a screen shows; `None` where there is no number.
pub type Columns = BTreeMap<String, Vec<Option<f32>>>;

/// A place on the abscissa.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct Where {
    /// Steps done.
    pub step: u64,
    /// Tokens trained on by then.
    pub tokens_seen: u64,
    /// Seconds spent in steps by then.
    pub seconds_trained: f64,
}

/// An event at a place.
#[derive(Debug, Clone, Serialize)]
pub struct Mark {
    #[serde(flatten)]
    pub at: Where,
    /// Its name in the file, or `skipped`.
    pub kind: &'static str,
    /// What happened, in words.
    pub text: String,
}

/// Where the time of a step went, on average.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepTimes {
    /// Steps that were taken apart.
    pub steps: u64,
    /// Time of one.
    pub seconds: f64,
    /// Time of each kind of operation in it, and calls.
    pub operations: Vec<(String, f64, f64)>,
}

/// What the lines of a file say, those that were read so far.
#[derive(Debug, Default)]
pub struct Lines {
    runs: Vec<Run>,
    /// Lines that are no JSON objects of ours, such as one torn by a crash.
    pub unreadable: usize,
}

impl Lines {
    /// Take a line of the file, without its end.
    pub fn take(&mut self, line: &[u8], file: &Path) {
        if !self.take_event(line, file) && !line.trim_ascii().is_empty() {
            self.unreadable += 1;
        }
    }

    /// Take a line if it is one of ours. The beginning of one is none: only its last character ends an object.
    pub fn take_event(&mut self, line: &[u8], file: &Path) -> bool {
        match serde_json::from_str(&String::from_utf8_lossy(line)) {
            Ok(Value::Object(line)) if line.get("event").is_some_and(Value::is_string) => {
                self.take_object(line, file);
                true
            }
            _ => false,
        }
    }

    /// The runs to show: one that failed before its first step says something only if it is alone.
    pub fn runs(&self) -> impl Iterator<Item = &Run> {
        let with_steps = self.runs.iter().any(|run| run.steps() > 0);
        (self.runs.iter())
            .filter(move |run| run.steps() > 0 || (!with_steps && !run.start.is_empty()))
    }

    fn take_object(&mut self, line: Map<String, Value>, file: &Path) {
        let event = line["event"].as_str().unwrap_or_default().to_string();
        if event == "resume" {
            bring_to_the_end(&mut self.runs, Path::new(&words(&line, "path")));
        }
        let begins = match self.runs.last() {
            None => true,
            Some(run) => event == "start" && !run.goes_on && !run.start.is_empty(),
        };
        if begins {
            self.begin(file);
        }
        if let Some(run) = self.runs.last_mut() {
            run.take(&event, line);
        }
    }

    fn begin(&mut self, file: &Path) {
        // It is not alone any more.
        self.runs.pop_if(|run| run.steps() == 0);
        let stem = file.file_stem().unwrap_or_default();
        self.runs.push(Run {
            name: stem.to_string_lossy().into_owned(),
            path: file.display().to_string(),
            ..Run::default()
        });
    }
}

/// The run whose checkpoint is resumed is the one that goes on, whatever was trained since.
fn bring_to_the_end(runs: &mut Vec<Run>, bundle: &Path) {
    if runs.len() < 2 {
        return;
    }
    let saved =
        |mark: &Mark| mark.kind == "checkpoint" && Path::new(&mark.text).starts_with(bundle);
    if let Some(i) = runs.iter().rposition(|run| run.marks.iter().any(saved)) {
        let run = runs.remove(i);
        runs.push(run);
    }
}

impl Run {
    /// Steps there are.
    pub fn steps(&self) -> usize {
        self.columns.get("step").map_or(0, Vec::len)
    }

    /// Numbers of a column, without gaps.
    pub fn numbers(&self, column: &str) -> impl DoubleEndedIterator<Item = f64> {
        let values = self.columns.get(column).into_iter().flatten();
        values.filter_map(|value| value.map(f64::from))
    }

    /// The last step, and what was spent by then.
    pub fn at(&self) -> Where {
        self.at
    }

    fn take(&mut self, event: &str, line: Map<String, Value>) {
        if let Some(Value::String(time)) = line.get("time") {
            self.last_time.clone_from(time);
        }
        match event {
            "start" => self.begin(line),
            "step" => self.step(&line),
            "eval" => self.eval(&line),
            "sample" => self.samples.push(Sample {
                step: number(&line, "step").unwrap_or(0.0) as u64,
                text: words(&line, "text"),
            }),
            "operations" => self.operations = StepTimes::of(&line),
            "resume" => {
                self.go_on_from(number(&line, "step").unwrap_or(0.0) as u64);
                let changed = words(&line, "changed");
                let changed = match changed.is_empty() {
                    true => "nothing changed".to_string(),
                    false => format!("changed: {changed}"),
                };
                self.mark("resume", changed);
            }
            "oom_backoff" => {
                self.goes_on = true;
                let text = format!(
                    "micro-batch {} -> {}: {}",
                    words(&line, "from"),
                    words(&line, "to"),
                    words(&line, "reason")
                );
                self.mark("oom_backoff", text);
            }
            "fallback" => {
                let text = format!(
                    "{}: {} instead of {}: {}",
                    words(&line, "feature"),
                    words(&line, "used"),
                    words(&line, "wanted"),
                    words(&line, "reason")
                );
                self.mark("fallback", text);
            }
            "checkpoint" => self.mark("checkpoint", words(&line, "path")),
            "end" => {
                self.goes_on = false;
                self.mark("end", words(&line, "reason"));
                self.end = Some(line);
            }
            _ => {}
        }
    }

    /// A process has set up: the first, or one that goes on from where the last `resume` says.
    fn begin(&mut self, line: Map<String, Value>) {
        let resumed = self.marks.last().is_some_and(|mark| mark.kind == "resume");
        if self.goes_on && !resumed {
            // Out of memory with nothing saved: the run begins again.
            self.go_on_from(0);
        }
        self.goes_on = false;
        self.start = line;
    }

    /// Steps after this one were not saved, and are computed again.
    fn go_on_from(&mut self, step: u64) {
        // Looked for from the end: a file may go back at every one of its lines.
        let kept = |columns: &Columns| {
            let steps = columns.get("step").map_or(&[][..], Vec::as_slice);
            let last = steps.iter().rposition(|s| s.unwrap_or(0.0) <= step as f32);
            last.map_or(0, |at| at + 1)
        };
        let (steps, evals) = (kept(&self.columns), kept(&self.evals));
        self.columns.values_mut().for_each(|c| c.truncate(steps));
        self.evals.values_mut().for_each(|c| c.truncate(evals));
        self.samples.go_on_from(step);
        let last = |name: &str| self.columns.get(name)?.last().copied()?;
        self.at = Where {
            step,
            tokens_seen: last("tokens_seen").unwrap_or(0.0) as u64,
            seconds_trained: f64::from(last("seconds_trained").unwrap_or(0.0)),
        };
        let at = self.at;
        let last = self.marks.iter().rposition(|mark| mark.at.step <= step);
        let later = self.marks.split_off(last.map_or(0, |at| at + 1));
        // Those of the steps are void with them. The others did happen, but a mark beyond the steps would stretch the axis.
        let void = |mark: &Mark| matches!(mark.kind, "skipped" | "checkpoint" | "end");
        let later = later.into_iter().filter(|mark| !void(mark));
        self.marks.extend(later.map(|mark| Mark { at, ..mark }));
        self.end = None;
        self.goes_on = true;
    }

    fn step(&mut self, line: &Map<String, Value>) {
        let step = number(line, "step").unwrap_or(0.0) as u64;
        if step <= self.at.step {
            // A run that was to go on and could not, then one that began again.
            self.go_on_from(step.saturating_sub(1));
        }
        self.goes_on = false;
        self.at.step = step;
        let tokens = number(line, "tokens").unwrap_or(0.0) as u64;
        self.at.tokens_seen = self.at.tokens_seen.saturating_add(tokens);
        self.at.seconds_trained += number(line, "seconds").unwrap_or(0.0);
        let memory = line.get("memory").and_then(Value::as_object);
        let numbers = STEP.map(|name| (name, number(line, name)));
        let purposes = memory.and_then(|memory| memory.get("by_purpose")?.as_object());
        let bytes =
            |object: Option<&Map<String, Value>>, name| object.and_then(|o| number(o, name));
        let memory = MEMORY.map(|name| (name, bytes(memory, name)));
        let purposes = BY_PURPOSE.map(|name| (name, bytes(purposes, name)));
        push(
            &mut self.columns,
            &self.at,
            numbers.into_iter().chain(memory).chain(purposes),
        );
        let ranks = line.get("ranks").and_then(Value::as_array);
        for (rank, about) in ranks.into_iter().flatten().enumerate() {
            let seconds = about.get("seconds").and_then(Value::as_f64).unwrap_or(0.0);
            match self.ranks.get_mut(rank) {
                Some(sum) => *sum += seconds,
                None => self.ranks.push(seconds),
            }
        }
        if line.get("skipped") == Some(&Value::Bool(true)) {
            let scale = words(line, "loss_scale");
            self.mark(
                "skipped",
                format!("a gradient was not finite, loss scale {scale}"),
            );
        }
    }

    fn eval(&mut self, line: &Map<String, Value>) {
        let step = number(line, "step").unwrap_or(0.0) as u64;
        let at = Where { step, ..self.at };
        let numbers = EVAL.map(|name| (name, number(line, name)));
        push(&mut self.evals, &at, numbers.into_iter());
    }

    fn mark(&mut self, kind: &'static str, text: String) {
        let at = self.at;
        self.marks.push(Mark { at, kind, text });
    }
}

impl StepTimes {
    fn of(line: &Map<String, Value>) -> Option<Self> {
        let of = |operation: &Value| {
            let operation = operation.as_object()?;
            let [seconds, calls] = ["seconds", "calls"].map(|name| number(operation, name));
            Some((words(operation, "name"), seconds?, calls.unwrap_or(0.0)))
        };
        let operations = line.get("operations")?.as_array()?;
        Some(Self {
            steps: number(line, "steps")? as u64,
            seconds: number(line, "seconds")?,
            operations: operations.iter().filter_map(of).collect(),
        })
    }
}

fn push<'a>(
    columns: &mut Columns,
    at: &Where,
    numbers: impl Iterator<Item = (&'a str, Option<f64>)>,
) {
    let place = [
        ("step", at.step as f64),
        ("tokens_seen", at.tokens_seen as f64),
        ("seconds_trained", at.seconds_trained),
    ];
    let place = place.map(|(name, value)| (name, Some(value)));
    for (name, value) in place.into_iter().chain(numbers) {
        let value = value.map(|v| v as f32).filter(|v| v.is_finite());
        columns.entry(name.to_string()).or_default().push(value);
    }
}

fn number(line: &Map<String, Value>, name: &str) -> Option<f64> {
    line.get(name)?.as_f64()
}

/// A field as text: a string as it is, a list with commas, nothing where there is none.
pub fn words(line: &Map<String, Value>, name: &str) -> String {
    shown(line.get(name).unwrap_or(&Value::Null))
}

/// A value as text.
pub fn shown(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(shown).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The runs to show.
    fn runs(lines: &[&str]) -> Vec<Run> {
        let mut read = Lines::default();
        for line in lines {
            read.take(line.as_bytes(), Path::new("m.jsonl"));
        }
        read.runs().cloned().collect()
    }

    fn steps(run: &Run) -> Vec<f64> {
        run.numbers("step").collect()
    }

    const START: &str = r#"{"event":"start","device":"d"}"#;
    const STEP_1: &str =
        r#"{"event":"step","step":1,"ce":3.0,"tokens":8,"seconds":2.0,"memory":{"peak_bytes":7}}"#;
    const STEP_2: &str =
        r#"{"event":"step","step":2,"ce":null,"tokens":8,"seconds":1.0,"skipped":true}"#;
    const END: &str = r#"{"event":"end","reason":"done"}"#;
    const RESUME_1: &str = r#"{"event":"resume","step":1,"changed":["lr: 1 -> 2"]}"#;
    const OOM: &str = r#"{"event":"oom_backoff","from":8,"to":4,"reason":"refused"}"#;

    /// Looking through all that came before at each of them would take minutes.
    #[test]
    fn a_file_that_goes_back_at_every_line_is_read_at_once() {
        const LINES: usize = 200_000;
        let line = r#"{"event":"step"}"#;
        let [run] = &runs(&vec![line; LINES])[..] else {
            panic!("one run");
        };
        assert_eq!(run.steps(), LINES);
        let resumes = r#"{"event":"resume","step":1,"path":"elsewhere"}"#;
        let lines = [vec![START, STEP_1], vec![resumes; LINES]].concat();
        let [run] = &runs(&lines)[..] else {
            panic!("one run");
        };
        assert_eq!(run.marks.len(), LINES);
    }

    #[test]
    fn columns_line_up_and_gaps_stay() {
        let [run] = &runs(&[START, STEP_1, STEP_2, END])[..] else {
            panic!("not one run")
        };
        assert_eq!(run.columns["ce"], [Some(3.0), None]);
        assert_eq!(run.columns["peak_bytes"], [Some(7.0), None]);
        assert_eq!(run.columns["tokens_seen"], [Some(8.0), Some(16.0)]);
        assert_eq!(run.columns["seconds_trained"], [Some(2.0), Some(3.0)]);
        let kinds: Vec<_> = run.marks.iter().map(|m| (m.kind, m.at.step)).collect();
        assert_eq!(kinds, [("skipped", 2), ("end", 2)]);
        assert!(run.end.is_some());
    }

    #[test]
    fn memory_is_read_by_purpose() {
        let step = r#"{"event":"step","step":1,"memory":{"by_purpose":{"weights_bytes":7,"activations_bytes":null}}}"#;
        let [run] = &runs(&[START, step])[..] else {
            panic!("not one run")
        };
        assert_eq!(run.columns["weights_bytes"], [Some(7.0)]);
        assert_eq!(run.columns["activations_bytes"], [None]);
    }

    #[test]
    fn operations_without_a_time_are_left_out() {
        let line = r#"{"event":"operations","steps":3,"seconds":0.5,"operations":[{"name":"a","calls":2.0,"seconds":0.25},{"name":"b"},7]}"#;
        let [run] = &runs(&[START, STEP_1, line])[..] else {
            panic!("not one run")
        };
        let times = run.operations.as_ref().unwrap();
        assert_eq!(times.operations, [("a".to_string(), 0.25, 2.0)]);
        assert_eq!(StepTimes::of(&Map::new()), None);
    }

    #[test]
    fn a_start_begins_a_run_and_a_resume_continues_one() {
        let again = runs(&[START, STEP_1, STEP_2, END, START, STEP_1]);
        assert_eq!(
            again.iter().map(steps).collect::<Vec<_>>(),
            [vec![1.0, 2.0], vec![1.0]]
        );
        let resumed = runs(&[START, STEP_1, STEP_2, RESUME_1, START, STEP_2]);
        assert_eq!(resumed.iter().map(steps).collect::<Vec<_>>(), [[1.0, 2.0]]);
        assert_eq!(resumed[0].at().tokens_seen, 16);
        assert_eq!(resumed[0].marks[0].text, "changed: lr: 1 -> 2");
    }

    #[test]
    fn a_process_that_ran_out_of_memory_is_the_same_run() {
        let from_the_beginning = runs(&[START, STEP_1, OOM, START, STEP_1, STEP_2]);
        let from_a_checkpoint = runs(&[START, STEP_1, STEP_2, OOM, RESUME_1, START, STEP_2]);
        for (runs, step) in [(from_the_beginning, 0), (from_a_checkpoint, 1)] {
            assert_eq!(runs.iter().map(steps).collect::<Vec<_>>(), [[1.0, 2.0]]);
            let marks = &runs[0].marks;
            assert_eq!((marks[0].kind, marks[0].at.step), ("oom_backoff", step));
        }
        let said_before_the_first_step = runs(&[START, OOM, STEP_1, END, START, STEP_1]);
        assert_eq!(said_before_the_first_step.len(), 2);
        let ended_by_it = runs(&[START, STEP_1, OOM, END, START, STEP_1]);
        assert_eq!(ended_by_it.len(), 2);
    }

    #[test]
    fn a_resume_goes_on_with_the_run_that_saved_the_checkpoint() {
        let saved = r#"{"event":"checkpoint","step":1,"path":"b/one/checkpoints/step-1"}"#;
        let resume = r#"{"event":"resume","step":1,"path":"b/one","changed":[]}"#;
        let other = [START, STEP_1];
        let lines = [
            &[START, STEP_1, saved, STEP_2],
            &other[..],
            &[resume, START, STEP_2],
        ]
        .concat();
        let runs = runs(&lines);
        assert_eq!(
            runs.iter().map(steps).collect::<Vec<_>>(),
            [vec![1.0], vec![1.0, 2.0]]
        );
    }

    #[test]
    fn steps_that_are_counted_anew_replace_those_they_repeat() {
        let [run] = &runs(&[START, STEP_1, STEP_2, RESUME_1, START, STEP_1, STEP_2])[..] else {
            panic!("not one run")
        };
        assert_eq!(steps(run), [1.0, 2.0]);
    }

    #[test]
    fn a_run_without_steps_is_shown_if_it_is_alone() {
        assert_eq!(runs(&[START]).len(), 1);
        assert_eq!(runs(&[START, START, STEP_1]).len(), 1);
        assert!(runs(&[r#"{"a":1}"#]).is_empty());
    }
}
