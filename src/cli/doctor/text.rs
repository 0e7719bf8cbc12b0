//! The findings as text, to be read and to be pasted.

use std::fmt::Write as _;

use crate::cli::doctor::Findings;
use crate::cli::doctor::libraries::Library;
use crate::cli::doctor::places::Place;
use crate::cli::doctor::trial::{PATIENCE, Trial};
use aios_base::meter::format_bytes;
use aios_device::Adapter;

/// All of it; ends in a newline.
pub fn render(findings: &Findings) -> String {
    let mut out = Lines::default();
    let built = match findings.features.as_slice() {
        [] => "the CPU alone".to_string(),
        features => features.join(", "),
    };
    let commit = findings
        .commit
        .map_or(String::new(), |commit| format!(" ({commit})"));
    out.line(
        "aios",
        &format!("{}{commit}, with {built}", findings.version),
    );
    let machine = &findings.machine;
    out.line(
        "system",
        &format!(
            "{}, {}, {}",
            machine.system, machine.kernel, machine.architecture
        ),
    );
    out.line(
        "processor",
        &format!(
            "{} cores, {} threads for this process",
            machine.cores, machine.threads
        ),
    );
    out.line(
        "memory",
        &format!(
            "{}, {} free",
            format_bytes(machine.memory_bytes),
            format_bytes(machine.free_memory_bytes)
        ),
    );
    if !machine.graphics_cards.is_empty() {
        out.line("on the bus", &machine.graphics_cards.join(", "));
    }
    out.heading("Devices");
    for adapter in &findings.devices.adapters {
        let flag = adapter.flag();
        let trial = findings.trials.iter().find(|trial| trial.device == flag);
        device(&mut out, adapter, trial);
    }
    for missing in &findings.devices.missing {
        out.line(missing.kind.as_str(), &format!("none: {}", missing.absence));
    }
    let devices = &findings.devices;
    let picked = match devices.picked.as_str() {
        "" => devices.reason.clone(),
        picked => format!("{picked}, {}", devices.reason),
    };
    out.line("would use", &picked);
    out.heading("Libraries");
    for library in &findings.libraries {
        out.line(library.name, &of_library(library));
    }
    out.heading("Folders");
    for place in &findings.places {
        out.line(place.purpose, &of_place(place));
    }
    out.heading("Environment");
    for (name, value) in &findings.environment {
        out.line(name, value);
    }
    let terminal = &findings.terminal;
    let ends = [
        ("input", terminal.stdin),
        ("output", terminal.stdout),
        ("error", terminal.stderr),
    ];
    let ends = ends.into_iter().filter(|(_, is)| *is).map(|(name, _)| name);
    let ends: Vec<&str> = ends.collect();
    let size = terminal.size.map_or(String::new(), |(columns, rows)| {
        format!(", {columns} x {rows}")
    });
    let words = match ends.is_empty() {
        true => "none".to_string(),
        false => format!("standard {}{size}", ends.join(", ")),
    };
    let [bar, colours] = [terminal.bar, terminal.colours].map(|on| if on { "on" } else { "off" });
    out.line(
        "terminal",
        &format!("{words}; progress bar {bar}, colours {colours}"),
    );
    out.0
}

fn device(out: &mut Lines, adapter: &Adapter, trial: Option<&Trial>) {
    let verdict = match (&adapter.problem, trial) {
        (Some(problem), _) => format!("cannot be used: {problem}"),
        (None, None) => "not tried".to_string(),
        (None, Some(trial)) => of_trial(trial),
    };
    let driver = match adapter.driver.is_empty() {
        true => String::new(),
        false => format!(", {}", adapter.driver),
    };
    let memory = adapter
        .memory_bytes
        .map_or(String::new(), |bytes| format!(", {}", format_bytes(bytes)));
    out.line(
        &adapter.flag(),
        &format!("{}, {}{driver}{memory}", adapter.name, adapter.api),
    );
    out.line("", &verdict);
    for problem in trial.iter().flat_map(|trial| &trial.problems) {
        out.line("", problem);
    }
}

