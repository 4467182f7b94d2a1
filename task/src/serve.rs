//! `task serve`: the service kept up in the foreground, for weeks, whatever happens to its worker.
//!
//! The order of the start: what a service manager gave, signals, the directory, its lock, the sockets, the worker. So
//! each thing is there before what needs it, and nothing is left behind by a signal at any moment. The end goes the
//! other way; the lock is last.

use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::{Fuse, FusedFuture as _};
use listenfd::ListenFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use task_host::control::{self, CONTROL_SOCKET};
use task_host::journal::Journal;
use task_host::lock::{Lock, LockError};
use task_host::record::Level;
use task_host::run_dir::{Base, SOCKET};
use task_host::screen::Screen;
use task_host::socket::{Socket, remove_stale};
use task_host::spawn::WorkerSpec;
use task_host::store::{SERVE, Store};
use task_host::supervisor::{Ended, Restart, ServicePhase, Status, Supervisor};
use tokio::sync::Notify;
use tracing_subscriber::layer::SubscriberExt;

use crate::args::{ServeConfig, Verbosity};
use crate::exit::Failure;
use crate::notify::{News, Notifier};
use crate::signals::{self, Signal, Signals};

/// Serves until it is asked to end, or no worker can be had any more.
pub fn run(config: &ServeConfig) -> Result<(), Failure> {
    // First of all: it takes variables out of the environment, which no other thread may be reading.
    let given = given_socket()?;
    signals::outlive_size_limit().map_err(unusual)?;
    allow_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(unusual)?;
    let ended = runtime.block_on(live(config, given));
    runtime.shutdown_background();
    ended
}

/// Raises the soft limit to the hard one. Descriptors that clients have sent, and that wait in the backlog, count for
/// all of a user's processes: at the usual 1024 a hello with its two might not get through.
fn allow_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // It is within what is allowed; where not, the limit stays.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The listening socket that a service manager hands over in place of `rpc.sock`.
fn given_socket() -> Result<Option<Socket>, Failure> {
    let refused = |why: String| Failure::Usage(format!("LISTEN_FDS: {why}"));
    let mut given = ListenFd::from_env();
    if given.len() > 1 {
        return Err(refused(format!("one socket can be served, not {}", given.len())));
    }
    let listener = given.take_unix_listener(0).map_err(|error| refused(error.to_string()))?;
    listener
        .map(|listener| Socket::given(OwnedFd::from(listener)))
        .transpose()
        .map_err(|error| refused(error.to_string()))
}

async fn live(config: &ServeConfig, given: Option<Socket>) -> Result<(), Failure> {
    let mut signals = Signals::register().map_err(unusual)?;
    let terminal = Terminal::look();
    let base = Base::open(config.runtime_dir.as_deref()).map_err(directory)?;
    let lock = Lock::take(&base).await.map_err(|error| match error {
        LockError::Held { .. } => Failure::AlreadyServing(error),
        other => directory(other),
    })?;
    base.sweep();
    let journal = Journal::new(&format!("{:08x}", rand::random::<u32>()), screen(config));
    // It is set once in a process, here.
    let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(journal.layer()));
    let log = journal.write_to(Store::locate(), SERVE);
    let ended = served(config, given, &base, &journal, &mut signals, &terminal).await;
    if let Err(failure) = &ended
        && !matches!(failure, Failure::Signal(_))
    {
        journal.leave_screen();
        tracing::error!(kind = failure.kind(), "failed: {}", failure.text().trim_start_matches("task: "));
    }
    log.finish();
    drop(lock);
    // Signals stay caught until the process ends: a second one at the last moment shall not change its exit status.
    ended
}

async fn served(
    config: &ServeConfig,
    given: Option<Socket>,
    base: &Base,
    journal: &Journal,
    signals: &mut Signals,
    terminal: &Terminal,
) -> Result<(), Failure> {
    // Before the other, so that whoever can call can also ask.
    let control_socket = bound(base, CONTROL_SOCKET).await?;
    let socket = match given {
        Some(socket) => {
            if socket.path() != base.path().join(SOCKET) {
                let (path, base) = (socket.path().display(), base.path().display());
                tracing::warn!(
                    "serving the socket {path}, where task call does not look: it looks in {base}"
                );
            }
            socket
        }
        None => bound(base, SOCKET).await?,
    };
    let restart = Restart::FailedStarts(config.max_failed_starts);
    let supervisor = Arc::new(Supervisor::start(worker(config), socket, restart, journal.clone()));
    let stop = Arc::new(Notify::new());
    let control = control::serve(&control_socket, Arc::clone(&supervisor), Arc::clone(&stop));
    tokio::select! {
        ended = watched(&supervisor, signals, &stop, terminal) => ended,
        // Only its registration can fail.
        Err(error) = control => Err(unusual(error)),
    }
}

/// A socket of ours, in place of one that a service left which was killed.
async fn bound(base: &Base, name: &str) -> Result<Socket, Failure> {
    remove_stale(base.fd(), base.path(), name).await.map_err(directory)?;
    Socket::bind(base.fd(), base.path(), name).map_err(|error| {
        let path = base.path().join(name);
        Failure::RuntimeDir(format!("cannot listen on {}: {error}", path.display()))
    })
}

