//! The supervisor: one loop that feeds events to the pure policy of `state.rs` and performs what it answers.
//!
//! It keeps the listening socket across generations, so that a client never sees *connection refused* while a
//! worker is replaced: it waits in the backlog, and the next worker serves it.

mod generation;
mod post_mortem;
mod state;

use std::sync::Arc;

use rustix::process::Signal;
use task_proto::handshake::{Hello, PROTOCOL, Ready};
use task_proto::limits::{DEATHS_KEPT, Limits, SUPERVISOR_QUEUE};
use task_proto::scoreboard::{Board, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use self::generation::{Generation, Report};
pub use self::post_mortem::{Ended, ExitCause, PostMortem, StartFailure, StartFault};
pub use self::state::Policy;
use self::state::{Action, Event, Outcome, Phase, State};
use crate::journal::Journal;
use crate::socket::Socket;
use crate::spawn::WorkerSpec;

/// Keeps a worker running behind a socket. Dropping it stops the worker in the background; [`Supervisor::stop`]
/// waits for that.
#[derive(Debug)]
pub struct Supervisor {
    orders: mpsc::Sender<Event>,
    status: watch::Receiver<Status>,
    socket: Arc<Socket>,
    limits: Limits,
}

/// How the service stands.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its phase.
    pub phase: ServicePhase,
    /// The workers that died last, at most [`DEATHS_KEPT`], the latest at the end.
    pub deaths: Vec<Arc<PostMortem>>,
    /// How many have died.
    pub died: u64,
}

/// The phase of a service.
#[derive(Debug, Clone)]
pub enum ServicePhase {
    /// A worker is starting.
    Starting,
    /// A worker answers.
    Serving {
        /// Which worker of this supervisor, from 1.
        generation: u64,
        /// What it said of itself.
        ready: Ready,
        /// Where it shows what it does.
        board: Arc<Board>,
    },
    /// The worker is being stopped.
    Stopping,
    /// There is no worker and none will come.
    Ended(Ended),
}

impl Status {
    /// There is no worker and none will come.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, ServicePhase::Ended(_))
    }

    /// A worker answers, or none will.
    pub fn is_settled(&self) -> bool {
        self.is_ended() || matches!(self.phase, ServicePhase::Serving { .. })
    }
}

impl Supervisor {
    /// Starts the worker behind `socket`. Its output goes to `journal`, under whose run it appears.
    ///
    /// Must be called within a tokio runtime with I/O and time enabled.
    pub fn start(spec: WorkerSpec, socket: Socket, policy: Policy, journal: Journal) -> Supervisor {
        let (orders, ordered) = mpsc::channel(SUPERVISOR_QUEUE);
        let (status, watched) =
            watch::channel(Status { phase: ServicePhase::Starting, deaths: Vec::new(), died: 0 });
        let (reports, reported) = mpsc::channel(SUPERVISOR_QUEUE);
        let socket = Arc::new(socket);
        let limits = spec.limits().clone();
        let (state, actions) = State::start(&policy);
        let service = Service {
            spec: Arc::new(spec),
            socket: Arc::clone(&socket),
            policy,
            journal,
            state,
            status,
            reports,
            signals: None,
            generation: None,
            pid: None,
            unlinked: false,
            deadline: None,
            failure: None,
        };
        // It owns itself: it ends when its worker is gone, after `stop` or when the last order can have come.
        tokio::spawn(service.run(actions, ordered, reported));
        Supervisor { orders, status: watched, socket, limits }
    }

    /// How the service stands, now and at every change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The socket that the workers serve.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.socket
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
                ServicePhase::Starting | ServicePhase::Stopping => {}
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

    /// Ends the worker at once, if it is still there: SIGKILL instead of a drain.
    pub fn stop_now(&self) {
        // A full queue already holds such an order; a closed one belongs to a service that has ended.
        let _ = self.orders.try_send(Event::StopNow);
    }

    /// Stops the worker: the socket file goes, what was sent is answered, the process ends and is reaped.
    pub async fn stop(&self) -> Ended {
        let _ = self.orders.send(Event::Stop).await;
        let mut status = self.status();
        match status.wait_for(Status::is_ended).await.map(|status| status.phase.clone()) {
            Ok(ServicePhase::Ended(ended)) => ended,
            _ => Ended::Stopped,
        }
    }
}

/// What the loop owns.
struct Service {
    spec: Arc<WorkerSpec>,
    socket: Arc<Socket>,
    policy: Policy,
    journal: Journal,
    state: State,
    status: watch::Sender<Status>,
    reports: mpsc::Sender<Report>,
    /// To the generation that runs.
    signals: Option<mpsc::Sender<Signal>>,
    generation: Option<JoinHandle<()>>,
    /// The worker that serves, or did last.
    pid: Option<u32>,
    /// The socket file is gone, by us.
    unlinked: bool,
    deadline: Option<Instant>,
    /// Why the start failed, once it has.
    failure: Option<StartFault>,
}