fn of_trial(trial: &Trial) -> String {
    if let Some(failure) = &trial.failure {
        return format!("DOES NOT WORK: {failure}");
    }
    if !trial.problems.is_empty() {
        return format!(
            "COMPUTES WRONGLY: {} of {} checks failed",
            trial.problems.len(),
            trial.checks
        );
    }
    if trial.checks == 0 {
        return format!(
            "not known after {} seconds; `aios devices --check` takes as long as it needs",
            PATIENCE.as_secs()
        );
    }
    let mut text = format!("works: {} checks passed", trial.checks);
    if trial.unfinished {
        let _ = write!(
            text,
            " in {} seconds, and the time was up",
            PATIENCE.as_secs()
        );
    }
    if let Some(speed) = trial.tokens_per_second {
        let _ = write!(
            text,
            "; {speed:.0} tokens a second of the quickstart's training"
        );
    }
    if let Some(peak) = trial.peak_flops_per_second {
        let _ = write!(text, "; at most {:.0} GFLOP/s in f32", peak / 1e9);
    }
    text
}

fn of_library(library: &Library) -> String {
    match (&library.found, &library.remedy) {
        (Some(found), _) => format!("found, {found}"),
        (None, Some(remedy)) => format!("not found, for {}: {remedy}", library.purpose),
        (None, None) => "not found, and of no use here".to_string(),
    }
}

fn of_place(place: &Place) -> String {
    let free = place
        .free_bytes
        .map_or(String::new(), |free| format!("{} free", format_bytes(free)));
    let path = place.path.display();
    match (place.exists, place.files) {
        (false, _) => format!("{path}, not there yet, {free}"),
        (true, 0) => format!("{path}, {free}"),
        (true, files) => format!(
            "{path}, {files} files, {}, {free}",
            format_bytes(place.bytes)
        ),
    }
}

/// Lines with a name and a value.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn heading(&mut self, name: &str) {
        let _ = writeln!(self.0, "\n{name}");
    }

    fn line(&mut self, name: &str, value: &str) {
        let line = format!("  {name:<17} {value}");
        let _ = writeln!(self.0, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial() -> Trial {
        Trial {
            device: "cpu".into(),
            checks: 21,
            problems: Vec::new(),
            tokens_per_second: Some(3456.7),
            peak_flops_per_second: Some(2.5e11),
            ..Trial::default()
        }
    }

    #[test]
    fn a_trial_says_what_came_of_it() {
        let text = of_trial(&trial());
        assert!(text.contains("21 checks passed"), "{text}");
        assert!(text.contains("tokens a second"), "{text}");
        let wrong = Trial {
            problems: vec!["adamw8bit: off by 3".into()],
            ..trial()
        };
        assert!(of_trial(&wrong).contains("1 of 21"));
        let late = Trial {
            unfinished: true,
            tokens_per_second: None,
            ..trial()
        };
        assert!(of_trial(&late).contains("the time was up"));
        let silent = Trial {
            unfinished: true,
            ..Trial::default()
        };
        assert!(of_trial(&silent).contains("not known"));
        let dead = Trial {
            failure: Some("it is on fire".into()),
            ..trial()
        };
        assert!(of_trial(&dead).contains("it is on fire"));
    }

    #[test]
    fn a_library_that_is_missing_comes_with_its_remedy() {
        let library = |found: Option<&str>, remedy: Option<&str>| Library {
            name: "MPI",
            purpose: "several processes",
            found: found.map(str::to_string),
            remedy: remedy.map(str::to_string),
        };
        assert!(of_library(&library(Some("libmpi.so"), None)).contains("libmpi.so"));
        assert!(of_library(&library(None, Some("get it"))).contains("get it"));
        assert!(of_library(&library(None, None)).contains("no use"));
    }
}
