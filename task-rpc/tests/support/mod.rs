//! Real worker processes for the tests: alone, and under a host that the test plays.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses its part; one of them may use all"
)]

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Pid, Signal, kill_process};
use tarpc::client::RpcError;
use task_proto::handshake::{
    Answer, HandshakeError, Hello, PROTOCOL, SandboxMode, receive_answer, send_hello,
};
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::scoreboard::{Board, Snapshot};
use task_proto::stats::{Format, Missing, Query, Source, StatsClient};
use task_proto::wire::{self, FdStream, Outgoing};
use tempfile::TempDir;

/// For what takes milliseconds, on a machine that has better things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn task_rpc() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_task-rpc"));
    command.env_remove("TASK_LOG").stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A worker process; killed at the end of the test if it still lives.
pub(crate) struct Process {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Process { child, stderr, said: String::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Waits for a line of its stderr with this text in it.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "ended without {text:?}:\n{}", self.said);
            self.said += &line;
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Waits for its end; what it said on stderr comes with it.
    pub(crate) fn end(&mut self) -> (ExitStatus, String) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        let handle = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert!(readable(handle.as_fd()), "{pid:?} still lives:\n{}", self.said);
        self.stderr.read_to_string(&mut self.said).unwrap();
        (self.child.wait().unwrap(), self.said.clone())
    }

    /// Its end, which is to be exit status 0.
    pub(crate) fn end_well(&mut self) -> String {
        let (status, said) = self.end();
        assert!(status.success(), "{status}, signal {:?}:\n{said}", status.signal());
        said
    }

    pub(crate) fn status(&self, key: &str) -> String {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        status.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn readable(fd: impl AsFd) -> bool {
    let limit = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

/// `task-rpc --socket`, serving.
pub(crate) struct Alone {
    pub(crate) process: Process,
    pub(crate) socket: PathBuf,
    pub(crate) directory: TempDir,
}

impl Alone {
    pub(crate) fn start() -> Self {
        Alone::start_as(&mut task_rpc())
    }

    /// With a line in the log for every call, however many there are.
    pub(crate) fn start_talkative() -> Self {
        Alone::start_as(task_rpc().env("TASK_LOG", "info"))
    }

    pub(crate) fn start_as(command: &mut Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("rpc.sock");
        let mut process = Process::spawn(command.arg("--socket").arg(&socket));
        process.wait_for("serving Stats");
        Alone { process, socket, directory }
    }
}

/// The host's part, played by the test.
pub(crate) struct Host {
    pub(crate) process: Process,
    pub(crate) end: Option<OwnedFd>,
    pub(crate) board: Board,
    pub(crate) socket: PathBuf,
    pub(crate) listener: UnixListener,
    pub(crate) directory: TempDir,
}

impl Host {
    /// Spawns a worker whose stdin is the handshake's pair, and says nothing yet.
    pub(crate) fn spawn(change: impl FnOnce(&mut Command)) -> Self {
        Host::spawn_as(task_rpc(), change)
    }

    /// The same, by a shell script in which `exec "$@"` becomes the worker.
    pub(crate) fn spawn_through(script: &str, change: impl FnOnce(&mut Command)) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_task-rpc")]);
        shell.env_remove("TASK_LOG").stdout(Stdio::null()).stderr(Stdio::piped());
        Host::spawn_as(shell, change)
    }

    fn spawn_as(mut command: Command, change: impl FnOnce(&mut Command)) -> Self {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("rpc.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        command.arg("--supervised").arg(std::process::id().to_string()).stdin(theirs);
        change(&mut command);
        let process = Process::spawn(&mut command);
        Host { process, end: Some(ours), board: Board::create().unwrap(), socket, listener, directory }
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol: PROTOCOL,
            instance: "test".into(),
            generation: 3,
            socket: self.socket.display().to_string(),
            limits: Limits::default(),
            sandbox: SandboxMode::default(),
            suspects: Vec::new(),
            condemned: Vec::new(),
        }
    }

    pub(crate) fn greet(&self, hello: &Hello) -> Result<Answer, HandshakeError> {
        let end = self.end.as_ref().unwrap();
        send_hello(end.as_fd(), hello, self.listener.as_fd(), self.board.fd())?;
        assert!(readable(end), "no answer to hello");
        receive_answer(end.as_fd())
    }

    /// A worker that is ready.
    pub(crate) fn start() -> Self {
        let mut host = Host::spawn(|_| {});
        match host.greet(&host.hello()) {
            Ok(Answer::Ready(_)) => host,
            other => panic!("{other:?}:\n{}", host.process.end().1),
        }
    }
}

/// Waits until the scoreboard shows it. There is no event for it: the host reads the board when it likes.
pub(crate) async fn shown(host: &Host, mut what: impl FnMut(&Snapshot) -> bool) -> Snapshot {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = host.board.read().expect("the board is readable");
        if what(&seen) {
            return seen;
        }
        assert!(Instant::now() < end, "{seen:?}");
        tokio::task::yield_now().await;
    }
}

/// Calls until a request is refused, and sees that it was never sent: it is safe to send it again.
pub(crate) async fn refused(client: &StatsClient) {
    let end = Instant::now() + PATIENCE;
    loop {
        match client.ping(context()).await {
            Ok(_) => assert!(Instant::now() < end, "it goes on serving"),
            Err(RpcError::Server(error)) if error.kind == ErrorKind::BrokenPipe => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// A client, and the way to attach descriptors to its connection.
pub(crate) async fn client(socket: &Path) -> (StatsClient, Outgoing) {
    let limits = Limits::default();
    let stream = FdStream::new(wire::connect(socket).await.unwrap(), limits.attachments).unwrap();
    let outgoing = stream.outgoing().clone();
    let transport = wire::client(stream, &limits);
    (StatsClient::new(tarpc::client::Config::default(), transport).spawn(), outgoing)
}

pub(crate) fn context() -> tarpc::context::Context {
    let mut context = tarpc::context::current();
    context.deadline = Instant::now() + PATIENCE;
    context
}

pub(crate) fn numbers(numbers: impl IntoIterator<Item = i64>) -> Query {
    Query::numbers(numbers.into_iter().map(Number::Int).collect())
}

/// A query on a pipe, which is in flight for as long as the writer that comes with it is open.
pub(crate) fn on_a_pipe(outgoing: &Outgoing) -> (Query, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().unwrap();
    let attached = outgoing.push(Arc::new(reader.into()));
    let sources = vec![Source::Attached { attached, format: Format::Text }];
    (Query { sources, missing: Missing::Error }, writer)
}
