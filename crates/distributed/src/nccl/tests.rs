//! Jobs of a few ranks, each of which is this test program again, with libraries that stand in for NVIDIA's.

use super::*;
use crate::checks::{
    LENGTHS, broadcast, gather, nan_stays, say_all_well, sum_everywhere, sum_in_parts,
    wrong_lengths_are_refused,
};
use crate::mpi::Mpi;
use crate::mpi::tests::{command as by_launcher, launchers};
use crate::threads::Thread;
use aios_base::error::Error;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::scope;

/// The libraries, for as long as this lives.
struct Stub {
    folder: tempfile::TempDir,
}

impl Stub {
    /// `None` where there is no C compiler.
    fn build() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("stub.c");
        std::fs::write(&source, include_str!("stub.c")).unwrap();
        let stub = Self { folder };
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-shared", "-fPIC", "-pthread", "-o"]);
        match cc.arg(stub.file()).arg(&source).output() {
            Ok(built) => {
                let said = String::from_utf8_lossy(&built.stderr);
                assert!(built.status.success(), "{said}");
                Some(stub)
            }
            Err(e) => {
                let required = std::env::var_os("AIOS_REQUIRE_CXX").is_some_and(|v| v == "1");
                assert!(!required, "no cc: {e}");
                eprintln!("no cc: not tested");
                None
            }
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("libnccl.so.2")
    }

