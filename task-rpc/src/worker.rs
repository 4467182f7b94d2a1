//! The worker: how it starts, what it serves, how it ends.

use std::future::pending;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::low_level::emulate_default_handler;
use tarpc::server::Serve;
use task_proto::handshake::{Hello, SandboxMode};
use task_proto::limits::Limits;
use task_proto::scoreboard::{Board, Scores};
use task_proto::wire::Greeting;
use task_proto::wire::json::Methods;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;

use crate::blamed::Blamed;
use crate::call::Names;
use crate::connection::{Connection, Shared};
use crate::engine::Budget;
use crate::error::{Context, WorkerError};
use crate::log::CallLevel;
use crate::notify::Manager;
use crate::signals::Ends;
use crate::standalone::{Place, SocketFile};
use crate::supervised::Start;
use crate::told::Told;
use crate::{accept, lifeline, log, notify, sandbox, signals, supervised, sys};

/// A process that serves calls: under a host, or alone.
#[derive(Debug)]
pub struct Worker {
    limits: Limits,
    mode: Mode,
    sandbox: Option<SandboxMode>,
}

#[derive(Debug)]
enum Mode {
    Supervised(Box<Start>),
    Standalone(Place),
}

impl Worker {
    /// A worker under the host with this pid, which is its parent and has put its end of the handshake's pair on
    /// this process's stdin.
    ///
    /// Call it first in `main`: it closes every descriptor from 3 up, since those come from somebody who forgot
    /// them. From here on the process dies with its host. It returns when the host has said what is to be served
    /// within which limits; the host then waits for [`serve`](Worker::serve).
    pub fn supervised(host: u32) -> Result<Self, WorkerError> {
        supervised::prepare(host)?;
        sys::keep_memory_level();
        let start = supervised::greet()?;
        let limits = with_memory(&start.hello.limits);
        Ok(Worker { limits, mode: Mode::Supervised(Box::new(start)), sandbox: None })
    }

    /// A worker on a socket of its own at this path, which is removed at the end. INT or TERM drains it. A service
    /// manager that wants to be told (`sd_notify(3)`) is.
    pub fn standalone(path: impl Into<PathBuf>, limits: &Limits) -> Result<Self, WorkerError> {
        Self::alone(Place::Own(path.into()), limits)
    }

    /// The same on the socket that a service manager gave (`LISTEN_FDS`, see `sd_listen_fds(3)`), which stays; `None`: it
    /// gave none.
    ///
    /// Call it first in `main`: it takes variables out of the environment.
    pub fn activated(limits: &Limits) -> Result<Option<Self>, WorkerError> {
        Place::given()?.map(|place| Self::alone(place, limits)).transpose()
    }

    fn alone(place: Place, limits: &Limits) -> Result<Self, WorkerError> {
        signals::reset().context("cannot reset signals")?;
        sys::keep_memory_level();
        let limits = with_memory(limits);
        Ok(Worker { limits, mode: Mode::Standalone(place), sandbox: None })
    }

    /// With this asked of its sandbox. By default a worker is in one as far as the kernel has it, or as its host says:
    /// once it serves it opens no file and no socket, and starts threads but no program. One that has to is made with
    /// [`SandboxMode::Off`]; a host that requires a sandbox does without it then.
    #[must_use]
    pub fn sandbox(mut self, mode: SandboxMode) -> Self {
        self.sandbox = Some(mode);
        self
    }

