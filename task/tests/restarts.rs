//! A host whose policy allows several workers in a row: input that one of them had begun is lost, whichever it was.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use task_host::client::{self, CallError, Client};
use task_host::journal::Journal;
use task_host::record::Level;
use task_host::run_dir::{Base, RunDir, SOCKET};
use task_host::screen::Screen;
use task_host::socket::Socket;
use task_host::spawn::WorkerSpec;
use task_host::supervisor::{Ended, HandOverError, Restart, ServicePhase, Supervisor};
use task_host::verdict::Verdict;
use task_proto::scoreboard::Consumed;
use task_proto::stats::{Format, Missing, Query, Source, StatsClient, StatsRequest, StatsResponse};

/// For any event: on a loaded machine everything takes its time.
const LIMIT: Duration = Duration::from_mins(1);

/// The worker that serves, as far as the supervisor knows.
fn worker(supervisor: &Supervisor) -> Pid {
    match &supervisor.status().borrow().phase {
        ServicePhase::Serving { ready, .. } => Pid::from_raw(ready.pid.cast_signed()).unwrap(),
        phase => panic!("nobody serves: {phase:?}"),
    }
}

/// Kills a worker and waits for its end, while nothing else runs on this thread: the supervisor learns of it later.
fn kill_unnoticed(worker: Pid) {
    let pidfd = pidfd_open(worker, PidfdFlags::empty()).unwrap();
    kill_process(worker, Signal::KILL).unwrap();
    let limit = Timespec::try_from(LIMIT).unwrap();
    assert_eq!(poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit)), Ok(1));
}

/// Waits until the call in flight has read this many bytes.
async fn consumed(supervisor: &Supervisor, bytes: u64) {
    let end = Instant::now() + LIMIT;
    while !supervisor.scoreboard().is_some_and(|board| board.calls.iter().any(|call| call.consumed == bytes))
    {
        assert!(Instant::now() < end, "{:?}", supervisor.scoreboard());
        tokio::task::yield_now().await;
    }
}

/// How often the connection's end may be known before the worker's.
const ROUNDS: usize = 20;

/// The call is sent to a worker that is dead already, though nobody knows, so the next one takes it from the backlog.
/// It is that one's scoreboard which tells that the pipe was begun.
#[tokio::test]
async fn a_pipe_that_the_second_of_many_workers_had_begun_is_not_read_on_by_the_third() {
    for _ in 0..ROUNDS {
        begun_by_the_second().await;
    }
}

async fn begun_by_the_second() {
    let directory = tempfile::tempdir().unwrap();
    let run = RunDir::create(Base::open(Some(&directory.path().join("runtime"))).unwrap()).unwrap();
    let socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
    let journal = Journal::new(run.run(), Screen::on(None, Level::Error, false));
    let task_rpc = Path::new(env!("CARGO_BIN_EXE_task")).with_file_name("task-rpc");
    assert!(task_rpc.exists(), "{} is not there: run make test, which builds it", task_rpc.display());
    let supervisor = Supervisor::start(WorkerSpec::new(task_rpc), socket, Restart::Deaths(5), journal);
    supervisor.ready().await.unwrap();

    let (reader, mut writer) = std::io::pipe().unwrap();
    let client = Client::<StatsRequest, StatsResponse>::new(&supervisor, vec![reader.into()], |_| true);
    let stats = StatsClient::from(client);
    let first = worker(&supervisor);
    kill_unnoticed(first);
    writer.write_all(b"1000\n1000\n").unwrap();
    let sources = vec![Source::Attached { attached: 0, format: Format::Text }];
    let query = Query { sources, missing: Missing::Error };
    let mut call = std::pin::pin!(stats.mean(client::context(7, Some(LIMIT)), query));
    tokio::select! {
        answer = &mut call => panic!("its input has not ended: {answer:?}"),
        () = consumed(&supervisor, 10) => {}
    }
    let second = worker(&supervisor);
    assert_ne!(first, second);
    // Its connection ends before it does.
    kill_process(second, Signal::KILL).unwrap();
    // The rest, for the third worker.
    writer.write_all(b"1\n2\n3\n").unwrap();
    drop(writer);
    match call.await.map_err(CallError::from) {
        Err(CallError::InputConsumed { bytes: Some(10), death: Some(death) }) => {
            assert_eq!(death.generation, 2);
        }
        answer => panic!("1000 and 1000 were read before, and yet: {answer:?}"),
    }
    supervisor.stop().await;
    run.remove().unwrap();
}

/// A supervisor of a worker that `script` starts, under the policy of a service.
fn serve(directory: &Path, script: &str) -> (RunDir, Supervisor) {
    let run = RunDir::create(Base::open(Some(&directory.join("runtime"))).unwrap()).unwrap();
    let socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
    let journal = Journal::new(run.run(), Screen::on(None, Level::Error, false));
    let task_rpc = Path::new(env!("CARGO_BIN_EXE_task")).with_file_name("task-rpc");
    assert!(task_rpc.exists(), "{} is not there: run make test, which builds it", task_rpc.display());
    let file = directory.join("start");
    std::fs::write(
        &file,
        format!("cd '{}'\n{script}\nexec '{}' \"$@\"\n", directory.display(), task_rpc.display()),
    )
    .unwrap();
    let spec = WorkerSpec::new("/bin/sh").arg(file);
    (run, Supervisor::start(spec, socket, Restart::SERVICE, journal))
}

