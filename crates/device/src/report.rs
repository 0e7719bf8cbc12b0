//! What `aios devices` shows: every device, why one is unusable, and which would be picked.

use serde::Serialize;

use crate::{Absence, Adapter, Devices, Probe, select};
use aios_base::config::DeviceChoice;
use aios_base::execution::Kind;
use aios_base::meter::format_bytes;

const HEADINGS: [&str; 7] = [
    "DEVICE",
    "NAME",
    "TYPE",
    "INTERFACE",
    "MEMORY",
    "COMPUTES IN",
    "ATTENTION",
];

/// The devices of a machine in the form that `aios devices --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceReport {
    /// Every device found, usable or not.
    pub adapters: Vec<Adapter>,
    /// What was tried on them, if that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<DeviceCheck>,
    /// The kinds of which there is no device at all.
    pub missing: Vec<MissingKind>,
    /// What `--device` would pick.
    pub picked: String,
    /// Why that one.
    pub reason: String,
}

/// Something tried on a device.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeviceCheck {
    /// As `--device` takes it.
    pub device: String,
    /// What was computed there, and in which format.
    pub work: String,
    /// What was wrong with it.
    pub problem: Option<String>,
}

/// A kind of device the machine has none of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MissingKind {
    /// Which kind.
    pub kind: Kind,
    /// Why there is none and what would help.
    #[serde(flatten)]
    pub absence: Absence,
}

/// Sums up `devices` and what `choice` would pick of them. A choice that cannot be met leaves
/// `picked` empty and its error in `reason`.
pub fn report(devices: Devices, choice: &DeviceChoice) -> DeviceReport {
    let Devices {
        cpu,
        cuda,
        wgpu,
        ndarray,
    } = devices;
    let probes = select::Probes {
        cpu: &|| Ok(vec![cpu.clone()]),
        cuda: &|| cuda.clone(),
        wgpu: &|| wgpu.clone(),
        ndarray: &|| ndarray.clone(),
    };
    let selection = select::choose(choice, &probes);
    let (picked, reason) = match selection {
        Ok(selection) => (selection.adapter.flag(), selection.reason),
        Err(error) => (String::new(), error.to_string()),
    };
    let mut report = DeviceReport {
        adapters: Vec::new(),
        checks: Vec::new(),
        missing: Vec::new(),
        picked,
        reason,
    };
    report.add(Kind::Cuda, cuda);
    report.add(Kind::Wgpu, wgpu);
    report.adapters.push(cpu);
    report.add(Kind::Ndarray, ndarray);
    report
}

impl DeviceReport {
    fn add(&mut self, kind: Kind, probe: Probe) {
        match probe {
            Ok(adapters) => self.adapters.extend(adapters),
            Err(absence) => self.missing.push(MissingKind { kind, absence }),
        }
    }
}

/// The report as a table, one device a line, with the remarks below it. Ends in a newline.
pub fn render_table(report: &DeviceReport) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(report.adapters.iter().map(row));
    let mut text = aligned(&rows);
    text.push('\n');
    for adapter in &report.adapters {
        if let Some(problem) = &adapter.problem {
            text += &format!("{} cannot be used: {problem}\n", adapter.flag());
        }
    }
    for missing in &report.missing {
        text += &format!("no {}: {}\n", missing.kind.as_str(), missing.absence);
    }
    for check in &report.checks {
        let outcome = check.problem.as_deref().unwrap_or("as on the CPU");
        text += &format!("{} {}: {outcome}\n", check.device, check.work);
    }
    text += &match report.picked.as_str() {
        "" => format!("{}\n", report.reason),
        picked => format!("would use {picked}, {}\n", report.reason),
    };
    text
}

fn row(adapter: &Adapter) -> [String; 7] {
    [
        adapter.flag(),
        adapter.name.clone(),
        adapter.class.as_str().to_owned(),
        interface(adapter),
        adapter
            .memory_bytes
            .map_or_else(|| "unknown".to_owned(), format_bytes),
        formats(adapter),
        adapter.attention.to_owned(),
    ]
}

fn interface(adapter: &Adapter) -> String {
    match adapter.limits.compute_capability {
        Some((major, minor)) => format!("{}, sm_{major}{minor}", adapter.api),
        None => adapter.api.clone(),
    }
}

fn formats(adapter: &Adapter) -> String {
    let native = adapter.dtypes.join(", ");
    if adapter.emulated_dtypes.is_empty() {
        native
    } else {
        format!("{native} ({} emulated)", adapter.emulated_dtypes.join(", "))
    }
}

/// Left-aligned columns two spaces apart, without spaces at the ends of lines.
fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(widths);
            let line: String = cells
                .map(|(cell, width)| format!("{cell:width$}  "))
                .collect();
            format!("{}\n", line.trim_end())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu;

    fn absence(reason: &str) -> Absence {
        Absence {
            reason: reason.to_owned(),
            remedy: "get one".to_owned(),
        }
    }

    fn bare_machine() -> DeviceReport {
        let devices = Devices {
            cpu: Adapter {
                name: "Fast CPU (2 threads)".to_owned(),
                api: "x86_64".to_owned(),
                memory_bytes: Some(1 << 30),
                dtypes: vec!["f32"],
                emulated_dtypes: vec!["f16", "bf16"],
                ..cpu::adapter()
            },
            cuda: Err(absence("no driver")),
            wgpu: Err(absence("no adapter")),
            ndarray: Err(absence("no need")),
        };
        report(devices, &DeviceChoice::Auto)
    }

    #[test]
    fn table_lists_devices_then_what_is_missing_then_the_choice() {
        let expected = "\
DEVICE  NAME                  TYPE  INTERFACE  MEMORY    COMPUTES IN               ATTENTION
cpu     Fast CPU (2 threads)  host  x86_64     1.00 GiB  f32 (f16, bf16 emulated)  flash-cpu

no cuda: no driver; get one
no wgpu: no adapter; get one
no ndarray: no need; get one
would use cpu, auto: no CUDA: no driver; no GPU through wgpu: no adapter
";
        assert_eq!(render_table(&bare_machine()), expected);
    }

    #[test]
    fn unusable_device_is_listed_with_its_problem() {
        let mut report = bare_machine();
        report.adapters[0].problem = Some("it is on fire".to_owned());
        let table = render_table(&report);
        assert!(
            table.contains("\ncpu cannot be used: it is on fire\n"),
            "{table}"
        );
    }

    #[test]
    fn checks_are_listed_with_their_outcome() {
        let mut report = bare_machine();
        let check = |work: &str, problem: Option<&str>| DeviceCheck {
            device: "cpu".to_owned(),
            work: work.to_owned(),
            problem: problem.map(str::to_owned),
        };
        report.checks = vec![check("a", None), check("b", Some("off by 3"))];
        let table = render_table(&report);
        assert!(
            table.contains("\ncpu a: as on the CPU\ncpu b: off by 3\n"),
            "{table}"
        );
    }

    #[test]
    fn json_names_the_runtime_device() {
        let json = serde_json::to_value(bare_machine()).expect("serializable");
        assert_eq!(json["picked"], "cpu");
        assert_eq!(json["adapters"][0]["device"], "Cpu");
        assert_eq!(json["missing"][0]["reason"], "no driver");
    }
}
