//! What a worker cannot do, whoever has taken it over; and what is left to it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../examples/hostile/acts.rs"]
mod acts;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use task_host::client::{self, CallError, Client};
use task_host::journal::Journal;
use task_host::record::Level;
use task_host::run_dir::{Base, RunDir, SOCKET};
use task_host::screen::Screen;
use task_host::socket::Socket;
use task_host::spawn::WorkerSpec;
use task_host::supervisor::{ExitCause, Restart, Supervisor};
use task_proto::handshake::{Sandbox, SandboxMode};
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Format, Missing, Query, Source, StatsClient, StatsRequest, StatsResponse};
use tempfile::TempDir;

use acts::{Act, HostileClient, HostileRequest, HostileResponse};

/// For any event: on a loaded machine everything takes its time.
const LIMIT: Duration = Duration::from_mins(1);
/// SIGSYS.
const DENIED: ExitCause = ExitCause::Signal(31);

/// A service, and the directory of its socket.
struct House {
    supervisor: Supervisor,
    /// Whom datagrams may be sent to.
    _receiver: UnixDatagram,
    _directory: TempDir,
    _run: RunDir,
}

impl House {
    fn new(program: &str, mode: SandboxMode, change: impl FnOnce(WorkerSpec, &Path) -> WorkerSpec) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let run = RunDir::create(Base::open(Some(&directory.path().join("r"))).unwrap()).unwrap();
        let socket = Socket::bind(run.fd(), &run.path(), SOCKET).unwrap();
        let journal = Journal::new(run.run(), Screen::on(None, Level::Error, false));
        let receiver = UnixDatagram::bind(format!("{}.d", socket.path().display())).unwrap();
        let program = built(program);
        let limits = Limits { memory: Some(1 << 30), ..Limits::default() };
        let spec = WorkerSpec::new(program).with_limits(limits).with_sandbox(mode);
        let spec = change(spec, socket.path());
        let restart = Restart::FailedStarts(None);
        let supervisor = Supervisor::start(spec, socket, restart, journal);
        House { supervisor, _receiver: receiver, _directory: directory, _run: run }
    }

    fn hostile(mode: SandboxMode) -> Self {
        House::new("examples/hostile", mode, |spec, socket| spec.arg(socket))
    }

    fn client(&self, attachments: Vec<OwnedFd>) -> StatsClient<Client<StatsRequest, StatsResponse>> {
        StatsClient::from(Client::new(&self.supervisor, attachments, |_| true))
    }

    async fn does(&self, act: Act) -> Result<Result<i64, i32>, CallError> {
        let attached = [SocketType::STREAM, SocketType::DGRAM]
            .map(|kind| socket(AddressFamily::UNIX, kind, None).unwrap())
            .into();
        // Not asked again: it dies of it, or not.
        let client = Client::<HostileRequest, HostileResponse>::new(&self.supervisor, attached, |_| true);
        HostileClient::from(client)
            .act(client::context(rand::random(), Some(LIMIT)), act)
            .await
            .map_err(CallError::from)
    }

    /// How its first worker ended.
    async fn death(&self) -> ExitCause {
        let mut status = self.supervisor.status();
        let status = status.wait_for(|status| !status.deaths.is_empty()).await.unwrap();
        status.deaths[0].cause
    }
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

fn built(program: &str) -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_task")).with_file_name(program);
    assert!(program.exists(), "{} is not there: run make test, which builds it", program.display());
    program
}

/// Each with how it is denied: by this error (of `errno.h`), or (`None`) by the death of the process.
const ACTS: [(Act, Option<i32>); 20] = [
    (Act::Open, Some(13)),
    (Act::Socket, None),
    (Act::Connect, None),
    (Act::Exec, None),
    (Act::Trace, None),
    (Act::Kill, None),
    (Act::Fork, None),
    (Act::Clone3, Some(38)),
    (Act::Reserve, Some(12)),
    (Act::ReserveNothing, Some(12)),
    (Act::ReserveShared, Some(12)),
    (Act::ReserveInParts, Some(12)),
    (Act::Share, Some(1)),
    (Act::Send, None),
    (Act::Shutdown, None),
    (Act::ShutdownDisguised, None),
    (Act::Duplicate, None),
    (Act::Shrink, None),
    (Act::Execute, None),
    (Act::Limit, Some(1)),
];

