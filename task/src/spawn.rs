//! Starting a worker process.
//!
//! All workers are spawned from one thread that never exits: the kernel sends PDEATHSIG when the *thread* that
//! spawned a child dies, and tokio's threads come and go. No `pre_exec`, so that std takes `posix_spawn`: with a
//! 1 GiB parent a fork costs 51 ms, `posix_spawn` 0.1 ms.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::thread;

use task_proto::handshake::SandboxMode;
use task_proto::limits::Limits;
use tokio::sync::oneshot;

/// Variables that a worker gets from its host's environment; everything else stays behind. Rust's backtrace switches do,
/// too: whoever makes a backtrace opens files, and a worker has none to open.
const INHERITED: [&str; 3] = ["LANG", "LC_ALL", "TZ"];

/// Which program to run as a worker, and how.
#[derive(Debug, Clone)]
pub struct WorkerSpec {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    limits: Limits,
    sandbox: SandboxMode,
}

impl WorkerSpec {
    /// A worker that is the program at this path, never looked up in `PATH`. It is called with `--supervised PID`,
    /// the host's process id.
    pub fn new(program: impl AsRef<Path>) -> Self {
        WorkerSpec {
            program: Path::new(".").join(program),
            args: Vec::new(),
            env: Vec::new(),
            limits: Limits::default(),
            sandbox: SandboxMode::default(),
        }
    }

    /// With one more argument, before `--supervised`.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With this variable in its environment, of which the host's own gives only the locale and the time zone.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// With these limits in its handshake.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// With this asked of its sandbox, in place of best effort.
    #[must_use]
    pub fn with_sandbox(mut self, sandbox: SandboxMode) -> Self {
        self.sandbox = sandbox;
        self
    }

    /// The name of the program: what its log lines are filed under.
    pub fn name(&self) -> String {
        self.program.file_name().unwrap_or(self.program.as_os_str()).to_string_lossy().into_owned()
    }

    /// The program to run.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The limits that the worker is told.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is asked of its sandbox.
    pub fn sandbox(&self) -> SandboxMode {
        self.sandbox
    }

    /// Starts the worker with `stdin` as its end of the lifeline. Its own process group keeps a terminal's Ctrl-C
    /// away from it.
    pub(crate) async fn spawn(&self, stdin: OwnedFd) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .arg("--supervised")
            .arg(std::process::id().to_string())
            .env_clear()
            .envs(INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (reply, spawned) = oneshot::channel();
        let gone = || io::Error::other("the thread that spawns workers is gone");
        SPAWNER.send((command, reply)).map_err(|_| gone())?;
        spawned.await.map_err(|_| gone())?
    }
}

type Order = (Command, oneshot::Sender<io::Result<Child>>);

static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, queue) = mpsc::channel::<Order>();
    let thread = thread::Builder::new().name("spawner".into()).stack_size(256 * 1024);
    // Where no thread can be had the queue is dropped, and every order fails with a reason.
    let _ = thread.spawn(move || {
        for (mut command, reply) in queue {
            let child = command.spawn();
            // The command holds the worker's end of the lifeline: as long as it lives, its end never comes.
            drop(command);
            if let Err(Ok(mut unwanted)) = reply.send(child) {
                let _ = unwanted.kill();
                let _ = unwanted.wait();
            }
        }
    });
    orders
});
