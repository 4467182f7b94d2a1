//! What to do next: a pure function from a state and an event to the next state and the actions it asks for.
//! No clock, no process, no I/O; the one loop in the parent module performs the actions.
//!
//! ```text
//!             Spawn            Ready
//!   (new) ──────────► Starting ─────► Serving ──┐ Exited, restarts left: Spawn the next generation
//!                      │   ▲             │ ◄────┘ (through Starting)
//!      TimeUp, Refused │   └─────────────┤
//!               (Kill) ▼                 │ Exited, none left
//!                  Abandoning            │
//!                      │ Exited          ▼
//!                      └──────────────► Ended ◄── SpawnFailed; Exited while Starting
//!                                        ▲
//!   any of the above ── Stop ──► Stopping┘ Exited; or TimeUp after Kill
//!      (Unlink, Terminate)        │  ▲
//!                                 └──┘ TimeUp, StopNow: Kill
//! ```

use std::time::Duration;

use task_proto::limits::{DRAIN, KILL, START};

/// How a supervisor treats its workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How many workers that had been ready may be replaced after their death.
    pub max_restarts: u32,
    /// From spawn to ready.
    pub start: Duration,
    /// From SIGTERM to SIGKILL.
    pub drain: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy { max_restarts: 1, start: START, drain: DRAIN }
    }
}

/// Where a supervisor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) generation: u64,
    restarts: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Spawned, not yet ready.
    Starting,
    /// Ready: calls are answered.
    Serving,
    /// It failed to start and was killed; its exit is awaited.
    Abandoning,
    /// The stop ladder; its exit is awaited.
    Stopping { killed: bool },
    /// No worker, and none will come.
    Ended,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The worker said that it serves.
    Ready,
    /// The worker said that it shares no protocol with us, or something that makes no sense.
    Refused,
    /// There is no process: it could not be spawned.
    SpawnFailed,
    /// The process is gone, its group killed, itself reaped, its pipes emptied.
    Exited,
    /// The wait that was armed last is over.
    TimeUp,
    /// Somebody asked for an orderly end.
    Stop,
    /// Somebody asked for the end, at once.
    StopNow,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the worker of this generation.
    Spawn(u64),
    /// Arm the one timer, in place of what it was armed for.
    Arm(Duration),
    /// Disarm the timer.
    Disarm,
    /// Remove the socket file, so that nobody comes to a service that ends.
    Unlink,
    /// SIGTERM: drain.
    Terminate,
    /// SIGKILL.
    Kill,
    /// It is over.
    End(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// As asked.
    Stopped,
    /// A worker never became ready.
    StartFailed,
    /// A worker that had been ready died, and no restart was left.
    Died,
}

impl State {
    /// The first state and how to get there.
    pub(super) fn start(policy: &Policy) -> (State, Vec<Action>) {
        let state = State { phase: Phase::Starting, generation: 1, restarts: 0 };
        (state, vec![Action::Spawn(1), Action::Arm(policy.start)])
    }

