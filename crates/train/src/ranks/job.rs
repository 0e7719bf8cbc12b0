//! How the ranks of a job meet, and how it ends.

use super::place::cuda;
use aios_base::config::{DeviceChoice, Distributed, TrainConfig};
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_distributed::mpi::Mpi;
use aios_distributed::nccl::Nccl;
use aios_distributed::{Collectives, Launched, Launcher, World};
use aios_process::stop::{self, StopSignal};
use std::time::Duration;

/// How long ranks that say nothing leave the one that does.
const LAST_WORD: Duration = Duration::from_secs(1);

/// The ranks that this process was started as one of, if it was.
///
/// # Errors
/// A launcher whose variables make no sense, or none where an engine was named.
pub fn launched(config: &TrainConfig) -> Result<Option<Launched>> {
    if config.distributed == Distributed::Off {
        return Ok(None);
    }
    config.validate_ranks()?;
    let launched = Launched::from_env()?;
    match (config.distributed, launched) {
        (Distributed::Mpi | Distributed::Nccl, None) => Err(Error::invalid(
            "--distributed names an engine, and this process was started by itself: start it by mpirun, srun or torchrun, \
             such as mpirun -n 4 and the same command",
        )),
        (Distributed::Auto, Some(launched)) if launched.size == 1 => Ok(None),
        (_, launched) => Ok(launched),
    }
}

/// What is done by one process.
///
/// # Errors
/// There are several.
pub fn alone(config: &TrainConfig, what: &str) -> Result<()> {
    match launched(config)? {
        None => Ok(()),
        Some(launched) => Err(Error::invalid(format!(
            "{what} is for one process, and {} started {}: run it by itself",
            launched.by, launched.size
        ))),
    }
}

/// Meet the others, run `work`, and end the process as all of them do.
///
/// # Errors
/// As `work`; of other ranks than the first nothing, since that one speaks.
pub fn together(
    config: &TrainConfig,
    launched: Launched,
    work: impl FnOnce(&World) -> Result<()>,
) -> Result<u8> {
    stop::steps_at_stake();
    // From here on a request to stop is a flag, which ranks agree upon.
    StopSignal::install_again(None)?;
    if launched.rank > 0 {
        stop::say_nothing();
    }
    let world = match met(config, launched) {
        Ok(world) => world,
        // The first of each host says it: a library may be missing there alone.
        Err(error) if launched.local > 0 => leave(&error, false),
        Err(error) => leave(&error, true),
    };
    let ended = work(&world).and_then(|()| world.close());
    match ended {
        Ok(()) => Ok(0),
        Err(error) => {
            let told = world.failure();
            world.fail(&error.to_string());
            let speaks =
                world.is_first() || (told.is_some() && !world.was_told() && is_next(&world));
            // Some launchers kill all others once one has ended: the first has something to save, and another to say.
            match (speaks, world.was_told()) {
                (true, _) => {}
                (false, true) => world.outlive_rank_0(),
                (false, false) => std::thread::sleep(LAST_WORD),
            }
            if speaks {
                terminal::say(&error.last_words());
            }
            world.wake_stopped();
            stop::end_now(error.exit_code().into())
        }
    }
}

/// Whether this rank is the first of its host that is not rank 0.
fn is_next(world: &World) -> bool {
    let (hosts, rank) = (world.hosts(), world.rank());
    (1..rank).all(|other| hosts[other] != hosts[rank])
}

fn met(config: &TrainConfig, launched: Launched) -> Result<World> {
    let engine = engine(config.distributed, config.device, launched)?;
    let deadline = Duration::from_secs(config.distributed_timeout);
    let speaks = launched.rank == 0;
    World::open(launched, deadline, engine, move |line| {
        leave(&Error::failed(line), speaks)
    })
}

type Open = Box<dyn FnOnce() -> Result<Box<dyn Collectives>> + Send>;

fn engine(wanted: Distributed, device: DeviceChoice, launched: Launched) -> Result<Open> {
    match (wanted, launched.by) {
        (Distributed::Mpi, Launcher::Torchrun) => Err(Error::invalid(format!(
            "torchrun started rank {} of {}, of which MPI knows nothing: start the ranks by mpirun or srun",
            launched.rank, launched.size
        ))),
        (_, Launcher::Torchrun) => Ok(Box::new(move || by_address(launched, device))),
        (Distributed::Mpi, _) => Ok(Box::new(|| Ok(Box::new(Mpi::open()?)))),
        _ => Ok(Box::new(move || over_mpi(wanted, launched, device))),
    }
}

/// NCCL, whose ranks meet where the launcher says.
fn by_address(launched: Launched, device: DeviceChoice) -> Result<Box<dyn Collectives>> {
    let here = std::env::var("LOCAL_WORLD_SIZE").ok();
    let here = here.and_then(|here| here.parse().ok());
    let here = here.unwrap_or(launched.local + 1);
    let nccl = Nccl::at(&launched, cuda(device, (launched.local, here)));
    let nccl = nccl.map_err(|why| {
        without_nccl(
            launched,
            &why,
            "start the ranks by mpirun or srun, with MPI",
        )
    })?;
    Ok(Box::new(nccl))
}

/// MPI, and NCCL beside it where all ranks have what that needs. They agree upon it: settings may differ by rank.
fn over_mpi(
    wanted: Distributed,
    launched: Launched,
    device: DeviceChoice,
) -> Result<Box<dyn Collectives>> {
    let mut mpi = Mpi::open()?;
    let device = cuda(device, aios_distributed::on_host(&mut mpi)?);
    match (Nccl::over(Box::new(mpi), device), wanted) {
        (Ok(nccl), _) => Ok(Box::new(nccl)),
        (Err(refused), Distributed::Nccl) => Err(without_nccl(
            launched,
            &refused.why,
            "give --distributed mpi",
        )),
        (Err(refused), _) => {
            tracing::debug!("MPI without NCCL: {}", refused.why);
            Ok(refused.other)
        }
    }
}

fn without_nccl(launched: Launched, why: &Error, way_out: &str) -> Error {
    let Launched { by, rank, size, .. } = launched;
    Error::failed(format!(
        "{by} started rank {rank} of {size}, and NCCL is not to be had: {why}; {way_out}"
    ))
}

/// End this process at once: the engine may hang in whatever it would still do.
fn leave(error: &Error, speaks: bool) -> ! {
    if speaks {
        terminal::say(&error.last_words());
    }
    stop::end_now(error.exit_code().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nccl_is_for_ranks_with_an_nvidia_gpu() {
        let why = cuda(DeviceChoice::Cpu, (1, 2)).unwrap_err();
        assert_eq!(why.to_string(), "--device cpu names no NVIDIA GPU");
        assert_eq!(cuda(DeviceChoice::Cuda(3), (0, 1)).unwrap(), 3);
        let launched = Launched {
            by: Launcher::Torchrun,
            rank: 0,
            size: 4,
            local: 0,
        };
        let line = without_nccl(launched, &why, "start them by mpirun").to_string();
        let begins = "torchrun started rank 0 of 4, and NCCL is not to be had: --device cpu names";
        assert!(line.starts_with(begins), "{line}");
        let mpi = engine(Distributed::Mpi, DeviceChoice::Auto, launched);
        assert!(
            mpi.map(drop)
                .unwrap_err()
                .to_string()
                .contains("mpirun or srun")
        );
    }
}
