//! Calls that earlier workers died with: suspects take turns, so that a second death names one, and a call that was
//! named is not executed again.

use std::collections::{HashMap, HashSet};

use task_proto::crash::{Condemned, Crash, TraceId};
use task_proto::scoreboard::{Activity, Progress};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What the host says of such calls, by their trace ids.
#[derive(Debug)]
pub(crate) struct Blamed {
    suspects: HashSet<TraceId>,
    condemned: HashMap<TraceId, Crash>,
    /// One permit: the turn of the suspect that executes.
    turn: Semaphore,
}

impl Default for Blamed {
    fn default() -> Self {
        Blamed::new(Vec::new(), Vec::new())
    }
}

impl Blamed {
    pub(crate) fn new(suspects: Vec<TraceId>, condemned: Vec<Condemned>) -> Self {
        let condemned = condemned.into_iter().map(|Condemned { trace_id, crash }| (trace_id, crash));
        Blamed {
            suspects: suspects.into_iter().collect(),
            condemned: condemned.collect(),
            turn: Semaphore::new(1),
        }
    }

    /// What a condemned call is answered with.
    pub(crate) fn sentence(&self, call: TraceId) -> Option<&Crash> {
        self.condemned.get(&call)
    }

    /// Waits for a suspect's turn, which lasts until the result is dropped; any other call may go on at once.
    pub(crate) async fn turn(&self, call: TraceId, progress: &Progress) -> Option<SemaphorePermit<'_>> {
        if !self.suspects.contains(&call) {
            return None;
        }
        progress.enter(Activity::Held);
        // Nobody closes it.
        let turn = self.turn.acquire().await.ok();
        progress.enter(Activity::Running);
        turn
    }
}
