//! Calls of a service that another process runs, whose worker or host is killed: what `task call` and the client
//! library make of it.

use std::fs;
use std::io::{PipeReader, PipeWriter, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use futures::future::join_all;
use task_host::client::{self, CallError, Client};
use task_host::control::{Caller, State};
use task_host::verdict::Verdict;
use task_proto::limits::{CONTROL_CONNECTIONS, PIPE};
use task_proto::stats::{Format, Missing, Query, Source, StatsClient, StatsRequest, StatsResponse};
use tokio::runtime::Builder;

use crate::house::{House, LIMIT, Run, example, kill, until};

/// Numbers in a file that keeps a worker busy for long enough to be killed in between.
const MANY: usize = 50_000_000;

pub(crate) fn task(house: &House, words: &[&str]) -> Command {
    let mut command = house.command(Path::new(env!("CARGO_BIN_EXE_task")));
    command.args(words);
    command
}

/// A service that answers, and its worker's pid.
pub(crate) fn service(house: &House, words: &[&str]) -> (Run, u32) {
    let run = Run::start(task(house, &["serve"]).args(words));
    until("it has a socket", || house.runtime().join("rpc.sock").exists().then_some(()));
    let worker = run.worker(None);
    (run, worker)
}

/// Waits until the service in this directory executes a call.
fn in_flight(runtime: &Path) {
    until("a call is in flight", || {
        let mut task = Command::new(env!("CARGO_BIN_EXE_task"));
        // A child that is not known here might be taken for an adopted one, and reaped.
        let report = Run::start(task.args(["status", "--json", "--runtime-dir"]).arg(runtime)).end();
        let report: serde_json::Value = serde_json::from_str(&report.stdout).ok()?;
        (report["calls"]["in_flight"].as_u64()? > 0).then_some(())
    });
}

/// A pipe that has been read by a call as far as it goes: its writer has not ended it.
fn begun(house: &House, mut writer: PipeWriter) -> PipeWriter {
    in_flight(&house.runtime());
    // More than a pipe holds: the last of it goes in only once the first has been read.
    writer.write_all(&b"7 ".repeat(2 * PIPE)).unwrap();
    writer
}

#[test]
fn a_file_is_read_again_by_the_next_worker() {
    let house = House::new();
    let path = house.path("fives.txt");
    fs::write(&path, "5\n".repeat(MANY)).unwrap();
    let (_serve, worker) = service(&house, &[]);
    let call = Run::start(task(&house, &["call", "mean", "--json"]).arg(&path));
    in_flight(&house.runtime());
    kill(worker);
    let ended = call.end();
    ended.expect(0, &format!("{{\"value\":5.0,\"count\":{MANY},\"missing\":0,\"warnings\":[]}}\n"));
}

#[test]
fn a_pipe_that_was_begun_is_lost_with_its_worker_and_the_call_says_how_much_and_of_what() {
    let house = House::new();
    let (_serve, worker) = service(&house, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    let call = Run::start(task(&house, &["call", "mean", "--json"]).stdin(reader));
    let writer = begun(&house, writer);
    kill(worker);
    let ended = call.end();
    drop(writer);
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "input_consumed", "{ended}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("killed by SIGKILL"), "{message}");
    let bytes = message.split(' ').find_map(|word| word.parse::<u64>().ok()).unwrap();
    assert!((2 * PIPE as u64..=4 * PIPE as u64).contains(&bytes), "{message}");
}

#[test]
fn a_pipe_that_was_not_begun_is_read_by_the_next_worker() {
    let house = House::new();
    let worker = example("dies_in_first_call");
    let (_serve, _) = service(&house, &["--rpc-bin", worker.to_str().unwrap()]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(b"3 1 3 1 2\n").unwrap();
    drop(writer);
    Run::start(task(&house, &["call", "median"]).stdin(Stdio::from(reader))).end().expect(0, "2\n");
}

#[test]
fn a_pipe_whose_host_died_too_may_have_been_read_and_that_is_said() {
    let house = House::new();
    let (serve, _) = service(&house, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    let call = Run::start(task(&house, &["call", "mean", "--json"]).stdin(reader));
    let writer = begun(&house, writer);
    kill(serve.pid());
    let ended = call.end();
    drop(writer);
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "input_consumed", "{ended}");
    assert!(error["message"].as_str().unwrap().contains("may have read"), "{ended}");
}

#[test]
fn a_call_whose_host_is_killed_has_an_unknown_outcome_and_the_next_one_was_never_sent() {
    let house = House::new();
    // Nothing but its header takes place on the disk: 64 GiB are read for longer than it takes to kill somebody.
    let path = house.path("zeros.npy");
    let dictionary = format!("{{'descr': '|i1', 'fortran_order': False, 'shape': ({},), }}", 1_u64 << 36);
    let header = [&b"\x93NUMPY\x01\x00\x76\x00"[..], format!("{dictionary:117}\n").as_bytes()].concat();
    fs::write(&path, &header).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(header.len() as u64 + (1 << 36)).unwrap();
    let (serve, _) = service(&house, &[]);
    let call = Run::start(task(&house, &["call", "mean", "--json", "--format", "npy"]).arg(&path));
    in_flight(&house.runtime());
    kill(serve.pid());
    let ended = call.end();
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "outcome_unknown", "{ended}");
    assert!(error["message"].as_str().unwrap().starts_with("outcome unknown: "), "{ended}");
    // It left its sockets.
    let ended = Run::start(&mut task(&house, &["call", "mean", "1", "--json"])).end();
    let error = ended.expect(3, "").error();
    assert_eq!(error["kind"], "no_service", "{ended}");
    assert!(error["message"].as_str().unwrap().contains("has left its socket"), "{ended}");
}

#[test]
fn without_a_service_a_call_says_how_to_start_one() {
    let house = House::new();
    let call = |words: &[&str]| Run::start(task(&house, &["call"]).args(words)).end();
    call(&["median", "1"]).expect(3, "").says(&["no service is running", "task serve"]);
    let socket = house.path("socket");
    let words = ["ping", "--json", "--socket", socket.to_str().unwrap()];
    assert_eq!(call(&words).expect(3, "").error()["kind"], "no_service");
    fs::write(&socket, "").unwrap();
    let ended = call(&words);
    let error = ended.expect(1, "").error();
    assert_eq!(error["kind"], "no_socket", "{ended}");
    assert!(error["message"].as_str().unwrap().starts_with("never sent: "), "{ended}");
    fs::remove_file(&socket).unwrap();
    // Nobody accepts, but connecting works: the deadline ends the waiting.
    let _listener = UnixListener::bind(&socket).unwrap();
    let ended = call(&[&words[..], &["--timeout", "300ms"]].concat());
    assert_eq!(ended.expect(124, "").error()["kind"], "deadline", "{ended}");
}

/// Asks for the mean of this pipe, as a call that may not be executed twice, and kills the worker meanwhile.
fn lost(house: &House, worker: u32, reader: PipeReader, writer: PipeWriter) -> CallError {
    let client = Client::<StatsRequest, StatsResponse>::at(
        house.runtime().join("rpc.sock"),
        vec![reader.into()],
        |_| false,
    );
    let stats = StatsClient::from(client);
    let sources = vec![Source::Attached { attached: 0, format: Format::Text }];
    let query = Query { sources, missing: Missing::Error };
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let runtime = house.runtime();
        let killer = tokio::task::spawn_blocking(move || {
            in_flight(&runtime);
            kill(worker);
            writer
        });
        let answer = stats.mean(client::context(0, Some(LIMIT)), query).await;
        drop(killer.await.unwrap());
        CallError::from(answer.unwrap_err())
    })
}

