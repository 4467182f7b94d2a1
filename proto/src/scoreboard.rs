//! The scoreboard, as Apache's: a memfd of fixed size that a worker maps and stores into, and its host reads.
//!
//! A few stores a call tell the host what the worker does, and still do after the worker was killed. The host
//! only ever `pread`s it and believes nothing of it: what it holds is a stranger's data.
//!
//! Layout, in native `u64` words: a page with magic, heartbeat, counters and latency buckets, then a slot per
//! call. A slot's first word says whether it is free, being written, or in force, and counts its uses: whoever
//! sees the same word before and after reading the rest has read one call, whole.

mod call;
mod map;
mod scores;

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::limits::{CONNECTION_ROWS, METHOD, SLOTS};
pub use call::{CallSlot, Progress};
pub use scores::{ConnectionSlot, Scores, Totals};

/// Of any layout: the handshake has agreed on which.
const MAGIC: u64 = u64::from_le_bytes(*b"taskscor");
const WORD: usize = size_of::<u64>();
/// No size may change under a reader or under the map: that is what rules out SIGBUS.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

// Words of the header.
const HEARTBEAT: usize = 1;
const CONNECTIONS: usize = 2;
const CONNECTIONS_TOTAL: usize = 3;
const CALLS_TOTAL: usize = 4;
const CALLS_FAILED: usize = 5;
/// Slots that were ever used: beyond them the host need not look.
const SLOTS_USED: usize = 6;
/// The longest answered call, in µs.
const LONGEST: usize = 7;
const LATENCIES: Range<usize> = 8..8 + Latencies::BUCKETS;
// Words of a connection's row.
const ROWS_AT: usize = 512;
const ROW: usize = 2;
const NUMBER: usize = 0;
/// 0: it has begun no input that cannot be read again; else the bytes read of it, and one.
const BEGUN: usize = 1;

const SLOTS_AT: usize = ROWS_AT + CONNECTION_ROWS * ROW;

// Words of a slot; two cache lines, so that threads which tick neighbours do not share one.
const SLOT: usize = 16;
const STATE: usize = 0;
const TRACE: usize = 1;
const STARTED: usize = 3;
const PROGRESSED: usize = 4;
const CONSUMED: usize = 5;
const ACTIVITY: usize = 6;
/// Whether it is on trial.
const TRIAL: usize = 7;
const NAME: usize = 8;
const NAME_WORDS: usize = METHOD / WORD;
const READ: usize = NAME + NAME_WORDS;

const WORDS: usize = SLOTS_AT + SLOTS * SLOT;
const BYTES: usize = WORDS * WORD;

// The low two bits of a slot's state; the rest counts the slot's uses.
const FREE: u64 = 0;
const WRITING: u64 = 1;
const IN_FORCE: u64 = 2;
const OVER: u64 = 3;
const PHASE: u64 = 3;

const fn slot_at(slot: usize) -> usize {
    SLOTS_AT + slot * SLOT
}

/// Now, in nanoseconds of `CLOCK_MONOTONIC`, which all processes share.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(now.tv_nsec as u64)
}

/// The host's end: it makes the board, hands out its descriptor and reads it.
#[derive(Debug)]
pub struct Board {
    fd: OwnedFd,
}

impl Board {
    /// Makes an empty board whose size cannot change any more.
    pub fn create() -> io::Result<Self> {
        let fd = rustix::fs::memfd_create("scoreboard", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, BYTES as u64)?;
        rustix::io::pwrite(&fd, &MAGIC.to_ne_bytes(), 0)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        Ok(Board { fd })
    }

    /// The descriptor to send to the worker.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What the board shows now. Whatever it holds gives a snapshot; only a failed read is an error.
    pub fn read(&self) -> io::Result<Snapshot> {
        let used = self.copy(SLOTS_AT)?[SLOTS_USED].min(SLOTS as u64) as usize;
        let words = slot_at(used);
        Ok(Snapshot::decode(&self.copy(words)?, &self.copy(words)?, &self.copy(words)?))
    }

    /// The first `words` of it.
    fn copy(&self, words: usize) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; words * WORD];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(&self.fd, &mut bytes[filled..], filled as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => filled += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let (words, _) = bytes.as_chunks::<WORD>();
        Ok(words.iter().map(|&word| u64::from_ne_bytes(word)).collect())
    }
}

/// What a worker said of itself at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Ticks of the loop that does the worker's I/O, one each [`limits::HEARTBEAT`](crate::limits::HEARTBEAT).
    pub heartbeat: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections accepted so far.
    pub connections_total: u64,
    /// Calls answered so far, the failed ones too; cancelled ones are none of them.
    pub calls_total: u64,
    /// Calls answered with a fault, or refused as no call could be made of what was sent.
    pub calls_failed: u64,
    /// How long the answered calls took.
    pub latencies: Latencies,
    /// Calls executing now, or when the worker died.
    pub calls: Vec<Call>,
    /// The last connections: the number of each, and what it has begun.
    begun: Vec<(u64, u64)>,
}

