//! What a launcher promises and does not give is an error, never a training of each process by itself.

use super::jobs::Job;
use crate::common::lab::{Lab, assert_clear_error, finish, stderr};

/// Processes with the variables of a launcher that is none.
fn promised(lab: &Lab, variables: &[(&str, &str)], flags: &str) -> std::process::Output {
    let mut command = lab.command(&Lab::tiny("a", &format!("--steps 1 {flags}")));
    command.envs(variables.iter().copied());
    finish(command)
}

#[test]
fn torchrun_without_nccl_is_an_error() {
    let lab = Lab::new();
    let variables = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")];
    let output = promised(&lab, &variables, "");
    assert_clear_error(
        &output,
        1,
        &["torchrun started rank 0 of 2", "NCCL", "mpirun"],
    );
    assert!(!lab.brain("a").join("model.safetensors").exists());
}

#[test]
fn a_library_that_knows_of_no_others_is_an_error() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else {
        return;
    };
    let library = job.library();
    let library = library
        .iter()
        .map(|path| ("AIOS_MPI_LIBRARY", path.as_str()));
    let slurm = [("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "2")];
    let variables: Vec<_> = slurm.into_iter().chain(library).collect();
    let output = promised(&lab, &variables, "");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("srun"), "{said}");
    assert!(!lab.brain("a").join("model.safetensors").exists());
}

#[test]
fn no_library_is_an_error_that_names_what_to_do() {
    let lab = Lab::new();
    let variables = [
        ("PMI_RANK", "0"),
        ("PMI_SIZE", "2"),
        ("AIOS_MPI_LIBRARY", "nowhere/libmpi.so"),
    ];
    let output = promised(&lab, &variables, "");
    assert_clear_error(&output, 1, &["nowhere/libmpi.so"]);
}

#[test]
fn an_engine_needs_a_launcher() {
    let lab = Lab::new();
    for engine in ["mpi", "nccl"] {
        let output = lab.try_train("a", &format!("--steps 1 --distributed {engine}"));
        assert_clear_error(&output, 2, &["--distributed", "mpirun"]);
    }
}

#[test]
fn one_process_of_a_launcher_trains_alone() {
    let lab = Lab::new();
    let output = promised(&lab, &[("RANK", "0"), ("WORLD_SIZE", "1")], "");
    assert!(output.status.success(), "{}", stderr(&output));
    let output = promised(
        &lab,
        &[("RANK", "0"), ("WORLD_SIZE", "2")],
        "--distributed off",
    );
    assert!(output.status.success(), "{}", stderr(&output));
}

#[track_caller]
fn assert_one_line(output: &std::process::Output, words: &[&str]) {
    let said = stderr(output);
    assert_ne!(output.status.code(), Some(0), "{said}");
    let errors: Vec<_> = said
        .lines()
        .filter(|line| line.contains("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{said}");
    for word in words {
        assert!(errors[0].contains(word), "no `{word}` in {said}");
    }
}

#[test]
fn what_is_wrong_on_all_ranks_or_on_one_is_said_once() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let tiny = |flags: &str| Lab::tiny("a", &format!("--steps 1 {flags}"));
    let missing = job.run(3, &tiny("--dataset-file nowhere.txt"));
    assert_one_line(&missing, &["nowhere.txt"]);
    assert_one_line(&job.run(2, &tiny("--no-such-flag")), &["--no-such-flag"]);
    assert_one_line(&job.run(2, &tiny("--batch-size 0")), &["--batch-size"]);
    assert_one_line(&job.run(2, &tiny("--resume")), &["nothing to resume"]);
    assert_one_line(&job.run(2, &tiny("--dataset-file -")), &["standard input"]);
    assert_one_line(&job.run(2, &tiny("--optimize batch")), &["--optimize"]);
    let (good, bad) = (tiny(""), tiny("--eval-file nowhere.txt"));
    let on_one = job.different(&[&good, &bad]).output().unwrap();
    assert_one_line(&on_one, &["nowhere.txt", "rank 1 ("]);
}

/// A rank that does not come, since it trains by itself or hangs.
#[test]
fn a_rank_that_does_not_come_is_an_error_in_time() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let flags = "--steps 1 --distributed-timeout 2";
    let (good, alone) = (
        Lab::tiny("a", flags),
        Lab::tiny("b", "--steps 1 --distributed off"),
    );
    let output = job.different(&[&good, &alone]).output().unwrap();
    assert_one_line(&output, &["not all ranks have come", "--distributed off"]);
}

#[test]
fn an_adapter_beside_other_weights_is_refused() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    let model = crate::decoders::folder("llama");
    lab.shell(&format!("cp -r {} other", model.display()));
    let path = lab.path("other/model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 64..].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let arguments = |model: &str| {
        format!(
            "finetune --model {model} --dataset-file text.txt --max-seq-len 16 --lora-rank 2 --steps 1 --device cpu \
             --save-dir a --tokenizer tokenizer.json --quiet"
        )
    };
    let (good, bad) = (arguments(&model.display().to_string()), arguments("other"));
    let output = job.different(&[&good, &bad]).output().unwrap();
    assert_one_line(&output, &["rank 1 (", "other weights"]);
}

#[test]
fn ranks_with_other_settings_or_another_text_are_refused() {
    let lab = Lab::new();
    let Some(job) = Job::in_lab(&lab) else { return };
    lab.write(
        "other.txt",
        "Another text, which is long enough. ".repeat(100),
    );
    let tiny = |flags: &str| Lab::tiny("a", &format!("--steps 1 {flags}"));
    let good = tiny("");
    for (flags, words) in [
        ("--dataset-file other.txt", ["rank 1 (", "dataset"]),
        ("--lr 0.5", ["rank 1 (", "--lr 0.5 instead of"]),
        ("--keep-best", ["rank 1 (", "--keep-best true"]),
        ("--eval-file other.txt", ["rank 1 (", "--eval-file"]),
        ("--hidden-size 64", ["rank 1 (", "--hidden-size 64"]),
    ] {
        let output = job.different(&[&good, &tiny(flags)]).output().unwrap();
        assert_one_line(&output, &words);
    }
}
