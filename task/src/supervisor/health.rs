//! Whether a worker is alive: its I/O loop beats, and the calls that compute get further. Pure; whoever looks brings
//! the scoreboard.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use task_proto::crash::TraceId;
use task_proto::limits::HEALTH_MISSES;
use task_proto::scoreboard::{Activity, Call, Snapshot};

/// What was seen of one worker so far.
#[derive(Debug)]
pub(super) struct Health {
    /// How long it may show no life.
    limit: Duration,
    heartbeat: Option<u64>,
    /// Looks in a row at which the heart had not beaten.
    silent: u32,
    /// The calls that compute, by trace id, start and method: their last progress, and the looks in a row without any.
    computing: HashMap<(u128, u64, String), (u64, u32)>,
}

/// Why a worker is taken to hang.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sickness {
    /// Its I/O loop does not run.
    NoHeartbeat {
        /// So long.
        limit: Duration,
    },
    /// A call computes without getting further.
    Stuck {
        /// Its method.
        method: String,
        /// Its trace id.
        trace_id: TraceId,
        /// So long.
        limit: Duration,
    },
}

impl Health {
    pub(super) fn new(limit: Duration) -> Self {
        Health { limit, heartbeat: None, silent: 0, computing: HashMap::new() }
    }

    /// Between two looks.
    pub(super) fn interval(&self) -> Duration {
        self.limit / HEALTH_MISSES
    }

    /// One look, [`Health::interval`] after the one before.
    pub(super) fn look(&mut self, seen: &Snapshot) -> Option<Sickness> {
        self.silent = if self.heartbeat == Some(seen.heartbeat) { self.silent + 1 } else { 0 };
        self.heartbeat = Some(seen.heartbeat);
        let computing = seen.calls.iter().filter(|call| call.activity == Activity::Computing);
        let looked = |call: &Call| {
            let key = (call.trace_id, call.started, call.method.clone());
            let misses = match self.computing.get(&key) {
                Some((progressed, misses)) if *progressed == call.progressed => misses + 1,
                _ => 0,
            };
            (key, (call.progressed, misses))
        };
        self.computing = computing.map(looked).collect();
        if self.silent >= HEALTH_MISSES {
            return Some(Sickness::NoHeartbeat { limit: self.limit });
        }
        let stuck = self.computing.iter().find(|(_, (_, misses))| *misses >= HEALTH_MISSES);
        stuck.map(|((trace_id, _, method), _)| Sickness::Stuck {
            method: method.clone(),
            trace_id: TraceId(*trace_id),
            limit: self.limit,
        })
    }
}

impl fmt::Display for Sickness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sickness::NoHeartbeat { limit } => write!(f, "no heartbeat for {} s", limit.as_secs_f64()),
            Sickness::Stuck { method, trace_id, limit } => {
                let seconds = limit.as_secs_f64();
                write!(f, "{method} has computed for {seconds} s without progress (trace {trace_id})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use task_proto::limits::HEALTH;
    use task_proto::scoreboard::{Board, CallSlot, Scores};

    /// A worker and how the host sees it.
    struct Patient {
        board: Board,
        scores: Scores,
        health: Health,
    }

    impl Patient {
        fn new() -> Self {
            let board = Board::create().unwrap();
            let scores = Scores::map(board.fd()).unwrap();
            Patient { board, scores, health: Health::new(HEALTH) }
        }

        fn look(&mut self) -> Option<Sickness> {
            self.health.look(&self.board.read().unwrap())
        }

        fn computes(&self) -> CallSlot {
            let slot = self.scores.connect().begin("Stats.median", 7);
            slot.progress().enter(Activity::Computing);
            slot
        }
    }

    #[test]
    fn a_heart_that_misses_three_looks_is_dead_and_one_beat_between_is_enough() {
        let mut patient = Patient::new();
        assert_eq!([patient.look(), patient.look(), patient.look()], [None, None, None]);
        assert_eq!(patient.look(), Some(Sickness::NoHeartbeat { limit: HEALTH }));
        patient.scores.tick();
        assert_eq!([patient.look(), patient.look(), patient.look()], [None, None, None]);
    }

    #[test]
    fn a_call_that_computes_must_get_further() {
        let mut patient = Patient::new();
        let slot = patient.computes();
        let mut looks = Vec::new();
        for _ in 0..4 {
            patient.scores.tick();
            looks.push(patient.look());
        }
        assert_eq!(looks[..3], [None, None, None]);
        assert!(
            matches!(&looks[3], Some(Sickness::Stuck { method, .. }) if method == "Stats.median"),
            "{looks:?}"
        );
        for _ in 0..9 {
            patient.scores.tick();
            std::thread::sleep(Duration::from_nanos(1)); // so that the clock moves on
            slot.progress().tick();
            assert_eq!(patient.look(), None);
        }
    }

    #[test]
    fn a_call_that_hangs_does_not_hide_behind_one_that_gets_further() {
        let mut patient = Patient::new();
        let stuck = patient.computes();
        let busy = patient.scores.connect().begin("Stats.median", 8);
        busy.progress().enter(Activity::Computing);
        let mut sick = None;
        for _ in 0..4 {
            patient.scores.tick();
            std::thread::sleep(Duration::from_nanos(1)); // so that the clock moves on
            busy.progress().tick();
            sick = patient.look();
        }
        assert!(matches!(sick, Some(Sickness::Stuck { trace_id: TraceId(7), .. })), "{sick:?}");
        drop(stuck);
    }

    #[test]
    fn calls_that_wait_and_calls_that_follow_one_another_are_not_taken_for_one_that_hangs() {
        let mut patient = Patient::new();
        let waits = patient.scores.connect().begin("Stats.mean", 1);
        waits.progress().enter(Activity::Waiting);
        let _runs = patient.scores.connect().begin("Stats.mean", 2);
        for _ in 0..9 {
            patient.scores.tick();
            let _next = patient.computes();
            assert_eq!(patient.look(), None);
        }
    }
}
