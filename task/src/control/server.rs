//! The host's end of the control socket.
//!
//! Nothing that a client does can hold the host up: frames, calls and connections are bounded, nobody's replies are
//! waited for, and when all places are taken, whoever has been silent longest makes room: what it had sent by then is
//! answered.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use rustix::net::{Shutdown, shutdown};
use tarpc::context::Context;
use task_proto::crash::TraceId;
use task_proto::limits::{
    ACCEPT_BACKOFF, ACCEPT_BACKOFF_MAX, CONTROL_CONNECTIONS, CONTROL_FRAME, CONTROL_IN_FLIGHT,
    CONTROL_RESTARTS, Limits, NOTICE,
};
use task_proto::wire::{self, Calls, Decoder, FdStream, Hangup};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};

use super::{Control, NotRestarted, Reading, Report, State};
use crate::socket::Socket;
use crate::supervisor::{Ended, HandOverError, Supervisor};
use crate::verdict::Verdict;

/// Answers control calls about `supervisor` until it is dropped, which closes all connections. Whoever asks for the
/// end of the service does so through `stop`.
///
/// # Errors
/// Those of registering the socket with the runtime, within which this must be called.
pub async fn serve(
    socket: &Socket,
    supervisor: Arc<Supervisor>,
    stop: Arc<Notify>,
) -> io::Result<Infallible> {
    let listener = rustix::io::fcntl_dupfd_cloexec(socket.listener(), 0)?;
    let listener = UnixListener::from_std(StdListener::from(listener))?;
    let peers = Rc::new(Peers::default());
    let restarts = Rc::new(Semaphore::new(CONTROL_RESTARTS));
    let mut connections = FuturesUnordered::new();
    let mut accepting = pin!(accept(&listener));
    loop {
        let full = connections.len() >= CONTROL_CONNECTIONS;
        tokio::select! {
            biased;
            Some(()) = connections.next() => {}
            // Before `accept`: for whom there is no room waits in the backlog.
            // Those that are leaving may take a moment.
            stream = &mut accepting, if !full || peers.has_idle() && connections.len() < 2 * CONTROL_CONNECTIONS => {
                accepting.set(accept(&listener));
                if full {
                    peers.dismiss_one();
                }
                let answers = Answers {
                    supervisor: Arc::clone(&supervisor),
                    stop: Arc::clone(&stop),
                    restarts: Rc::clone(&restarts),
                    peer: peers.add(),
                };
                connections.push(converse(stream, answers));
            }
            () = peers.idle.notified(), if full => {}
        }
    }
}

/// The next connection of somebody who may ask.
async fn accept(listener: &UnixListener) -> UnixStream {
    let us = rustix::process::getuid().as_raw();
    let mut backoff = ACCEPT_BACKOFF;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match stream.peer_cred() {
                Ok(peer) if peer.uid() == us || peer.uid() == 0 => return stream,
                Ok(peer) => {
                    let (uid, pid) = (peer.uid(), peer.pid());
                    tracing::warn!(uid, pid, "refused another user at the control socket");
                }
                Err(error) => tracing::warn!("refused nobody at the control socket: {error}"),
            },
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // No descriptor or memory left, most likely; the connection stays in the backlog.
                tracing::warn!(
                    wait_ms = backoff.as_millis() as u64,
                    "cannot accept at the control socket: {error}"
                );
                sleep(backoff).await;
                backoff = (backoff * 2).min(ACCEPT_BACKOFF_MAX);
            }
        }
    }
}

/// Serves a connection to its end: EOF or told to leave, and all answers given; or the client gone.
async fn converse(stream: UnixStream, answers: Answers) {
    if let Err(error) = answer(stream, answers).await {
        tracing::debug!("closed a control connection: {error}");
    }
}

async fn answer(stream: UnixStream, answers: Answers) -> Result<(), Box<dyn std::error::Error>> {
    // No descriptor is taken from anybody.
    let stream = FdStream::new(stream, 0)?;
    let mut hangup = pin!(Hangup::new(&stream)?);
    let mut calls = Calls::new(wire::server(stream, &limits(), &Decoder::default()));
    let mut handlers = FuturesUnordered::new();
    let mut leave = pin!(answers.peer.leave.notified().fuse());
    loop {
        let answered = answers.peer.leaving.get() && handlers.is_empty();
        let patience = async { if answered { sleep(NOTICE).await } else { pending().await } };
        tokio::select! {
            biased;
            () = &mut hangup => return Ok(()),
            // What was sent is still read; the next write fails, so that the client knows that nobody read it.
            () = &mut leave => shutdown(calls.transport(), Shutdown::Read)?,
            () = patience => return Err("the client does not take its answers".into()),
            Some(answered) = handlers.next() => calls.answer(answered),
            call = calls.next() => match call {
                Some(call) => {
                    answers.peer.since.set(Instant::now());
                    handlers.extend(calls.start(call?, answers.clone().serve()).await);
                }
                None => return Ok(calls.transport().farewell()?),
            },
        }
    }
}

