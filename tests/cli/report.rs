//! `aios report` of real runs.

use crate::common::lab::{Lab, assert_clear_error, stderr};
use std::fs;

#[test]
fn a_run_is_named_by_its_file_its_bundle_or_its_brain() {
    let lab = Lab::new();
    lab.train("a", "--steps 3 --sample-every 2");
    lab.train("b", "--steps 2 --lr 0.5");
    for run in ["a.jsonl", "brains/a", "a --bundle-dir brains"] {
        lab.succeed(&format!("report {run} b.jsonl"));
        let page = fs::read_to_string(lab.path("report.html")).unwrap();
        assert!(page.contains("<title>2 runs</title>"), "{run}");
        assert!(page.contains("[\"lr\",\"0.0002\",\"0.5\"]"), "{run}");
        fs::remove_file(lab.path("report.html")).unwrap();
    }
    lab.succeed("report a.jsonl a.jsonl -o once.html");
    let page = fs::read_to_string(lab.path("once.html")).unwrap();
    assert!(page.contains("<title>a</title>"));
}

#[test]
fn what_cannot_be_reported_is_said() {
    let lab = Lab::new();
    lab.train("a", "--steps 1");
    lab.succeed(&Lab::tiny("silent", "--steps 1").replace("--log-file silent.jsonl", ""));
    lab.write("empty.jsonl", "");
    for (arguments, code, says) in [
        ("report", 2, "RUN"),
        ("report nowhere", 1, "no brain nowhere"),
        ("report a.jsonl nowhere.jsonl", 1, "nowhere.jsonl"),
        ("report empty.jsonl", 1, "no run in empty.jsonl"),
        ("report text.txt", 1, "no run in text.txt"),
        ("report brains/silent", 1, "--log-file"),
        ("report a.jsonl -o a.jsonl", 2, "name another file"),
        ("report a.jsonl -o missing/a.html", 1, "missing/a.html"),
        ("report a.jsonl --port 1", 2, "--watch"),
        ("report a.jsonl --watch -o a.html", 2, "--watch"),
    ] {
        let output = lab.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(said.contains(says), "{arguments}: {said}");
    }
}

const START: &str = "{\"event\":\"start\"}\n";

fn steps(count: usize) -> String {
    let step = |n| format!("{{\"event\":\"step\",\"step\":{n},\"ce\":{n}.5,\"skipped\":true}}\n");
    START.to_string() + &(1..=count).map(step).collect::<String>()
}

#[test]
fn nothing_but_a_report_is_written_over() {
    let lab = Lab::new();
    lab.write("a.jsonl", steps(2));
    lab.write("empty", "");
    fs::create_dir(lab.path("folder")).unwrap();
    let before = fs::read(lab.path("text.txt")).unwrap();
    for (place, says) in [
        ("text.txt", "no report of aios"),
        ("tokenizer.json", "no report of aios"),
        ("empty", "no report of aios"),
        ("folder", "is a directory"),
    ] {
        let output = lab.run(&format!("report a.jsonl -o {place}"));
        assert_clear_error(&output, 2, &[place, says, "name"]);
    }
    assert!(fs::read(lab.path("text.txt")).unwrap() == before);
    for _ in 0..2 {
        lab.succeed("report a.jsonl -o page.html");
    }
    let left = fs::read_dir(lab.path(".")).unwrap();
    assert_eq!(left.count(), 6, "nothing stays aside");
}

#[cfg(unix)]
#[test]
fn links_pipes_and_devices_are_no_place_for_a_report() {
    let lab = Lab::new();
    lab.write("a.jsonl", steps(2));
    lab.shell("ln -s text.txt link; ln -s nowhere broken; mkfifo pipe");
    for (place, code, says) in [
        ("link", 2, "no report of aios"),
        ("broken", 1, "link to nowhere, which is missing"),
        ("broken/page.html", 1, "link to nowhere, which is missing"),
        ("pipe", 2, "is a pipe"),
        ("/dev/null", 2, "is a device"),
    ] {
        let output = lab.run(&format!("report a.jsonl -o {place}"));
        assert_clear_error(&output, code, &[place, says]);
    }
}

