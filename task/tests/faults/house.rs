//! A place of its own for a test to run the real programs in, and what can be seen of them from outside.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, pidfd_send_signal, waitid,
};
use serde_json::Value;
use tempfile::TempDir;

/// For any event of a test: on a loaded machine everything takes its time. What waits longer hangs.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// Between two looks at what has no event to wait for.
const LOOK: Duration = Duration::from_millis(1);

/// The number of write(2).
const SYS_WRITE: &str = if cfg!(target_arch = "x86_64") { "1" } else { "64" };

/// The answer to `3 1 3 1 2`.
pub(crate) const ANSWER: &str = "mean    2\nmedian  2\nmode    1, 3 (2 of 5 each)\n";
/// What asks for it.
pub(crate) const NUMBERS: [&str; 5] = ["3", "1", "3", "1", "2"];
/// The answer of the workers that answer 42 to everything.
pub(crate) const CANNED: &str = "mean    42\nmedian  42\nmode    42 (1 of 1)\n";

/// A runtime directory and a log that only one test uses.
pub(crate) struct House {
    home: TempDir,
}

impl House {
    pub(crate) fn new() -> Self {
        static ADOPT: LazyLock<()> = LazyLock::new(|| {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        });
        LazyLock::force(&ADOPT);
        House { home: tempfile::Builder::new().prefix("task-faults-").tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn runtime(&self) -> PathBuf {
        self.path("runtime")
    }

    /// `task` with these words, nothing on its standard input, and this house's directories.
    pub(crate) fn task(&self, words: &[&str]) -> Command {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_task")));
        command.arg("--runtime-dir").arg(self.runtime()).args(words);
        command
    }

    /// `task` with one of the misbehaving workers.
    pub(crate) fn task_with(&self, worker: &str, words: &[&str]) -> Command {
        let mut command = self.task(&["--rpc-bin"]);
        command.arg(example(worker)).args(words);
        command
    }

    /// Any program, in this house.
    pub(crate) fn command(&self, program: &Path) -> Command {
        assert!(program.exists(), "{} is not there: run make test, which builds it", program.display());
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("HOME", self.home.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .env("TASK_RUNTIME_DIR", self.runtime())
            .current_dir(self.home.path())
            .stdin(Stdio::null());
        command
    }

    /// Everything in the runtime directory.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let mut left: Vec<_> = fs::read_dir(self.runtime())
            .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
            .unwrap_or_default();
        left.sort();
        left
    }

    /// The sockets of runs that are there now.
    pub(crate) fn sockets(&self) -> Vec<PathBuf> {
        self.left().into_iter().map(|run| run.join("rpc.sock")).filter(|socket| socket.exists()).collect()
    }

    /// The records of the log.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("state/task/log/runs.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Processes that belong to the run of the `task` with this pid: its workers, what they started, and copies of
    /// `task` that have not become a worker yet.
    pub(crate) fn processes(&self, task: u32) -> Vec<u32> {
        let (host, runtime) = (task.to_string(), self.runtime().into_os_string().into_encoded_bytes());
        let belongs = |words: &[&[u8]]| {
            words.windows(2).any(|pair| pair == [b"--supervised", host.as_bytes()])
                || words.contains(&&runtime[..])
        };
        processes(|pid, words| pid != task && pid != std::process::id() && belongs(words))
    }

    /// Waits until none of the run's processes lives; how long after `end` that was.
    pub(crate) fn gone(&self, task: u32, end: Instant) -> Duration {
        loop {
            let mut living = self.processes(task);
            if living.is_empty() && !somebody_changes() {
                // What had no name at the first look may have one since.
                living = self.processes(task);
                if living.is_empty() {
                    return end.elapsed();
                }
            }
            for pid in living.into_iter().filter_map(pid_of) {
                // It may be gone since, and reaped by the one whose child it is.
                if let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) {
                    assert!(ends_within(&pidfd, LIMIT), "{pid:?} outlived its run:\n{}", status_of(pid));
                }
            }
        }
    }
}

/// One of the programs in `task/examples`.
pub(crate) fn example(name: &str) -> PathBuf {
    beside_task("examples").join(name)
}

/// The real worker.
pub(crate) fn task_rpc() -> PathBuf {
    beside_task("task-rpc")
}

fn beside_task(name: &str) -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_task")).with_file_name(name)
}

