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
use task_host::supervisor::{Policy, Restart, ServicePhase, Supervisor};
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
    let policy = Policy { restart: Restart::Deaths(5), ..Policy::RUN };
    let supervisor = Supervisor::start(WorkerSpec::new(task_rpc), socket, policy, journal);
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
        Err(CallError::InputConsumed { .. } | CallError::Lost(_)) => {}
        answer => panic!("1000 and 1000 were read before, and yet: {answer:?}"),
    }
    supervisor.stop().await;
    run.remove().unwrap();
}
