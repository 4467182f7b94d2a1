//! Runs `task` in a home of its own, never waits longer than [`PATIENCE`], and explains itself when a run is not
//! as expected: the command, its status and both its streams.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT};

/// For anything that has to happen: a loaded machine takes seconds for what takes milliseconds.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// The program under test. Its worker lies beside it.
pub const TASK: &str = env!("CARGO_BIN_EXE_task");

/// Where the runs of one test have their files, their sockets and their log.
pub struct Home {
    dir: tempfile::TempDir,
}

/// A command that is not yet started.
pub struct Invocation {
    command: Command,
    shown: String,
    stdin: Option<Vec<u8>>,
    runtime: PathBuf,
}

/// A command that runs.
pub struct Running {
    child: Owned,
    shown: String,
    stdout: Arc<Heard>,
    stderr: Arc<Heard>,
    readers: Vec<thread::JoinHandle<()>>,
    runtime: PathBuf,
}

/// A child that does not outlive a test that fails.
pub struct Owned(pub Child);

/// A command that has ended.
pub struct Ended {
    shown: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// What came through a pipe so far, and whether it has ended.
#[derive(Default)]
struct Heard {
    bytes: Mutex<(Vec<u8>, bool)>,
    more: Condvar,
}

impl Home {
    pub fn new() -> Self {
        unignore_signals();
        let home = Home { dir: tempfile::tempdir().unwrap() };
        for name in ["runtime", "state", "files"] {
            fs::create_dir(home.path(name)).unwrap();
        }
        fs::set_permissions(home.path("runtime"), fs::Permissions::from_mode(0o700)).unwrap();
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A file where commands are run, so that its name is all that they need.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path("files").join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// `task` with these words, in this home and nothing else of the environment.
    pub fn task<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Invocation {
        self.run(TASK, words)
    }

    /// Any program, likewise.
    pub fn run<W: AsRef<OsStr>>(&self, program: &str, words: impl IntoIterator<Item = W>) -> Invocation {
        let mut command = Command::new(program);
        command.args(words).env_clear().current_dir(self.path("files")).stdin(Stdio::null());
        command.envs(self.environment());
        let mut shown = format!("{command:?}");
        if let Some((end, _)) = shown.char_indices().nth(1000) {
            shown.truncate(end);
        }
        Invocation { command, shown, stdin: None, runtime: self.path("runtime/task") }
    }

    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        vec![
            ("PATH", path.into()),
            ("TZ", "UTC".into()),
            ("XDG_RUNTIME_DIR", self.path("runtime")),
            ("XDG_STATE_HOME", self.path("state")),
        ]
    }
}

impl Invocation {
    /// These bytes through a pipe.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = Some(bytes.into());
        self
    }

    /// Whatever else is to be changed about the command.
    pub fn with(mut self, change: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        change(&mut self.command);
        self
    }

    /// Where its run directories will be, if not in the home's.
    pub fn runtime(mut self, dir: impl Into<PathBuf>) -> Self {
        self.runtime = dir.into();
        self
    }

    /// Runs it to its end, its output captured.
    pub fn ends(self) -> Ended {
        self.starts(Stdio::piped()).ends()
    }

    /// The same while others run in the same home.
    pub fn ends_beside_others(self) -> Ended {
        self.starts(Stdio::piped()).ends_beside_others()
    }

    /// Runs it to its end, its standard output somewhere else.
    pub fn ends_with_stdout(self, stdout: impl Into<Stdio>) -> Ended {
        self.starts(stdout.into()).ends()
    }

