//! Jobs of a few ranks, each of which is this test program again.

use super::*;
use crate::checks::{
    LENGTHS, broadcast, gather, nan_stays, say_all_well, sum_everywhere, sum_in_parts,
    wrong_lengths_are_refused,
};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a rank of a job does, and says when it is through.
#[test]
#[ignore = "a rank of a job that another test starts"]
fn as_a_rank() {
    let mut mpi = Mpi::open().unwrap();
    assert!(mpi.rank() < mpi.size());
    for (piece, lengths) in [(PIECE, &LENGTHS[..]), (10_007, &LENGTHS[1..5])] {
        mpi.piece = piece;
        for &length in lengths {
            sum_everywhere(&mut mpi, length);
            sum_in_parts(&mut mpi, length);
            gather(&mut mpi, length);
            broadcast(&mut mpi, length);
        }
    }
    mpi.piece = PIECE;
    nan_stays(&mut mpi);
    wrong_lengths_are_refused(&mut mpi);
    mpi.broadcast(&mut [1], 0).unwrap();
    assert!(Mpi::open().is_err(), "a second one in the same process");
    mpi.finalize().unwrap();
    assert!(mpi.all_reduce(&mut [1.0]).is_err(), "after leave was taken");
    say_all_well(&mpi);
}

/// How long 25 MiB take, with all waits and looks: `mpiexec -n 2 PROGRAM --exact mpi::tests::how_fast --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_fast() {
    let mut mpi = Mpi::open().unwrap();
    let mut mine = vec![0.0; 25 << 18];
    let mut times = Vec::new();
    for _ in 0..30 {
        mpi.all_gather(&[0], &mut vec![0; mpi.size]).unwrap();
        let since = std::time::Instant::now();
        mpi.all_reduce(&mut mine).unwrap();
        times.push(since.elapsed());
    }
    times.sort();
    if mpi.rank() == 0 {
        eprintln!(
            "25 MiB: best {:?}, median {:?}: {}",
            times[0],
            times[15],
            mpi.library()
        );
    }
    mpi.finalize().unwrap();
}

/// Programs that start jobs: those named in the environment, or the ones on PATH.
pub(crate) fn launchers() -> Vec<PathBuf> {
    let split = |text| std::env::split_paths(&text).collect::<Vec<_>>();
    if let Some(named) = std::env::var_os("AIOS_TEST_MPIEXEC") {
        return split(named);
    }
    let name = format!("mpiexec{}", std::env::consts::EXE_SUFFIX);
    let folders = split(std::env::var_os("PATH").unwrap_or_default());
    let found = folders
        .iter()
        .map(|folder| folder.join(&name))
        .find(|file| file.is_file());
    found.into_iter().collect()
}

/// A command of `launcher`, as far as the test's own environment is no rank's.
pub(crate) fn command(launcher: &Path) -> Command {
    let mut command = Command::new(launcher);
    // Open MPI's for what its flags --allow-run-as-root and --oversubscribe do: a test machine has few cores, and may be a
    // container.
    command
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1");
    command.env("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe");
    command
}

/// What a job of `ranks` came to, of which each rank takes the library named, or the one it finds.
fn job(launcher: &Path, ranks: usize, library: Option<&Path>) -> Output {
    let mut command = command(launcher);
    if let Some(library) = library {
        command.env("AIOS_MPI_LIBRARY", library);
    }
    let program = std::env::current_exe().unwrap();
    let test = [
        "--exact",
        "mpi::tests::as_a_rank",
        "--ignored",
        "--nocapture",
    ];
    command
        .args(["-n", &ranks.to_string()])
        .arg(program)
        .args(test)
        .output()
        .unwrap()
}

fn assert_well(job: &Output, ranks: usize, of: &str) {
    let said = String::from_utf8_lossy(&job.stderr);
    let well = said.matches(&format!("of {ranks}: all well with")).count();
    let out = String::from_utf8_lossy(&job.stdout);
    assert!(
        job.status.success() && well == ranks,
        "{ranks} ranks of {of}: {said}\n{out}"
    );
    eprintln!(
        "{of}: {}",
        said.lines()
            .find(|line| line.contains("all well"))
            .unwrap_or_default()
    );
}

/// Both of MPICH's libraries are beside its launcher; the second is not found by itself where the first is.
fn second_library(launcher: &Path) -> Option<PathBuf> {
    let library = launcher.parent()?.parent()?.join("lib/libmpi.so.12");
    library.is_file().then_some(library)
}

#[test]
fn jobs_of_every_launcher_there_is() {
    let launchers = launchers();
    if launchers.is_empty() {
        assert!(
            std::env::var_os("AIOS_REQUIRE_MPI").is_none_or(|v| v != "1"),
            "no mpiexec"
        );
        eprintln!("no mpiexec: not tested");
    }
    for launcher in launchers {
        for ranks in 2..=4 {
            let name = launcher.display().to_string();
            assert_well(&job(&launcher, ranks, None), ranks, &name);
            if let Some(library) = second_library(&launcher) {
                assert_well(&job(&launcher, ranks, Some(&library)), ranks, &name);
            }
        }
    }
}

/// A process that nobody launched, with the first library that there is.
#[test]
#[ignore = "a process that another test starts"]
fn as_a_process_alone() {
    let mut mpi = Mpi::open().unwrap();
    assert_eq!((mpi.rank(), mpi.size()), (0, 1));
    sum_everywhere(&mut mpi, 1000);
    sum_in_parts(&mut mpi, 1000);
    gather(&mut mpi, 1000);
    broadcast(&mut mpi, 1000);
    mpi.finalize().unwrap();
    eprintln!("alone: all well with {}", mpi.library());
}

/// The test `name` of this program in a process of its own, with the folder of `launcher` first on PATH.
fn alone(launcher: &Path, name: &str) -> Command {
    let mut command = command(&std::env::current_exe().unwrap());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folder = launcher.parent().unwrap().to_path_buf();
    let folders = [folder].into_iter().chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(folders).unwrap());
    command.args([
        "--exact",
        &format!("mpi::tests::{name}"),
        "--ignored",
        "--nocapture",
    ]);
    command
}

#[test]
fn a_process_that_nobody_launched_is_a_job_of_one() {
    for launcher in launchers() {
        let job = alone(&launcher, "as_a_process_alone").output().unwrap();
        let said = String::from_utf8_lossy(&job.stderr);
        assert!(
            job.status.success() && said.contains("alone: all well"),
            "{said}"
        );
    }
}

/// A process whose environment says that it is one of several, which its library does not know.
#[test]
#[ignore = "a process that another test starts"]
fn as_a_rank_with_the_wrong_library() {
    let error = Mpi::open().map(drop).unwrap_err().to_string();
    eprintln!("refused: {error}");
}

#[test]
fn a_library_that_is_not_the_launchers_is_refused() {
    for launcher in launchers() {
        let mut command = alone(&launcher, "as_a_rank_with_the_wrong_library");
        let job = command.env("SLURM_STEP_NUM_TASKS", "4").output().unwrap();
        let said = String::from_utf8_lossy(&job.stderr);
        let expected = "knows of 1 rank, and the launcher started 4";
        assert!(job.status.success() && said.contains(expected), "{said}");
    }
}
