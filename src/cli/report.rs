//! `aios report`.

use crate::cli::args::ReportArgs;
use crate::cli::named;
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_base::terminal::write_stdout;
use aios_base::waiting::waiting;
use aios_bundle::Bundle;
use aios_metrics::report;
use aios_metrics::report::{Output, Report, Server};
use aios_train::saved::Saved;
use std::collections::HashSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Write the report, or serve it.
pub fn run(args: &ReportArgs) -> Result<()> {
    let by_name = args.runs.iter().any(|run| !run.exists());
    if !by_name && args.bundle_dir != Path::new(ReportArgs::BUNDLE_DIR) {
        tracing::warn!("--bundle-dir has no effect where no run is given by its brain's name");
    }
    let paths = args.runs.iter().map(|run| metrics_file(run, args));
    let mut paths = paths.collect::<Result<Vec<_>>>()?;
    let mut seen = HashSet::new();
    paths.retain(|path| seen.insert(real(path)));
    match args.watch {
        true => watch(paths, args.port),
        false => write(&paths, &args.output),
    }
}

fn write(paths: &[PathBuf], output: &Path) -> Result<()> {
    if paths.iter().any(|path| real(path) == real(output)) {
        let output = output.display();
        return Err(Error::invalid(format!(
            "-o {output} is one of the metrics files: name another file"
        )));
    }
    let place = Output::new(output)?;
    let report = waiting("reading the metrics", false, || Report::read(paths))?;
    place.write(&report.to_html())?;
    terminal::say(&report.status);
    if let Some(thinned) = &report.thinned {
        terminal::say(thinned);
    }
    terminal::say(&format!("wrote {}: open it in a browser", output.display()));
    Ok(())
}

/// The same for every name of a file, as far as there is one.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
}

fn watch(paths: Vec<PathBuf>, port: u16) -> Result<()> {
    let server = Server::new(paths, port)?;
    write_stdout(format!("http://{}/\n", server.address()).as_bytes())?;
    terminal::say("open it in a browser of this machine; it follows the training; Ctrl-C ends it");
    server.serve()
}

/// The metrics file of a run that is named by the file, by its bundle's directory or by its brain's name.
fn metrics_file(run: &Path, args: &ReportArgs) -> Result<PathBuf> {
    if run.is_file() {
        return Ok(run.to_path_buf());
    }
    let mut places = [run.to_path_buf(), args.bundle_dir.join(run)]
        .into_iter()
        .chain(named::bundle(run));
    if let Some(bundle) = places.find(|place| place.is_dir()) {
        return log_of(&bundle);
    }
    report::check(run)?;
    Err(match run.is_symlink() {
        true => Error::io(run, "read", ErrorKind::NotFound.into()),
        false => unknown(run, &args.bundle_dir),
    })
}

fn unknown(run: &Path, bundle_dir: &Path) -> Error {
    let (run, bundle_dir) = (run.display(), bundle_dir.display());
    Error::failed(format!(
        "there is no file {run} and no brain {run} in {bundle_dir}: name a metrics file (aios train --log-file)"
    ))
}

/// The metrics file that a bundle's configuration names.
fn log_of(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    if !Bundle::exists(path) {
        return Err(Error::failed(format!(
            "no bundle in {shown}: name a metrics file (aios train --log-file), or a brain"
        )));
    }
    let config = Saved::open(path)?.config;
    let log = config.log_file.ok_or_else(|| {
        Error::failed(format!(
            "the run of {shown} wrote no metrics: train with --log-file FILE, then report on that"
        ))
    })?;
    match log.exists() {
        true => report::check(&log).map(|()| log),
        false => Err(Error::failed(format!(
            "the run of {shown} wrote its metrics to {}, which is not there (relative to the folder it ran in)",
            log.display()
        ))),
    }
}
