//! Workers that are killed in the middle of a call. The run still answers where its input can be read again, and says how
//! much is lost where it cannot; it never answers from the rest.

use std::fs;
use std::io::{PipeWriter, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;

use task_proto::limits::PIPE;

use crate::house::{ANSWER, House, LIMIT, Run, figure, kill, until};

/// Numbers in a file that keeps a worker busy for long enough to be killed in between.
const MANY: usize = 25_000_000;
/// Bytes that a worker has read for certain when it is in the middle of that file.
const SOME: u64 = 1024 * 1024;
/// So much of what was written into a pipe may not have been read, and so much again not have been counted.
const HELD: u64 = PIPE as u64;

fn big_file(house: &House) -> PathBuf {
    let path = house.path("fives.txt");
    fs::write(&path, "5\n".repeat(MANY)).unwrap();
    path
}

fn answer_to_big_file() -> String {
    format!("mean    5\nmedian  5\nmode    5 ({MANY} of {MANY})\n")
}

/// Waits until this worker reads its input, and kills it.
fn kill_while_it_reads(worker: u32) {
    until("the worker reads its input", || figure(worker, "io", "rchar").filter(|&bytes| bytes > SOME));
    kill(worker);
}

/// Bytes that [`feed`] writes.
const FED: u64 = 4 * HELD;

/// Writes so much into the pipe that most of it has been read when this returns.
fn feed(mut pipe: PipeWriter) -> PipeWriter {
    let (fed, is_fed) = mpsc::channel();
    thread::spawn(move || {
        pipe.write_all(&b"7 ".repeat(FED as usize / 2)).unwrap();
        fed.send(pipe)
    });
    is_fed.recv_timeout(LIMIT).expect("somebody reads the pipe")
}

#[test]
fn a_file_is_read_again_by_a_second_worker() {
    let house = House::new();
    let run = Run::start(house.task(&[]).arg(big_file(&house)));
    let (task, worker) = (run.pid(), run.worker(None));
    kill_while_it_reads(worker);
    let ended = run.end();
    ended.expect(0, &answer_to_big_file()).says(&["WARN", "task-rpc killed by SIGKILL"]);
    let log = house.log();
    let generations: Vec<_> = log
        .iter()
        .filter(|record| record["message"].as_str().unwrap().starts_with("spawned"))
        .map(|record| record["fields"]["generation"].as_u64().unwrap())
        .collect();
    assert_eq!(generations, [1, 2]);
    assert!(house.left().is_empty() && house.processes(task).is_empty(), "{ended}");
}

#[test]
fn a_file_on_standard_input_is_read_again_from_where_it_stood() {
    let house = House::new();
    let path = big_file(&house);
    let mut file = fs::File::open(&path).unwrap();
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(2)).unwrap();
    let run = Run::start(house.task(&["--only", "mode", "--json"]).stdin(file));
    kill_while_it_reads(run.worker(None));
    let ended = run.end();
    let document: serde_json::Value =
        serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{ended}"));
    assert_eq!(document["count"], MANY - 1, "{ended}");
    assert_eq!(document["mode"]["values"][0], 5, "{ended}");
}

#[test]
fn a_worker_that_is_killed_twice_is_not_replaced_again() {
    let house = House::new();
    let run = Run::start(house.task(&["--json"]).arg(big_file(&house)));
    let task = run.pid();
    let first = run.worker(None);
    kill_while_it_reads(first);
    kill_while_it_reads(run.worker(Some(first)));
    let ended = run.end();
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "crashed", "{ended}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("killed by SIGKILL") && message.contains("generation 2"), "{message}");
    assert!(house.left().is_empty() && house.processes(task).is_empty(), "{ended}");
}

#[test]
fn a_pipe_that_was_begun_is_lost_with_its_worker_and_the_run_says_how_much() {
    let house = House::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let run = Run::start(house.task(&["--json"]).stdin(reader));
    let (task, worker) = (run.pid(), run.worker(None));
    let writer = feed(writer);
    kill(worker);
    // The rest could still be read: five more numbers and the end. No answer may come from them.
    let ended = run.end();
    drop(writer);
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "input_consumed", "{ended}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("killed by SIGKILL"), "{message}");
    let bytes = message.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap();
    assert!((FED - 2 * HELD..=FED).contains(&bytes), "{message}");
    assert!(house.left().is_empty() && house.processes(task).is_empty(), "{ended}");
}

#[test]
fn a_named_pipe_that_was_begun_is_lost_with_its_worker() {
    let house = House::new();
    let path = house.path("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
        .unwrap();
    let run = Run::start(house.task(&["--json", "1", "2"]).arg(&path));
    let worker = run.worker(None);
    let fifo = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let writer = feed(std::os::fd::OwnedFd::from(fifo).into());
    kill(worker);
    let ended = run.end();
    drop(writer);
    assert_eq!(ended.expect(1, "").error()["kind"], "input_consumed", "{ended}");
}

#[test]
fn a_pipe_that_was_not_begun_is_read_by_the_second_worker() {
    let house = House::new();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"3 1 3 1 2\n").unwrap();
    drop(writer);
    let ended = Run::start(house.task_with("dies_in_first_call", &[]).stdin(Stdio::from(reader))).end();
    ended.expect(0, ANSWER).says(&["WARN", "dies_in_first_call killed by SIGKILL"]);
    assert!(house.left().is_empty(), "{ended}");
}

#[test]
fn a_failure_after_a_worker_was_replaced_is_one_line_of_json() {
    let house = House::new();
    let (reader, _writer) = std::io::pipe().unwrap();
    let mut command = house.task_with("dies_in_first_call", &["--json", "--timeout", "2"]);
    let ended = Run::start(command.stdin(reader)).end();
    assert_eq!(ended.expect(124, "").error()["kind"], "deadline", "{ended}");
    let log = house.log();
    let says = |text: &str| log.iter().any(|record| record["message"].as_str().unwrap().contains(text));
    assert!(says("dies_in_first_call killed by SIGKILL"), "{log:#?}");
    assert!(house.left().is_empty(), "{ended}");
}
