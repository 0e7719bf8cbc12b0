//! The ways a run ends, and that it goes on until then.

use crate::common::lab::{Events, Lab};

#[cfg(unix)]
#[test]
fn a_second_interrupt_leaves_at_once() {
    let lab = Lab::new();
    lab.write("big.txt", "All work and no play. ".repeat(2000));
    // Both signals come while the second step's one micro-batch computes, which takes far longer.
    let slow =
        "--dataset-file big.txt --steps 9 --batch-size 512 --max-seq-len 64 --halt-max-steps 3";
    let mut command = lab.command(&Lab::tiny("a", slow));
    command.env("RAYON_NUM_THREADS", "1");
    let mut run = lab.start_command("a", command);
    run.wait_for_step(1);
    run.signal("sleep 0.1; kill -INT $PID; sleep 0.1; kill -INT $PID");
    assert_eq!(run.exit_code(), Some(130));
    assert!(lab.events("a").of("end").is_empty());
}

/// Standard error that nobody reads, that is closed, or that is on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn nobody_has_to_read_what_it_says() {
    let lab = Lab::new();
    let loud = Lab::tiny(
        "NAME",
        "--steps 9 --no-quiet --amp --amp-dtype f16 --lr 10 --json",
    );
    for (name, redirection) in [
        ("full", "2>/dev/full"),
        ("closed", "2>&-"),
        ("both", ">/dev/full 2>&1"),
        ("pipe", "2>&1 | true"),
        ("resumed", "2>&1 | true"),
    ] {
        let resume = if name == "resumed" {
            "--resume --steps 12"
        } else {
            ""
        };
        let name = if name == "resumed" { "pipe" } else { name };
        let line = format!(
            "\"$0\" {} {resume} {redirection}",
            loud.replace("NAME", name)
        );
        let program = lab.command("");
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &line])
            .arg(program.get_program())
            .current_dir(lab.path(""))
            .env("AIOS_CACHE_DIR", lab.path("cache"));
        crate::common::lab::finish(shell);
        let step = if resume.is_empty() { 9 } else { 12 };
        let saved = lab.brain(name).join(format!("checkpoints/step-{step:06}"));
        assert!(saved.is_dir(), "{name} {resume}");
    }
}

/// As nohup starts it: the terminal that closes is nothing to it.
#[cfg(unix)]
#[test]
fn what_was_ignored_at_the_start_stays_ignored() {
    let lab = Lab::new();
    for (name, signal, flags) in [
        ("hup", "HUP", ""),
        ("alone", "HUP", "--no-supervise"),
        ("int", "INT", ""),
        ("int-alone", "INT", "--no-supervise"),
    ] {
        let line = Lab::tiny(name, &format!("--steps 300 --save-every 0 {flags}"));
        let program = lab.command("");
        let mut shell = std::process::Command::new("sh");
        shell
            .args(["-c", &format!("trap '' {signal}; exec \"$0\" {line}")])
            .arg(program.get_program())
            .current_dir(lab.path(""))
            .env("AIOS_CACHE_DIR", lab.path("cache"));
        let mut run = lab.start_command(name, shell);
        run.wait_for_step(2);
        let trainer = lab.trainer(name);
        run.signal(&format!("kill -{signal} $PID {trainer}"));
        assert_eq!(run.exit_code(), Some(0));
        assert_eq!(lab.events(name).end()["reason"], "done", "{name}");
    }
}

/// Nothing would be lost: loading, tokenizing and the like end at once.
#[cfg(unix)]
#[test]
fn before_the_first_step_it_leaves_at_once() {
    let lab = Lab::new();
    lab.write(
        "big.txt",
        "All work and no play makes Jack a dull boy. ".repeat(4_000_000),
    );
    for flags in ["", "--no-supervise"] {
        let run = lab.start("a", &format!("--dataset-file big.txt --steps 1 {flags}"));
        std::thread::sleep(std::time::Duration::from_millis(400));
        let started = std::time::Instant::now();
        run.signal("kill -TERM $PID");
        let output = run.output();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{text}");
        assert!(started.elapsed().as_secs() < 3, "{:?}", started.elapsed());
        assert!(text.contains("stopp"), "{text}");
        let left = std::fs::read_dir(lab.path("cache")).into_iter().flatten();
        assert_eq!(left.count(), 0, "parts of a cache are left");
    }
}

/// A step that takes far longer than anybody waits, and nothing saved or to save.
#[cfg(unix)]
#[test]
fn in_the_first_step_it_leaves_at_once() {
    let lab = Lab::new();
    lab.write("big.txt", "All work and no play. ".repeat(20000));
    let flags = "--dataset-file big.txt --steps 9 --batch-size 1024 --max-seq-len 128";
    let mut run = lab.start("a", flags);
    run.wait_for("\"event\":\"start\"");
    let started = std::time::Instant::now();
    run.signal("kill -TERM $PID");
    assert_eq!(run.exit_code(), Some(0));
    assert!(started.elapsed().as_secs() < 3, "{:?}", started.elapsed());
    let events = lab.events("a");
    assert_eq!(events.end()["reason"], "interrupted");
    assert!(events.of("step").is_empty());
}

#[test]
fn an_epoch() {
    let lab = Lab::new();
    let count = |events: &Events| events.of("step").len();
    let one = lab.train("a", "--steps 100000 --stop-after-epoch");
    assert_eq!(one.end()["reason"], "epoch_end");
    let tokens = one.end()["tokens"].as_u64().unwrap();
    let size = std::fs::metadata(lab.path("text.txt")).unwrap().len();
    // Bytes are tokens here, less line ends; a last window that is not full is left out.
    assert!(tokens.abs_diff(size) < 100, "{tokens} tokens of {size}");
    assert_eq!(count(&one) as u64, tokens / 32);
    // Half the epoch lies before the offset.
    let windows = tokens / 16;
    let half = format!("--dataset-start-offset {}", windows / 2);
    let half = lab.train("b", &format!("--steps 100000 --stop-after-epoch {half}"));
    assert!(count(&half).abs_diff(count(&one) / 2) <= 1);
}

#[test]
fn iterating_until_a_stop_file_appears() {
    let lab = Lab::new();
    let mut run = lab.start("a", "--steps 3 --iterate --stop-file stop --lr 1e-3");
    run.wait_for_step(7);
    lab.write("stop", "");
    assert_eq!(run.exit_code(), Some(0));
    let events = lab.events("a");
    assert_eq!(events.end()["reason"], "stop_file");
    let saved = events.field("checkpoint", "step");
    assert!(saved.len() >= 3 && saved[..2] == [3, 6], "{saved:?}");
    // Each cycle has its own schedule.
    let rates = events.steps("learning_rate");
    assert_eq!(rates[..3], rates[3..6]);
}

/// A decay that no 32-bit float survives.
#[test]
fn numbers_that_are_not_finite_are_skipped_and_counted() {
    let lab = Lab::new();
    let flags =
        "--steps 60 --weight-decay 1e38 --warmup-steps 2 --grad-clip 0 --lr-schedule constant";
    let output = lab.try_train("a", flags);
    crate::common::lab::assert_clear_error(&output, 1, &["finite", "lower --lr than"]);
    let events = lab.events("a");
    let skipped = events.field("step", "skipped");
    let skipped = skipped.iter().filter(|s| **s == true).count();
    assert!(skipped > 0);
    assert_eq!(events.end()["skipped_steps"], skipped);
    assert_eq!(events.end()["reason"].as_str().unwrap().lines().count(), 1);
}
