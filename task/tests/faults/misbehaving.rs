//! Workers that misbehave, each a program in `task/examples`. The run says what is wrong and ends in time, with nothing
//! left.

use std::time::Duration;

use rustix::process::Signal;

use crate::house::{CANNED, Ended, House, NUMBERS, Run, figure, kill, processes, until};

/// Time for a run whose worker is no reason to wait: much more than it takes, much less than a limit that is waited out.
const PROMPT: Duration = Duration::from_secs(5);

/// Runs `task 3 1 3 1 2` with this worker to its end; nothing may be left.
fn run(worker: &str, flags: &[&str]) -> (House, Ended) {
    let house = House::new();
    let run = Run::start(house.task_with(worker, flags).args(NUMBERS));
    let task = run.pid();
    let ended = run.end();
    assert_nothing_left(&house, task, &ended);
    (house, ended)
}

#[track_caller]
fn assert_nothing_left(house: &House, task: u32, ended: &Ended) {
    assert_eq!(house.left(), [""; 0].map(Into::<std::path::PathBuf>::into), "after {ended}");
    let living = house.processes(task);
    assert!(living.is_empty(), "{living:?} outlived {ended}");
}

#[test]
fn a_worker_that_dies_at_once_is_named_with_its_status_and_its_last_words() {
    // Where warnings show, the words have been shown when they were said.
    for flags in [&[][..], &["-q"]] {
        let (_, ended) = run("dies_at_once", flags);
        ended.expect(1, "").says(&["cannot start", "dies_at_once: exited 3 before it was ready"]);
        for words in ["reading the configuration", "no such table: "] {
            assert_eq!(ended.stderr.matches(words).count(), 1, "{words:?} in {ended}");
        }
        assert!(!ended.stderr.contains('\x1b'), "its words must not steer the terminal: {ended}");
        assert!(ended.took < PROMPT, "its exit says enough: {ended}");
    }
}

#[test]
fn a_worker_that_crashes_before_ready_is_named_with_its_signal() {
    let (_, ended) = run("dies_by_signal", &["--json"]);
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "cannot_start");
    assert!(error["message"].as_str().unwrap().contains("killed by SIGABRT before it was ready"), "{ended}");
    assert!(error["stderr"].to_string().contains("free(): invalid pointer"), "{ended}");
    assert!(ended.took < PROMPT, "{ended}");
}

#[test]
fn a_worker_that_is_not_there_is_named() {
    let house = House::new();
    let ended = Run::start(house.task(&["--rpc-bin", "/nonexistent/task-rpc"]).args(NUMBERS)).end();
    ended.expect(1, "").says(&["/nonexistent/task-rpc", "No such file or directory"]);
    assert!(house.left().is_empty(), "{ended}");
}

#[test]
fn a_worker_that_never_gets_ready_is_killed_after_the_start_limit() {
    let (_, ended) = run("mute", &["-q"]);
    ended
        .expect(1, "")
        .says(&["mute: was not ready within 10s, so it was killed", "| waiting for the file server"]);
    assert!(ended.took >= Duration::from_secs(10), "{ended}");
}