    /// Starts it, with standard input open as long as the answer's `child.stdin` lives.
    pub fn starts(mut self, stdout: Stdio) -> Running {
        let mut child = self.command.stdout(stdout).stderr(Stdio::piped()).spawn().unwrap();
        let mut readers = Vec::new();
        let (stdout, stderr) = (Arc::<Heard>::default(), Arc::<Heard>::default());
        match child.stdout.take() {
            Some(pipe) => readers.push(listen(pipe, &stdout)),
            None => stdout.end(),
        }
        readers.extend(child.stderr.take().map(|pipe| listen(pipe, &stderr)));
        if let Some(bytes) = self.stdin
            && let Some(mut pipe) = child.stdin.take()
        {
            // Whoever stops reading early is not this test's concern.
            readers.push(thread::spawn(move || drop(pipe.write_all(&bytes))));
        }
        Running { child: Owned(child), shown: self.shown, stdout, stderr, readers, runtime: self.runtime }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Does nothing to one that has been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child.0)
    }

    pub fn stdin(&mut self) -> &mut Option<std::process::ChildStdin> {
        &mut self.child.0.stdin
    }

    /// Waits until its standard error holds this text.
    pub fn hears(&self, text: &str) {
        self.hears_times(text, 1);
    }

    /// Waits until its standard error holds this text so many times.
    pub fn hears_times(&self, text: &str, times: usize) {
        let until = Instant::now() + PATIENCE;
        let mut heard = self.stderr.bytes.lock().unwrap();
        while String::from_utf8_lossy(&heard.0).matches(text).count() < times {
            let left = until.saturating_duration_since(Instant::now());
            let said = String::from_utf8_lossy(&heard.0).into_owned();
            assert!(!left.is_zero() && !heard.1, "{}\nnever said {text:?}, but {said:?}", self.shown);
            heard = self.stderr.more.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Waits for its end, and for the end of all that it started.
    pub fn ends(self) -> Ended {
        let (pid, runtime) = (self.pid(), self.runtime.clone());
        let ended = self.ends_beside_others();
        leaves_nothing(pid, &runtime);
        ended
    }

    /// The same while others run in the same home: what they have there is not of this one.
    pub fn ends_beside_others(mut self) -> Ended {
        let pid = self.pid();
        let in_time = exits(pid);
        if !in_time {
            let _ = self.child.0.kill();
        }
        let status = self.child.0.wait().unwrap();
        // An orphan may hold the pipes: what counts is that nothing of it is left.
        let (stdout, stderr) = (self.stdout.to_end(), self.stderr.to_end());
        let ended = Ended { shown: self.shown, status, stdout, stderr };
        assert!(in_time, "no end within {PATIENCE:?}: {ended}");
        for reader in self.readers {
            reader.join().unwrap();
        }
        ended
    }
}

/// Lets children die of the signals that a shell without job control ignores in whatever it runs with `&`, these tests
/// included: what is handled here has its default again after exec.
pub fn unignore_signals() {
    static HANDLED: Once = Once::new();
    HANDLED.call_once(|| {
        for signal in [SIGINT, SIGQUIT, SIGHUP] {
            let always = Arc::new(AtomicBool::new(true));
            signal_hook::flag::register_conditional_default(signal, always).unwrap();
        }
    });
}

/// Waits for the exit of a child that is not yet reaped; whether it came in time.
pub fn exits(pid: Pid) -> bool {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

/// No worker of this run lives, and its runtime directory is empty.
pub fn leaves_nothing(pid: Pid, runtime: &Path) {
    let supervised = format!("\0--supervised\0{}\0", pid.as_raw_nonzero());
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command);
        assert!(
            !command.contains(&supervised),
            "{} outlived its host: {command:?}",
            process.path().display()
        );
    }
    let left: Vec<_> = fs::read_dir(runtime).into_iter().flatten().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

impl Ended {
    /// It answered: this on standard output, and not a word on standard error.
    pub fn answers(&self, stdout: &str) {
        assert_eq!(self.stdout, stdout, "{self}");
        assert!(self.status.success() && self.stderr.is_empty(), "{self}");
    }

    /// It failed with this code: nothing on standard output, exactly this on standard error.
    pub fn fails(&self, code: i32, stderr: &str) {
        assert_eq!(self.stderr.trim_end_matches('\n'), stderr, "{self}");
        assert_eq!((self.status.code(), self.stdout.as_str()), (Some(code), ""), "{self}");
    }

    /// It died of this signal.
    pub fn died_of(&self, signal: rustix::process::Signal) {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{self}");
    }

    /// Its answer, as JSON.
    pub fn json(&self) -> serde_json::Value {
        assert!(self.status.success(), "{self}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// Its one line of failure, as JSON.
    pub fn json_error(&self) -> serde_json::Value {
        assert!(self.stdout.is_empty() && self.stderr.lines().count() == 1, "{self}");
        let mut document: serde_json::Value =
            serde_json::from_str(&self.stderr).unwrap_or_else(|error| panic!("{error}: {self}"));
        document["error"].take()
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ended { shown, status, stdout, stderr } = self;
        write!(f, "\n$ {shown}\n--- {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

fn listen(mut pipe: impl Read + Send + 'static, heard: &Arc<Heard>) -> thread::JoinHandle<()> {
    let heard = Arc::clone(heard);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut buffer) {
            heard.bytes.lock().unwrap().0.extend(&buffer[..count]);
            heard.more.notify_all();
        }
        heard.end();
    })
}

impl Heard {
    fn end(&self) {
        self.bytes.lock().unwrap().1 = true;
        self.more.notify_all();
    }

    fn to_end(&self) -> String {
        let (heard, _) =
            self.more.wait_timeout_while(self.bytes.lock().unwrap(), PATIENCE, |heard| !heard.1).unwrap();
        String::from_utf8_lossy(&heard.0).into_owned()
    }
}
