//! What the user watches: a bar on a terminal, plain lines when stderr goes to a file or a pipe.

use std::fmt;
use std::time::{Duration, Instant};

use indicatif::{
    BinaryBytes, HumanCount, HumanDuration, ProgressBar, ProgressFinish, ProgressState,
    ProgressStyle,
};

use aios_base::numbers::readable;
use aios_base::terminal;

/// Without a terminal the first steps are all shown, so that a user sees at once that training has begun.
const FIRST_STEPS: u64 = 10;

/// Without a terminal later steps are shown this far apart: a log worth reading, neither silent nor flooded.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Beyond this, the time left says no more than that the steps will not run out.
const LONGEST_ETA: Duration = Duration::from_secs(365 * 24 * 60 * 60);

const TEMPLATE: &str = "{pos}/{len} {wide_bar} {msg}  ETA {eta}";

/// The figures of one finished step.
#[derive(Debug, Clone, Copy)]
pub struct StepLine {
    /// Number of the step just finished, counted from 1.
    pub step: u64,
    /// Passes over the dataset by then.
    pub epoch: f64,
    /// Training loss of the step.
    pub loss: f64,
    /// Throughput of the step.
    pub tokens_per_second: f64,
    /// Bytes in use after the step.
    pub memory_now: u64,
    /// The most bytes in use at once.
    pub memory_peak: u64,
}

/// Progress of a training run, shown on stderr.
pub struct Progress {
    view: View,
}

enum View {
    Quiet,
    Bar(ProgressBar),
    Lines(Lines),
}

/// Plain lines, and when the next one is due.
struct Lines {
    total_steps: u64,
    start_step: u64,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// Shows steps `start_step + 1 ..= total_steps`; `quiet` shows nothing at all.
    pub fn new(total_steps: u64, start_step: u64, quiet: bool) -> Self {
        let view = if quiet {
            View::Quiet
        } else if terminal::is_capable() {
            View::Bar(bar(total_steps, start_step))
        } else {
            View::Lines(Lines::new(total_steps, start_step, Instant::now()))
        };
        Self { view }
    }

    /// Counts up to `total_steps` from now on: a run that goes on beyond its end.
    pub fn set_total(&mut self, total_steps: u64) {
        match &mut self.view {
            View::Quiet => {}
            View::Bar(bar) => bar.set_length(total_steps),
            View::Lines(lines) => lines.total_steps = total_steps,
        }
    }

    /// Shows a finished step.
    pub fn step(&mut self, line: &StepLine) {
        match &mut self.view {
            View::Quiet => {}
            View::Bar(bar) => {
                bar.set_position(line.step);
                bar.set_message(figures(line));
            }
            View::Lines(lines) => {
                if let Some(text) = lines.step(line, Instant::now()) {
                    terminal::say(&text);
                }
            }
        }
    }

    /// Prints a line, above the bar if there is one.
    pub fn note(&self, text: &str) {
        if !matches!(self.view, View::Quiet) {
            terminal::say(text);
        }
    }

    /// Ends the display: the bar goes, the closing summary says the rest.
    pub fn finish(&mut self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}

fn bar(total_steps: u64, start_step: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(TEMPLATE)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("eta", |state: &ProgressState, out: &mut dyn fmt::Write| {
            // There is nothing to be done about a terminal that cannot be written.
            let _ = out.write_str(&eta(state.eta()));
        });
    let bar = ProgressBar::new(total_steps)
        .with_style(style)
        .with_position(start_step)
        .with_message("waiting for the first step")
        .with_finish(ProgressFinish::Abandon);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_secs(1));
    terminal::keep_below(&bar);
    bar
}

fn figures(line: &StepLine) -> String {
    format!(
        "epoch {}  loss {}  {} tok/s  mem {} (peak {})",
        readable(line.epoch, 2),
        readable(line.loss, 4),
        HumanCount(line.tokens_per_second.round() as u64),
        BinaryBytes(line.memory_now),
        BinaryBytes(line.memory_peak),
    )
}

fn eta(left: Duration) -> String {
    match left < LONGEST_ETA {
        true => format!("{:#}", HumanDuration(left)),
        false => "over a year".into(),
    }
}

impl Lines {
    fn new(total_steps: u64, start_step: u64, now: Instant) -> Self {
        Self {
            total_steps,
            start_step,
            started: now,
            last_line: now,
        }
    }

