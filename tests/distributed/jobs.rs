//! Jobs of several ranks.

use crate::common::lab::{Events, Lab, finish, stderr};
use std::path::PathBuf;
use std::process::{Command, Output};

/// The launcher to test with: the first of `$AIOS_TEST_MPIEXEC`, else the one on the path. Without any the test that asks
/// has nothing to do, which is an error where `$AIOS_REQUIRE_MPI` is set.
pub fn launcher() -> Option<PathBuf> {
    let named = std::env::var_os("AIOS_TEST_MPIEXEC");
    let named = named.and_then(|named| std::env::split_paths(&named).next());
    let name = format!("mpiexec{}", std::env::consts::EXE_SUFFIX);
    let on_path = || {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let files = std::env::split_paths(&folders).map(|folder| folder.join(&name));
        files.into_iter().find(|file| file.is_file())
    };
    let found = named.or_else(on_path);
    let required = std::env::var_os("AIOS_REQUIRE_MPI").is_some_and(|value| value == "1");
    assert!(found.is_some() || !required, "no mpiexec to test with");
    if found.is_none() {
        eprintln!("skipped: there is no mpiexec");
    }
    found
}

/// The program as a job of so many ranks, in a lab.
pub struct Job<'a> {
    lab: &'a Lab,
    launcher: PathBuf,
    flags: &'static [&'static str],
}

impl<'a> Job<'a> {
    pub fn in_lab(lab: &'a Lab) -> Option<Self> {
        let launcher = launcher()?;
        let flags = &[];
        Some(Self {
            lab,
            launcher,
            flags,
        })
    }

    /// Whose launcher lets ranks live when another one ends, if it is one that can.
    pub fn with_patient_launcher(lab: &'a Lab) -> Option<Self> {
        let job = Self::in_lab(lab)?;
        let version = Command::new(&job.launcher).arg("--version").output();
        let is_hydra = String::from_utf8_lossy(&version.unwrap().stdout).contains("HYDRA");
        let flags: &[_] = match is_hydra {
            true => &["-disable-auto-cleanup"],
            false => &[],
        };
        Some(Self { flags, ..job })
    }

    /// The library beside its launcher, for processes that are started without that, if it is there.
    pub fn library(&self) -> Option<String> {
        let bin = std::path::Path::new(&self.launcher).canonicalize().ok()?;
        let lib = bin.parent()?.parent()?.join("lib");
        let names = ["libmpi.so.12", "libmpi.so.40"].map(|name| lib.join(name));
        let found = names.into_iter().find(|path| path.exists())?;
        Some(found.display().to_string())
    }

    /// So many ranks with the same arguments.
    pub fn command(&self, ranks: usize, arguments: &str) -> Command {
        self.different(&vec![arguments; ranks])
    }

    /// A rank for each of these arguments.
    pub fn different(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.launcher);
        command.args(self.flags);
        // Of Open MPI: a test machine has few cores, and may be a container.
        command
            .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
            .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
            .env("OMPI_MCA_rmaps_base_oversubscribe", "1");
        let mut first = None;
        for same in arguments.chunk_by(|a, b| a == b) {
            let program = self.lab.command(same[0]);
            if first.is_some() {
                command.arg(":");
            }
            command.args(["-n", &same.len().to_string()]);
            command.arg(program.get_program()).args(program.get_args());
            first.get_or_insert(program);
        }
        self.lab.like(command, &first.unwrap())
    }

    pub fn run(&self, ranks: usize, arguments: &str) -> Output {
        finish(self.command(ranks, arguments))
    }

    /// A tiny run that has to succeed.
    #[track_caller]
    pub fn train(&self, ranks: usize, name: &str, flags: &str) -> Events {
        let output = self.run(ranks, &Lab::tiny(name, flags));
        assert!(output.status.success(), "{flags}: {}", stderr(&output));
        self.lab.events(name)
    }
}

/// The numbers agree to this share of them.
#[track_caller]
pub fn assert_near(what: &str, got: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (step, (got, want)) in got.iter().zip(want).enumerate() {
        let off = (got - want).abs();
        assert!(
            off <= tolerance * want.abs(),
            "{what}, step {}: {got} instead of {want}",
            step + 1
        );
    }
}
