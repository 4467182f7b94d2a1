//! The worker's end of the scoreboard: lock-free stores, from any thread.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::call::CallSlot;
use super::map::Map;
use super::{
    BEGUN, CALLS_FAILED, CALLS_TOTAL, CONNECTIONS, CONNECTIONS_TOTAL, FREE, HEARTBEAT, LATENCIES, LONGEST,
    Latencies, MAGIC, NUMBER, PHASE, ROW, ROWS_AT, SLOTS_USED, STATE, Snapshot, WRITING, slot_at,
};
use crate::limits::{CONNECTION_ROWS, SLOTS};

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

    /// What has been counted so far.
    pub fn totals(&self) -> Totals {
        Totals {
            calls: self.answered(),
            failed: self.word(CALLS_FAILED).load(Relaxed),
            latencies: Latencies {
                counts: LATENCIES.map(|at| self.word(at).load(Relaxed)).collect(),
                longest: self.word(LONGEST).load(Relaxed),
            },
        }
    }

    /// Counts as failed requests that were answered with an error before they came to a call, and calls whose replies
    /// were withheld once they had been counted.
    pub fn refuse(&self, unheard: u64, withheld: u64) {
        self.word(CALLS_FAILED).fetch_add(unheard + withheld, Relaxed);
        self.word(CALLS_TOTAL).fetch_add(unheard, Relaxed);
    }

    /// How many calls have been answered.
    pub fn answered(&self) -> u64 {
        self.word(CALLS_TOTAL).load(Relaxed)
    }

    pub(super) fn word(&self, index: usize) -> &AtomicU64 {
        &self.0.map.words()[index]
    }

    /// A slot that nobody has, about to be written.
    pub(super) fn claim(&self) -> Option<usize> {
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

    /// A slot whose call nobody speaks for any more.
    pub(super) fn give_back(&self, at: usize) {
        self.enter(at, FREE);
        lock(&self.0.slots).back.push(at);
    }

    /// Only whoever claimed the slot changes its phase.
    pub(super) fn enter(&self, at: usize, phase: u64) {
        let uses = self.word(at + STATE).load(Relaxed) & !PHASE;
        let uses = if phase == FREE { uses.wrapping_add(PHASE + 1) } else { uses };
        self.word(at + STATE).store(uses | phase, Release);
    }
}

/// Calls counted, and how long they took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Calls answered, the failed ones too.
    pub calls: u64,
    /// Calls answered with a fault.
    pub failed: u64,
    /// How long they took.
    pub latencies: Latencies,
}

impl Totals {
    /// Counts what another worker showed too. It is a stranger's data.
    pub fn add(&mut self, seen: &Snapshot) {
        self.calls = self.calls.saturating_add(seen.calls_total);
        self.failed = self.failed.saturating_add(seen.calls_failed);
        self.latencies.add(&seen.latencies);
    }

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

/// A connection. Its row is another's only when no [`Progress`](super::Progress) of its calls is left either: a late
/// store must not be taken for what the next has begun.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) scores: Scores,
    number: u64,
    pub(super) row: Option<usize>,
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

    /// Shows a call of this connection as executing until the result is dropped. Beyond [`SLOTS`] calls it is only
    /// counted. What it consumes is remembered with the connection, also when the call is over, since its reply may be
    /// lost yet.
    #[must_use = "the call counts as executing for as long as this lives"]
    pub fn begin(&self, method: &str, trace_id: u128) -> CallSlot {
        CallSlot::begin(Arc::clone(&self.connection), method, trace_id)
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.connection.scores.word(CONNECTIONS).fetch_sub(1, Relaxed);
    }
}

/// A panic elsewhere leaves the slots and the rows whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::{Consumed, board};
    use super::*;

    #[test]
    fn a_host_sees_the_heartbeat_the_connections_and_the_calls() {
        let (board, scores) = board();
        scores.tick();
        let connection = scores.connect();
        let trace_id = 0x0123_4567_89ab_cdef_0011_2233_4455_6677;
        let slot = connection.begin("Stats.median", trace_id);
        slot.progress().consumed(4096);

        let seen = board.read().unwrap();
        assert_eq!((seen.heartbeat, seen.connections, seen.connections_total), (1, 1, 1));
        let [call] = &seen.calls[..] else { panic!("{seen:?}") };
        assert_eq!((call.trace_id, call.method.as_str()), (trace_id, "Stats.median"));
        assert_eq!(call.consumed, 4096);
        assert!(call.progressed >= call.started && call.started > 0);

        let before = scores.totals();
        slot.progress().fail("no numbers");
        slot.answered();
        let since = scores.totals().since(&before);
        assert_eq!((before.calls, since.calls, since.failed), (0, 1, 1));
        assert!(before.latencies.quantile(0.5).is_none() && since.latencies.quantile(0.5).is_some());
        let nothing = scores.totals().since(&scores.totals());
        assert_eq!((nothing.calls, nothing.failed, nothing.latencies.quantile(0.5)), (0, 0, None));
        scores.refuse(3, 0);
        let since = scores.totals().since(&before);
        assert_eq!((since.calls, since.failed), (4, 4), "what was refused has failed, and took no time");
        drop((slot, connection));
        let seen = board.read().unwrap();
        assert_eq!((seen.calls.len(), seen.connections, seen.connections_total), (0, 0, 1));
        assert_eq!((seen.calls_total, seen.calls_failed), (4, 4));
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
    fn calls_beyond_the_slots_run_without_and_are_counted() {
        let (board, scores) = board();
        let slots: Vec<_> =
            (0..SLOTS as u128 + 3).map(|trace| scores.connect().begin("Stats.mean", trace)).collect();
        assert_eq!(board.read().unwrap().calls.len(), SLOTS);
        for slot in &slots {
            slot.progress().consumed(1);
            slot.answered();
        }
        drop(slots);
        let seen = board.read().unwrap();
        assert_eq!((seen.calls.len(), seen.calls_total), (0, SLOTS as u64 + 3));
        let _again: Vec<_> = (0..3).map(|trace| scores.connect().begin("Stats.mean", trace)).collect();
        assert_eq!(board.read().unwrap().calls.len(), 3, "slots given back are used again");
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
                    let slot = scores.connect().begin(&name, trace << 64 | trace);
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
}
