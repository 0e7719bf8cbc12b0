//! Several ranks in one process.

use super::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::{scope, sleep};

/// Longer than a busy machine leaves a thread alone.
const DEADLINE: Duration = Duration::from_millis(1200);

const LONG: Duration = Duration::from_secs(60);

fn options(size: usize, deadline: Duration) -> Options {
    let names = (0..size).map(|rank| format!("rank {rank} (host {rank})"));
    Options {
        deadline,
        ..Options::new(names.collect(), |_| {})
    }
}

fn joined(watch: &Watch, invitation: &Invitation, deadline: Duration) -> Vec<Watch> {
    let size = invitation.size;
    let mut all = vec![watch.clone()];
    scope(|scope| {
        let follow = |rank| Watch::follow(rank, invitation, options(size, deadline)).unwrap();
        let threads: Vec<_> = (1..size)
            .map(|rank| scope.spawn(move || follow(rank)))
            .collect();
        all.extend(threads.into_iter().map(|thread| thread.join().unwrap()));
    });
    watch.all_here(LONG).unwrap();
    all
}

fn job(size: usize, deadline: Duration) -> Vec<Watch> {
    let (watch, invitation) = Watch::lead(size, options(size, deadline)).unwrap();
    joined(&watch, &invitation, deadline)
}

/// The line, once there is one.
fn line(watch: &Watch, patience: Duration) -> String {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if let Some(line) = watch.failure() {
            return line;
        }
        sleep(Duration::from_millis(5));
    }
    panic!("nothing has failed");
}

fn all_say<'a>(watches: impl IntoIterator<Item = &'a Watch>, said: &str) {
    for watch in watches {
        let line = line(watch, Duration::from_secs(4));
        assert!(line.contains(said), "{line}");
    }
}

fn silence(watch: &Watch) {
    watch.0.0.mute.store(true, Ordering::Relaxed);
}

fn all_done(watches: &[Watch]) {
    scope(|scope| {
        for watch in watches {
            scope.spawn(|| watch.done());
        }
    });
}

#[test]
fn all_join_say_done_and_close_without_a_failure() {
    let mut watches = job(4, LONG);
    let began = Instant::now();
    all_done(&watches);
    assert!(began.elapsed() < Duration::from_secs(2));
    let last = watches.pop().unwrap();
    drop(watches);
    sleep(Duration::from_millis(100));
    assert_eq!(last.failure(), None);
}

#[test]
fn one_that_is_done_first_is_no_failure_to_the_others() {
    let mut watches = job(3, LONG);
    let second = watches.remove(1);
    second.done();
    drop(second);
    sleep(Duration::from_millis(200));
    assert!(watches.iter().all(|watch| watch.failure().is_none()));
    all_done(&watches);
    assert!(watches.iter().all(|watch| watch.failure().is_none()));
}

#[test]
fn a_job_of_one_has_nobody_to_watch() {
    let (watch, invitation) = Watch::lead(1, options(1, Duration::from_millis(50))).unwrap();
    assert!(invitation.addresses.is_empty());
    watch.all_here(Duration::ZERO).unwrap();
    sleep(Duration::from_millis(200));
    assert_eq!(watch.failure(), None);
    watch.done();
    assert!(Watch::lead(0, options(0, LONG)).is_err());
    assert!(Watch::follow(1, &invitation, options(1, LONG)).is_err());
}

#[test]
fn one_that_ends_without_goodbye_is_named_everywhere() {
    let mut watches = job(4, LONG);
    drop(watches.remove(2));
    all_say(&watches, "rank 2 (host 2) ended without a word");
}

#[test]
fn a_leader_that_ends_without_goodbye_is_named_everywhere() {
    let mut watches = job(3, LONG);
    drop(watches.remove(0));
    all_say(&watches, "rank 0 (host 0) ended without a word");
}

#[test]
fn one_that_is_silent_is_named_within_the_deadline() {
    let watches = job(3, DEADLINE);
    let guards: Vec<_> = watches.iter().map(Watch::waiting).collect();
    silence(&watches[1]);
    let began = Instant::now();
    all_say(
        [&watches[0], &watches[2]],
        "rank 1 (host 1) has not been heard of for 1.2 s",
    );
    assert!(began.elapsed() < DEADLINE * 2);
    drop(guards);
}

