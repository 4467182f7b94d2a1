//! The worker: how it starts, what it serves, how it ends.

use std::future::pending;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use signal_hook::low_level::emulate_default_handler;
use tarpc::server::Serve;
use task_proto::handshake::Hello;
use task_proto::limits::{DRAIN, Limits};
use task_proto::scoreboard::{Board, Scores};
use task_proto::wire::Greeting;
use task_proto::wire::json::Methods;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::timeout;

use crate::blamed::Blamed;
use crate::connection::{Connection, Shared};
use crate::error::{Context, WorkerError};
use crate::log::CallLevel;
use crate::signals::Ends;
use crate::standalone::Place;
use crate::supervised::Start;
use crate::{accept, lifeline, log, notify, signals, supervised, sys};

/// A process that serves calls: under a host, or alone.
#[derive(Debug)]
pub struct Worker {
    limits: Limits,
    mode: Mode,
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
        Ok(Worker { limits: start.hello.limits.clone(), mode: Mode::Supervised(Box::new(start)) })
    }

    /// A worker on a socket of its own at this path, which is removed at the end. INT or TERM drains it. A service
    /// manager that wants to be told (`sd_notify(3)`) is.
    pub fn standalone(path: impl Into<PathBuf>) -> Result<Self, WorkerError> {
        Self::alone(Place::Own(path.into()))
    }

    /// The same on the socket that a service manager gave (`LISTEN_FDS`, see `sd_listen_fds(3)`), which stays; `None`: it
    /// gave none.
    ///
    /// Call it first in `main`: it takes variables out of the environment.
    pub fn activated() -> Result<Option<Self>, WorkerError> {
        Place::given()?.map(Self::alone).transpose()
    }

    fn alone(place: Place) -> Result<Self, WorkerError> {
        signals::reset().context("cannot reset signals")?;
        sys::keep_memory_level();
        Ok(Worker { limits: Limits::default(), mode: Mode::Standalone(place) })
    }

    /// The limits to keep. Read here what is to be read of the system: once it serves, the worker opens no file.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Serves until it is told to end, and then until all calls are answered. `name` is that of the service, for
    /// the log; `make` gives the service of each connection.
    pub fn serve<S>(self, name: &str, make: impl Fn(&Connection) -> S + 'static) -> Result<(), WorkerError>
    where
        S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
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
        S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
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
        S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
    {
        match self.mode {
            Mode::Supervised(start) => serve_supervised(self.limits, *start, name, make, json),
            Mode::Standalone(place) => serve_standalone(self.limits, place, name, make, json),
        }
    }
}

fn serve_supervised<S>(
    limits: Limits,
    start: Start,
    name: &str,
    make: impl Fn(&Connection) -> S + 'static,
    json: Option<Methods<S::Req, S::Resp>>,
) -> Result<(), WorkerError>
where
    S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
{
    let calls = log::start(true);
    // Here the sandbox takes the files away; the lifeline needs none, but its thread must be under it.
    lifeline::watch().context("cannot start the lifeline")?;
    let runtime = runtime()?;
    let Hello { instance, generation, socket, suspects, condemned, .. } = start.hello;
    let greeting = Greeting { instance, generation, connection: 0 };
    let shared = shared(limits, greeting, start.scores, calls, Blamed::new(suspects, condemned));
    LocalSet::new().block_on(&runtime, async {
        let mut ends = Ends::of_host().context("cannot hear signals")?;
        let listener = listener(start.listener)?;
        tracing::info!(log.target = "worker", socket, "serving {name}");
        // Here the sandbox takes the system calls away.
        supervised::ready(start.protocol)?;
        let end = async {
            ends.next().await;
            supervised::draining();
        };
        // Without a limit of its own: the host knows how long it will wait, and has SIGKILL.
        accept::serve(listener, Rc::clone(&shared), make, json, end).await;
        drained(&shared);
        Ok(())
    })
}

fn serve_standalone<S>(
    limits: Limits,
    place: Place,
    name: &str,
    make: impl Fn(&Connection) -> S + 'static,
    json: Option<Methods<S::Req, S::Resp>>,
) -> Result<(), WorkerError>
where
    S: Serve<Req: DeserializeOwned + 'static, Resp: Serialize + 'static> + Clone + 'static,
{
    let calls = log::start(false);
    supervised::limit_resources(&limits)?;
    let scores =
        Board::create().and_then(|board| Scores::map(board.fd())).context("cannot make the scoreboard")?;
    let runtime = runtime()?;
    let nobody = Greeting { instance: String::new(), generation: 0, connection: 0 };
    let shared = shared(limits, nobody, scores, calls, Blamed::default());
    LocalSet::new().block_on(&runtime, async {
        // Before the socket is there: a signal from then on must find somebody who removes it.
        let mut ends = Ends::of_people().context("cannot hear signals")?;
        let (socket, path, file) = place.listen()?;
        let listener = listener(socket)?;
        tracing::info!(log.target = "worker", socket = %path.display(), "serving {name}");
        notify::tell(notify::READY);
        let (told, draining) = oneshot::channel();
        let end = async move {
            ends.next().await;
            // Who connects now is to see at once that nobody serves here.
            drop(file);
            notify::tell(notify::STOPPING);
            let _ = told.send(ends);
        };
        let impatience = async {
            match draining.await {
                Ok(mut ends) => timeout(DRAIN, ends.next()).await.ok(),
                Err(_) => pending().await,
            }
        };
        tokio::select! {
            () = accept::serve(listener, Rc::clone(&shared), make, json, end) => drained(&shared),
            again = impatience => {
                if let Some(signal) = again {
                    emulate_default_handler(signal).context("cannot end by the signal")?;
                }
                tracing::warn!(log.target = "worker", "gave up draining after {} s", DRAIN.as_secs());
            }
        }
        Ok(())
    })
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
    Rc::new(Shared { limits: Arc::new(limits), greeting, scores, calls, blamed })
}

fn drained(shared: &Shared) {
    tracing::info!(log.target = "worker", calls = shared.scores.answered(), "drained");
}