#[test]
fn ctrl_c_ends_a_run_whose_worker_never_gets_ready() {
    let house = House::new();
    let run = Run::start(house.task_with("mute", &[]).args(NUMBERS));
    let task = run.pid();
    run.worker(None);
    run.signal(Signal::INT);
    let ended = run.end();
    assert_eq!(ended.signal(), Some(Signal::INT.as_raw()), "{ended}");
    assert!(ended.took < PROMPT, "it asked for nothing that could be drained: {ended}");
    assert_nothing_left(&house, task, &ended);
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_after_the_drain_limit_and_its_socket_is_gone_before() {
    let house = House::new();
    let run = Run::start(house.task_with("ignores_sigterm", &["--only", "mean"]).args(NUMBERS));
    let task = run.pid();
    let worker = run.worker(None);
    until("the answer is there", || (run.stdout() == "42\n").then_some(()));
    until("the socket is gone", || house.sockets().is_empty().then_some(()));
    assert_eq!(house.processes(task), [worker], "it must have been gone while the worker drains");
    let ended = run.end();
    ended.expect(0, "42\n");
    assert!(ended.took >= Duration::from_secs(10), "{ended}");
    assert_nothing_left(&house, task, &ended);
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_a_worker_that_ignores_sigterm() {
    let house = House::new();
    let run = Run::start(house.task_with("ignores_sigterm", &["--only", "mean"]).args(NUMBERS));
    let task = run.pid();
    until("the answer is there", || (run.stdout() == "42\n").then_some(()));
    run.signal(Signal::INT);
    until("the socket is gone", || house.sockets().is_empty().then_some(()));
    // Two signals of one kind that wait at once are one: the first must have been taken before the second comes.
    while !run_has_ended_after_another_int(&run) {}
    let ended = run.end();
    assert_eq!(ended.signal(), Some(Signal::INT.as_raw()), "{ended}");
    assert!(ended.took < PROMPT, "{ended}");
    assert_nothing_left(&house, task, &ended);
}

fn run_has_ended_after_another_int(run: &Run) -> bool {
    run.signal(Signal::INT);
    run.ends_within(Duration::from_millis(20))
}

#[test]
fn a_flood_on_standard_error_costs_neither_the_answer_nor_memory() {
    let house = House::new();
    let run = Run::start(house.task_with("floods_stderr", &["-q"]).args(NUMBERS));
    let task = run.pid();
    // Figures of a process are gone with it: the last look before its end counts, and the peak only grows.
    let mut peak = 0;
    until("the flood is over", || {
        peak = figure(task, "status", "VmHWM").unwrap_or(peak).max(peak);
        assert!(peak < 20_000, "VmHWM is {peak} kB");
        run.ends_within(Duration::ZERO).then_some(())
    });
    let ended = run.end();
    println!("200 MB of stderr in {:?}, VmHWM {peak} kB", ended.took);
    ended.expect(0, CANNED);
    assert!(peak > 0, "it was looked at while it ran");
    assert_nothing_left(&house, task, &ended);
    let log = house.log();
    let last = "that was the flood";
    assert!(log.iter().any(|record| record["message"] == last), "the end of a flood is kept");
    let dropped = log.iter().find_map(|record| record["fields"]["dropped"].as_u64());
    assert!(dropped.is_some_and(|lines| lines > 3_000_000), "{dropped:?} lines were counted as dropped");
}

#[test]
fn a_flood_on_standard_output_does_not_reach_ours() {
    let (_, ended) = run("floods_stdout", &[]);
    ended.expect(0, CANNED);
    println!("100 MB of stdout in {:?}", ended.took);
}

#[test]
fn odd_bytes_of_a_worker_are_kept_and_never_steer_a_terminal() {
    let (house, ended) = run("odd_bytes", &["-vv"]);
    ended.expect(0, CANNED).says(&["no UTF-8"]);
    let steering = |c: char| {
        c != '\n' && (c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    assert!(!ended.stderr.contains(steering), "{:?}", ended.stderr.find(steering));
    let log = house.log();
    let of =
        |text: &str| log.iter().find(|record| record["message"].as_str().unwrap().contains(text)).cloned();
    let no_utf8 = of("no UTF-8").unwrap();
    assert_eq!(no_utf8["escaped"], true);
    assert_eq!(no_utf8["message"], "no UTF-8: \\xff\\xfe\\x80 and a NUL \0 and half a letter \\xe2\\x82");
    assert!(of("clears the screen").is_some() && of("in JSON").is_some());
    let endless = log.iter().filter(|record| record["message"].as_str().unwrap().ends_with("eeee"));
    let longest = endless.map(|record| record["message"].as_str().unwrap().len()).max();
    assert_eq!(longest, Some(16 * 1024), "an endless line is kept in parts");
}

#[test]
fn grandchildren_that_hold_the_output_keep_nobody_waiting() {
    let house = House::new();
    let run = Run::start(house.task_with("leaves_grandchildren", &[]).args(NUMBERS));
    let task = run.pid();
    let ended = run.end();
    ended.expect(0, CANNED);
    assert!(ended.took < PROMPT, "{ended}");
    assert!(house.left().is_empty(), "{ended}");
    let host = task.to_string();
    let living = |role: &str| {
        processes(|_, words| {
            words.contains(&role.as_bytes()) && words.ends_with(&[b"--supervised", host.as_bytes()])
        })
    };
    let in_a_session = living("grandchild-in-a-session");
    // It left the worker's process group, so it is not ours to end; here it is.
    in_a_session.iter().copied().for_each(kill);
    assert_eq!(in_a_session.len(), 1, "it must have lived to hold the pipes");
    until("the one in the group is gone", || living("grandchild-in-the-group").is_empty().then_some(()));
    house.gone(task, ended.at);
}

#[test]
fn a_program_that_is_no_worker_is_named() {
    let (_, ended) = run("speaks_garbage", &["-q"]);
    ended.expect(1, "").says(&["speaks_garbage: broke the handshake", "| 220 mail.example.org ESMTP"]);
    assert!(ended.took < PROMPT, "{ended}");
}

#[test]
fn a_worker_of_another_build_is_refused_with_both_protocols() {
    let (_, ended) = run("speaks_older_protocol", &[]);
    ended.expect(1, "").says(&["speaks protocols 0 to 0", "install both from one build"]);
    assert!(ended.took < PROMPT, "{ended}");
}

#[test]
fn a_worker_cannot_forge_records_of_others() {
    let (house, ended) = run("forges_log", &[]);
    ended.expect(0, CANNED);
    let log = house.log();
    let run_name = &log[0]["run"];
    let mut forged = 0;
    for record in &log {
        assert_eq!(&record["run"], run_name, "{record}");
        assert_ne!(record["pid"], 1, "{record}");
        assert!(record["time"].as_str().unwrap() > "2002", "{record}");
        assert!(record["seq"].as_u64().unwrap() < 1000, "{record}");
        if record["message"].as_str().unwrap().contains("forged") {
            forged += 1;
            assert_eq!(record["source"], "forges_log", "{record}");
        }
    }
    assert_eq!(forged, 2, "{log:#?}");
}
