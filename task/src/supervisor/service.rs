//! The loop: events to the policy, actions to the workers, news to whoever watches.

use std::collections::{HashMap, HashSet};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use task_proto::crash::{Crash, TraceId};
use task_proto::handshake::{EXIT_REFUSED, Hello, PROTOCOL, Ready};
use task_proto::limits::{BLAMED_SHOWN, DEATHS_KEPT, Limits, STARTED, SUPERVISOR_QUEUE};
use task_proto::scoreboard::{Activity, Board, Call};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;

use super::blame::{Blame, Making, Scene};
use super::generation::{Generation, Report};
use super::health::Sickness;
use super::post_mortem::{Ended, ExitCause, HandOverError, PostMortem, StartFailure, StartFault};
use super::state::{Action, Event, Mode, Outcome, Policy, Restart as RestartPolicy, Role, State, Timer};
use super::status::{Running, ServicePhase, Status};
use crate::control::Restart;
use crate::journal::Journal;
use crate::record;
use crate::socket::Socket;
use crate::spawn::WorkerSpec;

/// What a service is told to do.
pub(super) enum Order {
    /// Orderly.
    Stop,
    /// To another worker; the reply says which, once it serves.
    HandOver(oneshot::Sender<Result<u64, HandOverError>>),
}

/// What the loop owns.
pub(super) struct Service {
    spec: Arc<WorkerSpec>,
    socket: Arc<Socket>,
    policy: Policy,
    journal: Journal,
    state: State,
    status: watch::Sender<Status>,
    began: Instant,
    report: mpsc::Sender<(u64, Report)>,
    reports: mpsc::Receiver<(u64, Report)>,
    workers: HashMap<u64, Worker>,
    timers: HashMap<Timer, Instant>,
    blame: Blame,
    /// Who waits for a worker of at least this generation.
    waiting: Vec<(u64, oneshot::Sender<Result<u64, HandOverError>>)>,
    /// Why the last start failed, once one has.
    failure: Option<Arc<StartFailure>>,
    /// The worker that died last.
    last_death: Option<Arc<PostMortem>>,
    /// Why another worker is needed; `None`: somebody asked for one.
    need: Option<String>,
    /// The socket file is gone, by us.
    unlinked: bool,
}

/// A worker that is not gone.
struct Worker {
    task: JoinHandle<()>,
    signals: mpsc::Sender<Signal>,
    pid: Option<u32>,
    /// The suspects that it was told of.
    told: HashSet<TraceId>,
    /// What is wrong with its start.
    fault: Option<StartFault>,
    /// Why it follows another; `None`: it is the first.
    reason: Option<String>,
}

impl Service {
    pub(super) fn new(
        spec: WorkerSpec,
        socket: Arc<Socket>,
        restart: RestartPolicy,
        journal: Journal,
        status: watch::Sender<Status>,
        began: Instant,
    ) -> Self {
        let (report, reports) = mpsc::channel(SUPERVISOR_QUEUE);
        let Limits { start, drain, .. } = *spec.limits();
        let policy = Policy { restart, start, drain };
        let (state, first) = State::start(&policy);
        let mut service = Service {
            spec: Arc::new(spec),
            socket,
            policy,
            journal,
            state,
            status,
            began,
            report,
            reports,
            workers: HashMap::new(),
            timers: HashMap::new(),
            blame: Blame::default(),
            waiting: Vec::new(),
            failure: None,
            last_death: None,
            need: None,
            unlinked: false,
        };
        service.perform(first);
        service
    }