    /// The next state and what to do.
    pub(super) fn next(self, event: Event, policy: &Policy) -> (State, Vec<Action>) {
        use Action::{Arm, Disarm, End, Kill, Spawn, Terminate, Unlink};
        let to = |phase| State { phase, ..self };
        match (self.phase, event) {
            (Phase::Starting, Event::Ready) => (to(Phase::Serving), vec![Disarm]),
            (Phase::Starting, Event::SpawnFailed | Event::Exited) | (Phase::Abandoning, Event::Exited) => {
                (to(Phase::Ended), vec![Disarm, Unlink, End(Outcome::StartFailed)])
            }
            (Phase::Starting, Event::Refused | Event::TimeUp) => {
                (to(Phase::Abandoning), vec![Kill, Arm(KILL)])
            }
            (Phase::Abandoning, Event::TimeUp) => (to(Phase::Ended), vec![Unlink, End(Outcome::StartFailed)]),
            (Phase::Serving, Event::Exited) if self.restarts < policy.max_restarts => {
                let next = State {
                    phase: Phase::Starting,
                    generation: self.generation + 1,
                    restarts: self.restarts + 1,
                };
                (next, vec![Spawn(next.generation), Arm(policy.start)])
            }
            (Phase::Serving, Event::Exited) => (to(Phase::Ended), vec![Unlink, End(Outcome::Died)]),
            (Phase::Starting | Phase::Serving, Event::Stop) => {
                (to(Phase::Stopping { killed: false }), vec![Unlink, Terminate, Arm(policy.drain)])
            }
            (Phase::Abandoning, Event::Stop | Event::StopNow) => {
                (to(Phase::Stopping { killed: true }), vec![Unlink, Arm(KILL)])
            }
            (Phase::Starting | Phase::Serving, Event::StopNow)
            | (Phase::Stopping { killed: false }, Event::StopNow | Event::TimeUp) => {
                (to(Phase::Stopping { killed: true }), vec![Unlink, Kill, Arm(KILL)])
            }
            (Phase::Stopping { .. }, Event::Exited | Event::SpawnFailed)
            | (Phase::Stopping { killed: true }, Event::TimeUp) => {
                (to(Phase::Ended), vec![Disarm, End(Outcome::Stopped)])
            }
            // A worker that is on its way out may still say that it is ready; a second Stop changes nothing.
            (Phase::Stopping { .. }, Event::Ready | Event::Refused | Event::Stop | Event::StopNow)
            | (Phase::Abandoning, Event::Ready | Event::Refused | Event::SpawnFailed)
            | (Phase::Serving, Event::Ready | Event::Refused | Event::SpawnFailed | Event::TimeUp)
            | (Phase::Ended, _) => (self, Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { max_restarts: 1, start: Duration::from_secs(10), drain: Duration::from_secs(9) };
    const EVENTS: [Event; 7] = [
        Event::Ready,
        Event::Refused,
        Event::SpawnFailed,
        Event::Exited,
        Event::TimeUp,
        Event::Stop,
        Event::StopNow,
    ];

    fn after(events: &[Event]) -> (State, Vec<Action>) {
        events.iter().fold(State::start(&POLICY), |(state, _), event| state.next(*event, &POLICY))
    }

    #[test]
    fn a_worker_that_served_is_replaced_at_once_and_once() {
        let (state, actions) = after(&[Event::Ready, Event::Exited]);
        assert_eq!((state.phase, state.generation), (Phase::Starting, 2));
        assert_eq!(actions, [Action::Spawn(2), Action::Arm(POLICY.start)]);
        let (state, actions) = after(&[Event::Ready, Event::Exited, Event::Ready, Event::Exited]);
        assert_eq!(state.phase, Phase::Ended);
        assert!(actions.contains(&Action::End(Outcome::Died)));
    }

    #[test]
    fn a_worker_that_exits_before_ready_fails_the_start_at_once() {
        let (state, actions) = after(&[Event::Exited]);
        assert_eq!(state.phase, Phase::Ended);
        assert!(actions.contains(&Action::End(Outcome::StartFailed)));
    }

    #[test]
    fn a_worker_that_never_gets_ready_is_killed_and_reaped_before_the_end() {
        let (state, actions) = after(&[Event::TimeUp]);
        assert_eq!((state.phase, actions[0]), (Phase::Abandoning, Action::Kill));
        let (_, actions) = state.next(Event::Exited, &POLICY);
        assert!(actions.contains(&Action::End(Outcome::StartFailed)));
    }

    #[test]
    fn the_stop_ladder_is_unlink_then_term_then_kill() {
        let (state, actions) = after(&[Event::Ready, Event::Stop]);
        assert_eq!(actions, [Action::Unlink, Action::Terminate, Action::Arm(POLICY.drain)]);
        for last_straw in [Event::TimeUp, Event::StopNow] {
            let (state, actions) = state.next(last_straw, &POLICY);
            assert!(actions.contains(&Action::Kill), "{last_straw:?}");
            assert_eq!(state.next(Event::Exited, &POLICY).1, [Action::Disarm, Action::End(Outcome::Stopped)]);
        }
    }

    #[test]
    fn a_worker_that_dies_while_it_is_stopped_is_not_replaced() {
        assert_eq!(after(&[Event::Ready, Event::Stop, Event::Exited]).0.phase, Phase::Ended);
    }

    /// Every sequence of six events: one end at most, nothing after it, the socket gone by then, and no spawn once
    /// a stop was asked for.
    #[test]
    fn no_sequence_of_events_breaks_an_invariant() {
        let mut sequences = vec![vec![]];
        for _ in 0..6 {
            sequences = sequences
                .iter()
                .flat_map(|sequence: &Vec<Event>| EVENTS.iter().map(move |e| [&sequence[..], &[*e]].concat()))
                .collect();
        }
        for sequence in sequences {
            let (mut state, mut actions) = State::start(&POLICY);
            let (mut asked, mut unlinked, mut ends) = (false, false, 0);
            for event in &sequence {
                asked |= matches!(event, Event::Stop | Event::StopNow);
                let ended = state.phase == Phase::Ended;
                (state, actions) = state.next(*event, &POLICY);
                assert!(!ended || actions.is_empty(), "{sequence:?}");
                unlinked |= actions.contains(&Action::Unlink);
                ends += actions.iter().filter(|a| matches!(a, Action::End(_))).count();
                assert!(!(asked && actions.iter().any(|a| matches!(a, Action::Spawn(_)))), "{sequence:?}");
                assert!(state.phase != Phase::Ended || unlinked, "{sequence:?}");
            }
            assert_eq!(ends, usize::from(state.phase == Phase::Ended), "{sequence:?} {actions:?}");
        }
    }
}
