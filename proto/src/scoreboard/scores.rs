//! The worker's end of the scoreboard: lock-free stores, from any thread.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fmt, io};

use super::map::Map;
use super::{
    ACTIVITY, Activity, BEGUN, CALLS_FAILED, CALLS_TOTAL, CONNECTIONS, CONNECTIONS_TOTAL, CONSUMED,
    CONSUMING, FREE, HEARTBEAT, IN_FORCE, LATENCIES, Latencies, MAGIC, NAME, NAME_WORDS, NUMBER, OVER, PHASE,
    PROGRESSED, ROW, ROWS_AT, SLOT, SLOTS_USED, STARTED, STATE, TRACE, TRIAL, WORD, WRITING, now, slot_at,
};
use crate::limits::{CONNECTION_ROWS, FAILURE_SHOWN, METHOD, SLOTS};

/// A mapped scoreboard. Clones are the same board.
#[derive(Debug, Clone)]
pub struct Scores(Arc<Mapped>);

#[derive(Debug)]
struct Mapped {
    map: Map,
    slots: Mutex<Slots>,
    rows: Mutex<Rows>,
}

/// Which slots are free: those given back, the latest first, and all from `used` on.
#[derive(Debug, Default)]
struct Slots {
    back: Vec<usize>,
    used: usize,
}

/// Who has which connection's row.
#[derive(Debug)]
struct Rows {
    next: usize,
    open: [bool; CONNECTION_ROWS],
}