    /// `command` with these libraries.
    fn with<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        // Once by the file, and once by its folder.
        command.env("AIOS_CUDA_LIBRARY", self.file());
        command.env("AIOS_NCCL_LIBRARY", self.folder.path());
        command.env("AIOS_STUB_FOLDER", self.folder.path());
        command.env_remove("AIOS_STUB_FAIL");
        command.env_remove("AIOS_JOB_SECRET")
    }

    /// The test `name` of this program as a rank that torchrun starts.
    fn rank(&self, name: &str, rank: usize, size: usize, port: u16) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(test(name));
        self.with(&mut command);
        for launched in ["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"] {
            command.env_remove(launched);
        }
        for (variable, number) in [
            ("RANK", rank),
            ("LOCAL_RANK", rank),
            ("WORLD_SIZE", size),
            ("LOCAL_WORLD_SIZE", size),
        ] {
            command.env(variable, number.to_string());
        }
        command
            .env("MASTER_ADDR", "127.0.0.1")
            .env("MASTER_PORT", port.to_string());
        command.env("TORCHELASTIC_USE_AGENT_STORE", "False");
        command
    }

    /// What a job came to, by rank.
    fn job(
        &self,
        name: &str,
        size: usize,
        port: u16,
        change: &dyn Fn(usize, &mut Command),
    ) -> Vec<Output> {
        scope(|scope| {
            let mut ranks = Vec::new();
            for rank in 0..size {
                let mut command = self.rank(name, rank, size, port);
                change(rank, &mut command);
                ranks.push(scope.spawn(move || command.output().unwrap()));
            }
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    /// What a job of one says.
    fn alone(&self, name: &str, variable: &str, value: impl AsRef<Path>) -> String {
        let value = value.as_ref();
        let set = |_: usize, command: &mut Command| {
            command.env(variable, value);
        };
        said(&self.job(name, 1, port(), &set)[0])
    }
}

fn test(name: &str) -> [String; 4] {
    let path = format!("nccl::tests::{name}");
    [
        "--exact".into(),
        path,
        "--ignored".into(),
        "--nocapture".into(),
    ]
}

/// One that nobody listens at.
fn port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn all_say(outputs: &[Output], expected: &str) {
    for output in outputs {
        let said = said(output);
        assert!(
            output.status.success() && said.contains(expected),
            "{expected}: {said}"
        );
    }
}

fn opened() -> Result<Nccl> {
    let launched = Launched::from_env()?.unwrap();
    Nccl::at(&launched, Ok(launched.local))
}

/// All operations against plain loops.
fn exercise(nccl: &mut Nccl) {
    for piece in [PIECE, 10_007] {
        nccl.piece = piece;
        for length in LENGTHS
            .into_iter()
            .filter(|length| piece == PIECE || *length < 100_000)
        {
            sum_everywhere(nccl, length);
            sum_in_parts(nccl, length);
            gather(nccl, length);
            broadcast(nccl, length);
        }
    }
    nccl.piece = PIECE;
    more_than_a_piece(nccl);
    nan_stays(nccl);
    wrong_lengths_are_refused(nccl);
    nccl.finalize().unwrap();
    assert!(
        nccl.all_reduce(&mut [1.0]).is_err(),
        "after leave was taken"
    );
    say_all_well(nccl);
}

fn more_than_a_piece(nccl: &mut Nccl) {
    let mut many = vec![1.0; PIECE / 4 + 1001];
    nccl.all_reduce(&mut many).unwrap();
    let expected = nccl.size() as f32;
    assert!(many.iter().all(|sum| *sum == expected));
}

#[test]
#[ignore = "a rank of a job that another test starts"]
fn as_a_rank() {
    exercise(&mut opened().unwrap());
}

#[test]
fn jobs_as_torchrun_starts_them() {
    let Some(stub) = Stub::build() else { return };
    let port = port();
    // The second right after the first, at the same port.
    for size in [2, 3] {
        let ranks = stub.job("as_a_rank", size, port, &|_, _| ());
        all_say(&ranks, "all well with NCCL 2.27.3 (");
    }
}

#[test]
fn ranks_of_several_hosts_have_a_secret_and_the_port_after_torchruns() {
    let Some(stub) = Stub::build() else { return };
    let torchruns = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = torchruns.local_addr().unwrap().port();
    let ranks = stub.job("as_a_rank_that_sums", 2, port, &|_, command| {
        command
            .env("LOCAL_WORLD_SIZE", "1")
            .env("AIOS_JOB_SECRET", "of this job");
        command.env("TORCHELASTIC_USE_AGENT_STORE", "True");
    });
    all_say(&ranks, "sum: 2");
    let ranks = stub.job("as_one_that_may_fail", 2, port, &|_, command| {
        command.env("LOCAL_WORLD_SIZE", "1");
    });
    all_say(&ranks, "set AIOS_JOB_SECRET to the same random text");
}

#[test]
#[ignore = "a rank of a job that another test starts"]
fn as_a_rank_that_sums() {
    let mut sum = [1.0];
    opened().unwrap().all_reduce(&mut sum).unwrap();
    eprintln!("sum: {}", sum[0]);
}

#[test]
#[ignore = "a rank of a job that another test starts"]
fn as_one_that_may_fail() {
    let all = || -> Result<()> {
        let mut nccl = opened()?;
        nccl.all_reduce(&mut [1.0])?;
        let size = nccl.size();
        nccl.reduce_scatter(&vec![1.0; size], &mut [0.0])?;
        nccl.all_gather(&[1], &mut vec![0; size])?;
        nccl.broadcast(&mut [1], 0)?;
        nccl.finalize()
    };
    match all() {
        Ok(()) => eprintln!("all well"),
        Err(e) => eprintln!("error: {e}"),
    }
}

#[test]
fn what_fails_is_named() {
    let Some(stub) = Stub::build() else { return };
    for name in [
        "cuInit",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemAlloc",
        "cuMemHostAlloc",
        "cuStreamCreate",
        "cuStreamQuery",
        "cuMemcpyHtoDAsync",
        "cuMemcpyDtoHAsync",
        "ncclGetVersion",
        "ncclGetUniqueId",
        "ncclCommInitRank",
        "ncclAllReduce",
        "ncclReduceScatter",
        "ncclAllGather",
        "ncclBroadcast",
        "ncclCommGetAsyncError",
        "ncclCommDestroy",
    ] {
        let said = stub.alone("as_one_that_may_fail", "AIOS_STUB_FAIL", name);
        let line = said
            .lines()
            .find(|line| line.starts_with("error: "))
            .unwrap_or(&said);
        assert!(line.contains(&format!("{name}: ")), "{name}: {line}");
        eprintln!("{line}");
    }
    let said = stub.alone("as_one_that_may_fail", "AIOS_STUB_FAIL", "nothing");
    assert!(said.contains("all well"), "{said}");
}

#[test]
fn a_library_that_is_missing_or_none_is_named() {
    let Some(stub) = Stub::build() else { return };
    let none = stub.folder.path().join("stub.c");
    for (variable, file, expected) in [
        (
            "AIOS_NCCL_LIBRARY",
            Path::new("/nowhere.so"),
            "AIOS_NCCL_LIBRARY=/nowhere.so is no NCCL library",
        ),
        ("AIOS_NCCL_LIBRARY", &none, "is no NCCL library"),
        (
            "AIOS_NCCL_LIBRARY",
            Path::new("/proc"),
            "no libnccl.so.2 is in it",
        ),
        (
            "AIOS_NCCL_LIBRARY",
            Path::new("libc.so.6"),
            "libc.so.6: it lacks ncclGetVersion",
        ),
        (
            "AIOS_CUDA_LIBRARY",
            Path::new("/nowhere.so"),
            "no NVIDIA driver is found: /nowhere.so",
        ),
        (
            "AIOS_CUDA_LIBRARY",
            Path::new("libc.so.6"),
            "libc.so.6: it lacks cuInit",
        ),
        ("LOCAL_RANK", Path::new("8"), "cuda:8: cuDeviceGet"),
    ] {
        let said = stub.alone("as_one_that_may_fail", variable, file);
        assert!(said.contains(expected), "{expected}: {said}");
    }
}

#[test]
fn what_one_rank_lacks_all_say() {
    let Some(stub) = Stub::build() else { return };
    for (variable, value, expected) in [
        (
            "AIOS_STUB_FAIL",
            "cuMemAlloc",
            "error: rank 1: cuMemAlloc: out of memory (2)",
        ),
        ("AIOS_STUB_VERSION", "22105", "NCCL 2.21.5"),
    ] {
        let ranks = stub.job("as_one_that_may_fail", 3, port(), &|rank, command| {
            if rank == 1 {
                command.env(variable, value);
            }
        });
        all_say(&ranks, expected);
    }
}

#[test]
#[ignore = "a rank of a job that another test starts"]
fn as_one_of_two_that_part() {
    let mut nccl = opened().unwrap();
    let mut sum = [1.0];
    nccl.all_reduce(&mut sum).unwrap();
    if nccl.rank() == 1 {
        std::process::exit(0);
    }
    let first = nccl.all_reduce(&mut sum).unwrap_err().to_string();
    let second = nccl.broadcast(&mut [1], 0).unwrap_err().to_string();
    assert_eq!(first, second);
    eprintln!("error: {first}");
}

#[test]
fn one_whose_other_is_gone_hears_of_it() {
    let Some(stub) = Stub::build() else { return };
    let ranks = stub.job("as_one_of_two_that_part", 2, port(), &|_, _| ());
    all_say(
        &ranks[..1],
        "error: rank 0 of 2: NCCL: remote process exited (6)",
    );
}

/// Each of three threads over the engine that threads have.
fn over_threads<T: Send>(each: impl Fn(usize, Box<dyn Collectives>) -> T + Sync) -> Vec<T> {
    let each = &each;
    scope(|scope| {
        let threads = Thread::several(3).into_iter().enumerate();
        let threads =
            threads.map(|(rank, thread)| scope.spawn(move || each(rank, Box::new(thread))));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

#[test]
#[ignore = "a process that another test starts"]
fn as_threads() {
    over_threads(|rank, other| {
        let mut nccl = Nccl::over(other, Ok(rank)).map_err(Error::from).unwrap();
        assert!(nccl.library().ends_with(") with threads"));
        exercise(&mut nccl);
    });
}

#[test]
#[ignore = "a process that another test starts"]
fn as_threads_of_which_one_has_no_gpu() {
    over_threads(|rank, other| {
        let device = match rank {
            1 => Err(Error::failed("it has no GPU")),
            _ => Ok(rank),
        };
        let Refused { mut other, why } = Nccl::over(other, device).err().unwrap();
        assert_eq!(why.to_string(), "rank 1: it has no GPU");
        sum_everywhere(&mut *other, 1000);
        eprintln!("goes on");
    });
}

/// NCCL's gathering fails, and so does its broadcast.
#[test]
#[ignore = "a process that another test starts"]
fn as_threads_without_a_gathering() {
    over_threads(|rank, other| {
        let mut nccl = Nccl::over(other, Ok(rank)).map_err(Error::from).unwrap();
        gather(&mut nccl, SMALL / 3);
        broadcast(&mut nccl, SMALL);
        let many = vec![0; SMALL / 3 + 1];
        let error = nccl
            .all_gather(&many, &mut vec![0; 3 * many.len()])
            .unwrap_err();
        assert!(error.to_string().contains("ncclAllGather"), "{error}");
        assert!(nccl.all_gather(&[0], &mut [0; 3]).is_err());
        eprintln!("as expected");
    });
}

/// NCCL does not start.
#[test]
#[ignore = "a process that another test starts"]
fn as_threads_that_do_not_join() {
    over_threads(|rank, other| {
        let Refused { mut other, why } = Nccl::over(other, Ok(rank)).err().unwrap();
        assert!(
            why.to_string().starts_with("rank 0: ncclCommInitRank: "),
            "{why}"
        );
        sum_everywhere(&mut *other, 1000);
        eprintln!("goes on");
    });
}

#[test]
fn another_engine_introduces_the_ranks_and_does_what_is_small() {
    let Some(stub) = Stub::build() else { return };
    for (name, fails, expected) in [
        ("as_threads", "", "rank 2 of 3: all well"),
        ("as_threads_of_which_one_has_no_gpu", "", "goes on"),
        (
            "as_threads_without_a_gathering",
            "ncclAllGather",
            "as expected",
        ),
        ("as_threads_that_do_not_join", "ncclCommInitRank", "goes on"),
    ] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let command = stub
            .with(command.args(test(name)))
            .env("AIOS_STUB_FAIL", fails);
        all_say(&[command.output().unwrap()], expected);
    }
}

#[test]
#[ignore = "a rank of a job that another test starts"]
fn as_a_rank_over_mpi() {
    let mut mpi = Mpi::open().unwrap();
    let (place, here) = crate::on_host(&mut mpi).unwrap();
    assert_eq!((place, here), (mpi.rank(), mpi.size()));
    let nccl = Nccl::over(Box::new(mpi), Ok(place));
    exercise(&mut nccl.map_err(Error::from).unwrap());
}

#[test]
fn mpi_introduces_the_ranks() {
    let Some(stub) = Stub::build() else { return };
    for launcher in launchers() {
        let mut command = by_launcher(&launcher);
        stub.with(&mut command)
            .args(["-n", "3"])
            .arg(std::env::current_exe().unwrap());
        let job = command.args(test("as_a_rank_over_mpi")).output().unwrap();
        let said = said(&job);
        let well = said.matches("of 3: all well with NCCL").count();
        assert!(job.status.success() && well == 3, "{said}");
    }
}

/// NVIDIA's own, where AIOS_TEST_NCCL names it or a folder with it: it need not start.
#[test]
fn the_real_library_is_understood() {
    let Some(named) = std::env::var_os("AIOS_TEST_NCCL") else {
        eprintln!("AIOS_TEST_NCCL is not set: not tested");
        return;
    };
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(test("as_one_that_asks_for_the_version"))
        .env("AIOS_NCCL_LIBRARY", named);
    all_say(&[command.output().unwrap()], "it is NCCL 2.");
}

#[test]
#[ignore = "a process that another test starts"]
fn as_one_that_asks_for_the_version() {
    let found = find::nccl().unwrap();
    let call = functions::Functions::of(&found).unwrap();
    eprintln!("it is {}", functions::in_words(call.version().unwrap()));
    // There is no driver, or no device: a line, and no crash.
    let mut id = call.unique_id();
    if let Ok(id) = &mut id {
        assert!(id.0.iter().any(|byte| *byte != 0));
    }
    match id.and_then(|id| call.join(0, 1, id)) {
        Ok(_) => eprintln!("joined"),
        Err(e) => eprintln!("not joined: {e}"),
    }
}