#[test]
fn a_leader_that_is_silent_is_named() {
    let watches = job(3, DEADLINE);
    silence(&watches[0]);
    all_say(
        &watches[1..],
        "rank 0 (host 0) has not been heard of for 1.2 s",
    );
    // It may only have been stopped, and hears of it when it goes on.
    all_say(
        &watches[..1],
        "rank 0 (host 0) has not been heard of for 1.2 s",
    );
}

#[test]
fn one_that_hangs_is_named_and_those_that_wait_for_it_are_not() {
    for hung in [0, 2] {
        let watches = job(3, DEADLINE);
        let others = watches.iter().enumerate().filter(|(rank, _)| *rank != hung);
        let guards: Vec<_> = others.map(|(_, watch)| watch.waiting()).collect();
        let said = format!("rank {hung} (host {hung}) has made no progress for 1.2 s");
        all_say(&watches, &said);
        drop(guards);
    }
}

#[test]
fn all_that_wait_for_each_other_end() {
    let watches = job(2, DEADLINE);
    let guards: Vec<_> = watches.iter().map(Watch::waiting).collect();
    all_say(&watches, "all ranks have waited for each other for 1.2 s");
    drop(guards);
}

#[test]
fn progress_and_an_end_are_no_failure() {
    let watches = job(3, DEADLINE);
    watches[2].done();
    for _ in 0..24 {
        watches[0].progress();
        watches[1].progress();
        sleep(Duration::from_millis(100));
    }
    assert!(watches.iter().all(|watch| watch.failure().is_none()));
}

#[test]
fn words_of_one_that_cannot_go_on_reach_all() {
    for rank in [0, 1] {
        let watches = job(3, LONG);
        let began = Instant::now();
        watches[rank].fail("the disk\nis full");
        assert!(began.elapsed() < Duration::from_secs(2));
        let said = watches[rank].failure().unwrap();
        assert_eq!(said, format!("rank {rank} (host {rank}): the disk is full"));
        // Rank 0 is told before `fail` returns.
        assert_eq!(watches[0].failure().as_ref(), Some(&said));
        all_say(&watches, &said);
        watches[2].fail("another");
        assert_eq!(watches[2].failure(), Some(said));
    }
}

#[test]
fn the_rank_that_is_gone_is_named_rather_than_the_one_that_noticed() {
    let mut watches = job(4, LONG);
    let gone = watches.remove(2);
    scope(|scope| {
        scope.spawn(|| watches[1].fail("the engine lost somebody"));
        sleep(Duration::from_millis(20));
        drop(gone);
    });
    all_say(&watches, "rank 2 (host 2) ended without a word");
}

#[test]
fn one_that_speaks_and_ends_is_known_by_its_words() {
    let mut watches = job(2, LONG);
    let last = watches.pop().unwrap();
    last.0.0.state().places[0].post(frame::Frame::Words("no memory".to_string()));
    sleep(Duration::from_millis(50));
    drop(last);
    all_say(&watches, "rank 1 (host 1): no memory");
}

/// With a watch whose own process is to end after a short grace.
fn graced(failing: impl FnOnce(&Watch, Watch)) -> Receiver<String> {
    let (sender, lines) = channel();
    let give_up = move |line: &str| sender.send(line.to_string()).unwrap();
    let names = options(2, LONG).names;
    let graced = Options {
        grace: Duration::from_millis(300),
        ..Options::new(names, give_up)
    };
    let (watch, invitation) = Watch::lead(2, graced).unwrap();
    let other = joined(&watch, &invitation, LONG).remove(1);
    failing(&watch, other);
    sleep(Duration::from_millis(900));
    lines
}

#[test]
fn a_process_that_does_not_end_after_a_failure_gives_up_once() {
    let lines = graced(|_, other| drop(other));
    let lines: Vec<_> = lines.iter().collect();
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].starts_with("rank 1 (host 1) ended"),
        "{}",
        lines[0]
    );
}

#[test]
fn a_process_that_ends_by_itself_after_a_failure_does_not_give_up() {
    let lines = graced(|watch, other| {
        drop(other);
        line(watch, LONG);
        watch.done();
    });
    assert_eq!(lines.iter().count(), 0);
}

#[test]
fn who_does_not_come_is_named_and_those_who_did_are_told() {
    let (watch, invitation) = Watch::lead(4, options(4, LONG)).unwrap();
    let second = Watch::follow(2, &invitation, options(4, LONG)).unwrap();
    let said = watch.all_here(Duration::from_millis(500)).unwrap_err();
    let expected = "rank 1 (host 1), rank 3 (host 3) have not joined within 0.5 s";
    assert_eq!(said.to_string(), expected);
    all_say([&second], expected);
}