    /// `at_once`: whoever wants its end at once says so there; in a queue it might not find room.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>, at_once: Arc<Notify>) {
        let mut owned = true;
        while self.state.mode != Mode::Ended {
            let due = self.timers.iter().min_by_key(|(_, due)| **due).map(|(timer, due)| (*timer, *due));
            let time_up = async {
                match due {
                    Some((timer, due)) => {
                        sleep_until(due.into()).await;
                        timer
                    }
                    None => pending().await,
                }
            };
            let event = tokio::select! {
                biased;
                // Before an orderly stop that was asked for with it: the worker would be gone by itself.
                () = at_once.notified() => Some(Event::StopNow),
                Some((generation, report)) = self.reports.recv() => self.learn(generation, report),
                order = orders.recv(), if owned => {
                    owned = order.is_some();
                    Some(self.obey(order.unwrap_or(Order::Stop)))
                }
                timer = time_up => Some(self.time_up(timer)),
            };
            if let Some(event) = event {
                let (state, actions) = self.state.clone().next(event, self.began.elapsed(), &self.policy);
                self.state = state;
                self.perform(actions);
                self.publish();
            }
        }
        for (_, worker) in self.workers {
            worker.task.abort();
            let _ = worker.task.await;
        }
    }

    fn obey(&mut self, order: Order) -> Event {
        match order {
            Order::Stop => Event::Stop,
            Order::HandOver(reply) => {
                self.waiting.retain(|(_, reply)| !reply.is_closed());
                self.waiting.push((self.state.latest + 1, reply));
                self.need = None;
                Event::HandOver
            }
        }
    }

    fn time_up(&mut self, timer: Timer) -> Event {
        self.timers.remove(&timer);
        if let Timer::Start(generation) = timer
            && let Some(worker) = self.workers.get_mut(&generation)
        {
            worker.fault = Some(StartFault::TimedOut(self.policy.start));
        }
        Event::TimeUp(timer)
    }

    /// Keeps what a report says beyond the event that it is.
    fn learn(&mut self, generation: u64, report: Report) -> Option<Event> {
        let worker = self.workers.get_mut(&generation)?;
        Some(match report {
            Report::Spawned(pid) => {
                worker.pid = Some(pid);
                return None;
            }
            Report::Ready(ready, board) => {
                if self.state.role(generation) == Some(Role::Starting) && self.state.mode == Mode::Running {
                    self.welcome(generation, ready, board);
                }
                Event::Ready(generation)
            }
            Report::Refused(protocol, reason) => {
                worker.fault = Some(reason.map_or(StartFault::Refused(protocol), StartFault::Unwilling));
                Event::Refused { generation, hopeless: true }
            }
            Report::Malformed(error) => {
                worker.fault = Some(StartFault::Handshake(error));
                Event::Refused { generation, hopeless: false }
            }
            Report::Leaving => {
                self.need = Some("told to end by somebody else".to_owned());
                Event::Leaving(generation)
            }
            Report::Sick => Event::Sick(generation),
            Report::SpawnFailed(error) => {
                let hopeless = is_hopeless(&error);
                self.failed_to_start(generation, StartFault::Spawn(error), Vec::new());
                self.remove(generation);
                Event::SpawnFailed { generation, hopeless }
            }
            Report::Exited(death) => self.bury(generation, death),
        })
    }

    fn welcome(&mut self, generation: u64, ready: Ready, board: Arc<Board>) {
        self.failure = None;
        if let Some(lacks) = &ready.lacks {
            let sandbox = ready.sandbox;
            // A run would say it each time, to whoever reads the mail of a cron job.
            match self.policy.restart {
                RestartPolicy::FailedStarts(_) => {
                    tracing::warn!(generation, "sandbox {sandbox}: {lacks}; all else of it is in force");
                }
                RestartPolicy::Deaths(_) => tracing::info!(generation, "sandbox {sandbox}: {lacks}"),
            }
        }
        let reason = self.workers.get_mut(&generation).and_then(|worker| worker.reason.take());
        self.status.send_modify(|status| {
            if let Some(reason) = reason {
                status.restarts += 1;
                status.last_restart = Some(Restart { time: record::now().to_string(), reason });
            }
            let worker = Running {
                generation,
                ready: ready.clone(),
                board: Arc::clone(&board),
                since: Instant::now(),
            };
            status.workers.push(Arc::new(worker));
            status.phase = ServicePhase::Serving { generation, ready, board };
        });
    }

    /// Takes in a worker's death: the log, the blame, the count of what it had answered.
    fn bury(&mut self, generation: u64, death: PostMortem) -> Event {
        self.log_exit(&death);
        let role = self.state.role(generation);
        let worker = self.workers.remove(&generation);
        let hopeless = death.cause == ExitCause::Code(i32::from(EXIT_REFUSED));
        let executing = executing(&death);
        // One that dies of a call could start: else whoever sends such a call to an idle service could end it.
        let answered = death.scoreboard.as_ref().is_some_and(|seen| seen.calls_total > 0);
        let proved = answered || !executing.is_empty() || death.lived >= STARTED;
        if role == Some(Role::Serving) {
            self.need = Some(death.why());
        }
        if let Some(worker) = worker {
            if matches!(role, Some(Role::Starting | Role::Abandoned { .. })) {
                let fault = worker.fault.unwrap_or(StartFault::Died(death.cause));
                self.failed_to_start(generation, fault, death.stderr_tail.clone());
            }
            self.accuse(&death, &executing, &worker.told);
        }
        let death = Arc::new(slim(death));
        self.last_death = Some(Arc::clone(&death));
        self.status.send_modify(|status| {
            if let Some(seen) = &death.scoreboard {
                status.past.add(seen);
            }
            status.workers.retain(|worker| worker.generation != generation);
            if status.deaths.len() == DEATHS_KEPT {
                status.deaths.remove(0);
            }
            status.deaths.push(death);
            status.died += 1;
        });
        Event::Exited { generation, proved, hopeless }
    }

    fn failed_to_start(&mut self, generation: u64, fault: StartFault, stderr_tail: Vec<String>) {
        let failure = StartFailure { program: self.spec.program().to_owned(), fault, stderr_tail };
        if self.state.mode != Mode::Running {
            // Somebody has ended it, and the log tells how it ended.
        } else if self.state.in_role(Role::Serving).is_some() {
            tracing::warn!(generation, "{failure}; the old worker goes on");
        } else if matches!(self.policy.restart, RestartPolicy::FailedStarts(_)) {
            tracing::warn!(generation, "{failure}");
        }
        self.need = Some(failure.fault.to_string());
        self.failure = Some(Arc::new(failure));
    }

    fn remove(&mut self, generation: u64) -> Option<Worker> {
        self.status.send_modify(|status| status.workers.retain(|worker| worker.generation != generation));
        self.workers.remove(&generation)
    }

    /// Whose fault was it? Not asked when we ended it ourselves, but for a hang.
    fn accuse(&mut self, death: &PostMortem, executing: &HashSet<TraceId>, told: &HashSet<TraceId>) {
        let making = match (&death.sickness, death.cause) {
            (Some(_), _) => Making::Own,
            _ if self.state.mode != Mode::Running => return,
            (None, ExitCause::Signal(signal)) if signal == Signal::KILL.as_raw() => Making::Foreign,
            (None, ExitCause::Unknown) => return,
            (None, _) => Making::Own,
        };
        let present = death.scoreboard.iter().flat_map(|seen| &seen.calls);
        let present = present.map(|call| TraceId(call.trace_id)).collect();
        let crash = Crash {
            generation: death.generation,
            cause: death.why(),
            stderr_tail: death.stderr_tail.clone(),
        };
        let calls = death.scoreboard.iter().flat_map(|seen| &seen.calls);
        let on_trial = calls.into_iter().find(|call| call.on_trial).map(|call| TraceId(call.trace_id));
        if !executing.is_empty() {
            let ids =
                executing.iter().take(BLAMED_SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let (generation, count) = (death.generation, executing.len());
            let on_trial = on_trial.map(tracing::field::display);
            tracing::debug!(generation, count, on_trial, "it died while it executed {ids}");
        }
        let scene = Scene { making, executing, on_trial, present: &present, told, lived: death.lived };
        for trace_id in self.blame.died(&scene, &crash) {
            tracing::warn!(%trace_id, generation = death.generation, "workers die of this call: it is not executed again");
        }
    }

    fn perform(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Spawn(generation) => self.spawn(generation),
                Action::Arm(timer, wait) => self.arm(timer, wait),
                Action::Disarm(timer) => {
                    self.timers.remove(&timer);
                }
                Action::Serve(generation) => self.settle(|needed| needed <= generation, &Ok(generation)),
                Action::NotStarted(generation) => {
                    let old = self.state.in_role(Role::Serving).is_some();
                    let why = if old { HandOverError::Start } else { HandOverError::NoWorker };
                    let failed = self.failure.clone().map(why);
                    self.settle(
                        |needed| needed <= generation,
                        &Err(failed.unwrap_or(HandOverError::Ended(Ended::Stopped))),
                    );
                }
                Action::Unlink => match self.socket.unlink() {
                    Ok(removed) => self.unlinked |= removed,
                    Err(error) => tracing::warn!("cannot remove {}: {error}", self.socket.path().display()),
                },
                Action::Terminate(generation) => {
                    let pid = self.workers.get(&generation).and_then(|worker| worker.pid);
                    if self.state.mode == Mode::Running {
                        tracing::info!(pid, generation, "handed over; draining");
                    } else {
                        tracing::info!(pid, "stopping");
                    }
                    self.signal(generation, Signal::TERM);
                }
                Action::Kill(generation) => self.signal(generation, Signal::KILL),
                Action::Forget(generation) => {
                    if let Some(worker) = self.remove(generation) {
                        tracing::error!(
                            pid = worker.pid,
                            generation,
                            "does not die of SIGKILL; left to the kernel"
                        );
                        // Its task goes on, and reaps it whenever the kernel, or whoever traces it, lets it go.
                        self.need = Some("does not die of SIGKILL".to_owned());
                    }
                }
                Action::End(outcome) => self.end(outcome),
            }
        }
    }

    fn arm(&mut self, timer: Timer, wait: Duration) {
        let wait = if timer == Timer::Backoff { wait.mul_f64(rand::random_range(0.5..1.5)) } else { wait };
        if timer == Timer::Backoff {
            let failed = self.state.failed_starts();
            tracing::info!(failed, "next start in {:.1} s", wait.as_secs_f64());
        }
        self.timers.insert(timer, Instant::now() + wait);
    }

    fn spawn(&mut self, generation: u64) {
        let (signals, to_send) = mpsc::channel(SUPERVISOR_QUEUE);
        let suspects = self.blame.suspects();
        let told = suspects.iter().copied().collect();
        let hello = Hello {
            protocol: PROTOCOL,
            instance: self.journal.run().to_owned(),
            generation,
            socket: self.socket.path().display().to_string(),
            limits: self.spec.limits().clone(),
            sandbox: self.spec.sandbox(),
            suspects,
            condemned: self.blame.condemned(),
        };
        let life = Generation {
            spec: Arc::clone(&self.spec),
            hello,
            socket: Arc::clone(&self.socket),
            journal: self.journal.clone(),
            reports: self.report.clone(),
            signals: to_send,
        };
        let handing_over = self.state.in_role(Role::Serving).is_some();
        let need = self.need.take().filter(|_| !handing_over);
        let reason = (generation > 1).then(|| need.unwrap_or_else(|| "hand-over".to_owned()));
        let task = tokio::spawn(life.run());
        self.workers.insert(generation, Worker { task, signals, pid: None, told, fault: None, reason });
    }

    fn signal(&self, generation: u64, signal: Signal) {
        if let Some(worker) = self.workers.get(&generation) {
            // Full: it holds a SIGKILL already, since no more than a few of each are ever sent.
            let _ = worker.signals.try_send(signal);
        }
    }

    /// Answers those who wait for a worker that there is now, or will not be.
    fn settle(&mut self, whom: impl Fn(u64) -> bool, answer: &Result<u64, HandOverError>) {
        for (_, reply) in self.waiting.extract_if(.., |(needed, _)| whom(*needed)) {
            // Whoever has stopped waiting does not care.
            let _ = reply.send(answer.clone());
        }
    }

    /// Shows the phase, where the policy's state says it; a worker that serves has been shown when it was welcomed.
    fn publish(&self) {
        let reloading =
            self.state.in_role(Role::Serving).is_some() && self.state.in_role(Role::Starting).is_some();
        let phase = match self.state.mode {
            Mode::Running if self.state.in_role(Role::Serving).is_some() => None,
            Mode::Running if self.state.is_waiting() => Some(ServicePhase::Waiting),
            Mode::Running => Some(ServicePhase::Starting),
            Mode::Stopping { .. } => Some(ServicePhase::Stopping),
            Mode::Ended => None,
        };
        self.status.send_modify(|status| {
            status.reloading = reloading;
            if let Some(phase) = phase {
                status.phase = phase;
            }
        });
    }

    fn log_exit(&self, death: &PostMortem) {
        let PostMortem { generation, pid, cause, .. } = death;
        let name = self.spec.name();
        match (self.state.mode, self.state.role(death.generation)) {
            (Mode::Stopping { .. }, _) => {
                let pipes = if death.pipes_closed { "; pipes closed" } else { "" };
                let socket = if self.unlinked { "; socket removed" } else { "" };
                tracing::info!("{name} {cause}{pipes}{socket}");
                let unanswered = death.scoreboard.as_ref().map_or(0, |seen| seen.calls.len());
                if unanswered > 0 {
                    let calls = if unanswered == 1 { "call was" } else { "calls were" };
                    tracing::warn!("{unanswered} {calls} not answered, as a stop waits no longer");
                }
            }
            (_, Some(Role::Draining)) if *cause == ExitCause::Code(0) => {
                tracing::info!(pid, generation, "{name} {cause}");
            }
            (_, Some(Role::Serving | Role::Draining)) => {
                tracing::warn!(pid, generation, "{name} {}", death.why());
            }
            // The error that the start ends with says it.
            _ => tracing::info!(pid, generation, "{name} {cause}"),
        }
    }

    fn end(&mut self, outcome: Outcome) {
        let ended = match (outcome, self.last_death.clone(), self.failure.clone()) {
            (Outcome::Died, Some(death), _) | (Outcome::StartFailed, Some(death), None) => Ended::Died(death),
            (Outcome::StartFailed, _, Some(failure)) => Ended::StartFailed(failure),
            (Outcome::Stopped | Outcome::Died | Outcome::StartFailed, ..) => Ended::Stopped,
        };
        if outcome == Outcome::StartFailed && self.state.failed_starts() > 1 {
            tracing::error!("gave up after {} failed starts in a row", self.state.failed_starts());
        }
        self.settle(|_| true, &Err(HandOverError::Ended(ended.clone())));
        self.status.send_modify(|status| status.phase = ServicePhase::Ended(ended));
    }
}

