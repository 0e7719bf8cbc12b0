//! Who started this process as one of several, and what it says of them.

use aios_base::error::{Error, Result};
use std::fmt;

/// What starts the ranks of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Launcher {
    OpenMpi,
    /// MPICH's and all that start processes by its process manager interface, PMI.
    Mpich,
    Slurm,
    /// torchrun, or what sets the same variables, such as Kubernetes' PyTorchJob.
    Torchrun,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenMpi => "Open MPI's mpirun",
            Self::Mpich => "MPICH's mpiexec",
            Self::Slurm => "srun",
            Self::Torchrun => "torchrun",
        })
    }
}

/// What a launcher promises a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launched {
    pub by: Launcher,
    /// Below `size`.
    pub rank: usize,
    pub size: usize,
    /// This rank's number among those of its host; 0 where the launcher does not say.
    pub local: usize,
}

/// Names of the variables with the rank, the number of ranks, and the number on the host.
const VARIABLES: [(Launcher, [&str; 3]); 4] = [
    (
        Launcher::OpenMpi,
        [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ],
    ),
    (Launcher::Mpich, ["PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"]),
    // Not SLURM_NTASKS, which a batch script has too: what it starts without srun is one process.
    (
        Launcher::Slurm,
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
    ),
    (Launcher::Torchrun, ["RANK", "WORLD_SIZE", "LOCAL_RANK"]),
];

impl Launched {
    /// What the environment says; `None` for a process that was started by itself.
    ///
    /// # Errors
    /// Numbers that make no sense.
    pub fn from_env() -> Result<Option<Self>> {
        Self::of(&|name| std::env::var(name).ok())
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        for (by, [rank, size, local]) in VARIABLES {
            let (Some(of_rank), Some(of_size)) = (variable(rank), variable(size)) else {
                continue;
            };
            let number = |name: &str, text: &str| {
                text.parse::<usize>().map_err(|_| {
                    Error::failed(format!(
                        "{name} is `{text}`, which is no number: unset it, or start the ranks by {by}"
                    ))
                })
            };
            let launched = Self {
                by,
                rank: number(rank, &of_rank)?,
                size: number(size, &of_size)?,
                local: variable(local).map_or(Ok(0), |text| number(local, &text))?,
            };
            if launched.rank >= launched.size {
                return Err(Error::failed(format!(
                    "{rank} is {of_rank} and {size} is {of_size}: ranks count from 0; unset both, or start the ranks by {by}"
                )));
            }
            return Ok(Some(launched));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Option<Launched>> {
        Launched::of(&|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.to_string())
        })
    }

    #[test]
    fn a_process_by_itself_is_in_no_world() {
        assert_eq!(of(&[]).unwrap(), None);
        let batch_script = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
        assert_eq!(of(&batch_script).unwrap(), None);
        // Kubernetes and shells use such names for other things.
        assert_eq!(of(&[("RANK", "0")]).unwrap(), None);
    }

    #[test]
    fn each_launcher_is_known_by_its_variables() {
        for (by, [rank, size, local]) in VARIABLES {
            let launched = of(&[(rank, "3"), (size, "4"), (local, "1")]).unwrap();
            assert_eq!(
                launched,
                Some(Launched {
                    by,
                    rank: 3,
                    size: 4,
                    local: 1,
                })
            );
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_an_error() {
        for (rank, size) in [("4", "4"), ("-1", "4"), ("0", "many")] {
            let error = of(&[("RANK", rank), ("WORLD_SIZE", size)]).unwrap_err();
            assert!(error.to_string().contains("torchrun"), "{error}");
        }
    }
}
