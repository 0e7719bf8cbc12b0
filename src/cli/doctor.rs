//! `aios doctor`: what is installed, what works and how fast, and what mends what does not.

mod libraries;
mod places;
mod private;
mod system;
mod text;
mod trial;

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use aios_base::config::DeviceChoice;
use aios_base::error::{Error, Result};
use aios_base::terminal::{to_json_line, write_stdout};
use aios_device::{DeviceReport, enumerate, report};
use libraries::Library;
use places::Place;
use private::Private;
use system::{Machine, Terminal};
use trial::Trial;

/// Arguments of `aios doctor`.
#[derive(Debug, Clone, Args)]
#[command(args_override_self = true)]
pub struct DoctorArgs {
    /// Only look, and try no device
    #[arg(long)]
    pub quick: bool,
    /// Write the findings as JSON
    #[arg(long)]
    pub json: bool,
    /// Try this device in this process, and write what came of it.
    #[arg(long, value_name = "DEVICE", hide = true)]
    pub single: Option<DeviceChoice>,
}

/// All findings.
#[derive(Debug, Serialize)]
struct Findings {
    version: &'static str,
    /// Of the sources that it was built from, if they were a clone.
    commit: Option<&'static str>,
    /// What was built in, by cargo's names.
    features: Vec<&'static str>,
    machine: Machine,
    devices: DeviceReport,
    /// What came of trying them; empty with `--quick`.
    trials: Vec<Trial>,
    libraries: Vec<Library>,
    places: Vec<Place>,
    /// Variables that change what the program does.
    environment: BTreeMap<&'static str, String>,
    terminal: Terminal,
}

/// Look, try, and tell.
///
/// # Errors
/// Not even the CPU works; what was found is written all the same.
pub fn run(args: &DoctorArgs) -> Result<()> {
    if let Some(device) = args.single {
        return trial::here(&device, &mut |trial| {
            write_stdout(to_json_line(trial)?.as_bytes())
        });
    }
    let findings = look(!args.quick);
    let private = Private::of_this_user();
    let text = match args.json {
        true => to_json_line(&private.hidden_in(&findings)?)?,
        false => private.hidden(&text::render(&findings)),
    };
    write_stdout(text.as_bytes())?;
    match findings.trials.iter().find(|trial| trial.device == "cpu") {
        Some(trial) if !trial.works() => Err(Error::failed(
            "not even the CPU works: please report it, with all of this",
        )),
        _ => Ok(()),
    }
}

fn look(try_devices: bool) -> Findings {
    let devices = report(enumerate(), &DeviceChoice::Auto);
    let machine = Machine::look();
    let tried = devices.adapters.iter().filter(|_| try_devices);
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        commit: option_env!("AIOS_COMMIT"),
        features: features(),
        trials: tried.filter_map(trial::apart).collect(),
        libraries: libraries::look(&machine),
        places: places::look(),
        environment: system::environment(),
        terminal: Terminal::look(),
        machine,
        devices,
    }
}

fn features() -> Vec<&'static str> {
    let all = [
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("ndarray", cfg!(feature = "ndarray")),
        ("metal", cfg!(feature = "metal")),
    ];
    let built = all.into_iter().filter(|(_, built)| *built);
    built.map(|(name, _)| name).collect()
}