impl Snapshot {
    /// From three copies, one after another. A slot counts when its state is the same in the first and the last:
    /// then the middle one is whole.
    fn decode(before: &[u64], words: &[u64], after: &[u64]) -> Self {
        let calls = (SLOTS_AT..words.len())
            .step_by(SLOT)
            .filter(|&at| before[at] & PHASE == IN_FORCE && before[at] == after[at])
            .map(|at| Call::decode(&words[at..at + SLOT]))
            .collect();
        Snapshot {
            heartbeat: words[HEARTBEAT],
            connections: words[CONNECTIONS],
            connections_total: words[CONNECTIONS_TOTAL],
            calls_total: words[CALLS_TOTAL],
            calls_failed: words[CALLS_FAILED],
            latencies: Latencies { counts: words[LATENCIES].to_vec(), longest: words[LONGEST] },
            calls,
            begun: (ROWS_AT..SLOTS_AT)
                .step_by(ROW)
                .filter(|&at| before[at] == after[at])
                .map(|at| (words[at + NUMBER], words[at + BEGUN]))
                .filter(|&(number, _)| number != 0)
                .collect(),
        }
    }

    /// What has been read on the connection of this number of input that cannot be read again.
    pub fn consumed(&self, connection: u64) -> Consumed {
        match self.begun.iter().find(|(number, _)| *number == connection) {
            Some((_, 0)) => Consumed::Nothing,
            // Begun, and not one read has been counted: that says nothing of the one that was under way.
            Some((_, 1)) | None => Consumed::Unknown,
            Some((_, begun)) => Consumed::Bytes(begun - 1),
        }
    }
}

/// What has been read of input that cannot be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumed {
    /// None, and none has been begun.
    Nothing,
    /// At least this many bytes.
    Bytes(u64),
    /// Some may have been: it was begun, or nobody knows.
    Unknown,
}

impl Consumed {
    /// How many bytes, if that is known.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Consumed::Bytes(bytes) => Some(bytes),
            Consumed::Nothing | Consumed::Unknown => None,
        }
    }
}

/// A call that is executing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The trace id of its request.
    pub trace_id: u128,
    /// Its method, as `Service.method`: at most [`METHOD`] printable ASCII characters.
    pub method: String,
    /// When it began: see [`now`].
    pub started: u64,
    /// When it last got further: see [`now`].
    pub progressed: u64,
    /// Bytes that it has read of input that cannot be read again.
    pub consumed: u64,
    /// Bytes that it has read of any input so far.
    pub read: u64,
    /// What it is at.
    pub activity: Activity,
    /// It is a suspect that has just begun to execute, and no other call has begun since.
    pub on_trial: bool,
}

/// What a call is at, as far as its code says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// It executes.
    #[default]
    Running,
    /// It computes, and ticks while it does: one that does not is taken to hang.
    Computing,
    /// It waits for its input.
    Waiting,
    /// It has not begun: it waits until no other suspect executes.
    Held,
}

impl Activity {
    const ALL: [Activity; 4] = [Activity::Running, Activity::Computing, Activity::Waiting, Activity::Held];

    /// Whether a worker that dies meanwhile may have died of it.
    pub fn is_executing(self) -> bool {
        matches!(self, Activity::Running | Activity::Computing)
    }
}

impl Call {
    fn decode(words: &[u64]) -> Self {
        let name = words[NAME..NAME + NAME_WORDS].iter().flat_map(|word| word.to_le_bytes());
        Call {
            trace_id: u128::from(words[TRACE]) << 64 | u128::from(words[TRACE + 1]),
            method: name
                .take_while(|&byte| byte != 0)
                .map(|byte| if byte.is_ascii_graphic() { char::from(byte) } else { '?' })
                .collect(),
            started: words[STARTED],
            progressed: words[PROGRESSED],
            consumed: words[CONSUMED],
            read: words[READ],
            activity: Activity::ALL[words[ACTIVITY] as usize % Activity::ALL.len()],
            on_trial: words[TRIAL] != 0,
        }
    }
}

/// How many calls took how long: four buckets to each doubling of the microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: Vec<u64>,
    /// Of all calls so far, in µs.
    longest: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies { counts: vec![0; Latencies::BUCKETS], longest: 0 }
    }
}

impl Latencies {
    /// Up to 2^32 µs, which is 71 minutes; longer calls count in the last.
    const BUCKETS: usize = 31 * 4;

    /// Counts the calls of another worker too.
    pub fn add(&mut self, other: &Latencies) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count = count.saturating_add(*more);
        }
        self.longest = self.longest.max(other.longest);
    }

    fn bucket(us: u64) -> usize {
        if us < 4 {
            return us as usize;
        }
        let doubling = us.ilog2() as usize;
        let quarter = (us >> (doubling - 2)) as usize & 3;
        ((doubling - 1) * 4 + quarter).min(Self::BUCKETS - 1)
    }

    /// The least number of microseconds that falls into this bucket.
    fn floor(bucket: usize) -> u64 {
        if bucket < 4 { bucket as u64 } else { (4 + (bucket as u64 & 3)) << (bucket / 4 - 1) }
    }

    /// Those counted since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let pairs = self.counts.iter().zip(&earlier.counts);
        let counts = pairs.map(|(now, then)| now.saturating_sub(*then)).collect();
        Latencies { counts, longest: self.longest }
    }

    /// A time in µs that this part (0 to 1) of the calls did not exceed, at most a quarter above the least such time and
    /// no longer than the longest call; `None`: no calls.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let total = self.counts.iter().fold(0, |sum: u64, &count| sum.saturating_add(count));
        let rank = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0_u64;
        let bucket = self.counts.iter().position(|&count| {
            seen = seen.saturating_add(count);
            seen >= rank
        })?;
        // A stranger may have told of none that is so long.
        Some((Self::floor(bucket + 1) - 1).min(self.longest.max(Self::floor(bucket))))
    }
}

