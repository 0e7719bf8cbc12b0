//! Settings that make no sense, and devices that are not there.

use crate::common::lab::{Lab, assert_clear_error, stderr};
use aios_device as backend;

#[test]
fn heads_that_do_not_divide_the_hidden_size() {
    let output = Lab::new().try_train("a", "--hidden-size 32 --num-heads 5");
    assert_clear_error(
        &output,
        2,
        &["--num-heads 5", "--hidden-size 32", "use --num-heads 4"],
    );
}

#[test]
fn odd_heads_with_rope() {
    let lab = Lab::new();
    let odd = "--hidden-size 30 --num-heads 2 --steps 1";
    let output = lab.try_train("a", odd);
    assert_clear_error(&output, 2, &["15", "rope", "--pos-encodings learned"]);
    lab.train("a", &format!("{odd} --pos-encodings learned"));
}

#[test]
fn zero_steps() {
    let output = Lab::new().try_train("a", "--steps 0");
    assert_clear_error(&output, 2, &["--steps is 0", "at least 1"]);
}

#[test]
fn unknown_key_in_a_configuration() {
    let lab = Lab::new();
    lab.write("run.toml", "steps = 3\nbatchsize = 4\n");
    let output = lab.try_train("a", "--config run.toml");
    let words = ["run.toml", "`batchsize`", "`batch_size`"];
    assert_clear_error(&output, 2, &words);
}

#[test]
fn value_of_another_type_in_a_configuration() {
    let lab = Lab::new();
    lab.write("run.toml", "steps = \"many\"\n");
    let output = lab.try_train("a", "--config run.toml");
    assert_clear_error(&output, 2, &["run.toml", "steps", "many"]);
}

#[test]
fn flags_override_the_configuration() {
    let lab = Lab::new();
    lab.write("run.toml", "steps = 3\nseed = 5\n");
    let events = lab.train("a", "--config run.toml --steps 1");
    let config = &events.of("start")[0]["config"];
    assert_eq!((&config["steps"], &config["seed"]), (&1.into(), &5.into()));
    assert_eq!(events.of("step").len(), 1);
}

/// Flags, a line of a file, and a run that goes on alike.
#[test]
fn what_does_nothing_is_said_once() {
    let lab = Lab::new();
    lab.write("run.toml", "eval_every = 7\n");
    let output = lab.try_train("a", "--steps 1 --config run.toml --dataset-chunk-size 9");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    for words in [
        "--eval-every has no effect without --eval-file or --eval-split",
        "--dataset-chunk-size has no effect without --no-linear-dataset",
    ] {
        assert_eq!(text.matches(words).count(), 1, "{text}");
    }
    assert_eq!(text.matches("has no effect").count(), 2, "{text}");
    let flags = "--steps 2 --resume --dataset-start-offset 1";
    let text = stderr(&lab.try_train("a", flags));
    let words = "--dataset-start-offset has no effect on a resumed run";
    assert_eq!(text.matches(words).count(), 1, "{text}");
}

#[test]
fn commands_do_not_take_what_they_have_no_use_for() {
    let lab = Lab::new();
    for (line, word) in [
        ("hrm-hf arch-summary --memory-limit 1GiB", "--memory-limit"),
        ("hrm-hf arch-summary --no-supervise", "--no-supervise"),
        ("bench memory --amp", "--rows"),
        ("bench context --max-seq-len 64", "--seq-lens"),
    ] {
        let output = lab.run(line);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{line}: {text}");
        assert!(text.contains(word), "{line}: {text}");
    }
    let output = lab.run("hrm-hf arch-summary --chunk-size 64");
    let words = "--chunk-size has no effect without --use-chunked-training";
    let text = stderr(&output);
    assert!(output.status.success() && text.contains(words), "{text}");
}

#[test]
fn unknown_flags_and_values_are_bad_arguments() {
    let lab = Lab::new();
    for line in [
        "hrm-hf",
        "fly",
        "train --stepz 3",
        "train --device gpu",
        "train --steps many",
    ] {
        let output = lab.run(line);
        assert_eq!(output.status.code(), Some(2), "{line}: {}", stderr(&output));
    }
}

#[test]
fn cuda_where_there_is_none() {
    if backend::enumerate().cuda.is_ok() {
        eprintln!("skipped: this machine has CUDA");
        return;
    }
    let output = Lab::new().try_train("a", "--device cuda");
    assert_clear_error(&output, 2, &["--device cuda", "--device auto"]);
}

#[test]
fn wgpu_adapter_that_does_not_exist() {
    let output = Lab::new().try_train("a", "--device wgpu:99");
    assert_clear_error(&output, 2, &["--device wgpu"]);
}

#[test]
fn automatic_choice_without_a_gpu_is_the_cpu_and_says_why() {
    let picked = backend::select(&aios_base::config::DeviceChoice::Auto).unwrap();
    if picked.adapter.kind != backend::Kind::Cpu {
        eprintln!("skipped: this machine has a GPU");
        return;
    }
    let lab = Lab::new();
    let output = lab.try_train("a", "--steps 1 --device auto --no-quiet");
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("no CUDA"), "{text}");
    assert_eq!(lab.events("a").of("start")[0]["backend"], "cpu");
}
