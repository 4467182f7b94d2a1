//! Counts what a chunk of codes stands for, in tables.
//!
//! Equal neighbours in one table wait for each other: the load of a counter waits for the store before it to
//! be forwarded, some 8 cycles. So neighbours go to different tables.

#![expect(clippy::inline_always, reason = "as macros are: for each of the shapes")]

use std::hint::select_unpredictable;

use super::ahead::{LINE, Later};

/// The most slots of a dictionary.
pub(crate) const SLOTS: usize = 4096;
/// The most buckets for what is not in the dictionary.
pub(crate) const BUCKETS: usize = 1 << 14;
/// Tables of a thread.
pub(crate) const TABLES: usize = 2;

/// A counter for each slot, then one for each bucket.
type Table = [u32; SLOTS + BUCKETS];

/// How many slots and buckets are in use: fewer are nearer to the processor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// 1024 slots and 4096 buckets. Tables of 20 KiB, both in the L1 cache.
    Small,
    /// All. Tables of 80 KiB, in the L2 cache.
    Large,
}

impl Shape {
    /// How many slots there are.
    #[inline(always)]
    pub(crate) const fn slots(self) -> usize {
        match self {
            Shape::Small => 1024,
            Shape::Large => SLOTS,
        }
    }

    /// How many buckets there are.
    #[inline(always)]
    pub(crate) const fn buckets(self) -> usize {
        match self {
            Shape::Small => 4096,
            Shape::Large => BUCKETS,
        }
    }

    /// Where a dictionary has this hash, if it has it.
    #[inline(always)]
    pub(crate) const fn slot(self, hash: u64) -> usize {
        hash as usize % self.slots()
    }

    /// The bucket of a hash that is not in the dictionary.
    #[inline(always)]
    pub(crate) const fn bucket(self, hash: u64) -> usize {
        (hash >> (64 - self.buckets().trailing_zeros())) as usize
    }
}

/// Zeros for the tables of a thread.
pub(crate) fn zeros() -> Vec<u32> {
    vec![0; TABLES * (SLOTS + BUCKETS)]
}

/// Counts each hash in its slot where it owns that, otherwise in its bucket. `few_miss`: nearly all own
/// theirs.
pub(crate) fn count_hashes<V>(
    shape: Shape,
    owners: &[u64; SLOTS],
    tables: &mut [u32],
    hashes: &[u64],
    few_miss: bool,
    later: &Later<'_, V>,
) {
    let Some(tables) = tables.as_chunks_mut().0.first_chunk_mut::<TABLES>() else { return };
    // Compiled for each shape: with shifts and masks that are not known, a value takes 0.52 ns instead of
    // 0.46.
    match (shape, few_miss) {
        (Shape::Small, false) => count_in(Shape::Small, owners, tables, hashes, false, later),
        (Shape::Small, true) => count_in(Shape::Small, owners, tables, hashes, true, later),
        (Shape::Large, false) => count_in(Shape::Large, owners, tables, hashes, false, later),
        (Shape::Large, true) => count_in(Shape::Large, owners, tables, hashes, true, later),
    }
}

#[inline(always)]
fn count_in<V>(
    shape: Shape,
    owners: &[u64; SLOTS],
    tables: &mut [Table; TABLES],
    hashes: &[u64],
    few_miss: bool,
    later: &Later<'_, V>,
) {
    let [a, b] = tables;
    let place = |hash: u64| {
        let slot = shape.slot(hash);
        select_unpredictable(owners[slot] == hash, slot, SLOTS + shape.bucket(hash))
    };
    let (lines, rest) = hashes.as_chunks::<LINE>();
    for (index, line) in lines.iter().enumerate() {
        later.fetch(index);
        for &four in line.as_chunks::<4>().0 {
            let slots = four.map(|hash| shape.slot(hash));
            let owned = |index: usize| owners[slots[index]] == four[index];
            let places = if few_miss && (0..4).all(owned) { slots } else { four.map(place) };
            a[places[0]] += 1;
            b[places[1]] += 1;
            a[places[2]] += 1;
            b[places[3]] += 1;
        }
    }
    for &hash in rest {
        a[place(hash)] += 1;
    }
}

/// Counts each code in one of the tables. Each code is below their length.
pub(crate) fn count_codes<V>(tables: &mut [&mut [u32]; 4], codes: &[u32], later: &Later<'_, V>) {
    let (lines, rest) = codes.as_chunks::<LINE>();
    for (index, line) in lines.iter().enumerate() {
        later.fetch(index);
        for four in line.as_chunks::<4>().0 {
            for (table, code) in tables.iter_mut().zip(four) {
                table[*code as usize] += 1;
            }
        }
    }
    for &code in rest {
        tables[0][code as usize] += 1;
    }
}

/// Counts each code in a table that is too large for another beside it. Each code is below its length.
pub(crate) fn count_codes_in_one<V>(table: &mut [u32], codes: &[u32], later: &Later<'_, V>) {
    let (lines, rest) = codes.as_chunks::<LINE>();
    for (index, line) in lines.iter().enumerate() {
        later.fetch(index);
        for &[p, q, r, s] in line.as_chunks::<4>().0 {
            if [p, q, r] == [q, r, s] {
                table[p as usize] += 4;
            } else {
                table[p as usize] += 1;
                table[q as usize] += 1;
                table[r as usize] += 1;
                table[s as usize] += 1;
            }
        }
    }
    for &code in rest {
        table[code as usize] += 1;
    }
}