/// A limit on the length of files is as good as a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_report() {
    let lab = Lab::new();
    lab.write("a.jsonl", steps(2));
    lab.succeed("report a.jsonl -o page.html");
    let page = fs::read(lab.path("page.html")).unwrap();
    let output = lab.run_behind("trap '' XFSZ; ulimit -f 8", "report a.jsonl -o page.html");
    assert_clear_error(&output, 1, &["cannot write the report to page.html"]);
    assert!(fs::read(lab.path("page.html")).unwrap() == page);
    assert_eq!(fs::read_dir(lab.path(".")).unwrap().count(), 4);
}

#[cfg(unix)]
#[test]
fn pipes_and_devices_are_not_waited_for() {
    let lab = Lab::new();
    lab.shell("mkfifo pipe");
    for (run, says) in [("pipe", "is a pipe"), ("/dev/zero", "is a device")] {
        for watch in ["", "--watch --port 0"] {
            let output = lab.run(&format!("report {run} {watch}"));
            assert_clear_error(&output, 1, &[run, says]);
        }
    }
    lab.train("a", "--steps 1");
    lab.shell("rm a.jsonl; mkfifo a.jsonl");
    let output = lab.run("report brains/a");
    assert_clear_error(&output, 1, &["a.jsonl", "is a pipe"]);
    lab.shell("rm a.jsonl; ln -s nowhere a.jsonl");
    let output = lab.run("report a.jsonl");
    assert_clear_error(
        &output,
        1,
        &["a.jsonl", "link to nowhere, which is missing"],
    );
}

#[test]
fn what_is_no_metrics_file_is_told_however_large() {
    let lab = Lab::new();
    let mut noise: Vec<u8> = (0..3_000_000_u32)
        .map(|i| (i.wrapping_mul(i) >> 7) as u8)
        .collect();
    lab.write("noise", &noise);
    noise.retain(|byte| *byte != b'\n');
    lab.write("line", noise.repeat(8));
    for run in ["noise", "line"] {
        let output = lab.run(&format!("report {run}"));
        assert_clear_error(&output, 1, &["no run in", run, "--log-file"]);
    }
}

#[test]
fn a_page_of_very_many_steps_is_thinned_and_says_so() {
    let lab = Lab::new();
    lab.write("long.jsonl", steps(20_000));
    let said = lab.run("report long.jsonl");
    let page = fs::read_to_string(lab.path("report.html")).unwrap();
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    for text in [&stderr(&said), &page] {
        assert!(text.contains("Not all is shown"), "{text}");
        assert!(
            text.contains("of 20000 steps, 300 of 20000 events"),
            "{text}"
        );
    }
    assert!(page.contains("20000, 20000 of them skipped"));
}

/// What no client can prevent: that another one is answered, and that Ctrl-C ends it.
#[cfg(unix)]
#[test]
fn a_served_report_is_there_for_everybody_until_ctrl_c() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpStream;
    use std::os::unix::process::ExitStatusExt;
    let lab = Lab::new();
    lab.write("a.jsonl", steps(2));
    let mut command = lab.command("report a.jsonl --watch --port 0");
    let mut server = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(server.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("http://").unwrap();
    let address = address.strip_suffix('/').unwrap();
    let say = |words: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(words.as_bytes()).unwrap();
        stream
    };
    let _silent: Vec<_> = (0..200).map(|_| say("")).collect();
    let _slow = say("GET / HT");
    let _owing = say("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n");
    let mut page = String::new();
    say("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .read_to_string(&mut page)
        .unwrap();
    assert!(page.starts_with("HTTP/1.1 200 OK\r\n"), "{page}");
    assert!(page.contains("<title>a</title>"));
    lab.shell(&format!("kill -INT {}", server.id()));
    let status = server.wait().unwrap();
    assert!(status.signal() == Some(2) || status.success(), "{status}");
}
