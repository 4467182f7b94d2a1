//! What to do next: a pure function from a state and an event to the next state and the actions it asks for.
//! No clock, no process, no I/O; the one loop in the parent module performs the actions.
//!
//! Each worker has a role:
//!
//! ```text
//!                Ready               a successor is Ready; Leaving: Spawn
//!   Starting ────────────► Serving ───────────────────────► Draining
//!      │ TimeUp, Refused      │  ▲                              │
//!      ▼ (Kill)               │  └─ HandOver: its successor is  │
//!   Abandoned                 │     Starting beside it          │
//!      │ Exited               │ Exited                          │ Exited
//!      ▼                      ▼                                 ▼
//!   failed start           proved? ── no ─► failed start      gone
//!                             │ yes
//!                             ▼
//!                      Spawn the next, at once
//! ```
//!
//! and the service a mode:
//!
//! ```text
//!   Running ── Stop: Unlink, Terminate all ──► Stopping ── the last worker is gone ──► Ended
//!      │                                          ▲  └─ TimeUp, StopNow: Kill all
//!      └── no start is left: Unlink ──────────────┘
//! ```
//!
//! A failed start is followed by another, at once and then after a wait that doubles; too many in a row within a
//! minute end the service. The first of all, if it cannot get better, ends it at once.

use std::time::Duration;

use task_proto::limits::{FAILED_STARTS, FAILED_STARTS_WITHIN, KILL, RESTART_BACKOFF, RESTART_BACKOFF_MAX};

/// How a supervisor treats its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) restart: Restart,
    /// From spawn to ready.
    pub(super) start: Duration,
    /// From SIGTERM to SIGKILL, at a stop.
    pub(super) drain: Duration,
}

/// Which deaths of workers a service survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// So many of workers that were ready; none of one that was not. For a run that ends anyway.
    Deaths(u32),
    /// All, until so many starts in a row have failed within [`FAILED_STARTS_WITHIN`]; with `None` all. A start has
    /// failed when the worker dies before it has answered a call or lived that long.
    FailedStarts(Option<u32>),
}

impl Restart {
    /// For a run: one worker is replaced once.
    pub const RUN: Restart = Restart::Deaths(1);
    /// For a service that others rely on.
    pub const SERVICE: Restart = Restart::FailedStarts(Some(FAILED_STARTS));
}

