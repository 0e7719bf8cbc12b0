//! Who started this process, as far as it says which MPI library it waits for.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A family of launchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    /// `mpiexec` of MPICH or what comes of it, or one that speaks as it does (PMI).
    Mpich,
    /// Open MPI's `mpirun`.
    OpenMpi,
}

/// What only a rank has, set by its launcher.
const MPICH_RANK: [&str; 6] = [
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_FD",
    "PMI_PORT",
    "HYDI_CONTROL_FD",
    "MPI_LOCALRANKID",
];

/// The launcher, by the names of variables in the environment.
pub fn launcher(names: impl IntoIterator<Item = String>) -> Option<Launcher> {
    let names: HashSet<String> = names.into_iter().collect();
    let some = |prefixes: &[&str]| {
        let mut pairs = names
            .iter()
            .flat_map(|name| prefixes.iter().map(move |p| (name, p)));
        pairs.any(|(name, prefix)| name.starts_with(prefix))
    };
    if names.contains("OMPI_COMM_WORLD_SIZE") {
        Some(Launcher::OpenMpi)
    } else if MPICH_RANK.iter().any(|name| names.contains(*name)) {
        Some(Launcher::Mpich)
    } else if some(&["OMPI_", "PMIX_"]) {
        // Weaker signs, as users set such variables too.
        Some(Launcher::OpenMpi)
    } else if some(&["HYDRA_", "MPIR_"]) {
        Some(Launcher::Mpich)
    } else {
        None
    }
}

/// Ranks of the job, where the launcher says so.
pub fn ranks() -> Option<usize> {
    let names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
    names
        .iter()
        .find_map(|name| std::env::var(name).ok()?.trim().parse().ok())
}

/// Processes looked at upwards: a rank may be started through a shell or two.
const GENERATIONS: usize = 4;

/// Folders in which the launcher's library may be: beside the program that started this process, or beside the launchers
/// on PATH.
pub fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let launchers = on_path.flat_map(|folder| ["mpiexec", "mpirun"].map(|name| folder.join(name)));
    let programs = ancestors()
        .into_iter()
        .chain(launchers.filter(|file| file.is_file()));
    let mut folders = Vec::new();
    for folder in programs.flat_map(|program| libraries(&program)) {
        if folder.is_dir() && !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

/// Folders of libraries beside `program`, where it is and where a link to it leads.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let real = program.canonicalize().ok();
    let places = [Some(program.to_path_buf()), real];
    let roots = places
        .into_iter()
        .flatten()
        .filter_map(|p| Some(p.parent()?.parent()?.to_path_buf()));
    roots
        .flat_map(|root| ["lib", "lib64"].map(|lib| root.join(lib)))
        .collect()
}

/// Launchers among the processes that this one descends from.
fn ancestors() -> Vec<PathBuf> {
    use sysinfo::{ProcessRefreshKind, ProcessesToUpdate, System, UpdateKind};
    let what = ProcessRefreshKind::nothing().with_exe(UpdateKind::Always);
    let mut system = System::new();
    let mut found = Vec::new();
    let mut next = sysinfo::get_current_pid().ok();
    for _ in 0..=GENERATIONS {
        let Some(pid) = next else { break };
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
        let Some(process) = system.process(pid) else {
            break;
        };
        found.extend(
            process
                .exe()
                .filter(|exe| is_launcher(exe))
                .map(Path::to_path_buf),
        );
        next = process.parent();
    }
    found
}

fn is_launcher(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let known = [
        "mpiexec", "mpirun", "hydra_", "orterun", "orted", "prte", "prun",
    ];
    known.iter().any(|known| name.starts_with(known))
}

/// Whether this is a rank that Open MPI's mpirun started.
pub fn is_open_mpi() -> bool {
    std::env::var_os("OMPI_COMM_WORLD_SIZE").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Option<Launcher> {
        launcher(names.iter().map(ToString::to_string))
    }

    #[test]
    fn what_a_rank_has_says_more_than_what_a_user_sets() {
        assert_eq!(of(&["HOME", "PMI_RANK"]), Some(Launcher::Mpich));
        assert_eq!(of(&["PMI_RANK", "OMPI_MCA_btl"]), Some(Launcher::Mpich));
        assert_eq!(
            of(&["PMI_RANK", "OMPI_COMM_WORLD_SIZE"]),
            Some(Launcher::OpenMpi)
        );
        assert_eq!(of(&["OMPI_MCA_btl"]), Some(Launcher::OpenMpi));
        assert_eq!(of(&["MPIR_CVAR_X"]), Some(Launcher::Mpich));
        assert_eq!(of(&["HOME"]), None);
    }

    #[test]
    fn libraries_are_beside_the_launcher() {
        let found = libraries(Path::new("/not/there/bin/mpiexec"));
        assert_eq!(
            found,
            [Path::new("/not/there/lib"), Path::new("/not/there/lib64")]
        );
        assert!(is_launcher(Path::new("/a/bin/hydra_pmi_proxy")));
        assert!(!is_launcher(Path::new("/bin/bash")));
    }
}
