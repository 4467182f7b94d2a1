//! Calls that earlier workers died with: suspects take turns, each at first on trial, so that a second death names
//! one, and a call that was named is not executed again.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use task_proto::crash::{Condemned, Crash, TraceId};
use task_proto::limits::TRIAL;
use task_proto::scoreboard::{Activity, Progress};
use tokio::sync::{OwnedMutexGuard, RwLock};
use tokio::time::sleep;

/// What the host says of such calls, by their trace ids.
#[derive(Debug, Default)]
pub(crate) struct Blamed {
    suspects: HashSet<TraceId>,
    condemned: HashMap<TraceId, Crash>,
    turns: Turns,
    /// Locked for writing by a suspect on trial; all others pass through it as readers before they begin.
    trials: RwLock<()>,
}

/// Locked by whoever has the turn.
type Turns = Arc<tokio::sync::Mutex<()>>;

impl Blamed {
    pub(crate) fn new(suspects: Vec<TraceId>, condemned: Vec<Condemned>) -> Self {
        let condemned = condemned.into_iter().map(|Condemned { trace_id, crash }| (trace_id, crash));
        let (suspects, condemned) = (suspects.into_iter().collect(), condemned.collect());
        Blamed { suspects, condemned, turns: Turns::default(), trials: RwLock::default() }
    }

    /// What a condemned call is answered with.
    pub(crate) fn sentence(&self, call: TraceId) -> Option<&Crash> {
        self.condemned.get(&call)
    }

    /// Whether there is a call that has to be watched: if not, all are executed as they come.
    pub(crate) fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// Waits for a suspect's turn, which lasts until the result is dropped; any other call may go on at once.
    pub(crate) async fn turn(&self, call: TraceId, progress: &Progress) -> Option<Arc<Turn>> {
        if !self.suspects.contains(&call) {
            return None;
        }
        let turn =
            Turn { turns: Arc::clone(&self.turns), progress: progress.clone(), held: Mutex::default() };
        turn.take().await;
        Some(Arc::new(turn))
    }

    /// Executes a call where there are suspects. One, which has its turn, is on trial at first: no other call begins
    /// meanwhile, so that a death is its own.
    pub(crate) async fn execute<F: Future>(
        &self,
        suspect: bool,
        progress: &Progress,
        mut call: Pin<Box<F>>,
    ) -> F::Output {
        if !suspect {
            progress.enter(Activity::Held);
            drop(self.trials.read().await);
            progress.enter(Activity::Running);
            return call.await;
        }
        let trial = self.trials.write().await;
        progress.set_on_trial(true);
        tokio::select! {
            biased;
            answer = &mut call => answer,
            () = sleep(TRIAL) => {
                progress.set_on_trial(false);
                drop(trial);
                call.await
            }
        }
    }
}

/// A suspect's turn: it executes only while it, or the thread that works for it, has it. It need not have it while it
/// waits for its input: one that waits for long would keep all others waiting, and two might wait for each other.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Turns,
    progress: Progress,
    held: Mutex<Option<OwnedMutexGuard<()>>>,
}

tokio::task_local! {
    static CURRENT: Option<Arc<Turn>>;
}

impl Turn {
    /// That of the call whose handler this is, if it is a suspect.
    pub(crate) fn current() -> Option<Arc<Self>> {
        CURRENT.try_with(Clone::clone).ok().flatten()
    }

    /// The handler, with this as its [`current`](Turn::current) one.
    pub(crate) fn scope<F: Future>(turn: Option<Arc<Self>>, handler: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(turn, handler)
    }

    /// Takes the turn, unless the call has it.
    pub(crate) async fn take(&self) {
        if !self.is_held() {
            self.progress.enter(Activity::Held);
            let turn = Arc::clone(&self.turns).lock_owned().await;
            *self.held() = Some(turn);
        }
        self.progress.enter(Activity::Running);
    }

    /// Takes the turn for a thread that works for the call, which must not have it itself.
    pub(crate) fn take_for_thread(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.turns).blocking_lock_owned()
    }

    /// Lets another suspect have it.
    pub(crate) fn give_up(&self) {
        *self.held() = None;
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held().is_some()
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Option<OwnedMutexGuard<()>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
