//! System calls that fail: strace lets those of a worker fail in each way that its manuals know of. No answer is wrong,
//! nobody waits for ever, and who ends says why.
//!
//! Which pairs, and which not: `close` and `munmap` are not made when they are injected, so what they ought to have
//! freed stays. glibc ends a process whose `futex`, `rt_sigprocmask` or `brk` fails as no kernel lets it fail; tokio and
//! signal-hook one whose `write` to an eventfd or `recvfrom` is interrupted: those do not block, so nothing interrupts
//! them. The sandbox is off, as it takes an injected call, whose number is -1, for a forbidden one. `ERRNO=long` lets
//! more of the calls fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use support::{PATIENCE, context};
use tarpc::client::RpcError;
use task_proto::fault::{Fault, FaultKind};
use task_proto::limits::Limits;
use task_proto::number::Number;
use task_proto::stats::{Format, Mean, Median, Missing, Mode, Query, Source, StatsClient};
use task_proto::wire::{self, FdStream, Outgoing};
use tokio::time::timeout;

/// Errors, and the system calls that give them. What an architecture lacks is never called there.
const FAILS: [(&str, &str); 3] = [
    (
        "EINTR",
        "accept4 epoll_wait epoll_pwait flock ftruncate getrandom open openat poll ppoll \
         pread64 preadv2 pwrite64 read recvmsg sendto",
    ),
    ("EMFILE", "accept4 epoll_create1 eventfd2 memfd_create open openat pipe2 socket socketpair"),
    (
        "ENOMEM",
        "accept4 access bind clone clone3 epoll_create1 epoll_ctl eventfd2 fchmod fstat \
         madvise memfd_create mincore mmap mprotect mremap newfstatat open openat poll ppoll \
         recvmsg sendto socket socketpair splice statx unlinkat",
    ),
];

/// Which of a thread's calls fail: the first of them, and each so many after it.
const SHORT: &[&str] = &["1", "2", "3", "2+5", "7+3", "10+4", "16+5", "25+6"];
const LONG: &[&str] = &[
    "1", "2", "3", "4", "5", "6", "8", "10", "13", "17", "1+2", "2+2", "2+3", "3+4", "2+5", "7+3", "16+5",
    "20+7", "25+6", "30+2",
];

/// After which a worker that was told to end, and has not, is told again, where it may have missed it.
const DEAF: Duration = Duration::from_secs(2);

/// A worker under strace, and what it says.
struct Victim {
    child: Child,
    lines: Receiver<String>,
    said: String,
    /// How often it is told to end.
    terms: u32,
}

fn within(limit: Duration, handle: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&limit)).unwrap() > 0
}

impl Victim {
    fn spawn(directory: &Path, call: &str, error: &str, when: &str) -> Self {
        let mut command = Command::new("strace");
        // The tracer is a process of its own, so that the child is the worker.
        command.args(["-D", "-f", "-qq", "-o"]).arg(directory.join("trace"));
        command.arg("-e").arg(format!("trace=?{call}"));
        command.arg("-e").arg(format!("inject=?{call}:error={error}:when={when}"));
        command
            .arg(env!("CARGO_BIN_EXE_task-rpc"))
            .args(["--sandbox", "off", "--socket"])
            .arg(directory.join("s"));
        command.env_remove("TASK_LOG").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        // It ends with the last holder of the pipe, which is the worker or its tracer.
        std::thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        // signal-hook's handler sends a byte to tell of a signal, and can do nothing where that fails.
        let terms = if call == "sendto" { 2 } else { 1 };
        Victim { child, lines, said: String::new(), terms }
    }

    /// Whether it serves.
    fn serves(&mut self) -> bool {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.said += &line;
                    self.said.push('\n');
                    if line.contains("serving Stats") {
                        return true;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => panic!("neither serves nor ends:\n{}", self.said),
            }
        }
    }

    /// Its end, in words.
    fn ends(mut self) -> String {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        for _ in 0..self.terms {
            // It may have ended before.
            let _ = kill_process(pid, Signal::TERM);
            if within(DEAF, &handle) {
                break;
            }
        }
        assert!(within(PATIENCE, &handle), "does not end:\n{}", self.said);
        let status = self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said += &line;
            self.said.push('\n');
        }
        let said = &self.said;
        match (status.code(), status.signal()) {
            (Some(0), _) => "ended well".into(),
            (Some(code), _) => {
                assert!(
                    said.contains("task-rpc: ") || said.contains("panicked"),
                    "exited {code} without a word:\n{said}"
                );
                assert!(!said.contains("panicked"), "panicked:\n{said}");
                format!("exited {code}: {}", said.lines().last().unwrap())
            }
            // Rust's own way, also where a new thread finds no stack for its signals.
            (None, Some(6)) if said.contains("memory allocation of") || said.contains("Cannot allocate") => {
                "aborted for want of memory".into()
            }
            // Nothing of ours has run before the loader is done.
            (None, Some(signal)) if said.is_empty() => format!("died of signal {signal} in the loader"),
            (None, Some(signal)) => panic!("died of signal {signal}:\n{said}"),
            (None, None) => unreachable!("{status}"),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy)]
enum Input {
    Few,
    Many,
    File,
    Pipe,
    Raw,
}

impl Input {
    /// 1, and 1 to this even number.
    fn last(self) -> i64 {
        match self {
            Input::Few | Input::Pipe => 4,
            // More than are computed in place.
            Input::Many | Input::File | Input::Raw => 5000,
        }
    }

