//! Which of some hashes may occur often enough: upper bounds of how often each does, in tables that fit the
//! L1 or L2 cache.
//!
//! Each hash has a slot in a table, by some of its bits; what has the same slot is counted together. So a
//! hash whose slot has a low count is out, and one that is left may still be rare.

/// Bits of a hash that choose its slot.
pub(crate) const SLOT_BITS: u32 = 17;
/// 128 KiB. Pairs of bits instead of bytes, 32 KiB, took longer (1.6 ns instead of 1.2).
const SLOTS: usize = 1 << SLOT_BITS;

/// Bytes of a table.
pub(crate) const BYTES: usize = SLOTS;

/// A table of counters up to 255.
#[derive(Debug)]
pub(crate) struct Bounds(Vec<u8>);

impl Default for Bounds {
    fn default() -> Self {
        Bounds(vec![0; SLOTS])
    }
}

impl Bounds {
    /// Moves to the front those hashes that may occur `floor` times, judged by the bits from `shift` on,
    /// below 64. How many they are.
    pub(crate) fn prune(&mut self, hashes: &mut [u64], shift: u32, floor: u64) -> usize {
        self.count([&*hashes], shift);
        let Some(bounds) = self.0.first_chunk::<SLOTS>() else { return hashes.len() };
        let floor = least(floor);
        retain(hashes, |hash| bounds[slot(hash, shift)] >= floor)
    }

    /// Copies those of all runs that may occur `floor` times among them, likewise. There is room for all.
    pub(crate) fn gather<'a>(
        &mut self,
        runs: impl Iterator<Item = &'a [u64]> + Clone,
        hashes: &mut [u64],
        shift: u32,
        floor: u64,
    ) -> usize {
        self.count(runs.clone(), shift);
        let Some(bounds) = self.0.first_chunk::<SLOTS>() else { return 0 };
        let floor = least(floor);
        let mut kept = 0;
        for run in runs {
            let room = &mut hashes[kept..];
            let mut here = 0;
            for &hash in run {
                room[here] = hash;
                here += usize::from(bounds[slot(hash, shift)] >= floor);
            }
            kept += here;
        }
        kept
    }

    fn count<'a>(&mut self, runs: impl IntoIterator<Item = &'a [u64]>, shift: u32) {
        let Some(bounds) = self.0.first_chunk_mut::<SLOTS>() else { return };
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