impl Scores {
    /// Maps the board that the host sent. A descriptor of another size, or whose size is not sealed, is refused:
    /// a store beyond the end of a truncated file would be a SIGBUS.
    pub fn map(board: impl AsFd) -> io::Result<Self> {
        let map = Map::new(board)?;
        if map.words()[0].load(Relaxed) != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the scoreboard is none"));
        }
        let rows = Rows { next: 0, open: [false; CONNECTION_ROWS] };
        Ok(Scores(Arc::new(Mapped { map, slots: Mutex::default(), rows: Mutex::new(rows) })))
    }

    /// One beat of the heart.
    pub fn tick(&self) {
        self.word(HEARTBEAT).fetch_add(1, Relaxed);
    }

    /// Counts a connection, as open until the result is dropped.
    #[must_use = "the connection counts as open for as long as this lives"]
    pub fn connect(&self) -> ConnectionSlot {
        self.word(CONNECTIONS).fetch_add(1, Relaxed);
        let number = self.word(CONNECTIONS_TOTAL).fetch_add(1, Relaxed).wrapping_add(1);
        let row = self.claim_row(number);
        ConnectionSlot { connection: Arc::new(Connection { scores: self.clone(), number, row }) }
    }

    /// The row that was closed longest ago, about; `None`: all are open.
    fn claim_row(&self, number: u64) -> Option<usize> {
        let mut rows = lock(&self.0.rows);
        let rows = &mut *rows;
        let row = (0..CONNECTION_ROWS)
            .map(|step| (rows.next + step) % CONNECTION_ROWS)
            .find(|&row| !rows.open[row])?;
        rows.next = row + 1;
        rows.open[row] = true;
        let at = ROWS_AT + row * ROW;
        // A reader that sees one number before and after has read what belongs to it.
        self.word(at + NUMBER).store(0, Release);
        self.word(at + BEGUN).store(0, Release);
        self.word(at + NUMBER).store(number, Release);
        Some(row)
    }

    /// Shows a call as executing until the result is dropped. Beyond [`SLOTS`] calls it is only counted.
    #[must_use = "the call counts as executing for as long as this lives"]
    pub fn begin(&self, method: &str, trace_id: u128) -> CallSlot {
        let nobody = Connection { scores: self.clone(), number: 0, row: None };
        self.begin_on(Arc::new(nobody), method, trace_id)
    }

    fn begin_on(&self, connection: Arc<Connection>, method: &str, trace_id: u128) -> CallSlot {
        let started = now();
        let slot = self.claim();
        if let Some(at) = slot {
            self.word(at + TRACE).store((trace_id >> 64) as u64, Relaxed);
            self.word(at + TRACE + 1).store(trace_id as u64, Relaxed);
            self.word(at + STARTED).store(started, Relaxed);
            self.word(at + PROGRESSED).store(started, Relaxed);
            self.word(at + CONSUMING).store(0, Relaxed);
            self.word(at + CONSUMED).store(0, Relaxed);
            self.word(at + ACTIVITY).store(Activity::Running as u64, Relaxed);
            self.word(at + TRIAL).store(0, Relaxed);
            let mut name = [0; METHOD];
            let length = method.len().min(METHOD);
            name[..length].copy_from_slice(&method.as_bytes()[..length]);
            for (index, &part) in name.as_chunks::<WORD>().0.iter().enumerate().take(NAME_WORDS) {
                self.word(at + NAME + index).store(u64::from_le_bytes(part), Relaxed);
            }
            self.enter(at, IN_FORCE);
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

    /// What has been counted so far.
    pub fn totals(&self) -> Totals {
        Totals {
            calls: self.answered(),
            failed: self.word(CALLS_FAILED).load(Relaxed),
            latencies: Latencies(LATENCIES.map(|at| self.word(at).load(Relaxed)).collect()),
        }
    }

    /// How many calls have been answered.
    pub fn answered(&self) -> u64 {
        self.word(CALLS_TOTAL).load(Relaxed)
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.0.map.words()[index]
    }

    /// A slot that nobody has, about to be written.
    fn claim(&self) -> Option<usize> {
        let mut slots = lock(&self.0.slots);
        let at = match slots.back.pop() {
            Some(at) => at,
            None if slots.used == SLOTS => return None,
            None => {
                slots.used += 1;
                self.word(SLOTS_USED).store(slots.used as u64, Relaxed);
                slot_at(slots.used - 1)
            }
        };
        self.enter(at, WRITING);
        // Whoever sees a word of the new call must see that it is being written.
        fence(Release);
        Some(at)
    }

    /// Only whoever claimed the slot changes its phase.
    fn enter(&self, at: usize, phase: u64) {
        let uses = self.word(at + STATE).load(Relaxed) & !PHASE;
        let uses = if phase == FREE { uses.wrapping_add(PHASE + 1) } else { uses };
        self.word(at + STATE).store(uses | phase, Release);
    }
}

/// Calls counted, and how long they took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Calls answered, the failed ones too.
    pub calls: u64,
    /// Calls answered with a fault.
    pub failed: u64,
    /// How long they took.
    pub latencies: Latencies,
}

impl Totals {
    /// What was counted since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Totals {
            calls: self.calls.saturating_sub(earlier.calls),
            failed: self.failed.saturating_sub(earlier.failed),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct ConnectionSlot {
    connection: Arc<Connection>,
}

/// A connection. Its row is another's only when no [`Progress`] of its calls is left either: a late store must not be taken
/// for what the next has begun.
#[derive(Debug)]
struct Connection {
    scores: Scores,
    number: u64,
    row: Option<usize>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(row) = self.row {
            lock(&self.scores.0.rows).open[row] = false;
        }
    }
}

impl ConnectionSlot {
    /// Its number, from 1.
    pub fn number(&self) -> u64 {
        self.connection.number
    }

    /// As [`Scores::begin`], for a call of this connection: what it consumes is remembered with the connection, also when
    /// the call is over, since its reply may be lost yet.
    #[must_use = "the call counts as executing for as long as this lives"]
    pub fn begin(&self, method: &str, trace_id: u128) -> CallSlot {
        self.connection.scores.begin_on(Arc::clone(&self.connection), method, trace_id)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connection.scores.word(CONNECTIONS).fetch_sub(1, Relaxed);
    }
}

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
            scores.enter(at, FREE);
            lock(&scores.0.slots).back.push(at);
        }
    }
}

/// A call that is executing, until this is dropped.
#[derive(Debug)]
pub struct CallSlot {
    call: Arc<Call>,
}

