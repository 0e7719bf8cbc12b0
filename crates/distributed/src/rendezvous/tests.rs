//! Ranks that are threads, at ports of this host.

use super::place::{PORT, SECRET};
use super::*;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread::{ScopedJoinHandle, scope, sleep};
use std::time::Instant;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(700);

/// One that nobody listens at.
fn port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// As torchrun names it to ranks of several hosts.
fn place(port: u16, secret: &str, patience: Duration) -> Rendezvous {
    let port = port.to_string();
    let variables = [
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", &port),
        (SECRET, secret),
    ];
    of(&variables, patience)
}

/// As torchrun names it to ranks of one host.
fn here(port: u16, patience: Duration) -> Rendezvous {
    let port = port.to_string();
    let sizes = [("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")];
    of(&[&sizes[..], &[(PORT, &*port)]].concat(), patience)
}

fn of(variables: &[(&str, &str)], patience: Duration) -> Rendezvous {
    let place = Place::of(&|name| {
        let found = variables.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.to_string())
    });
    Rendezvous {
        place: place.unwrap(),
        patience,
    }
}

fn card(rank: usize) -> Vec<u8> {
    vec![rank as u8; rank * 3]
}

/// All ranks at once.
fn meet(at: &Rendezvous, size: usize) -> Vec<Result<Vec<Vec<u8>>>> {
    scope(|scope| {
        let each =
            (0..size).map(|rank| scope.spawn(move || at.exchange(rank, size, Ok(card(rank)))));
        let all: Vec<ScopedJoinHandle<_>> = each.collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

fn assert_met(all: Vec<Result<Vec<Vec<u8>>>>, size: usize) {
    let expected: Vec<_> = (0..size).map(card).collect();
    for got in all {
        assert_eq!(got.unwrap(), expected);
    }
}

fn said(got: Result<Vec<Vec<u8>>>) -> String {
    got.unwrap_err().to_string()
}

#[test]
fn each_gets_what_all_bring_and_the_next_job_does_at_once() {
    let port = port();
    let began = Instant::now();
    for size in [2, 5, 1, 3] {
        assert_met(meet(&place(port, "s", LONG), size), size);
    }
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn ranks_of_one_host_need_no_secret_and_leave_no_file() {
    let port = port();
    // What a job that was killed has left.
    std::fs::write(secret::file(port), "stale").unwrap();
    for _ in 0..2 {
        assert_met(meet(&here(port, LONG), 2), 2);
        assert!(!secret::file(port).exists());
    }
}

#[test]
fn some_may_come_late() {
    let at = &place(port(), "s", LONG);
    scope(|scope| {
        let others: Vec<_> = [1, 2]
            .map(|rank| scope.spawn(move || at.exchange(rank, 4, Ok(card(rank)))))
            .into();
        sleep(Duration::from_millis(500));
        let first = scope.spawn(|| at.exchange(0, 4, Ok(card(0))));
        sleep(Duration::from_millis(500));
        assert_met(vec![at.exchange(3, 4, Ok(card(3)))], 4);
        let all = others.into_iter().chain([first]);
        assert_met(all.map(|thread| thread.join().unwrap()).collect(), 4);
    });
}

#[test]
fn those_who_do_not_come_are_named_to_all() {
    let at = &place(port(), "s", SHORT);
    scope(|scope| {
        let other = scope.spawn(|| at.exchange(2, 4, Ok(vec![])));
        let expected = "rank 1, rank 3 have not joined within 0.7 s at localhost port";
        let line = said(at.exchange(0, 4, Ok(vec![])));
        assert!(line.starts_with(expected), "{line}");
        assert_eq!(said(other.join().unwrap()), line);
    });
}

#[test]
fn a_rank_0_that_does_not_come_is_named() {
    let line = said(place(port(), "s", SHORT).exchange(1, 2, Ok(vec![])));
    assert!(
        line.starts_with("rank 1 has not met rank 0 at localhost port"),
        "{line}"
    );
    let line = said(here(port(), SHORT).exchange(1, 2, Ok(vec![])));
    assert!(line.contains("aios-job-"), "{line}");
}

#[test]
fn words_of_one_that_cannot_go_on_reach_all() {
    for (bad, size) in [(3, 4), (0, 4), (0, 1)] {
        let at = &place(port(), "s", LONG);
        let brought = |rank| match rank == bad {
            true => Err("no GPU".to_string()),
            false => Ok(vec![]),
        };
        let began = Instant::now();
        scope(|scope| {
            let mut all = Vec::new();
            for rank in 0..size {
                sleep(Duration::from_millis(200));
                all.push(scope.spawn(move || at.exchange(rank, size, brought(rank))));
            }
            for thread in all {
                let line = said(thread.join().unwrap());
                assert!(line.ends_with("no GPU"), "{line}");
                assert!(
                    size == 1 || line.starts_with(&format!("rank {bad}: ")),
                    "{line}"
                );
            }
        });
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    // They are said rather than who else is not there.
    for rank in [0, 1] {
        let got = place(port(), "s", SHORT).exchange(rank, 2, Err("no GPU".into()));
        assert_eq!(said(got), format!("rank {rank}: no GPU"));
    }
}

#[test]
fn one_without_the_secret_has_no_place() {
    let port = port();
    let (right, wrong) = (
        &place(port, "s", Duration::from_secs(5)),
        &place(port, "t", SHORT),
    );
    scope(|scope| {
        let first = scope.spawn(|| right.exchange(0, 2, Ok(card(0))));
        let line = said(wrong.exchange(1, 2, Ok(card(1))));
        assert!(
            line.contains("is AIOS_JOB_SECRET the same on all hosts?"),
            "{line}"
        );
        assert_met(vec![right.exchange(1, 2, Ok(card(1)))], 2);
        assert_met(vec![first.join().unwrap()], 2);
    });
}

#[test]
fn strangers_that_talk_or_keep_silent_do_no_harm() {
    let port = port();
    let at = &place(port, "s", LONG);
    scope(|scope| {
        let first = scope.spawn(|| at.exchange(0, 2, Ok(card(0))));
        sleep(Duration::from_millis(200));
        let mut silent = Vec::new();
        for length in 0_u8..100 {
            let mut stream = TcpStream::connect(("localhost", port)).unwrap();
            let _ = stream.write_all(&vec![length; usize::from(length)]);
            if length % 10 == 0 {
                silent.push(stream);
            }
        }
        assert_met(vec![at.exchange(1, 2, Ok(card(1)))], 2);
        assert_met(vec![first.join().unwrap()], 2);
    });
}

#[test]
fn one_that_is_started_again_takes_its_own_place() {
    let port = port();
    let at = &place(port, "s", LONG);
    scope(|scope| {
        let first = scope.spawn(|| at.exchange(0, 3, Ok(card(0))));
        sleep(Duration::from_millis(200));
        let key = at.place.key("s").unwrap();
        let stream = TcpStream::connect(("localhost", port)).unwrap();
        assert!(crate::handshake::join(&stream, &key, 1).unwrap());
        message::send(&stream, &Ok(vec![])).unwrap();
        drop(stream);
        let again = scope.spawn(|| at.exchange(1, 3, Ok(card(1))));
        assert_met(vec![at.exchange(2, 3, Ok(card(2)))], 3);
        assert_met(vec![again.join().unwrap(), first.join().unwrap()], 3);
    });
}

#[test]
fn a_port_that_another_program_has_is_named() {
    let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let line = said(place(port, "s", LONG).exchange(0, 2, Ok(vec![])));
    assert!(
        line.contains(&format!("port {port}")) && line.contains(PORT),
        "{line}"
    );
}