#[cfg(test)]
fn board() -> (Board, Scores) {
    let board = Board::create().unwrap();
    let scores = Scores::map(board.fd()).unwrap();
    (board, scores)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::handshake::PROTOCOL;

    /// A worker that took another layout for its own would blame and acquit the wrong calls.
    #[test]
    fn another_layout_is_another_protocol() {
        let layout = [BYTES, ROWS_AT, ROW, SLOTS_AT, SLOT, NAME, TRIAL, READ];
        let known = [1_069_056, 512, 2, 2560, 16, 8, 7, 12];
        assert_eq!((PROTOCOL, layout), ([5, 5], known), "raise both numbers");
    }

    #[test]
    fn every_latency_falls_into_the_bucket_that_begins_at_or_below_it() {
        for us in (0..5_000).chain((12..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let bucket = Latencies::bucket(us);
            assert!(Latencies::floor(bucket) <= us, "{us} is below bucket {bucket}");
            assert!(us < Latencies::floor(bucket + 1), "{us} is above bucket {bucket}");
        }
        assert_eq!(Latencies::bucket(u64::MAX), Latencies::BUCKETS - 1);
    }

    #[test]
    fn quantiles_come_from_the_counts() {
        let mut counts = vec![0; Latencies::BUCKETS];
        assert_eq!(Latencies::default().quantile(0.5), None);
        counts[Latencies::bucket(10)] = 98;
        counts[Latencies::bucket(1_000)] = 2;
        let quantiles = |longest| {
            let latencies = Latencies { counts: counts.clone(), longest };
            [0.5, 0.99].map(|part| latencies.quantile(part).unwrap())
        };
        assert_eq!(quantiles(1_000), [11, 1_000], "none took longer than the longest");
        assert_eq!(quantiles(0), [10, 896], "a stranger's longest is not believed");
        let latencies = Latencies { counts: counts.clone(), longest: u64::MAX };
        assert_eq!(latencies.quantile(0.5), Some(11));
        assert_eq!(latencies.quantile(0.98), Some(11));
        assert_eq!(latencies.quantile(0.99), Some(1023));
    }

    #[test]
    fn a_slot_that_changed_hands_while_it_was_read_is_not_shown() {
        let (board, scores) = board();
        let empty = board.copy(WORDS).unwrap();
        let first = scores.connect().begin("Stats.mean", 1);
        let held = board.copy(WORDS).unwrap();
        let shown = |before, words, after| Snapshot::decode(before, words, after).calls.len();
        assert_eq!(shown(&held, &held, &held), 1);
        assert_eq!(shown(&empty, &held, &held), 0, "begun meanwhile");
        drop(first);
        let over = board.copy(WORDS).unwrap();
        assert_eq!(shown(&held, &held, &over), 0, "ended meanwhile");
        let _second = scores.connect().begin("Stats.mode", 2);
        let again = board.copy(WORDS).unwrap();
        assert_eq!(shown(&held, &again, &again), 0, "the same slot, another call");
        let mut writing = again.clone();
        writing[slot_at(0)] = writing[slot_at(0)] & !PHASE | WRITING;
        assert_eq!(shown(&writing, &writing, &writing), 0, "half written");
    }

    #[test]
    fn the_size_of_a_board_cannot_change() {
        let board = Board::create().unwrap();
        assert!(rustix::fs::ftruncate(board.fd(), 0).is_err());
        assert!(rustix::fs::ftruncate(board.fd(), 2 * BYTES as u64).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_board_full_of_rubbish_still_gives_a_snapshot(seed: [u8; 32], force: bool) {
            let board = Board::create().unwrap();
            let mut bytes = vec![0; BYTES];
            proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &seed)
                .fill_bytes(&mut bytes);
            if force {
                (0..SLOTS).for_each(|slot| bytes[slot_at(slot) * WORD] = IN_FORCE as u8);
                bytes[SLOTS_USED * WORD..][..WORD].fill(0xff);
            }
            rustix::io::pwrite(board.fd(), &bytes, 0).unwrap();
            let snapshot = board.read().unwrap();
            prop_assert!(!force || snapshot.calls.len() == SLOTS);
            for call in &snapshot.calls {
                prop_assert!(call.method.len() <= METHOD && call.method.bytes().all(|b| b.is_ascii_graphic()));
            }
            snapshot.latencies.quantile(0.99);
        }
    }
}