#[test]
fn a_call_that_may_not_be_executed_twice_is_not_and_its_error_tells_how_the_worker_died() {
    let house = House::new();
    let (_serve, worker) = service(&house, &[]);
    let (reader, writer) = std::io::pipe().unwrap();
    let error = lost(&house, worker, reader, writer);
    let CallError::Lost { death: Some(death), .. } = &error else { panic!("{error:?}") };
    assert_eq!((death.pid, death.generation, &*death.cause), (worker, 1, "killed by SIGKILL"));
    assert!(error.to_string().starts_with("outcome unknown: the worker"), "{error}");
}

#[test]
fn a_host_knows_nothing_of_the_connections_of_the_one_before_it() {
    let house = House::new();
    let (_serve, worker) = service(&house, &[]);
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let host = Caller::connect(house.runtime().join("control.sock")).await.unwrap();
        let run = host.status().await.unwrap().run;
        kill(worker);
        let ours = host.verdict(&run, 1, 1).await.unwrap();
        assert!(matches!(&ours, Verdict::Died { death, .. } if death.pid == worker), "{ours:?}");
        assert_eq!(host.verdict("another", 1, 1).await.unwrap(), Verdict::Unknown);
    });
}

#[test]
fn the_host_answers_everybody_however_many_ask_at_once() {
    let house = House::new();
    let (_serve, _) = service(&house, &[]);
    let socket = house.runtime().join("control.sock");
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let ask = || Caller::ask(&socket, true, async |host| host.status().await);
    until("it serves", || (runtime.block_on(ask()).ok()?.state == State::Serving).then_some(()));
    runtime.block_on(async {
        // More than it has places for, and some that say nothing.
        let silent = (0..CONTROL_CONNECTIONS).map(|_| UnixStream::connect(&socket).unwrap());
        let silent: Vec<_> = silent.collect();
        for answer in join_all((0..4 * CONTROL_CONNECTIONS).map(|_| ask())).await {
            assert_eq!(answer.unwrap().state, State::Serving);
        }
        drop(silent);
    });
}
