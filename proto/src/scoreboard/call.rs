//! One call as it executes: its slot, and how its code says how far it is.

use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use super::scores::Connection;
use super::{
    ACTIVITY, Activity, BEGUN, CALLS_FAILED, CALLS_TOTAL, CONSUMED, IN_FORCE, LATENCIES, LONGEST, Latencies,
    NAME, NAME_WORDS, OVER, PROGRESSED, READ, ROW, ROWS_AT, SLOT, STARTED, TRACE, TRIAL, WORD, now,
};
use crate::limits::{FAILURE_SHOWN, METHOD};

const NO_COUNT: u64 = u64::MAX;

/// A call. Its slot is used again only when no [`Progress`] is left: a late store must not hit another call.
#[derive(Debug)]
struct Call {
    connection: Arc<Connection>,
    slot: Option<usize>,
    started: u64,
    failure: OnceLock<String>,
    count: AtomicU64,
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(at) = self.slot {
            let scores = &self.connection.scores;
            scores.give_back(at);
        }
    }
}

/// A call that is executing, until this is dropped.
#[derive(Debug)]
pub struct CallSlot {
    call: Arc<Call>,
}

impl CallSlot {
    /// Shows a call as executing until the result is dropped.
    pub(super) fn begin(connection: Arc<Connection>, method: &str, trace_id: u128) -> Self {
        let scores = &connection.scores;
        let started = now();
        let slot = scores.claim();
        if let Some(at) = slot {
            scores.word(at + TRACE).store((trace_id >> 64) as u64, Relaxed);
            scores.word(at + TRACE + 1).store(trace_id as u64, Relaxed);
            scores.word(at + STARTED).store(started, Relaxed);
            scores.word(at + PROGRESSED).store(started, Relaxed);
            scores.word(at + CONSUMED).store(0, Relaxed);
            scores.word(at + READ).store(0, Relaxed);
            scores.word(at + ACTIVITY).store(Activity::Running as u64, Relaxed);
            scores.word(at + TRIAL).store(0, Relaxed);
            let mut name = [0; METHOD];
            let length = method.len().min(METHOD);
            name[..length].copy_from_slice(&method.as_bytes()[..length]);
            for (index, &part) in name.as_chunks::<WORD>().0.iter().enumerate().take(NAME_WORDS) {
                scores.word(at + NAME + index).store(u64::from_le_bytes(part), Relaxed);
            }
            scores.enter(at, IN_FORCE);
        }
        CallSlot {
            call: Arc::new(Call {
                connection,
                slot,
                started,
                failure: OnceLock::new(),
                count: AtomicU64::new(NO_COUNT),
            }),
        }
    }

    /// The handle through which the call's code says how far it is.
    pub fn progress(&self) -> Progress {
        Progress { call: Some(Arc::clone(&self.call)) }
    }

    /// How long the call has been executing, in µs.
    pub fn elapsed(&self) -> u64 {
        now().saturating_sub(self.call.started) / 1_000
    }

    /// Counts the call as answered; returns how long it took, in µs. A call dropped without it was cancelled.
    pub fn answered(&self) -> u64 {
        let us = self.elapsed();
        let scores = &self.call.connection.scores;
        if us > scores.word(LONGEST).load(Relaxed) {
            scores.word(LONGEST).fetch_max(us, Relaxed);
        }
        scores.word(LATENCIES.start + Latencies::bucket(us)).fetch_add(1, Relaxed);
        if self.failure().is_some() {
            scores.word(CALLS_FAILED).fetch_add(1, Relaxed);
        }
        scores.word(CALLS_TOTAL).fetch_add(1, Relaxed);
        us
    }

    /// Why it failed, if its code said so.
    pub fn failure(&self) -> Option<&str> {
        self.call.failure.get().map(String::as_str)
    }

    /// How many items it worked on, if its code said so.
    pub fn count(&self) -> Option<u64> {
        Some(self.call.count.load(Relaxed)).filter(|&count| count != NO_COUNT)
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        if let Some(at) = self.call.slot {
            self.call.connection.scores.enter(at, OVER);
        }
    }
}

tokio::task_local! {
    static CURRENT: Progress;
}

/// How a call's code says how far it is, from any thread. Clones speak for the same call.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    call: Option<Arc<Call>>,
}

impl Progress {
    /// That of the call whose handler this is; one that does nothing where there is none.
    pub fn current() -> Self {
        CURRENT.try_with(Clone::clone).unwrap_or_default()
    }

