//! How a service stands, for whoever watches it.

use std::sync::Arc;
use std::time::Instant;

use task_proto::handshake::Ready;
use task_proto::limits::DEATH_NOTICE;
use task_proto::scoreboard::{Board, Consumed, Totals};
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

impl Status {
    /// There is no worker and none will come.
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, ServicePhase::Ended(_))
    }

    /// A worker answers, or none will.
    pub fn is_settled(&self) -> bool {
        self.is_ended() || matches!(self.phase, ServicePhase::Serving { .. })
    }

    /// It serves, or is gone, or was before one of which this is known: there will be no first news of it.
    fn has_known(&self, generation: u64) -> bool {
        let serving = self.workers.iter().map(|worker| worker.generation);
        serving.chain(self.deaths.iter().map(|death| death.generation)).any(|known| known >= generation)
    }

    fn has_died(&self, generation: u64) -> bool {
        self.deaths.iter().any(|death| death.generation == generation)
    }
}

/// What is known of a connection to this generation that was lost: its end may be noticed a little later than that of
/// its connections, and so may its start than that of the first of them, so for [`DEATH_NOTICE`] it is waited for.
pub async fn verdict(mut status: watch::Receiver<Status>, generation: u64, connection: u64) -> Verdict {
    let decided = |status: &Status| {
        status.has_died(generation)
            || status.is_ended()
            || status.has_known(generation)
                && !status.workers.iter().any(|worker| worker.generation == generation)
    };
    // Too late or too early: what is known now decides.
    let _ = timeout(DEATH_NOTICE, status.wait_for(decided)).await;
    let status = status.borrow();
    if let Some(death) = status.deaths.iter().find(|death| death.generation == generation) {
        return Verdict::Died { death: (&**death).into(), consumed: death.consumed(connection) };
    }
    match status.workers.iter().find(|worker| worker.generation == generation) {
        Some(worker) => {
            let consumed = worker.board.read().map_or(Consumed::Unknown, |seen| seen.consumed(connection));
            Verdict::Alive { consumed }
        }
        None => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::FutureExt as _;

    use super::*;
    use crate::supervisor::ExitCause;

    fn death(generation: u64) -> Arc<PostMortem> {
        Arc::new(PostMortem {
            generation,
            pid: 5,
            cause: ExitCause::Signal(9),
            sickness: None,
            lived: Duration::ZERO,
            stderr_tail: Vec::new(),
            pipes_closed: true,
            scoreboard: None,
        })
    }

    #[tokio::test]
    async fn the_death_of_a_worker_that_served_before_its_host_knew_is_waited_for() {
        let (news, status) = watch::channel(Status { deaths: vec![death(1)], ..Status::default() });
        let mut verdict = Box::pin(verdict(status, 2, 1));
        assert!(futures::poll!(&mut verdict).is_pending());
        news.send_modify(|status| status.deaths.push(death(2)));
        assert!(matches!(verdict.await, Verdict::Died { death, .. } if death.generation == 2));
    }

    #[tokio::test]
    async fn of_a_dead_worker_without_a_scoreboard_nothing_is_known_rather_than_that_nothing_was_read() {
        let (_news, status) = watch::channel(Status { deaths: vec![death(2)], ..Status::default() });
        let verdict = verdict(status, 2, 1).now_or_never();
        assert!(matches!(verdict, Some(Verdict::Died { consumed: Consumed::Unknown, .. })), "{verdict:?}");
    }

    #[tokio::test]
    async fn a_worker_that_is_forgotten_is_not_waited_for() {
        let (_news, status) = watch::channel(Status { deaths: vec![death(3)], ..Status::default() });
        assert_eq!(verdict(status, 2, 1).now_or_never(), Some(Verdict::Unknown));
    }
}