impl CallSlot {
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
        self.store(CONSUMING, || 1);
        self.begun(1);
    }

    /// The call has read this many bytes of such input in all, and so got further.
    pub fn consumed(&self, total_bytes: u64) {
        self.store(CONSUMED, || total_bytes);
        self.begun(total_bytes.saturating_add(1));
        self.tick();
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

/// A panic elsewhere leaves the slots and the rows whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::{Board, Consumed};
    use super::*;

    fn board() -> (Board, Scores) {
        let board = Board::create().unwrap();
        let scores = Scores::map(board.fd()).unwrap();
        (board, scores)
    }

    #[test]
    fn a_host_sees_the_heartbeat_the_connections_and_the_calls() {
        let (board, scores) = board();
        scores.tick();
        let connection = scores.connect();
        let trace_id = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        let slot = scores.begin("Stats.median", trace_id);
        slot.progress().begin_consuming();
        slot.progress().consumed(4096);

        let seen = board.read().unwrap();
        assert_eq!((seen.heartbeat, seen.connections, seen.connections_total), (1, 1, 1));
        let [call] = &seen.calls[..] else { panic!("{seen:?}") };
        assert_eq!((call.trace_id, call.method.as_str()), (trace_id, "Stats.median"));
        assert!(call.consuming && call.consumed == 4096);
        assert!(call.progressed >= call.started && call.started > 0);

        let before = scores.totals();
        slot.progress().fail("no numbers");
        slot.answered();
        let since = scores.totals().since(&before);
        assert_eq!((before.calls, since.calls, since.failed), (0, 1, 1));
        assert!(before.latencies.quantile(0.5).is_none() && since.latencies.quantile(0.5).is_some());
        assert_eq!(scores.totals().since(&scores.totals()), before);
        drop((slot, connection));
        let seen = board.read().unwrap();
        assert_eq!((seen.calls.len(), seen.connections, seen.connections_total), (0, 0, 1));
        assert_eq!((seen.calls_total, seen.calls_failed), (1, 1));
        assert!(seen.latencies.quantile(0.5).is_some());
    }

    #[test]
    fn what_a_connection_has_begun_is_known_after_its_calls_and_itself_are_over() {
        let (board, scores) = board();
        let (first, second) = (scores.connect(), scores.connect());
        assert_eq!((first.number(), second.number()), (1, 2));
        let call = first.begin("Stats.mean", 7);
        assert_eq!(board.read().unwrap().consumed(1), Consumed::Nothing);
        call.progress().begin_consuming();
        assert_eq!(board.read().unwrap().consumed(1), Consumed::Unknown, "a read may be under way");
        call.progress().consumed(4096);
        drop((call, first));
        let seen = board.read().unwrap();
        assert_eq!((seen.consumed(1), seen.consumed(2)), (Consumed::Bytes(4096), Consumed::Nothing));
        assert_eq!(
            seen.consumed(3),
            Consumed::Unknown,
            "of a connection that is not known the worst is assumed"
        );
        // Its place is needed when all others have been used.
        for _ in 2..CONNECTION_ROWS {
            drop(scores.connect());
        }
        assert_eq!(board.read().unwrap().consumed(1), Consumed::Bytes(4096));
        drop(scores.connect());
        let seen = board.read().unwrap();
        assert_eq!(seen.consumed(1), Consumed::Unknown);
        assert_eq!(seen.consumed(2), Consumed::Nothing, "an open one keeps its place");
        assert_eq!(seen.consumed(CONNECTION_ROWS as u64 + 1), Consumed::Nothing);
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
    fn what_is_first_said_of_a_failure_stays_and_is_cut_between_characters() {
        let (_board, scores) = board();
        let slot = scores.begin("Stats.mean", 1);
        assert_eq!(slot.failure(), None);
        slot.progress().fail("é".repeat(FAILURE_SHOWN));
        slot.progress().fail("later");
        let shown = slot.failure().unwrap();
        assert_eq!(shown, format!("{}…", "é".repeat(FAILURE_SHOWN / 2)));
    }

    #[test]
    fn a_cancelled_call_is_not_counted_as_answered() {
        let (board, scores) = board();
        drop(scores.begin("Stats.mean", 1));
        assert_eq!(board.read().unwrap().calls_total, 0);
    }

    #[test]
    fn calls_beyond_the_slots_run_without_and_are_counted() {
        let (board, scores) = board();
        let slots: Vec<_> = (0..SLOTS as u128 + 3).map(|trace| scores.begin("Stats.mean", trace)).collect();
        assert_eq!(board.read().unwrap().calls.len(), SLOTS);
        for slot in &slots {
            slot.progress().consumed(1);
            slot.answered();
        }
        drop(slots);
        let seen = board.read().unwrap();
        assert_eq!((seen.calls.len(), seen.calls_total), (0, SLOTS as u64 + 3));
        let _again: Vec<_> = (0..3).map(|trace| scores.begin("Stats.mean", trace)).collect();
        assert_eq!(board.read().unwrap().calls.len(), 3, "slots given back are used again");
    }

    #[test]
    fn a_late_store_of_a_finished_call_does_not_hit_the_next() {
        let (board, scores) = board();
        let first = scores.begin("Stats.mean", 1);
        let late = first.progress();
        drop(first);
        let _second = scores.begin("Stats.mean", 2);
        late.begin_consuming();
        late.consumed(7);
        let seen = board.read().unwrap();
        assert_eq!(seen.calls.len(), 1, "the finished call is no longer shown");
        assert_eq!((seen.calls[0].trace_id, seen.calls[0].consuming), (2, false));
    }

    /// Ends the writer also when the reader fails: the scope waits for both.
    struct Finish<'a>(&'a AtomicBool);

    impl Drop for Finish<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn a_reader_never_sees_a_call_half_written() {
        let (board, scores) = board();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _finish = Finish(&done);
            scope.spawn(|| {
                let mut trace = 0_u128;
                while !done.load(Relaxed) {
                    trace += 1;
                    let name = format!("Stats.{trace}");
                    let slot = scores.begin(&name, trace << 64 | trace);
                    slot.progress().consumed(trace as u64);
                }
            });
            let mut whole = 0;
            for _ in 0..2_000 {
                for call in board.read().unwrap().calls {
                    let trace = call.trace_id as u64;
                    assert_eq!((call.trace_id >> 64) as u64, trace);
                    assert_eq!(call.method, format!("Stats.{trace}"));
                    assert!(call.consumed == trace || call.consumed == 0);
                    whole += 1;
                }
            }
            println!("{whole} calls seen whole");
        });
    }

    #[test]
    fn a_method_longer_than_its_place_is_cut() {
        let (board, scores) = board();
        let _slot = scores.begin(&"m".repeat(METHOD + 1), 1);
        assert_eq!(board.read().unwrap().calls[0].method, "m".repeat(METHOD));
    }

    #[test]
    fn a_board_that_could_shrink_under_the_map_is_refused() {
        use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
        let make = |bytes: usize, seals| {
            let fd = memfd_create("t", MemfdFlags::ALLOW_SEALING).unwrap();
            ftruncate(&fd, bytes as u64).unwrap();
            fcntl_add_seals(&fd, seals).unwrap();
            Scores::map(fd)
        };
        assert!(make(super::super::BYTES, SealFlags::GROW | SealFlags::SEAL).is_err());
        assert!(make(4096, super::super::SEALS).is_err());
        assert!(make(super::super::BYTES, super::super::SEALS).is_err(), "no magic");
        assert!(Scores::map(std::fs::File::open("/dev/null").unwrap()).is_err());
    }

    #[tokio::test]
    async fn the_current_progress_is_that_of_the_handler() {
        let (board, scores) = board();
        Progress::current().begin_consuming();
        let slot = scores.begin("Stats.mean", 1);
        slot.progress().scope(async { Progress::current().begin_consuming() }).await;
        assert!(board.read().unwrap().calls[0].consuming);
    }
}
