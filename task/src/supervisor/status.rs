//! How a service stands, for whoever watches it.

use std::sync::Arc;
use std::time::Instant;

use task_proto::handshake::Ready;
use task_proto::limits::DEATH_NOTICE;
use task_proto::scoreboard::{Board, Latencies, Snapshot};
use tokio::sync::watch;
use tokio::time::timeout;

use super::post_mortem::{Ended, PostMortem};
use crate::control;
use crate::verdict::Verdict;

/// How a service stands.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Its phase.
    pub phase: ServicePhase,
    /// The workers that are ready and not gone: the one that serves, and those that drain.
    pub workers: Vec<Arc<Running>>,
    /// A successor of the one that serves is starting.
    pub reloading: bool,
    /// The workers that died last, at most [`DEATHS_KEPT`](task_proto::limits::DEATHS_KEPT), the latest at the end.
    pub deaths: Vec<Arc<PostMortem>>,
    /// How many have died.
    pub died: u64,
    /// How many have followed another.
    pub restarts: u64,
    /// The last time that one did.
    pub last_restart: Option<control::Restart>,
    /// What those that are gone have answered.
    pub past: Totals,
}

/// The phase of a service.
#[derive(Debug, Clone, Default)]
pub enum ServicePhase {
    /// A worker is starting.
    #[default]
    Starting,
    /// A start has failed, and the next is waited for.
    Waiting,
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

/// A worker that was ready and is not gone.
#[derive(Debug)]
pub struct Running {
    /// Which worker of this supervisor, from 1.
    pub generation: u64,
    /// What it said of itself.
    pub ready: Ready,
    /// Where it shows what it does.
    pub board: Arc<Board>,
    /// When it was ready.
    pub since: Instant,
}

/// What workers have answered.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Calls, the failed ones too.
    pub calls: u64,
    /// Calls answered with a fault.
    pub failed: u64,
    /// How long they took.
    pub latencies: Latencies,
}

impl Totals {
    /// Counts what this worker has answered too. It is a stranger's data.
    pub fn add(&mut self, seen: &Snapshot) {
        self.calls = self.calls.saturating_add(seen.calls_total);
        self.failed = self.failed.saturating_add(seen.calls_failed);
        self.latencies.add(&seen.latencies);
    }
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

    fn has_died(&self, generation: u64) -> bool {
        self.deaths.iter().any(|death| death.generation == generation)
    }
}

/// What is known of a connection to this generation that was lost: its end may be noticed a little
/// later than that of its connections, so for [`DEATH_NOTICE`] it is waited for.
pub async fn verdict(mut status: watch::Receiver<Status>, generation: u64, connection: u64) -> Verdict {
    let decided = |status: &Status| {
        status.has_died(generation)
            || status.is_ended()
            || !status.workers.iter().any(|worker| worker.generation == generation)
    };
    // Too late or too early: what is known now decides.
    let _ = timeout(DEATH_NOTICE, status.wait_for(decided)).await;
    let status = status.borrow();
    if let Some(death) = status.deaths.iter().find(|death| death.generation == generation) {
        return Verdict::Died { death: (&**death).into(), consumed: death.consumed(connection) };
    }
    match status.workers.iter().find(|worker| worker.generation == generation) {
        Some(worker) => {
            let consumed = worker.board.read().map_or(Some(0), |seen| seen.consumed(connection));
            Verdict::Alive { consumed }
        }
        None => Verdict::Unknown,
    }
}