/// What a control connection may cost.
pub(super) fn limits() -> Limits {
    Limits {
        frame: CONTROL_FRAME,
        held: CONTROL_FRAME,
        attachments: 0,
        connections: CONTROL_CONNECTIONS,
        in_flight: CONTROL_IN_FLIGHT,
        ..Limits::default()
    }
}

/// Who answers the calls of one connection.
#[derive(Clone)]
struct Answers {
    supervisor: Arc<Supervisor>,
    stop: Arc<Notify>,
    restarts: Rc<Semaphore>,
    peer: Rc<Peer>,
}

impl Control for Answers {
    async fn status(self, _: Context) -> Report {
        self.supervisor.report()
    }

    async fn restart(self, _: Context) -> Result<u64, NotRestarted> {
        let _busy = self.peer.work();
        let refused = |why: &str| NotRestarted { why: why.to_owned(), stderr_tail: Vec::new() };
        // What is asked for now would be answered when it has ended, which nobody would hear.
        if self.supervisor.report().state == State::Stopping {
            return Err(refused("the service is stopping"));
        }
        let Ok(_one) = self.restarts.try_acquire() else {
            return Err(refused("too many wait for a new worker already"));
        };
        self.supervisor.hand_over().await.map_err(|error| NotRestarted {
            why: error.to_string(),
            stderr_tail: match error {
                HandOverError::Start(failure)
                | HandOverError::NoWorker(failure)
                | HandOverError::Ended(Ended::StartFailed(failure)) => failure.stderr_tail.clone(),
                HandOverError::Ended(Ended::Died(death)) => death.stderr_tail.clone(),
                HandOverError::Queued | HandOverError::Ended(Ended::Stopped) => Vec::new(),
            },
        })
    }

    async fn stop(self, _: Context) {
        self.stop.notify_one();
    }

    async fn verdict(self, _: Context, instance: String, generation: u64, connection: u64) -> Verdict {
        let _busy = self.peer.work();
        if instance != self.supervisor.run() {
            return Verdict::Unknown;
        }
        self.supervisor.verdict(generation, connection).await
    }

    async fn reading(self, _: Context, trace_id: TraceId) -> Option<Reading> {
        self.supervisor.reading(trace_id)
    }
}

/// The connections that are served.
#[derive(Default)]
struct Peers {
    peers: RefCell<Vec<Rc<Peer>>>,
    /// A peer has fallen idle.
    idle: Rc<Notify>,
}

/// A connection, as seen by who decides whether it may stay.
struct Peer {
    /// When it last asked for something.
    since: Cell<Instant>,
    /// Calls of it that the host works at.
    working: Cell<usize>,
    leave: Notify,
    leaving: Cell<bool>,
    idle: Rc<Notify>,
}

impl Peers {
    fn add(&self) -> Rc<Peer> {
        let peer = Rc::new(Peer {
            since: Cell::new(Instant::now()),
            working: Cell::new(0),
            leave: Notify::new(),
            leaving: Cell::new(false),
            idle: Rc::clone(&self.idle),
        });
        let mut peers = self.peers.borrow_mut();
        // Those that nobody else has are gone.
        peers.retain(|peer| Rc::strong_count(peer) > 1);
        peers.push(Rc::clone(&peer));
        peer
    }

    fn has_idle(&self) -> bool {
        self.peers.borrow().iter().any(Peer::is_idle)
    }

    /// Ends the connection that has been silent longest, of those for which no work is being done.
    fn dismiss_one(&self) {
        let peers = self.peers.borrow();
        if let Some(peer) = peers.iter().filter(|peer| peer.is_idle()).min_by_key(|peer| peer.since.get()) {
            peer.leaving.set(true);
            peer.leave.notify_one();
        }
    }
}

impl Peer {
    fn is_idle(self: &Rc<Self>) -> bool {
        self.working.get() == 0 && !self.leaving.get() && Rc::strong_count(self) > 1
    }

    fn work(&self) -> Work<'_> {
        self.working.update(|calls| calls + 1);
        Work(self)
    }
}

/// Work for a peer, until it is dropped.
struct Work<'a>(&'a Peer);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        let Work(peer) = self;
        peer.working.update(|calls| calls - 1);
        peer.since.set(Instant::now());
        peer.idle.notify_one();
    }
}
