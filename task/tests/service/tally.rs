//! What became of the calls, and the events that a fault waits for.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use task_proto::stats::Pong;

use crate::house::LIMIT;

/// Reasons that are kept word by word, of each kind.
const SHOWN: usize = 3;

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// Answered, and the oracle says the same.
    Right,
    /// Answered, and the oracle says something else.
    Wrong,
    /// Our client says that it was never sent.
    NeverSent,
    /// Our client says that it may have been executed, and that nobody knows.
    Unknown,
    /// Nobody listened.
    Refused,
    /// The socket was not there.
    Missing,
    /// Our client says that its pipe had been begun by a worker that died.
    Consumed,
    /// The same of a later call with the same pipe: the first had read it.
    Spent,
    /// Our client says that it is what its workers died of.
    Crashed,
    /// No answer within [`LIMIT`].
    Late,
    /// Anything else.
    Failed,
    /// Sent without our client on a connection that a worker had accepted and ended without an answer.
    Cut,
    /// Not sent without our client, or never seen by a worker: may be asked again.
    Again,
}

/// How often what became of calls, with some of the reasons.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    fates: BTreeMap<Fate, u64>,
    /// The first of each kind: one that is frequent leaves room for the others.
    reasons: BTreeMap<Fate, Vec<String>>,
}

impl Tally {
    pub(crate) fn of(&self, fate: Fate) -> u64 {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    /// Those of all these.
    pub(crate) fn sum(&self, fates: &[Fate]) -> u64 {
        fates.iter().map(|&fate| self.of(fate)).sum()
    }

    /// Calls of our client that came to no answer for no reason that is promised.
    pub(crate) fn failed(&self) -> u64 {
        self.sum(&[Fate::NeverSent, Fate::Unknown, Fate::Late, Fate::Failed])
    }

    /// Why calls were not answered.
    pub(crate) fn reasons(&self) -> impl Iterator<Item = &String> {
        self.reasons.values().flatten()
    }

    fn count(&mut self, fate: Fate, reason: impl FnOnce() -> String) {
        let count = self.fates.entry(fate).or_default();
        *count += 1;
        if !matches!(fate, Fate::Right | Fate::Again) && *count <= SHOWN as u64 {
            self.reasons.entry(fate).or_default().push(format!("{fate:?}: {}", reason()));
        }
    }

    pub(crate) fn add(&mut self, other: Tally) {
        for (fate, count) in other.fates {
            *self.fates.entry(fate).or_default() += count;
        }
        for (fate, reasons) in other.reasons {
            let kept = self.reasons.entry(fate).or_default();
            kept.extend(reasons);
            kept.truncate(SHOWN);
        }
    }
}

/// What one caller has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// The worker that answered it last.
    pub(crate) worker: Option<Pong>,
    /// When it had its last answer.
    answered: Option<Instant>,
    /// The longest that it waited between two answers, since somebody began to look.
    gap: Duration,
}

/// What all callers have seen.
#[derive(Debug, Default)]
pub(crate) struct Now {
    pub(crate) tally: Tally,
    pub(crate) callers: Vec<Caller>,
    /// The worker that answered last, and when the first answer of it came.
    pub(crate) newest: Option<(Pong, Instant)>,
}

impl Now {
    /// Whether every caller had its last answer from this worker.
    pub(crate) fn all_answered_by(&self, pid: u32) -> bool {
        self.callers.iter().all(|caller| caller.worker.as_ref().is_some_and(|worker| worker.pid == pid))
    }

    /// The worker that every caller had its last answer from.
    pub(crate) fn common_worker(&self) -> Option<u32> {
        let pid = self.callers.first()?.worker.as_ref()?.pid;
        self.all_answered_by(pid).then_some(pid)
    }
}

/// Where the callers write down what they see, and a fault waits for it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    now: Mutex<Now>,
    changed: Condvar,
    over: AtomicBool,
}

impl Seen {
    pub(crate) fn by(callers: usize) -> Self {
        let seen = Seen::default();
        seen.lock().callers.resize(callers, Caller::default());
        seen
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is something to see.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, mut look: impl FnMut(&Now) -> Option<T>) -> T {
        let start = Instant::now();
        let mut now = self.lock();
        loop {
            if let Some(found) = look(&now) {
                return found;
            }
            let left = LIMIT.saturating_sub(start.elapsed());
            assert!(!left.is_zero(), "waited in vain until {what}: {now:?}");
            now = self.changed.wait_timeout(now, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until a worker other than this one has answered: its pid, and when that was.
    #[track_caller]
    pub(crate) fn until_other_than(&self, pid: u32) -> (u32, Instant) {
        self.until("the next worker has answered", |now| {
            let (worker, first) = now.newest.as_ref()?;
            (worker.pid != pid).then_some((worker.pid, *first))
        })
    }

    /// Waits until a worker other than this one has answered for the first time, after this moment: when that was.
    #[track_caller]
    pub(crate) fn until_after(&self, pid: u32, moment: Instant) -> Instant {
        self.until("a new worker has answered", |now| {
            let (worker, first) = now.newest.as_ref()?;
            (worker.pid != pid && *first > moment).then_some(*first)
        })
    }

    /// Tells the callers to end.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// A caller writes down what became of a call of its own.
    pub(crate) fn call(&self, caller: usize, fate: Fate, reason: impl FnOnce() -> String) {
        let mut now = self.lock();
        now.tally.count(fate, reason);
        if fate == Fate::Right {
            let caller = &mut now.callers[caller];
            let answered = Instant::now();
            if let Some(last) = caller.answered.replace(answered) {
                caller.gap = caller.gap.max(answered - last);
            }
        }
        self.changed.notify_all();
    }

    /// A caller writes down who answers it.
    pub(crate) fn worker(&self, caller: usize, worker: Pong) {
        let mut now = self.lock();
        if now.newest.as_ref().is_none_or(|(newest, _)| newest.generation < worker.generation) {
            now.newest = Some((worker.clone(), Instant::now()));
        }
        now.callers[caller].worker = Some(worker);
        self.changed.notify_all();
    }

    /// From here on the longest wait between two answers is measured anew.
    pub(crate) fn begin_gaps(&self) {
        let begin = Instant::now();
        for caller in &mut self.lock().callers {
            caller.gap = Duration::ZERO;
            // What lies before does not count.
            caller.answered = caller.answered.map(|_| begin);
        }
    }

    /// The longest that any caller waited between two answers since then; one that still waits counts.
    pub(crate) fn largest_gap(&self) -> Duration {
        let now = self.lock();
        let waits = now.callers.iter().filter_map(|caller| Some(caller.gap.max(caller.answered?.elapsed())));
        waits.max().unwrap_or_default()
    }
}