    /// The limits to keep, that of memory as a number. Read here what is to be read of the system: once it serves, the
    /// worker opens no file.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Serves until it is told to end, and then until all calls are answered. `name` is that of the service, for
    /// the log; `make` gives the service of each connection.
    pub fn serve<S>(self, name: &str, make: impl Fn(&Connection) -> S + 'static) -> Result<(), WorkerError>
    where
        S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone + 'static,
    {
        self.serve_as(name, make, None)
    }

    /// The same also for clients that speak JSON-RPC, on the same socket: `methods` says what the service looks like to
    /// them.
    pub fn serve_json<S>(
        self,
        name: &str,
        make: impl Fn(&Connection) -> S + 'static,
        methods: Methods<S::Req, S::Resp>,
    ) -> Result<(), WorkerError>
    where
        S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone + 'static,
    {
        self.serve_as(name, make, Some(methods))
    }

    fn serve_as<S>(
        self,
        name: &str,
        make: impl Fn(&Connection) -> S + 'static,
        json: Option<Methods<S::Req, S::Resp>>,
    ) -> Result<(), WorkerError>
    where
        S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone + 'static,
    {
        match self.mode {
            Mode::Supervised(start) => serve_supervised(self.limits, *start, self.sandbox, name, make, json),
            Mode::Standalone(place) => serve_standalone(self.limits, place, self.sandbox, name, make, json),
        }
    }
}

fn serve_supervised<S>(
    limits: Limits,
    start: Start,
    sandbox: Option<SandboxMode>,
    name: &str,
    make: impl Fn(&Connection) -> S + 'static,
    json: Option<Methods<S::Req, S::Resp>>,
) -> Result<(), WorkerError>
where
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone + 'static,
{
    let calls = log::start(true);
    let mode = sandbox::agreed(start.hello.sandbox, sandbox);
    let closing = mode.and_then(|mode| sandbox::close_files(mode, &limits, None));
    let closing = supervised::or_refuse(closing)?;
    // After the files are closed: its thread is to be without them, too.
    lifeline::watch().context("cannot start the lifeline")?;
    let runtime = runtime()?;
    let Hello { instance, generation, socket, suspects, condemned, .. } = start.hello;
    let greeting = Greeting { instance, generation, connection: 0 };
    let shared = shared(limits, greeting, start.scores, calls, Blamed::new(suspects, condemned));
    LocalSet::new().block_on(&runtime, async {
        let mut ends = Ends::of_host().context("cannot hear signals")?;
        let listener = listener(start.listener)?;
        let in_force = supervised::or_refuse(closing.close_calls(listener.get_ref().as_fd()))?;
        let sandbox = tracing::field::display(in_force.sandbox);
        tracing::info!(log.target = "worker", socket, sandbox, "serving {name}");
        supervised::ready(start.protocol, shared.limits.memory, in_force)?;
        let end = async move {
            ends.next().await;
            supervised::draining();
        };
        // Without a limit of its own: the host knows how long it will wait, and has SIGKILL.
        apart(accept::serve(listener, Rc::clone(&shared), make, json, end)).await;
        drained(&shared);
        Ok(())
    })
}

fn serve_standalone<S>(
    limits: Limits,
    place: Place,
    sandbox: Option<SandboxMode>,
    name: &str,
    make: impl Fn(&Connection) -> S + 'static,
    json: Option<Methods<S::Req, S::Resp>>,
) -> Result<(), WorkerError>
where
    S: Serve<Req: DeserializeOwned + Send + 'static, Resp: Serialize + 'static> + Clone + 'static,
{
    let calls = log::start(false);
    let mode = sandbox::agreed(SandboxMode::default(), sandbox)?;
    supervised::limit_resources(&limits)?;
    let scores =
        Board::create().and_then(|board| Scores::map(board.fd())).context("cannot make the scoreboard")?;
    let runtime = runtime()?;
    let nobody = Greeting { instance: String::new(), generation: 0, connection: 0 };
    let drain = limits.drain;
    let shared = shared(limits, nobody, scores, calls, Blamed::default());
    LocalSet::new().block_on(&runtime, async {
        // Before the socket is there: a signal from then on must find somebody who removes it.
        let mut ends = Ends::of_people().context("cannot hear signals")?;
        let (socket, path, file) = place.listen()?;
        let listener = listener(socket)?;
        let manager = Manager::connect();
        let directory = file.as_ref().map(SocketFile::directory);
        let in_force =
            sandbox::close_files(mode, &shared.limits, directory)?.close_calls(listener.get_ref().as_fd())?;
        if let Some(lacks) = &in_force.lacks {
            let stays = if file.is_some() { "; the socket file stays at the end" } else { "" };
            tracing::warn!(log.target = "worker", "sandbox {}: {lacks}{stays}", in_force.sandbox);
        }
        let sandbox = tracing::field::display(in_force.sandbox);
        tracing::info!(log.target = "worker", socket = %path.display(), sandbox, "serving {name}");
        manager.tell(notify::READY);
        let (told, draining) = oneshot::channel();
        let end = async move {
            ends.next().await;
            // Who connects now is to see at once that nobody serves here.
            drop(file);
            manager.tell(notify::STOPPING);
            let _ = told.send(ends);
        };
        let impatience = async {
            match draining.await {
                Ok(mut ends) => timeout(drain, ends.next()).await.ok(),
                Err(_) => pending().await,
            }
        };
        tokio::select! {
            () = apart(accept::serve(listener, Rc::clone(&shared), make, json, end)) => drained(&shared),
            again = impatience => {
                if let Some(signal) = again {
                    emulate_default_handler(signal).context("cannot end by the signal")?;
                }
                tracing::warn!(log.target = "worker", "gave up draining after {} s", drain.as_secs_f64());
            }
        }
        Ok(())
    })
}

/// The limit of memory as a number, which only the files of the system tell.
fn with_memory(limits: &Limits) -> Limits {
    Limits { memory: Some(Budget::new(limits.memory).limit()), ..limits.clone() }
}

/// Runs a future as a task of its own. What is not one is polled whenever any task is woken: for each call.
async fn apart(future: impl Future<Output = ()> + 'static) {
    if let Err(error) = spawn_local(future).await {
        resume_unwind(error.into_panic());
    }
}

fn runtime() -> Result<Runtime, WorkerError> {
    Builder::new_current_thread().enable_io().enable_time().build().context("cannot start the runtime")
}

fn listener(listener: UnixListener) -> Result<AsyncFd<UnixListener>, WorkerError> {
    sys::watched(listener).context("cannot use the listener")
}

fn shared(
    limits: Limits,
    greeting: Greeting,
    scores: Scores,
    calls: CallLevel,
    blamed: Blamed,
) -> Rc<Shared> {
    let told = Told::default();
    let names = Names::default();
    Rc::new(Shared { limits: Arc::new(limits), greeting, scores, calls, names, blamed, told })
}

fn drained(shared: &Shared) {
    tracing::info!(log.target = "worker", calls = shared.scores.answered(), "drained");
}