#[tokio::test]
async fn a_worker_that_was_taken_over_is_denied_each_act() {
    for (act, error) in ACTS {
        let house = House::hostile(SandboxMode::Require);
        let said = house.does(act).await;
        println!("{act:?}: {said:?}");
        if let Some(error) = error {
            assert!(matches!(&said, Ok(Err(said)) if *said == error), "{act:?}: {said:?}");
        } else {
            // It is answered only where it was not denied; then there is no death to wait for.
            let words = said.expect_err(&format!("{act:?}")).to_string();
            assert_eq!(house.death().await, DENIED, "{act:?}: {words}");
            assert!(words.contains("SIGSYS") && words.contains("--sandbox off"), "{act:?}: {words}");
        }
        house.supervisor.stop().await;
    }
}

#[tokio::test]
async fn without_a_sandbox_each_act_succeeds() {
    for (act, _) in ACTS {
        let house = House::hostile(SandboxMode::Off);
        if act == Act::Exec {
            let call = house.does(act);
            let death = house.death();
            tokio::select! { cause = death => assert_eq!(cause, ExitCause::Code(42)), said = call => panic!("{said:?}") }
        } else {
            let said = house.does(act).await;
            println!("{act:?}: {said:?}");
            assert!(matches!(said, Ok(Ok(_))), "{act:?}: {said:?}");
        }
        house.supervisor.stop_now();
        house.supervisor.stop().await;
    }
}

/// An input of numbers as text.
fn text(attached: u32) -> Query {
    Query { sources: vec![Source::Attached { attached, format: Format::Text }], missing: Missing::Error }
}

#[tokio::test]
async fn every_thread_is_filtered_and_the_worker_holds_only_what_it_serves_with() {
    let house = House::new("task-rpc", SandboxMode::Require, |spec, _| spec);
    let pid = house.supervisor.ready().await.unwrap().pid;
    let mut numbers = tempfile::tempfile().unwrap();
    (0..10_000).for_each(|number| writeln!(numbers, "{number}").unwrap());
    numbers.rewind().unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    let stats = house.client(vec![numbers.into(), reader.into()]);
    let median = stats.median(client::context(1, Some(LIMIT)), text(0)).await.unwrap().unwrap();
    assert_eq!(median.value, Number::Float(4999.5));
    // From here on each kind of its threads is alive: one that has computed, one that reads what has not ended.
    writer.write_all(b"1\n").unwrap();
    let mut call = pin!(stats.mean(client::context(2, Some(LIMIT)), text(1)));
    tokio::select! {
        answer = &mut call => panic!("its input has not ended: {answer:?}"),
        () = consumed(&house.supervisor, 2) => {}
    }
    assert_eq!(house.supervisor.ready().await.unwrap().sandbox, Sandbox::Full);
    let mut names = BTreeSet::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let thread = thread.unwrap().path();
        let name = fs::read_to_string(thread.join("comm")).unwrap().trim().to_owned();
        let shown = fs::read_to_string(thread.join("status")).unwrap();
        for line in ["Seccomp:\t2", "NoNewPrivs:\t1"] {
            assert!(shown.lines().any(|has| has == line), "{name}: {shown}");
        }
        names.insert(name);
    }
    assert_eq!(names, ["compute", "lifeline", "read", "task-rpc"].map(str::to_owned).into());

    // By kind: what the numbers are may change.
    let mut held: Vec<String> = Vec::new();
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let to = fs::read_link(fd.unwrap().path()).unwrap().display().to_string();
        let kind = if to.starts_with('/') {
            "file"
        } else {
            to.trim_end_matches(|last| "[0123456789]".contains(last))
        };
        held.push(kind.to_owned());
    }
    held.sort();
    let expected = [
        // The attached wake-up of the reader, and that of the loop.
        "anon_inode:[eventfd",
        "anon_inode:[eventfd",
        // The loop's, twice, and the watch for the end of the connection's client.
        "anon_inode:[eventpoll",
        "anon_inode:[eventpoll",
        "anon_inode:[eventpoll",
        // The attached one.
        "file",
        // Standard output, standard error, the attached one, both ends of that into which its reader moves what comes.
        "pipe:",
        "pipe:",
        "pipe:",
        "pipe:",
        "pipe:",
        // The lifeline, the listener, the connection, both ends of what wakes the loop at a signal.
        "socket:",
        "socket:",
        "socket:",
        "socket:",
        "socket:",
    ];
    assert_eq!(held, expected);
}

