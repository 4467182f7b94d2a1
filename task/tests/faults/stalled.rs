//! Runs whose outputs nobody reads, and whose log somebody holds. A signal ends them all the same: at once, by that
//! signal, with nothing left.

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, fcntl_getfl, fcntl_setfl, flock};
use rustix::process::Signal;

use crate::house::{ANSWER, Ended, House, NUMBERS, Run, until};

/// Much more than a run takes to end, much less than a limit that is waited out.
const PROMPT: Duration = Duration::from_secs(5);
/// Tries to come in time.
const TRIES: usize = 100;

/// A pipe that takes nothing more.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

/// Starts a run with this output (1 or 2) full, waits until it is stuck there, and terminates it.
fn terminated_when_stuck(house: &House, descriptor: i32, mut command: Command) -> Ended {
    let (_reader, writer) = full_pipe();
    let run = Run::start_with(&mut command, |command| match descriptor {
        1 => command.stdout(writer),
        _ => command.stderr(writer),
    });
    let task = run.pid();
    run.waits_to_write_to(descriptor);
    let sent = Instant::now();
    run.signal(Signal::TERM);
    let ended = run.end();
    let took = ended.at - sent;
    assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()), "{ended}");
    assert!(took < PROMPT, "it took {took:?} to end {ended}");
    house.gone(task, ended.at);
    assert!(house.left().is_empty(), "{:?} is left of {ended}", house.left());
    ended
}

#[test]
fn a_run_whose_answer_nobody_reads_is_terminated() {
    let house = House::new();
    terminated_when_stuck(&house, 1, house.task(&NUMBERS));
    terminated_when_stuck(&house, 1, house.task(&["--json", "1", "2"]));
}

#[test]
fn a_run_whose_notes_nobody_reads_is_terminated() {
    let house = House::new();
    // That the sample is used, and that a value is missing.
    terminated_when_stuck(&house, 2, house.task(&[]));
    let ended = terminated_when_stuck(&house, 2, house.task(&["--missing", "skip", "1", "NA", "3"]));
    assert_eq!(ended.stdout, "", "the note comes before the answer");
}

#[test]
fn a_run_that_reads_standard_input_and_cannot_say_so_is_terminated() {
    let house = House::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut command = house.task(&[]);
    command.stdin(reader);
    terminated_when_stuck(&house, 2, command);
}

#[test]
fn a_run_that_has_failed_and_cannot_say_so_is_terminated() {
    let house = House::new();
    let file = house.path("bad.txt");
    fs::write(&file, "1 2\n3 x\n").unwrap();
    for flags in [&[][..], &["--json"]] {
        let mut command = house.task(flags);
        command.arg(&file);
        terminated_when_stuck(&house, 2, command);
        // In the arguments, seen before there is anything to clean up.
        terminated_when_stuck(&house, 2, house.task(&[flags, &["1", "x"]].concat()));
    }
}

/// The log comes last, when nothing is left to be cleaned up.
#[test]
fn a_run_that_waits_for_the_log_is_terminated() {
    let house = House::new();
    Run::start(&mut house.task(&NUMBERS)).end().expect(0, ANSWER);
    let log = File::options().append(true).open(house.path("state/task/log/runs.jsonl")).unwrap();
    for _ in 0..TRIES {
        flock(&log, FlockOperation::LockExclusive).unwrap();
        let run = Run::start(&mut house.task(&NUMBERS));
        until("the answer is there", || (run.stdout() == ANSWER).then_some(()));
        until("its directory is gone", || house.left().is_empty().then_some(()));
        // Stopped, it cannot end before the signal is there.
        run.signal(Signal::STOP);
        let in_time = until("it is stopped or has ended", || {
            if run.is_stopped() { Some(true) } else { run.ends_within(Duration::ZERO).then_some(false) }
        });
        run.signal(Signal::TERM);
        run.signal(Signal::CONT);
        flock(&log, FlockOperation::Unlock).unwrap();
        let ended = run.end();
        if in_time {
            assert_eq!(ended.signal(), Some(Signal::TERM.as_raw()), "{ended}");
            return;
        }
        ended.expect(0, ANSWER);
    }
    panic!("every run ended too early");
}