/// The programs that were started here and are not reaped yet.
fn ours() -> MutexGuard<'static, BTreeSet<u32>> {
    static STARTED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    STARTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A program that runs. Dropped before its end, it is killed.
pub(crate) struct Run {
    child: Child,
    pidfd: OwnedFd,
    words: String,
    started: Instant,
    outputs: [File; 2],
}

/// A program that has ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
    pub(crate) at: Instant,
    words: String,
}

impl Run {
    pub(crate) fn start(command: &mut Command) -> Self {
        Run::start_with(command, |command| command)
    }

    /// The same, with other outputs than the files that are looked at here.
    pub(crate) fn start_with(
        command: &mut Command,
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let outputs = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let [stdout, stderr] = outputs.each_ref().map(|file| file.try_clone().unwrap());
        let started = Instant::now();
        let mut programs = ours();
        let child = change(command.stdout(stdout).stderr(stderr)).spawn().unwrap();
        programs.insert(child.id());
        drop(programs);
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        Run { child, pidfd, words: format!("{command:?}"), started, outputs }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        pidfd_send_signal(&self.pidfd, signal).unwrap();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        is_stopped(self.pid())
    }

    /// Whether it ends within this time; it may still be asked for everything then.
    pub(crate) fn ends_within(&self, limit: Duration) -> bool {
        ends_within(&self.pidfd, limit)
    }

    /// Readable once it has ended.
    pub(crate) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// What it has written to standard error so far.
    pub(crate) fn stderr(&self) -> String {
        text(&self.outputs[1])
    }

    pub(crate) fn stdout(&self) -> String {
        text(&self.outputs[0])
    }

    /// Waits until it has a worker, other than `former`: that one's pid.
    pub(crate) fn worker(&self, former: Option<u32>) -> u32 {
        let host = self.pid().to_string();
        let is_worker = |pid: u32, words: &[&[u8]]| {
            Some(pid) != former && words.ends_with(&[b"--supervised", host.as_bytes()])
        };
        until("a worker is there", || processes(is_worker).first().copied())
    }

    /// Waits until one of its threads is in the middle of a write to this descriptor, which nobody reads.
    pub(crate) fn waits_to_write_to(&self, descriptor: i32) {
        let descriptor = format!("{descriptor:#x}");
        until("it waits to write", || {
            let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
            let calls = threads
                .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("syscall")).ok())
                .filter(|call| call.split(' ').take(2).eq([SYS_WRITE, &descriptor]));
            (calls.count() > 0).then_some(())
        });
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let ended = ends_within(&self.pidfd, LIMIT);
        let at = Instant::now();
        if !ended {
            let (stdout, stderr) = (self.stdout(), self.stderr());
            panic!("{} did not end\nstdout: {stdout}\nstderr: {stderr}", self.words);
        }
        Ended {
            status: self.child.wait().unwrap(),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: at - self.started,
            at,
            words: self.words.clone(),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        ours().remove(&self.child.id());
    }
}

impl Ended {
    /// Fails unless it exited with this code and wrote this to standard output.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32, stdout: &str) -> &Self {
        assert!(
            self.status.code() == Some(code) && self.stdout == stdout,
            "expected {code} and {stdout:?} of {self}"
        );
        self
    }

    /// Fails unless it exited with 0.
    #[track_caller]
    pub(crate) fn expect_success(&self) -> &Self {
        assert_eq!(self.status.code(), Some(0), "{self}");
        self
    }

    /// Fails unless standard error contains all of these.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "expected {part:?} of {self}");
        }
        self
    }

    /// The one line of JSON that a failure with `--json` leaves on standard error.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        assert_eq!(self.stderr.lines().count(), 1, "a program that parses standard error meets {self}");
        let error: Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error} in {self}"));
        error["error"].clone()
    }

    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Everything that a failed test must show.
impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ended { status, stdout, stderr, took, words, .. } = self;
        let cut = |text: &str| text.chars().take(4000).collect::<String>();
        write!(f, "{words}\n{status} after {took:?}\nstdout: {}\nstderr: {}", cut(stdout), cut(stderr))
    }
}

/// Looks until there is something, where nothing tells.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "waited in vain until {what}");
        thread::sleep(LOOK);
    }
}

/// Kills a process that a program of ours started.
pub(crate) fn kill(pid: u32) {
    try_kill(pid).unwrap();
}

/// The same, if it is still there.
pub(crate) fn try_kill(pid: u32) -> rustix::io::Result<()> {
    send(pid, Signal::KILL)
}

/// Sends any signal likewise.
pub(crate) fn send(pid: u32, signal: Signal) -> rustix::io::Result<()> {
    kill_process(pid_of(pid).unwrap(), signal)
}

/// Stops a process that a program of ours started.
pub(crate) fn stop(pid: u32) {
    kill_process(pid_of(pid).unwrap(), Signal::STOP).unwrap();
    until("it is stopped", || is_stopped(pid).then_some(()));
}

fn is_stopped(pid: u32) -> bool {
    field(pid, "status", "State").is_some_and(|state| state.starts_with('T'))
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid.cast_signed())
}

/// A figure in `/proc/PID/FILE`: `VmHWM` of `status` in kB, `rchar` of `io` in bytes.
pub(crate) fn figure(pid: u32, file: &str, name: &str) -> Option<u64> {
    field(pid, file, name)?.trim_end_matches(" kB").parse().ok()
}

/// The same as text.
pub(crate) fn field(pid: u32, file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

/// The child processes of all threads of this one, in whatever state.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children.flat_map(|pids| pids.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Whether a process ends within this time.
pub(crate) fn ends_within(pidfd: &OwnedFd, limit: Duration) -> bool {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
    let mut ready = [PollFd::new(pidfd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| poll(&mut ready, Some(&limit))).unwrap() == 1
}

/// The living processes, by pid and command line.
pub(crate) fn processes(wanted: impl Fn(u32, &[&[u8]]) -> bool) -> Vec<u32> {
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.strip_suffix(b"\0").unwrap_or(&line).split(|&byte| byte == 0).collect();
        wanted(pid, &words)
    })
    .collect()
}

/// Whether a process that we adopted is in the middle of `execve` or of its end: then it has no command line, and still
/// or already the descriptors of its past. Those at their end are reaped.
fn somebody_changes() -> bool {
    let us = std::process::id().to_string();
    // Held, so that no new child of ours is taken for an adopted one.
    let ours = ours();
    let nameless = processes(|pid, words| words == [b""] && !ours.contains(&pid));
    nameless.into_iter().any(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // PID (NAME) STATE PARENT; a name may have anything in it.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split(' ').skip(1).take(2).collect();
        match &fields[..] {
            ["Z", parent] if *parent == us => {
                let _ =
                    waitid(WaitId::Pid(pid_of(pid).unwrap()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
                false
            }
            [_, parent] => *parent == us,
            _ => false,
        }
    })
}

fn status_of(pid: Pid) -> String {
    let mut all = String::new();
    for file in ["cmdline", "status", "wchan"] {
        let text = fs::read_to_string(format!("/proc/{}/{file}", pid.as_raw_nonzero())).unwrap_or_default();
        let _ = writeln!(all, "{}", text.replace('\0', " "));
    }
    all
}

fn text(file: &File) -> String {
    // The program shares this file's offset, and appends there.
    let mut copy = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    let mut bytes = Vec::new();
    copy.rewind().and_then(|()| copy.read_to_end(&mut bytes)).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
