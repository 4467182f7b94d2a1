//! The supervisor: one loop that feeds events to the pure policy of `state.rs` and performs what it answers.
//!
//! It keeps the listening socket across generations, so that a client never sees *connection refused* while a
//! worker is replaced: it waits in the backlog, and the next worker serves it.

mod autopsy;
mod blame;
mod generation;
mod health;
mod post_mortem;
mod report;
mod service;
mod state;
mod status;

use std::sync::Arc;
use std::time::Instant;

use task_proto::handshake::Ready;
use task_proto::limits::{HAND_OVER, Limits, SUPERVISOR_QUEUE};
use task_proto::scoreboard::Snapshot;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

pub use self::health::Sickness;
pub use self::post_mortem::{Ended, ExitCause, HandOverError, PostMortem, StartFailure, StartFault};
use self::service::{Order, Service};
pub use self::state::Restart;
pub use self::status::{Running, ServicePhase, Status, verdict};
use crate::journal::Journal;
use crate::socket::Socket;
use crate::spawn::WorkerSpec;
use crate::verdict::Verdict;

/// Keeps a worker running behind a socket. Dropping it stops the worker in the background; [`Supervisor::stop`]
/// waits for that.
#[derive(Debug)]
pub struct Supervisor {
    orders: mpsc::Sender<Order>,
    at_once: Arc<Notify>,
    status: watch::Receiver<Status>,
    socket: Arc<Socket>,
    limits: Limits,
    run: String,
    began: Instant,
}

impl Supervisor {
    /// Starts the worker behind `socket`, and another in its place after the deaths that `restart` says. Its output goes
    /// to `journal`, under whose run it appears.
    ///
    /// Must be called within a tokio runtime with I/O and time enabled.
    pub fn start(spec: WorkerSpec, socket: Socket, restart: Restart, journal: Journal) -> Supervisor {
        let (orders, ordered) = mpsc::channel(SUPERVISOR_QUEUE);
        let (status, watched) = watch::channel(Status::default());
        let socket = Arc::new(socket);
        let (limits, run, began) = (spec.limits().clone(), journal.run().to_owned(), Instant::now());
        let service = Service::new(spec, Arc::clone(&socket), restart, journal, status, began);
        // It owns itself: it ends when its worker is gone, after `stop` or when the last order can have come.
        let at_once = Arc::new(Notify::new());
        tokio::spawn(service.run(ordered, Arc::clone(&at_once)));
        Supervisor { orders, at_once, status: watched, socket, limits, run, began }
    }

    /// How the service stands, now and at every change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The socket that the workers serve.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
    }

    /// Name of the host's run: what the workers' greetings call its instance.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The limits that the workers keep.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Waits until a worker serves.
    ///
    /// # Errors
    /// Why there will be none.
    pub async fn ready(&self) -> Result<Ready, Ended> {
        let mut status = self.status();
        loop {
            match &status.borrow_and_update().phase {
                ServicePhase::Serving { ready, .. } => return Ok(ready.clone()),
                ServicePhase::Ended(ended) => return Err(ended.clone()),
                ServicePhase::Starting | ServicePhase::Waiting | ServicePhase::Stopping => {}
            }
            if status.changed().await.is_err() {
                return Err(Ended::Stopped);
            }
        }
    }

    /// What the worker that serves shows of itself; `None` while there is none.
    pub fn scoreboard(&self) -> Option<Snapshot> {
        match &self.status.borrow().phase {
            ServicePhase::Serving { board, .. } => board.read().ok(),
            _ => None,
        }
    }

    /// Starts another worker and lets it serve in place of the one that does, which answers what it was asked and then
    /// ends; returns the new one's generation once it serves. No connection is refused meanwhile. A hand-over that is
    /// under way is waited for first: whoever serves afterwards was started after this call.
    ///
    /// # Errors
    /// The new worker did not start: the old one goes on, if there is one; an earlier predecessor still drains after
    /// [`HAND_OVER`]; or the service has ended.
    pub async fn hand_over(&self) -> Result<u64, HandOverError> {
        let (reply, done) = oneshot::channel();
        let ended = || HandOverError::Ended(self.ended());
        self.orders.send(Order::HandOver(reply)).await.map_err(|_| ended())?;
        timeout(HAND_OVER, done).await.map_err(|_| HandOverError::Queued)?.map_err(|_| ended())?
    }

    /// What is known of a connection to this generation that was lost; see [`verdict`].
    pub async fn verdict(&self, generation: u64, connection: u64) -> Verdict {
        verdict(self.status(), generation, connection).await
    }

    /// Ends the worker at once, if it is still there: SIGKILL instead of a drain.
    pub fn stop_now(&self) {
        self.at_once.notify_one();
    }

    /// Stops the worker: the socket file goes, what was sent is answered, the process ends and is reaped.
    pub async fn stop(&self) -> Ended {
        let _ = self.orders.send(Order::Stop).await;
        let mut status = self.status();
        // The loop says how it ended before it goes.
        let _ = status.wait_for(Status::is_ended).await;
        self.ended()
    }

    fn ended(&self) -> Ended {
        match &self.status.borrow().phase {
            ServicePhase::Ended(ended) => ended.clone(),
            _ => Ended::Stopped,
        }
    }
}