async fn pid_and_generation(supervisor: &Supervisor) -> (Pid, u64) {
    supervisor.ready().await.unwrap();
    match &supervisor.status().borrow().phase {
        ServicePhase::Serving { generation, .. } => (worker(supervisor), *generation),
        phase => panic!("nobody serves: {phase:?}"),
    }
}

#[tokio::test]
async fn a_hand_over_changes_the_worker_and_a_successor_that_does_not_start_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (_run, supervisor) = serve(directory.path(), "test -e broken && { echo no luck >&2; exit 3; }");
    let (first, _) = pid_and_generation(&supervisor).await;
    assert_eq!(supervisor.hand_over().await.unwrap(), 2);
    let (second, generation) = pid_and_generation(&supervisor).await;
    assert!(second != first && generation == 2);

    std::fs::write(directory.path().join("broken"), "").unwrap();
    let error = supervisor.hand_over().await.unwrap_err();
    assert!(error.to_string().contains("exited 3 before it was ready; the old worker goes on"), "{error}");
    assert_eq!(pid_and_generation(&supervisor).await, (second, 2));

    std::fs::remove_file(directory.path().join("broken")).unwrap();
    let (one, other) = tokio::join!(supervisor.hand_over(), supervisor.hand_over());
    assert_eq!((one.unwrap(), other.unwrap()), (4, 5), "the second asks for a worker started after it");
    let report = supervisor.report();
    assert_eq!((report.child.unwrap().generation, report.restarts), (5, 3), "one did not start");
    assert!(matches!(supervisor.stop().await, Ended::Stopped));
    assert!(matches!(supervisor.hand_over().await, Err(HandOverError::Ended(_))));
}

#[tokio::test]
async fn a_worker_that_a_stranger_told_to_end_is_replaced_before_it_is_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (_run, supervisor) = serve(directory.path(), "");
    let (first, _) = pid_and_generation(&supervisor).await;
    let (reader, writer) = std::io::pipe().unwrap();
    let client = Client::<StatsRequest, StatsResponse>::new(&supervisor, vec![reader.into()], |_| true);
    let stats = StatsClient::from(client);
    let sources = vec![Source::Attached { attached: 0, format: Format::Text }];
    let query = Query { sources, missing: Missing::Error };
    let mut call = std::pin::pin!(stats.mean(client::context(7, Some(LIMIT)), query));
    let begun = consumed(&supervisor, 2);
    (&writer).write_all(b"4\n").unwrap();
    tokio::select! {
        answer = &mut call => panic!("its input has not ended: {answer:?}"),
        () = begun => {}
    }
    kill_process(first, Signal::TERM).unwrap();
    supervisor.status().wait_for(|status| status.workers.len() == 2).await.unwrap();
    assert_eq!(pid_and_generation(&supervisor).await.1, 2);
    assert_eq!(supervisor.report().last_restart.unwrap().reason, "told to end by somebody else");
    drop(writer);
    assert_eq!(call.await.unwrap().unwrap().count, 1, "what it was asked is answered");
    supervisor.status().wait_for(|status| status.died == 1).await.unwrap();
    supervisor.stop().await;
}

#[tokio::test]
async fn a_call_that_waits_for_a_worker_ends_with_the_service_that_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let (_run, supervisor) = serve(directory.path(), "test -e broken && exit 3");
    let (first, _) = pid_and_generation(&supervisor).await;
    let (reader, _writer) = std::io::pipe().unwrap();
    let client = Client::<StatsRequest, StatsResponse>::new(&supervisor, vec![reader.into()], |_| true);
    let stats = StatsClient::from(client);
    assert!(stats.ping(client::context(7, Some(LIMIT))).await.is_ok());
    std::fs::write(directory.path().join("broken"), "").unwrap();
    kill_process(first, Signal::KILL).unwrap();
    supervisor.status().wait_for(|status| status.died == 1).await.unwrap();
    // Of the pipe nothing was read, so it waits with the call in the backlog.
    match stats.ping(client::context(8, Some(LIMIT))).await.map_err(CallError::from) {
        Err(CallError::Ended { outcome, ended: Ended::StartFailed(failure) }) => {
            assert_eq!(outcome, client::Outcome::NeverSent);
            assert!(failure.to_string().contains("exited 3 before it was ready"), "{failure}");
        }
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test]
async fn a_worker_that_is_stopped_is_taken_to_hang_and_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (_run, supervisor) = serve(directory.path(), "");
    let (first, _) = pid_and_generation(&supervisor).await;
    let stopped = Instant::now();
    kill_process(first, Signal::STOP).unwrap();
    supervisor.status().wait_for(|status| status.died == 1).await.unwrap();
    let (second, generation) = pid_and_generation(&supervisor).await;
    println!("replaced after {:?}", stopped.elapsed());
    assert!(second != first && generation == 2);
    let verdict = supervisor.verdict(1, 1).await;
    let Verdict::Died { death, consumed: Consumed::Unknown } = verdict else { panic!("{verdict:?}") };
    assert_eq!(death.cause, "killed by SIGKILL: no heartbeat for 3 s");
    assert_eq!(supervisor.report().last_restart.unwrap().reason, death.cause);
    assert_eq!(
        supervisor.verdict(2, 1).await,
        Verdict::Alive { consumed: Consumed::Unknown },
        "there was no such connection"
    );
    assert_eq!(supervisor.verdict(9, 1).await, Verdict::Unknown);
    supervisor.stop().await;
}