/// The calls that a worker may have died of: of a hang the one that hangs, or those which its I/O loop executed.
fn executing(death: &PostMortem) -> HashSet<TraceId> {
    let calls = death.scoreboard.iter().flat_map(|seen| &seen.calls);
    let suspicious = |call: &&Call| match &death.sickness {
        None => call.activity.is_executing(),
        Some(Sickness::NoHeartbeat { .. }) => call.activity == Activity::Running,
        Some(Sickness::Stuck { trace_id, .. }) => call.trace_id == trace_id.0,
    };
    calls.filter(suspicious).map(|call| TraceId(call.trace_id)).collect()
}

/// What is kept of a dead worker: of its calls nothing, they have been judged.
fn slim(mut death: PostMortem) -> PostMortem {
    if let Some(seen) = &mut death.scoreboard {
        seen.calls = Vec::new();
    }
    death
}

/// There is no such program, or it cannot be one: another try will not help. A program that is being written
/// (`ETXTBSY`) or a machine without room may do better later.
fn is_hopeless(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, NotADirectory, NotFound, PermissionDenied};
    const NOT_A_PROGRAM: i32 = 8; // ENOEXEC has no kind of its own
    matches!(error.kind(), NotFound | PermissionDenied | IsADirectory | NotADirectory)
        || error.raw_os_error() == Some(NOT_A_PROGRAM)
}
