//! A rank that dies or hangs ends the job on all ranks, and what was saved is good.

use super::jobs::Job;
use crate::common::lab::{Lab, Running, stderr};
use std::time::{Duration, Instant};

/// Steps that take some milliseconds, saved often.
const STEPS: &str = "--steps 1000000 --save-every 3 --max-seq-len 64 --distributed-timeout 10";

/// The ranks' processes, which are the launcher's grandchildren, by rank.
fn ranks(lab: &Lab) -> Vec<String> {
    let of = |entry: std::fs::DirEntry| {
        let id = entry.file_name().into_string().ok()?;
        let folder = entry.path();
        let variables = std::fs::read(folder.join("environ")).ok()?;
        let variables = String::from_utf8_lossy(&variables).into_owned();
        let has = |name: &str| {
            let mut all = variables.split('\0');
            all.find_map(|v| v.strip_prefix(name)).map(str::to_string)
        };
        let here = has("AIOS_CACHE_DIR=")? == lab.path("cache").display().to_string();
        let rank = has("PMI_RANK=").or_else(|| has("OMPI_COMM_WORLD_RANK="))?;
        // A process that is gone and has not been waited for has no memory.
        let alive = !std::fs::read_to_string(folder.join("statm"))
            .ok()?
            .starts_with("0 ");
        (here && alive).then_some((rank, id))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut ranks: Vec<_> = all.filter_map(of).collect();
    ranks.sort();
    ranks.into_iter().map(|(_, id)| id).collect()
}

#[track_caller]
fn assert_none_left(lab: &Lab) {
    let started = Instant::now();
    while !ranks(lab).is_empty() {
        let left = ranks(lab);
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "left: {left:?}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What was saved can be gone on with, by a job and alone.
#[track_caller]
fn assert_goes_on(lab: &Lab, job: &Job) {
    let saved = lab.events("a").steps("step").last().copied().unwrap();
    let steps = saved as u64 + 2;
    let resume = |name: &str| {
        format!(
            "train --resume-if-exists --bundle-dir brains --brain-name {name} --steps {steps} --quiet --device cpu \
             --log-file a.jsonl"
        )
    };
    let output = job.run(2, &resume("a"));
    assert!(output.status.success(), "{}", stderr(&output));
    let steps = lab.events("a").steps("step");
    assert_eq!(steps.last().copied(), Some(saved + 2.0));
}

/// Nothing is lost: the next job goes on from the last step that was logged.
#[track_caller]
fn assert_nothing_is_lost(lab: &Lab, job: &Job) {
    let last = lab.events("a").steps("step").last().copied().unwrap();
    assert_goes_on(lab, job);
    let resumed = lab.events("a").of("resume").last().unwrap()["step"].as_f64();
    assert_eq!(resumed, Some(last));
}

fn start<'a>(lab: &'a Lab, job: &Job, flags: &str) -> Running<'a> {
    let arguments = Lab::tiny("a", &format!("{STEPS} {flags}"));
    lab.start_command("a", job.command(2, &arguments))
}

/// At moments that differ from run to run: within steps, within saves.
#[test]
fn a_killed_rank_ends_the_job_and_what_was_saved_is_good() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    for (round, flags) in ["", "--shard-optimizer", "--local-steps 3", ""]
        .iter()
        .enumerate()
    {
        let _ = std::fs::remove_dir_all(lab.brain("a"));
        let _ = std::fs::remove_file(lab.path("a.jsonl"));
        let mut run = start(&lab, &job, flags);
        run.wait_for("\"event\":\"checkpoint\"");
        let moment = 7 * round as u64 + u64::from(std::process::id()) % 7;
        std::thread::sleep(Duration::from_millis(moment));
        let victim = ranks(&lab)[round % 2].clone();
        let started = Instant::now();
        run.signal(&format!("kill -KILL {victim}"));
        let output = run.output();
        let said = stderr(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(started.elapsed() < Duration::from_secs(30), "{said}");
        assert!(!said.contains("panicked"), "{said}");
        assert_none_left(&lab);
        assert_goes_on(&lab, &job);
    }
}

/// The launcher would wait for it: srun does, and MPICH's mpiexec by chance.
#[test]
fn a_stopped_rank_is_named_within_the_deadline_and_ends() {
    let lab = Lab::new();
    let Some(job) = Job::with_patient_launcher(&lab) else {
        return;
    };
    for rank in [1, 0] {
        let _ = std::fs::remove_dir_all(lab.brain("a"));
        let _ = std::fs::remove_file(lab.path("a.jsonl"));
        let mut run = start(&lab, &job, "");
        run.wait_for("\"event\":\"checkpoint\"");
        let victim = ranks(&lab)[rank].clone();
        let started = Instant::now();
        run.signal(&format!("kill -STOP {victim}"));
        let output = run.output();
        let said = stderr(&output);
        assert!(started.elapsed() < Duration::from_secs(60), "{said}");
        // 1 of the ranks that live; a launcher may have another one.
        assert_ne!(output.status.code(), Some(0), "{said}");
        let named = format!("error: rank {rank} (");
        assert!(said.contains(&named), "{said}");
        assert!(said.contains("has not been heard of for 10 s"), "{said}");
        assert_none_left(&lab);
        if rank == 1 {
            assert_nothing_is_lost(&lab, &job);
        }
    }
}

/// Rank 0 cannot write, as on a full disk, which the others learn of.
#[test]
fn what_cannot_be_saved_is_one_line_and_the_save_before_is_good() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let mut run = start(&lab, &job, "--shard-optimizer --stop-file stop");
    run.wait_for("\"event\":\"checkpoint\"");
    lab.shell("mv brains/a/checkpoints aside && touch brains/a/checkpoints");
    lab.write("stop", "");
    let output = run.output();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let errors = said
        .lines()
        .filter(|line| line.starts_with("error: "))
        .count();
    assert_eq!(errors, 1, "{said}");
    assert_none_left(&lab);
    lab.shell("rm -rf brains/a/checkpoints stop && mv aside brains/a/checkpoints");
    assert_goes_on(&lab, &job);
}