#[test]
fn a_wrong_secret_is_refused_and_takes_nobodys_place() {
    let (watch, invitation) = Watch::lead(2, options(2, LONG)).unwrap();
    let mut wrong = invitation.clone();
    wrong.secret[0] ^= 1;
    let patience = Duration::from_millis(300);
    let refused = Watch::follow_within(patience, 1, &wrong, options(2, LONG));
    let said = refused.err().unwrap().to_string();
    assert!(said.contains("cannot reach rank 0"), "{said}");
    all_done(&joined(&watch, &invitation, LONG));
    assert_eq!(watch.failure(), None);
}

#[test]
fn a_leader_that_does_not_know_the_secret_is_passed_over() {
    let (watch, mut invitation) = Watch::lead(2, options(2, LONG)).unwrap();
    let (_other, another) = Watch::lead(2, options(2, LONG)).unwrap();
    invitation.addresses.insert(0, another.addresses[0]);
    all_done(&joined(&watch, &invitation, LONG));
}

#[test]
fn a_second_join_of_a_rank_is_refused_and_so_is_one_beyond_the_job() {
    let (watch, invitation) = Watch::lead(3, options(3, LONG)).unwrap();
    let first = Watch::follow(1, &invitation, options(3, LONG)).unwrap();
    let second = Watch::follow(1, &invitation, options(3, LONG))
        .err()
        .unwrap();
    assert!(
        second.to_string().contains("rank 1 was refused"),
        "{second}"
    );
    let mut larger = invitation.clone();
    larger.size = usize::MAX;
    for rank in [3, 70_000, usize::MAX - 1] {
        assert!(Watch::follow_within(Duration::ZERO, rank, &larger, options(3, LONG)).is_err());
    }
    assert_eq!(first.failure(), None);
    assert_eq!(watch.failure(), None);
}

/// Bytes that look like chance, the same in each run.
fn noise(seed: &AtomicU64, bytes: &mut [u8]) {
    for byte in bytes {
        let last = seed.load(Ordering::Relaxed);
        let next = last.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.store(next, Ordering::Relaxed);
        *byte = (next >> 56) as u8;
    }
}

#[test]
fn strangers_that_talk_or_keep_silent_do_no_harm() {
    let (watch, invitation) = Watch::lead(3, options(3, LONG)).unwrap();
    let seed = AtomicU64::new(7);
    let mut silent = Vec::new();
    for length in 0..200 {
        let mut stream = TcpStream::connect(invitation.addresses[0]).unwrap();
        let mut bytes = vec![0; length];
        noise(&seed, &mut bytes);
        if length % 2 == 0 {
            let hello = b"aios/w1\n\x01\0\0\0";
            let known = hello.len().min(length);
            bytes[..known].copy_from_slice(&hello[..known]);
        }
        let _ = stream.write_all(&bytes);
        if length % 10 == 0 {
            silent.push(stream);
        }
    }
    all_done(&joined(&watch, &invitation, LONG));
    assert_eq!(watch.failure(), None);
}

#[test]
fn a_stranger_is_told_nothing_but_a_nonce() {
    let (_watch, invitation) = Watch::lead(2, options(2, LONG)).unwrap();
    let mut stream = TcpStream::connect(invitation.addresses[0]).unwrap();
    let hello = [&b"aios/w1\n\x01\0\0\0"[..], &[7; 32], &[9; 32]].concat();
    stream.write_all(&hello).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer.len(), 32);
}

#[test]
fn a_rank_that_talks_nonsense_is_named() {
    let mut watches = job(2, LONG);
    let last = watches.pop().unwrap();
    let link = last.0.0.state().places[0].link.clone().unwrap();
    link.send(&[9; 64]).unwrap();
    all_say(
        &watches,
        "rank 1 (host 1) said something that means nothing here",
    );
}

#[test]
fn a_large_job_joins_and_ends() {
    let watches = job(32, LONG);
    all_done(&watches);
    assert!(watches.iter().all(|watch| watch.failure().is_none()));
}

#[test]
fn an_invitation_survives_writing_and_keeps_its_secret_from_logs() {
    let (_watch, invitation) = Watch::lead(2, options(2, LONG)).unwrap();
    let text = serde_json::to_string(&invitation).unwrap();
    let back: Invitation = serde_json::from_str(&text).unwrap();
    assert_eq!(back, invitation);
    assert!(!format!("{invitation:?}").contains("secret"));
}