/// Does what signals and control calls ask for, until the service has ended.
async fn watched(
    supervisor: &Supervisor,
    signals: &mut Signals,
    stop: &Notify,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let notifier = Notifier::from_env();
    let mut status = supervisor.status();
    let mut reload = pin!(Fuse::terminated());
    let mut reload_wanted = false;
    let mut ready = false;
    notifier.tell(None, &words(&status.borrow()));
    let stopped_by = loop {
        if reload_wanted && reload.is_terminated() {
            reload_wanted = false;
            notifier.tell(Some(News::Reloading), "handing over to a new worker");
            reload.set(supervisor.hand_over().fuse());
        }
        tokio::select! {
            biased;
            signal = signals.next() => match signal {
                Signal::HangUp if terminal.is_gone() => {
                    tracing::info!("the terminal has gone");
                    break Some(signal);
                }
                // The worker of a hand-over that is under way may have started before what this signal is about: so
                // another one follows it, for however many signals come meanwhile.
                Signal::HangUp => {
                    let follows = if reload.is_terminated() { "" } else { ", after the one that is starting" };
                    tracing::info!("{signal}: handing over to a new worker{follows}");
                    reload_wanted = true;
                }
                Signal::Pipe => {}
                Signal::Interrupt | Signal::Terminate | Signal::Quit => {
                    tracing::info!("{signal}");
                    break Some(signal);
                }
            },
            () = stop.notified() => {
                tracing::info!("asked to stop");
                break None;
            }
            // The supervisor has told the log how it went.
            _ = &mut reload => notifier.tell(Some(News::Ready), &words(&status.borrow())),
            changed = status.changed() => {
                let status = status.borrow_and_update();
                if let ServicePhase::Ended(ended) = &status.phase {
                    return Err(gave_up(ended));
                }
                let news = (!ready && status.is_settled()).then_some(News::Ready);
                ready |= news.is_some();
                notifier.tell(news, &words(&status));
                if changed.is_err() {
                    return Err(gave_up(&Ended::Stopped));
                }
            }
        }
    };
    notifier.tell(Some(News::Stopping), "answering what was sent");
    stopped(supervisor, signals, stopped_by).await
}

/// Ends the worker: at once for QUIT, else when it has answered, or at the second signal.
async fn stopped(supervisor: &Supervisor, signals: &mut Signals, by: Option<Signal>) -> Result<(), Failure> {
    let mut quit = by == Some(Signal::Quit);
    let mut asked = by.is_some();
    if quit {
        supervisor.stop_now();
    }
    let calls = supervisor.report().calls.in_flight;
    if calls > 0 && !quit {
        let limit = supervisor.limits().drain.as_secs_f64();
        let calls = if calls == 1 { "1 call".to_owned() } else { format!("{calls} calls") };
        tracing::info!("answering {calls}, for at most {limit} s; another signal ends at once");
    }
    let mut stop = pin!(supervisor.stop());
    loop {
        tokio::select! {
            biased;
            _ = &mut stop => break,
            signal = signals.next() => match signal {
                Signal::HangUp | Signal::Pipe => {}
                signal => {
                    if asked || signal == Signal::Quit {
                        tracing::warn!("{signal}: ending at once");
                        supervisor.stop_now();
                    }
                    asked = true;
                    quit |= signal == Signal::Quit;
                }
            },
        }
    }
    if quit { Err(Failure::Signal(Signal::Quit)) } else { Ok(()) }
}

/// Why there is no service any more, though nobody asked for its end.
fn gave_up(ended: &Ended) -> Failure {
    match ended {
        Ended::StartFailed(failure) => Failure::CannotStart {
            program: failure.program.clone(),
            reason: failure.fault.to_string(),
            stderr: failure.stderr_tail.clone(),
        },
        Ended::Died(death) => Failure::GaveUp { why: death.why(), stderr: death.stderr_tail.clone() },
        Ended::Stopped => Failure::Internal(ended.to_string()),
    }
}

/// How the service stands, for the service manager's status line.
fn words(status: &Status) -> String {
    match &status.phase {
        ServicePhase::Starting => "starting a worker".to_owned(),
        ServicePhase::Waiting => "a start has failed; waiting for the next".to_owned(),
        ServicePhase::Serving { generation, ready, .. } => {
            format!("serving: worker pid {}, generation {generation}", ready.pid)
        }
        ServicePhase::Stopping => "stopping".to_owned(),
        ServicePhase::Ended(ended) => ended.to_string(),
    }
}

/// The terminal that this process was started from, if it was from one.
struct Terminal(bool);

impl Terminal {
    fn look() -> Self {
        Terminal(open_terminal().is_ok())
    }

    /// There was one, and it has been hung up.
    fn is_gone(&self) -> bool {
        // Any other error, as that no descriptor is free, says nothing of the terminal.
        self.0 && matches!(open_terminal(), Err(Errno::NXIO | Errno::IO))
    }
}

fn open_terminal() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

fn worker(config: &ServeConfig) -> WorkerSpec {
    let spec =
        WorkerSpec::new(&config.rpc_bin).with_limits(config.limits.clone()).with_sandbox(config.sandbox);
    let spec = crate::run::computing(spec);
    // Without the variable its log has no line for an ordinary call, but a summary a minute.
    if config.verbosity >= Verbosity::Verbose { spec.env("TASK_LOG", "debug") } else { spec }
}

fn screen(config: &ServeConfig) -> Screen {
    let minimum = match config.verbosity {
        Verbosity::Quiet => Level::Error,
        Verbosity::Normal => Level::Info,
        Verbosity::Verbose | Verbosity::Debug => Level::Debug,
    };
    Screen::new(minimum, config.color.on(rustix::termios::isatty(rustix::stdio::stderr())))
}

fn directory(error: impl std::error::Error) -> Failure {
    Failure::RuntimeDir(error.to_string())
}

fn unusual(error: impl std::error::Error) -> Failure {
    Failure::Internal(error.to_string())
}