    /// The future, with this as its [`current`](Progress::current).
    pub fn scope<F: Future>(self, handler: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, handler)
    }

    /// The call got further.
    pub fn tick(&self) {
        self.store(PROGRESSED, now);
    }

    /// What the call is at. One that computes must [`tick`](Progress::tick), or it is taken to hang.
    pub fn enter(&self, activity: Activity) {
        self.tick();
        self.store(ACTIVITY, || activity as u64);
    }

    /// Whether the call is a suspect that has just begun to execute, so that a death is its own.
    pub fn set_on_trial(&self, on_trial: bool) {
        self.store(TRIAL, || on_trial.into());
    }

    /// The call begins to read input that cannot be read again. Say it before the first byte.
    pub fn begin_consuming(&self) {
        self.begun(1);
    }

    /// The call has read this many bytes of such input in all, and so got further.
    pub fn consumed(&self, total_bytes: u64) {
        self.store(CONSUMED, || total_bytes);
        self.begun(total_bytes.saturating_add(1));
        self.tick();
    }

    /// The call has read this many bytes of any input in all. It is for people to look at: nothing is decided by it.
    pub fn read(&self, total_bytes: u64) {
        self.store(READ, || total_bytes);
    }

    /// The call's answer is a fault; why, for its line in the log, which shows the first [`FAILURE_SHOWN`] bytes. What is
    /// said first stays.
    pub fn fail(&self, why: impl fmt::Display) {
        if let Some(call) = &self.call {
            call.failure.get_or_init(|| {
                let mut why = why.to_string();
                if why.len() > FAILURE_SHOWN {
                    why.truncate(why.floor_char_boundary(FAILURE_SHOWN));
                    why.push('…');
                }
                why
            });
        }
    }

    /// The call worked on this many items; its log line shows it.
    pub fn count(&self, items: u64) {
        if let Some(call) = &self.call {
            call.count.store(items.min(NO_COUNT - 1), Relaxed);
        }
    }

    fn begun(&self, value: u64) {
        if let Some(call) = &self.call
            && let Some(row) = call.connection.row
        {
            call.connection.scores.word(ROWS_AT + row * ROW + BEGUN).fetch_max(value, Relaxed);
        }
    }

    fn store(&self, word: usize, value: impl FnOnce() -> u64) {
        debug_assert!(word < SLOT);
        if let Some(call) = &self.call
            && let Some(at) = call.slot
        {
            call.connection.scores.word(at + word).store(value(), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Consumed, board};
    use super::*;
    use crate::limits::CONNECTION_ROWS;

    #[test]
    fn what_is_first_said_of_a_failure_stays_and_is_cut_between_characters() {
        let (_board, scores) = board();
        let slot = scores.connect().begin("Stats.mean", 1);
        assert_eq!(slot.failure(), None);
        slot.progress().fail("é".repeat(FAILURE_SHOWN));
        slot.progress().fail("later");
        let shown = slot.failure().unwrap();
        assert_eq!(shown, format!("{}…", "é".repeat(FAILURE_SHOWN / 2)));
    }

    #[test]
    fn a_late_store_of_a_finished_call_does_not_hit_the_next() {
        let (board, scores) = board();
        let first = scores.connect().begin("Stats.mean", 1);
        let late = first.progress();
        drop(first);
        let _second = scores.connect().begin("Stats.mean", 2);
        late.consumed(7);
        let seen = board.read().unwrap();
        assert_eq!(seen.calls.len(), 1, "the finished call is no longer shown");
        assert_eq!((seen.calls[0].trace_id, seen.calls[0].consumed), (2, 0));
    }

    #[test]
    fn what_was_read_is_not_what_was_consumed_and_the_next_call_begins_anew() {
        let (board, scores) = board();
        let connection = scores.connect();
        let first = connection.begin("Stats.mean", 1);
        first.progress().read(7);
        let seen = board.read().unwrap();
        assert_eq!((seen.calls[0].read, seen.calls[0].consumed), (7, 0));
        assert_eq!(seen.consumed(connection.number()), Consumed::Nothing, "it can be read again");
        drop(first);
        let _second = connection.begin("Stats.mean", 2);
        assert_eq!(board.read().unwrap().calls[0].read, 0);
    }

    #[test]
    fn a_method_longer_than_its_place_is_cut() {
        let (board, scores) = board();
        let _slot = scores.connect().begin(&"m".repeat(METHOD + 1), 1);
        assert_eq!(board.read().unwrap().calls[0].method, "m".repeat(METHOD));
    }

    #[tokio::test]
    async fn the_current_progress_is_that_of_the_handler() {
        let (board, scores) = board();
        Progress::current().consumed(5);
        let slot = scores.connect().begin("Stats.mean", 1);
        slot.progress().scope(async { Progress::current().consumed(7) }).await;
        assert_eq!(board.read().unwrap().calls[0].consumed, 7);
    }

    #[test]
    fn a_late_store_of_a_closed_connections_call_is_not_taken_for_the_next_connections() {
        let (board, scores) = board();
        let first = scores.connect();
        let late = first.begin("Stats.mean", 1).progress();
        drop(first);
        // Enough to use every other row again, and this one if it were free.
        let others: Vec<_> = (1..CONNECTION_ROWS).map(|_| scores.connect()).collect();
        let last = scores.connect();
        late.consumed(7);
        let seen = board.read().unwrap();
        assert_eq!(seen.consumed(1), Consumed::Bytes(7));
        assert!(others.iter().all(|other| seen.consumed(other.number()) == Consumed::Nothing));
        assert_eq!(seen.consumed(last.number()), Consumed::Unknown, "it has no row");
        drop((late, last));
        assert_eq!(
            seen.connections, CONNECTION_ROWS as u64,
            "one that only a late call remembers is not open"
        );
        let next = scores.connect();
        let seen = board.read().unwrap();
        assert_eq!(seen.consumed(next.number()), Consumed::Nothing, "the row is free again");
    }

    #[test]
    fn a_cancelled_call_is_not_counted_as_answered() {
        let (board, scores) = board();
        drop(scores.connect().begin("Stats.mean", 1));
        assert_eq!(board.read().unwrap().calls_total, 0);
    }
}