#[tokio::test]
async fn what_a_worker_may_do_it_can() {
    let house = House::new("examples/hostile", SandboxMode::Require, |spec, socket| {
        // Whoever looks for the symbols of a backtrace opens files.
        spec.arg(socket).env("RUST_BACKTRACE", "1")
    });
    assert_eq!(house.does(Act::Churn).await.unwrap(), Ok(0));
    let panicked = house.does(Act::Panic).await.unwrap_err();
    assert!(panicked.to_string().contains("panicked"), "{panicked}");
    assert_eq!(house.supervisor.status().borrow().died, 0);
    let aborted = house.does(Act::Abort).await.unwrap_err();
    assert!(aborted.to_string().contains("SIGABRT"), "{aborted}");
    house.supervisor.stop().await;
}

#[tokio::test]
async fn a_worker_that_is_stopped_and_continued_while_a_thread_waits_goes_on() {
    let house = House::hostile(SandboxMode::Require);
    let worker = house.supervisor.ready().await.unwrap().pid;
    let worker = Pid::from_raw(worker.cast_signed()).unwrap();
    let mut call = pin!(house.does(Act::Sleep));
    let said = loop {
        tokio::select! {
            biased;
            said = &mut call => break said,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
        kill_process(worker, Signal::STOP).unwrap();
        waitid(WaitId::Pid(worker), WaitIdOptions::STOPPED).unwrap();
        kill_process(worker, Signal::CONT).unwrap();
    };
    assert_eq!(said.unwrap(), Ok(0));
    assert_eq!(house.supervisor.status().borrow().died, 0);
    house.supervisor.stop().await;
}

#[tokio::test]
async fn without_landlock_the_rest_stays_and_the_host_is_told() {
    let without = |mode, program: &'static str| {
        House::new("examples/without_landlock", mode, |spec, socket| spec.arg(built(program)).arg(socket))
    };
    let house = without(SandboxMode::BestEffort, "examples/hostile");
    let ready = house.supervisor.ready().await.unwrap();
    assert_eq!(ready.sandbox, Sandbox::Partial);
    assert!(ready.lacks.as_ref().is_some_and(|lacks| lacks.contains("Landlock")), "{ready:?}");
    assert_eq!(house.does(Act::Open).await.unwrap(), Err(13));
    let _ = house.does(Act::Socket).await;
    assert_eq!(house.death().await, DENIED);
    house.supervisor.stop().await;

    let house = without(SandboxMode::Require, "examples/hostile");
    let ended = house.supervisor.ready().await.unwrap_err().to_string();
    assert!(ended.contains("the sandbox is required, and cannot be had: no Landlock"), "{ended}");
    let house = without(SandboxMode::Off, "examples/hostile");
    let ready = house.supervisor.ready().await.unwrap();
    assert_eq!((ready.sandbox, ready.lacks), (Sandbox::None, None));
    house.supervisor.stop().await;
}

/// Runs `task-rpc` alone on this socket, with this asked of its sandbox, on a kernel without Landlock.
fn alone_without_landlock(socket: &Path, mode: &str) -> Child {
    Command::new(built("examples/without_landlock"))
        .arg(built("task-rpc"))
        .args(["--sandbox", mode, "--socket"])
        .arg(socket)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn alone_without_landlock_it_says_that_its_socket_stays_or_does_not_serve() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("s");
    let refused = alone_without_landlock(&socket, "require").wait_with_output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && said.contains("the sandbox is required, and cannot be had: no Landlock"),
        "{said}"
    );
    assert!(!socket.exists());

    // The second finds what the first has left.
    for _ in 0..2 {
        let mut alone = alone_without_landlock(&socket, "best-effort");
        let (mut said, mut log) = (String::new(), BufReader::new(alone.stderr.take().unwrap()));
        while !said.contains("serving Stats") {
            assert!(log.read_line(&mut said).unwrap() > 0, "{said}");
        }
        assert!(
            said.contains("sandbox partial: no Landlock")
                && said.contains("; the socket file stays at the end"),
            "{said}"
        );
        UnixStream::connect(&socket).unwrap();
        kill_process(Pid::from_child(&alone), Signal::TERM).unwrap();
        log.read_to_string(&mut said).unwrap();
        let ended = alone.wait().unwrap();
        assert!(ended.success() && socket.exists(), "{ended}: {said}");
    }
}
