//! Which of some hashes may occur often enough: upper bounds of how often each does, in tables that fit the
//! L1 or L2 cache.
//!
//! Each hash has a slot in a table, by some of its bits; what has the same slot is counted together. So a
//! hash whose slot has a low count is out, and one that is left may still be rare. Where twice is often enough, a bit does
//! for a counter.

use super::ahead::runs_ahead;

/// Bits of a hash that choose its slot.
pub(crate) const SLOT_BITS: u32 = 17;
/// 128 KiB. Pairs of bits instead of bytes, 32 KiB, took longer (1.6 ns instead of 1.2).
const SLOTS: usize = 1 << SLOT_BITS;

/// Words of bits: 32 KiB, of which most stays in the L1 cache.
const WORDS: usize = 4096;

/// Bytes of the tables.
pub(crate) const BYTES: usize = SLOTS + WORDS * size_of::<u64>();
/// Hashes that are copied at once, and so much more room than there are hashes is needed.
pub(crate) const SPARE: usize = 8;

/// Tables that are used again and again.
#[derive(Debug)]
pub(crate) struct Bounds {
    /// Counters up to 255.
    counts: Box<[u8; SLOTS]>,
    bits: Box<[u64; WORDS]>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { counts: zeros(), bits: zeros() }
    }
}

/// Made on the heap.
#[expect(clippy::unnecessary_box_returns, reason = "too large for a stack")]
pub(crate) fn zeros<T: Clone + Default, const N: usize>() -> Box<[T; N]> {
    vec![T::default(); N].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("as long as N"))
}

impl Bounds {
    /// Moves to the front those hashes that may occur `floor` times, judged by the bits from `shift` on,
    /// below 64. How many they are.
    pub(crate) fn prune(&mut self, hashes: &mut [u64], shift: u32, floor: u64) -> usize {
        self.count(std::iter::once(&*hashes), shift);
        let floor = least(floor);
        retain(hashes, |hash| self.counts[slot(hash, shift)] >= floor)
    }

    /// Copies those of all runs that may occur `floor` times among them, likewise, or for twice judged by bits below 32.
    /// There is room for all of them and [`SPARE`] more.
    pub(crate) fn gather<'a>(
        &mut self,
        runs: impl Iterator<Item = &'a [u64]> + Clone,
        hashes: &mut [u64],
        shift: u32,
        floor: u64,
    ) -> usize {
        if floor == 2 {
            return self.gather_repeated(runs, hashes);
        }
        self.count(runs_ahead(runs.clone()), shift);
        let floor = least(floor);
        copy(runs, hashes, |hash| self.counts[slot(hash, shift)] >= floor)
    }

    /// Copies those that may occur twice. Who has a bit to himself is single: first come those whose bit another one has
    /// set before; of all, by another bit, those stay that are alike to one of these. That is one in ten of a part where all
    /// are single (with counters one in three). In L2 the first pass takes 0.60 ns for each, the second 0.39.
    fn gather_repeated<'a>(
        &mut self,
        runs: impl Iterator<Item = &'a [u64]> + Clone,
        hashes: &mut [u64],
    ) -> usize {
        let bits = &mut self.bits;
        bits.fill(0);
        let late = copy(runs_ahead(runs.clone()), hashes, |hash| {
            let (word, bit) = (&mut bits[(hash as u32 >> 20) as usize], 1 << (hash % 64));
            let before = *word & bit != 0;
            *word |= bit;
            before
        });
        bits.fill(0);
        let other = |hash: u64| ((hash >> 6) as usize % WORDS, 1 << (hash % 64));
        for &hash in &hashes[..late] {
            let (word, bit) = other(hash);
            bits[word] |= bit;
        }
        copy(runs, hashes, |hash| {
            let (word, bit) = other(hash);
            bits[word] & bit != 0
        })
    }

    fn count<'a>(&mut self, runs: impl Iterator<Item = &'a [u64]>, shift: u32) {
        let bounds = &mut self.counts;
        bounds.fill(0);
        for run in runs {
            for &hash in run {
                let bound = &mut bounds[slot(hash, shift)];
                *bound = bound.saturating_add(1);
            }
        }
    }
}

#[inline]
fn slot(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize % SLOTS
}

/// What a bound has to be for so many.
fn least(floor: u64) -> u8 {
    floor.min(u64::from(u8::MAX)) as u8
}

/// Copies the hashes that are kept, without a branch for each. How many they are. There is room for [`SPARE`] more.
#[inline]
fn copy<'a>(
    runs: impl Iterator<Item = &'a [u64]>,
    hashes: &mut [u64],
    mut keep: impl FnMut(u64) -> bool,
) -> usize {
    let mut kept = 0;
    let mut some = |hashes: &[u64], room: &mut [u64]| {
        let mut here = 0;
        for &hash in hashes {
            room[here % SPARE] = hash;
            here += usize::from(keep(hash));
        }
        here
    };
    for run in runs {
        let (eights, rest) = run.as_chunks::<SPARE>();
        // Their loop is unrolled.
        for eight in eights {
            kept += some(eight, &mut hashes[kept..kept + SPARE]);
        }
        kept += some(rest, &mut hashes[kept..kept + SPARE]);
    }
    kept
}

/// Moves the hashes that are kept to the front, without a branch for each. How many they are.
#[inline]
pub(crate) fn retain(hashes: &mut [u64], keep: impl Fn(u64) -> bool) -> usize {
    let mut kept = 0;
    for index in 0..hashes.len() {
        let hash = hashes[index];
        hashes[kept] = hash;
        kept += usize::from(keep(hash));
    }
    kept
}
