//! Which of some hashes may occur often enough: upper bounds of how often each does, in tables that fit the
//! L1 or L2 cache.
//!
//! Each hash has a slot in a table, by some of its bits; what has the same slot is counted together. So a
//! hash whose slot has a low count is out, and one that is left may still be rare.

/// Bits of a hash that choose its slot.
pub(crate) const SLOT_BITS: u32 = 17;
/// 128 KiB. Pairs of bits instead of bytes, 32 KiB, took longer (1.6 ns instead of 1.2).
const SLOTS: usize = 1 << SLOT_BITS;

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
        let Some(bounds) = self.0.first_chunk_mut::<SLOTS>() else { return hashes.len() };
        let slot = |hash: u64| (hash >> shift) as usize % SLOTS;
        bounds.fill(0);
        for &hash in &*hashes {
            let bound = &mut bounds[slot(hash)];
            *bound = bound.saturating_add(1);
        }
        let floor = floor.min(u64::from(u8::MAX)) as u8;
        retain(hashes, |hash| bounds[slot(hash)] >= floor)
    }
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