impl Service {
    async fn run(
        mut self,
        first: Vec<Action>,
        mut orders: mpsc::Receiver<Event>,
        mut reports: mpsc::Receiver<Report>,
    ) {
        self.perform(first);
        let mut owned = true;
        while self.state.phase != Phase::Ended {
            let deadline = self.deadline.unwrap_or_else(Instant::now);
            let event = tokio::select! {
                Some(report) = reports.recv() => self.learn(report),
                order = orders.recv(), if owned => {
                    owned = order.is_some();
                    order.unwrap_or(Event::Stop)
                }
                () = sleep_until(deadline), if self.deadline.is_some() => self.time_up(),
            };
            let (state, actions) = self.state.next(event, &self.policy);
            self.state = state;
            self.perform(actions);
        }
        if let Some(generation) = self.generation.take() {
            generation.abort();
            let _ = generation.await;
        }
    }

    /// Keeps what a report says beyond the event that it is.
    fn learn(&mut self, report: Report) -> Event {
        match report {
            Report::Ready(ready, board) => {
                let generation = self.state.generation;
                self.pid = Some(ready.pid);
                if self.state.phase == Phase::Starting {
                    let serving = ServicePhase::Serving { generation, ready, board };
                    self.status.send_modify(|status| status.phase = serving);
                }
                Event::Ready
            }
            Report::Refused(protocol) => {
                self.failure = Some(StartFault::Refused(protocol));
                Event::Refused
            }
            Report::Malformed(error) => {
                self.failure = Some(StartFault::Handshake(error));
                Event::Refused
            }
            Report::SpawnFailed(error) => {
                tracing::info!("cannot spawn {}: {error}", self.spec.name());
                self.failure = Some(StartFault::Spawn(error));
                Event::SpawnFailed
            }
            Report::Exited(death) => {
                self.log_exit(&death);
                self.status.send_modify(|status| {
                    if status.deaths.len() == DEATHS_KEPT {
                        status.deaths.remove(0);
                    }
                    status.deaths.push(Arc::new(death));
                    status.died += 1;
                });
                Event::Exited
            }
        }
    }

    fn time_up(&mut self) -> Event {
        self.deadline = None;
        if self.state.phase == Phase::Starting {
            self.failure = Some(StartFault::TimedOut(self.policy.start));
        }
        Event::TimeUp
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn(generation) => self.spawn(generation),
                Action::Arm(wait) => self.deadline = Some(Instant::now() + wait),
                Action::Disarm => self.deadline = None,
                Action::Unlink => match self.socket.unlink() {
                    Ok(removed) => self.unlinked |= removed,
                    Err(error) => tracing::warn!("cannot remove {}: {error}", self.socket.path().display()),
                },
                Action::Terminate => {
                    self.status.send_modify(|status| status.phase = ServicePhase::Stopping);
                    tracing::info!(pid = self.pid, "stopping");
                    self.signal(Signal::TERM);
                }
                Action::Kill => self.signal(Signal::KILL),
                Action::End(outcome) => self.end(outcome),
            }
        }
    }

    fn spawn(&mut self, generation: u64) {
        let (signals, to_send) = mpsc::channel(SUPERVISOR_QUEUE);
        let hello = Hello {
            protocol: PROTOCOL,
            instance: self.journal.run().to_owned(),
            generation,
            socket: self.socket.path().display().to_string(),
            limits: self.spec.limits().clone(),
            suspects: Vec::new(),
            condemned: Vec::new(),
        };
        let generation = Generation {
            spec: Arc::clone(&self.spec),
            hello,
            socket: Arc::clone(&self.socket),
            journal: self.journal.clone(),
            reports: self.reports.clone(),
            signals: to_send,
        };
        self.status.send_modify(|status| status.phase = ServicePhase::Starting);
        self.signals = Some(signals);
        self.generation = Some(tokio::spawn(generation.run()));
    }

    fn signal(&self, signal: Signal) {
        if let Some(signals) = &self.signals {
            // Full: it holds a SIGKILL already, since no more than one of each is ever sent.
            let _ = signals.try_send(signal);
        }
    }

    fn log_exit(&self, death: &PostMortem) {
        let PostMortem { generation, pid, cause, .. } = death;
        let name = self.spec.name();
        match self.state.phase {
            Phase::Stopping { .. } => {
                let pipes = if death.pipes_closed { "; pipes closed" } else { "" };
                let socket = if self.unlinked { "; socket removed" } else { "" };
                tracing::info!("{name} {cause}{pipes}{socket}");
            }
            Phase::Serving => tracing::warn!(pid, generation, "{name} {cause}"),
            // The error that the start ends with says it.
            _ => tracing::info!(pid, generation, "{name} {cause}"),
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let generation = self.state.generation;
        let last_death =
            self.status.borrow().deaths.last().filter(|death| death.generation == generation).cloned();
        let ended = match (outcome, last_death) {
            (Outcome::Stopped, _) => Ended::Stopped,
            (Outcome::Died, Some(death)) => Ended::Died(death),
            (Outcome::StartFailed | Outcome::Died, death) => {
                let fault = self.failure.take().or_else(|| Some(StartFault::Died(death.as_ref()?.cause)));
                Ended::StartFailed(Arc::new(StartFailure {
                    program: self.spec.program().to_owned(),
                    fault: fault.unwrap_or(StartFault::Died(ExitCause::Code(0))),
                    stderr_tail: death.map(|death| death.stderr_tail.clone()).unwrap_or_default(),
                }))
            }
        };
        self.status.send_modify(|status| status.phase = ServicePhase::Ended(ended));
    }
}