    fn source(self, outgoing: &Outgoing) -> Source {
        let numbers = || std::iter::once(1).chain(1..=self.last());
        let text = || numbers().map(|number| number.to_string()).collect::<Vec<_>>().join("\n");
        let attach = |descriptor: OwnedFd, format| Source::Attached {
            attached: outgoing.push(Arc::new(descriptor)),
            format,
        };
        let file = |content: &[u8]| -> OwnedFd {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(content).unwrap();
            std::io::Seek::rewind(&mut file).unwrap();
            File::into(file)
        };
        match self {
            Input::Few | Input::Many => Source::Numbers(numbers().map(Number::Int).collect()),
            Input::File => attach(file(text().as_bytes()), Format::Text),
            Input::Raw => {
                attach(file(&numbers().flat_map(i64::to_le_bytes).collect::<Vec<_>>()), Format::I64)
            }
            Input::Pipe => {
                let (reader, mut writer) = std::io::pipe().unwrap();
                writer.write_all(text().as_bytes()).unwrap();
                attach(reader.into(), Format::Text)
            }
        }
    }
}

/// How calls were answered.
#[derive(Default)]
struct Tally {
    right: u32,
    refused: BTreeMap<String, u32>,
}

impl Tally {
    fn refused(&mut self, why: impl Display) {
        *self.refused.entry(why.to_string()).or_default() += 1;
    }

    /// Whether the connection is still of use.
    fn note<T>(
        &mut self,
        answer: Result<Result<T, Fault>, RpcError>,
        is_right: impl FnOnce(&T) -> bool,
    ) -> bool
    where
        T: std::fmt::Debug,
    {
        match answer {
            Ok(Ok(answer)) => {
                assert!(is_right(&answer), "a wrong answer: {answer:?}");
                self.right += 1;
                true
            }
            Ok(Err(fault)) => {
                let blamed = matches!(
                    fault.kind,
                    FaultKind::NotANumber
                        | FaultKind::OutOfRange
                        | FaultKind::MissingValue
                        | FaultKind::EmptyInput
                );
                assert!(!blamed, "the input is blamed: {fault:?}");
                self.refused(fault.kind);
                true
            }
            Err(_) => {
                self.refused("lost");
                false
            }
        }
    }
}

async fn connect(socket: &Path) -> Option<(StatsClient, Outgoing)> {
    let limits = Limits::default();
    let stream = FdStream::new(wire::connect(socket).await.ok()?, limits.attachments).unwrap();
    let outgoing = stream.outgoing().clone();
    let transport = wire::client(stream, &limits);
    Some((StatsClient::new(tarpc::client::Config::default(), transport).spawn(), outgoing))
}

/// Every method, on every kind of input; on a new connection where the last was lost.
async fn ask(socket: &Path, tally: &mut Tally) {
    let mut connection = None;
    for input in [Input::Few, Input::File, Input::Pipe, Input::Many, Input::Raw] {
        for method in 0..4 {
            if connection.is_none() {
                connection = connect(socket).await;
            }
            let Some((client, outgoing)) = &connection else {
                tally.refused("no connection");
                continue;
            };
            let last = input.last();
            let count = last as u64 + 1;
            let query = || Query { sources: vec![input.source(outgoing)], missing: Missing::Error };
            let usable = match method {
                0 => {
                    let value = Number::Float((last * (last + 1) / 2 + 1) as f64 / count as f64);
                    let right = |mean: &Mean| mean.value == value && mean.count == count;
                    tally.note(client.mean(context(), query()).await, right)
                }
                1 => {
                    let middle = Number::Int(last / 2);
                    let right =
                        |median: &Median| (median.low, median.high, median.count) == (middle, middle, count);
                    tally.note(client.median(context(), query()).await, right)
                }
                2 => {
                    let right = |mode: &Mode| {
                        mode.values == [Number::Int(1)] && (mode.frequency, mode.count) == (2, count)
                    };
                    tally.note(client.mode(context(), query()).await, right)
                }
                _ => {
                    let usable =
                        tally.note(client.ping(context()).await.map(Ok), |pong| pong.generation == 0);
                    // Whether it is there depends on what was attached.
                    usable && client.release(context(), 0).await.is_ok()
                }
            };
            if !usable {
                connection = None;
            }
        }
    }
}

#[test]
fn a_system_call_that_fails_costs_no_right_answer_and_nobody_waits() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "strace is not installed");
        eprintln!("skipped: strace is not installed");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let times = if std::env::var("ERRNO").is_ok_and(|how| how == "long") { LONG } else { SHORT };
    let started = Instant::now();
    for (error, calls) in FAILS {
        let (mut failed, mut answers) = (0, 0);
        for call in calls.split(' ') {
            for when in times {
                let directory = tempfile::tempdir().unwrap();
                let mut victim = Victim::spawn(directory.path(), call, error, when);
                let mut tally = Tally::default();
                let serves = victim.serves();
                if serves {
                    let asked =
                        async { timeout(PATIENCE, ask(&directory.path().join("s"), &mut tally)).await };
                    let answered = runtime.block_on(asked);
                    assert!(
                        answered.is_ok(),
                        "{call} {error} {when}: a call waits for ever:\n{}",
                        victim.said
                    );
                }
                let interrupted = serves && error == "EINTR";
                assert!(!interrupted || tally.refused.is_empty(), "{call} {when}: {:?}", tally.refused);
                let end = victim.ends();
                let trace = std::fs::read_to_string(directory.path().join("trace")).unwrap_or_default();
                let injected = trace.matches("(INJECTED)").count();
                let Tally { right, refused } = tally;
                failed += injected;
                answers += right;
                println!(
                    "{call:13} {error} {when:5} injected {injected:3}: {right:2} right, refused {refused:?}; {end}"
                );
            }
        }
        assert!(
            failed > 0 && answers > 0,
            "{error}: {failed} calls failed, {answers} answers came all the same"
        );
    }
    println!("{:.0} s", started.elapsed().as_secs_f64());
}