/// Where a supervisor stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) mode: Mode,
    /// The workers that are not gone.
    workers: Vec<(u64, Role)>,
    /// The last generation spawned.
    pub(super) latest: u64,
    /// Deaths of workers that had been ready.
    deaths: u32,
    /// When the starts failed that failed in a row: since the supervisor began.
    failed: Vec<Duration>,
    /// A hand-over was asked for that cannot begin yet.
    again: bool,
    /// Some worker has been ready: what starts no worker now, a program that is being replaced perhaps, may pass.
    served: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Workers are kept up.
    Running,
    /// They are ended.
    Stopping { killed: bool, outcome: Outcome },
    /// No worker, and none will come.
    Ended,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Spawned, not yet ready.
    Starting,
    /// It did not start as it should, and was killed.
    Abandoned { hopeless: bool },
    /// Ready: calls are answered.
    Serving,
    /// A successor serves; it answers what it was asked.
    Draining,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The worker said that it serves.
    Ready(u64),
    /// The worker said that it will not serve us (which is hopeless), or something that makes no sense.
    Refused { generation: u64, hopeless: bool },
    /// There is no process: it could not be spawned.
    SpawnFailed { generation: u64, hopeless: bool },
    /// The process is gone, its group killed, itself reaped, its pipes emptied. `proved`: it had answered a call, or
    /// lived long enough.
    Exited { generation: u64, proved: bool, hopeless: bool },
    /// It accepts no more: somebody else told it to end.
    Leaving(u64),
    /// It hangs.
    Sick(u64),
    /// The wait that was armed for this is over.
    TimeUp(Timer),
    /// Somebody asked for another worker in place of the one that serves.
    HandOver,
    /// Somebody asked for an orderly end.
    Stop,
    /// Somebody asked for the end, at once.
    StopNow,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Timer {
    /// This worker's start.
    Start(u64),
    /// This worker's exit after SIGKILL.
    Kill(u64),
    /// The next start.
    Backoff,
    /// The end of all workers.
    Stop,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the worker of this generation.
    Spawn(u64),
    /// Arm this timer. [`Timer::Backoff`] is to vary at random, so that services which fail together do not start
    /// together.
    Arm(Timer, Duration),
    /// Disarm this timer, if it is armed.
    Disarm(Timer),
    /// This worker serves from now on.
    Serve(u64),
    /// This worker did not start: who waits for it is to be told.
    NotStarted(u64),
    /// Remove the socket file, so that nobody comes to a service that ends.
    Unlink,
    /// SIGTERM: drain.
    Terminate(u64),
    /// SIGKILL.
    Kill(u64),
    /// It does not die: do without its exit.
    Forget(u64),
    /// It is over.
    End(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As asked.
    Stopped,
    /// A worker did not start, and there will be no other try.
    StartFailed,
    /// A worker that had been ready died, and no restart was left.
    Died,
}

impl State {
    /// The first state and how to get there.
    pub(super) fn start(policy: &Policy) -> (State, Vec<Action>) {
        let mut state = State {
            mode: Mode::Running,
            workers: Vec::new(),
            latest: 0,
            deaths: 0,
            failed: Vec::new(),
            again: false,
            served: false,
        };
        let actions = state.spawn(policy);
        (state, actions)
    }

    /// What this worker is to the service; `None`: it is gone.
    pub(super) fn role(&self, generation: u64) -> Option<Role> {
        self.workers.iter().find(|(worker, _)| *worker == generation).map(|(_, role)| *role)
    }

    /// The worker in this role.
    pub(super) fn in_role(&self, role: Role) -> Option<u64> {
        self.workers.iter().find(|(_, of)| *of == role).map(|(worker, _)| *worker)
    }

    /// A start has failed, and the next is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        self.mode == Mode::Running && !self.is_attended()
    }

    /// Somebody serves, or is about to.
    fn is_attended(&self) -> bool {
        self.workers.iter().any(|(_, role)| matches!(role, Role::Starting | Role::Serving))
    }

    /// How many starts have failed in a row.
    pub(super) fn failed_starts(&self) -> usize {
        self.failed.len()
    }

    /// The next state and what to do. `now` counts from when the supervisor began.
    #[must_use]
    pub(super) fn next(mut self, event: Event, now: Duration, policy: &Policy) -> (State, Vec<Action>) {
        let actions = match self.mode {
            Mode::Running => self.run(event, now, policy),
            Mode::Stopping { killed, outcome } => self.wind_up(event, killed, outcome),
            Mode::Ended => Vec::new(),
        };
        (self, actions)
    }

    fn run(&mut self, event: Event, now: Duration, policy: &Policy) -> Vec<Action> {
        match event {
            Event::Ready(generation) if self.role(generation) == Some(Role::Starting) => {
                let mut actions = vec![Action::Disarm(Timer::Start(generation)), Action::Serve(generation)];
                if let Some(predecessor) = self.in_role(Role::Serving) {
                    self.assign(predecessor, Role::Draining);
                    actions.push(Action::Terminate(predecessor));
                }
                self.assign(generation, Role::Serving);
                self.served = true;
                actions.extend(self.begin_hand_over(policy));
                actions
            }
            Event::Refused { generation, hopeless } if self.role(generation) == Some(Role::Starting) => {
                self.abandon(generation, hopeless)
            }
            Event::TimeUp(Timer::Start(generation)) if self.role(generation) == Some(Role::Starting) => {
                self.abandon(generation, false)
            }
            Event::SpawnFailed { generation, hopeless } => {
                self.gone(generation, false, hopeless, now, policy)
            }
            Event::Exited { generation, proved, hopeless } => {
                self.gone(generation, proved, hopeless, now, policy)
            }
            Event::TimeUp(Timer::Kill(generation)) if self.role(generation).is_some() => {
                let mut actions = vec![Action::Forget(generation)];
                actions.extend(self.gone(generation, true, false, now, policy));
                actions
            }
            Event::Leaving(generation) if self.role(generation) == Some(Role::Serving) => {
                self.assign(generation, Role::Draining);
                if self.is_attended() { Vec::new() } else { self.spawn(policy) }
            }
            Event::Sick(generation) if self.role(generation).is_some() => {
                vec![Action::Kill(generation), Action::Arm(Timer::Kill(generation), KILL)]
            }
            Event::TimeUp(Timer::Backoff) if !self.is_attended() => self.spawn(policy),
            Event::HandOver if !self.is_attended() => {
                let mut actions = vec![Action::Disarm(Timer::Backoff)];
                actions.extend(self.spawn(policy));
                actions
            }
            Event::HandOver => {
                self.again = true;
                self.begin_hand_over(policy)
            }
            Event::Stop => self.stop(false, Outcome::Stopped, policy),
            Event::StopNow => self.stop(true, Outcome::Stopped, policy),
            // Late news of a worker that has another role by now, or none.
            Event::Ready(_)
            | Event::Refused { .. }
            | Event::Leaving(_)
            | Event::Sick(_)
            | Event::TimeUp(_) => Vec::new(),
        }
    }

    fn spawn(&mut self, policy: &Policy) -> Vec<Action> {
        // Whoever asked for a hand-over before this wants no other worker than this one.
        self.again = false;
        self.latest += 1;
        self.workers.push((self.latest, Role::Starting));
        vec![Action::Spawn(self.latest), Action::Arm(Timer::Start(self.latest), policy.start)]
    }

    fn assign(&mut self, generation: u64, role: Role) {
        if let Some((_, of)) = self.workers.iter_mut().find(|(worker, _)| *worker == generation) {
            *of = role;
        }
    }

    /// One hand-over at a time: only where nobody but the one that serves is left.
    fn begin_hand_over(&mut self, policy: &Policy) -> Vec<Action> {
        let alone = self.workers.len() == 1 && self.in_role(Role::Serving).is_some();
        if alone && self.again { self.spawn(policy) } else { Vec::new() }
    }

    fn abandon(&mut self, generation: u64, hopeless: bool) -> Vec<Action> {
        self.assign(generation, Role::Abandoned { hopeless });
        vec![
            Action::Disarm(Timer::Start(generation)),
            Action::Kill(generation),
            Action::Arm(Timer::Kill(generation), KILL),
        ]
    }

    fn gone(
        &mut self,
        generation: u64,
        proved: bool,
        hopeless: bool,
        now: Duration,
        policy: &Policy,
    ) -> Vec<Action> {
        let Some(role) = self.role(generation) else { return Vec::new() };
        self.workers.retain(|(worker, _)| *worker != generation);
        let mut actions =
            vec![Action::Disarm(Timer::Start(generation)), Action::Disarm(Timer::Kill(generation))];
        let (ready, hopeless) = match role {
            Role::Starting => (false, hopeless),
            Role::Abandoned { hopeless: refused } => (false, hopeless || refused),
            Role::Serving | Role::Draining => (true, false),
        };
        let succeeded = self.in_role(Role::Serving).is_some();
        if !ready {
            actions.push(Action::NotStarted(generation));
        } else if proved && (succeeded || role == Role::Serving) {
            // What failed before it does not count any more.
            self.failed.clear();
        }
        actions.extend(match role {
            Role::Draining => self.begin_hand_over(policy),
            _ if succeeded => self.begin_hand_over(policy),
            // Another is on its way already.
            _ if self.is_attended() => Vec::new(),
            _ => match policy.restart {
                Restart::Deaths(most) if ready && self.deaths < most => {
                    self.deaths += 1;
                    self.spawn(policy)
                }
                Restart::Deaths(_) if ready => self.stop(false, Outcome::Died, policy),
                Restart::FailedStarts(_) if ready && proved => self.spawn(policy),
                Restart::FailedStarts(most) if self.served || !hopeless => {
                    self.failed_start(now, most, policy)
                }
                _ => self.stop(false, Outcome::StartFailed, policy),
            },
        });
        actions
    }

    fn failed_start(&mut self, now: Duration, most: Option<u32>, policy: &Policy) -> Vec<Action> {
        self.failed.push(now);
        let kept = most.map_or(0, |most| most as usize).max(64);
        self.failed.drain(..self.failed.len().saturating_sub(kept));
        let in_a_row = self.failed.len();
        if let Some(most) = most.map(|most| most.max(1)) {
            // More of them need more time: the longest wait between two, and a start.
            let within = FAILED_STARTS_WITHIN.saturating_mul(1 + most.saturating_sub(FAILED_STARTS));
            let first = in_a_row.checked_sub(most as usize).map(|first| self.failed[first]);
            if first.is_some_and(|first| now.saturating_sub(first) <= within) {
                return self.stop(false, Outcome::StartFailed, policy);
            }
        }
        match in_a_row.checked_sub(2) {
            None => self.spawn(policy),
            // Somebody asks for it now.
            Some(_) if self.again => self.spawn(policy),
            Some(doublings) => {
                let factor = 2_u32.saturating_pow(doublings.try_into().unwrap_or(u32::MAX));
                let wait = RESTART_BACKOFF.saturating_mul(factor).min(RESTART_BACKOFF_MAX);
                vec![Action::Arm(Timer::Backoff, wait)]
            }
        }
    }

    fn stop(&mut self, now: bool, outcome: Outcome, policy: &Policy) -> Vec<Action> {
        self.mode = Mode::Stopping { killed: now, outcome };
        let mut actions = vec![Action::Unlink, Action::Disarm(Timer::Backoff)];
        for (generation, role) in &self.workers {
            actions.push(Action::Disarm(Timer::Start(*generation)));
            match role {
                _ if now => actions.push(Action::Kill(*generation)),
                Role::Starting | Role::Serving => actions.push(Action::Terminate(*generation)),
                Role::Draining | Role::Abandoned { .. } => {}
            }
        }
        actions.push(Action::Arm(Timer::Stop, if now { KILL } else { policy.drain }));
        actions.extend(self.ended(outcome));
        actions
    }

    fn wind_up(&mut self, event: Event, killed: bool, outcome: Outcome) -> Vec<Action> {
        match event {
            Event::Exited { generation, .. } | Event::SpawnFailed { generation, .. } => {
                self.workers.retain(|(worker, _)| *worker != generation);
                self.ended(outcome)
            }
            Event::TimeUp(Timer::Stop) if killed => {
                let mut actions: Vec<_> =
                    self.workers.drain(..).map(|(generation, _)| Action::Forget(generation)).collect();
                actions.extend(self.ended(outcome));
                actions
            }
            Event::StopNow | Event::TimeUp(Timer::Stop) if !killed => {
                self.mode = Mode::Stopping { killed: true, outcome };
                let mut actions: Vec<_> =
                    self.workers.iter().map(|(generation, _)| Action::Kill(*generation)).collect();
                actions.push(Action::Arm(Timer::Stop, KILL));
                actions
            }
            Event::Sick(generation) if self.role(generation).is_some() => vec![Action::Kill(generation)],
            // A worker that is on its way out may still say that it is ready; a second Stop changes nothing.
            _ => Vec::new(),
        }
    }

    fn ended(&mut self, outcome: Outcome) -> Vec<Action> {
        if !self.workers.is_empty() {
            return Vec::new();
        }
        self.mode = Mode::Ended;
        vec![Action::Disarm(Timer::Stop), Action::End(outcome)]
    }
}

#[cfg(test)]
mod tests;