    /// The text for this step, if one is due `now`.
    fn step(&mut self, line: &StepLine, now: Instant) -> Option<String> {
        let among_first = line.step <= self.start_step + FIRST_STEPS;
        let last = line.step == self.total_steps;
        if !among_first && !last && now.duration_since(self.last_line) < LINE_EVERY {
            return None;
        }
        self.last_line = now;
        let left = eta(self.time_left(line.step, now));
        let total = self.total_steps;
        Some(format!(
            "step {}/{total}  {}  ETA {left}",
            line.step,
            figures(line)
        ))
    }

    fn time_left(&self, step: u64, now: Instant) -> Duration {
        let done = step.saturating_sub(self.start_step).max(1);
        let left = self.total_steps.saturating_sub(step);
        let elapsed = now.duration_since(self.started).as_secs_f64();
        // More than a `Duration` holds, with a number of steps that stands for "until stopped".
        Duration::try_from_secs_f64(elapsed * (left as f64 / done as f64)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepLine {
        StepLine {
            step,
            epoch: 1.5,
            loss: 6.25,
            tokens_per_second: 1234.4,
            memory_now: 1 << 30,
            memory_peak: 3 << 29,
        }
    }

    /// The steps that print a line when each takes `milliseconds`.
    fn printed(total: u64, start: u64, milliseconds: u64) -> Vec<u64> {
        let begin = Instant::now();
        let mut lines = Lines::new(total, start, begin);
        (start + 1..=total)
            .filter(|&step| {
                let now = begin + Duration::from_millis(milliseconds * (step - start));
                lines.step(&line(step), now).is_some()
            })
            .collect()
    }

    #[test]
    fn fast_steps_print_the_first_ten_then_every_two_seconds_and_the_last() {
        let expected: Vec<u64> = (1..=10).chain([30, 50, 63]).collect();
        assert_eq!(printed(63, 0, 100), expected);
    }

    #[test]
    fn slow_steps_all_print() {
        assert_eq!(printed(20, 0, 3000), (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn a_resumed_run_counts_its_first_steps_from_where_it_resumed() {
        let expected: Vec<u64> = (101..=110).chain([115]).collect();
        assert_eq!(printed(115, 100, 1), expected);
    }

    #[test]
    fn a_line_has_every_figure() {
        let begin = Instant::now();
        let text = Lines::new(200, 100, begin)
            .step(&line(120), begin + Duration::from_secs(40))
            .unwrap();
        assert_eq!(
            text,
            "step 120/200  epoch 1.50  loss 6.2500  1,234 tok/s  mem 1.00 GiB (peak 1.50 GiB)  ETA 3m"
        );
    }

    #[test]
    fn endless_steps_have_an_eta() {
        let begin = Instant::now();
        let text = Lines::new(u64::MAX, 0, begin)
            .step(&line(1), begin + Duration::from_secs(10))
            .unwrap();
        assert!(text.ends_with("ETA over a year"), "{text}");
    }

    #[test]
    fn time_left_is_for_people() {
        assert_eq!(eta(Duration::MAX), "over a year");
        assert_eq!(eta(Duration::from_secs(80)), "80s");
    }

    #[test]
    fn steps_beyond_the_total_do_not_all_print() {
        let begin = Instant::now();
        let mut lines = Lines::new(10, 0, begin);
        lines.step(&line(10), begin);
        assert_eq!(lines.step(&line(11), begin), None);
    }

    #[test]
    fn a_new_total_counts_for_the_line_and_the_time_left() {
        let begin = Instant::now();
        let view = View::Lines(Lines::new(10, 0, begin));
        let mut progress = Progress { view };
        progress.set_total(40);
        let View::Lines(mut lines) = progress.view else {
            panic!("the view changed");
        };
        let text = lines.step(&line(20), begin + Duration::from_secs(40));
        let text = text.unwrap();
        assert!(
            text.starts_with("step 20/40 ") && text.ends_with("ETA 40s"),
            "{text}"
        );
    }

    #[test]
    fn a_bar_takes_a_new_total() {
        let bar = ProgressBar::hidden();
        let view = View::Bar(bar.clone());
        Progress { view }.set_total(40);
        assert_eq!(bar.length(), Some(40));
    }

    #[test]
    fn a_loss_that_is_not_a_number_prints() {
        let bad = StepLine {
            loss: f64::NAN,
            tokens_per_second: f64::NAN,
            ..line(1)
        };
        assert!(
            figures(&bad).starts_with("epoch 1.50  loss NaN  0 tok/s"),
            "{}",
            figures(&bad)
        );
    }

    #[test]
    fn the_bar_template_is_valid() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }
}
