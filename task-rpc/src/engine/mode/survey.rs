//! Some values are frequent: a dictionary of those in a sample counts them exactly, and everything else is
//! counted in buckets by its hash. The count of a bucket is an upper bound for each value in it: where it is
//! below the best exact count, no mode is in the bucket. Mostly that is so for all of them. Otherwise those
//! that are left are the suspects.

use super::sample::Sample;
use super::tally::Tally;
use super::{CHUNK, Work};
use crate::engine::kernels::ahead::ahead;
use crate::engine::kernels::codes::{Mix, hashes};
use crate::engine::kernels::count_few::{self, Common};
use crate::engine::kernels::counts::{BUCKETS, SLOTS, Shape, TABLES, count_hashes, zeros};
use crate::engine::simd::{Level, Simd};
use crate::engine::value::Value;
use task_proto::fault::Fault;

/// A value that is this often in the sample is frequent.
const FREQUENT: u64 = 8;
/// Dictionaries tried, for one in which no two values need the same slot.
const TRIES: u64 = 8;
/// Above this share of the sample, misses of the dictionary are left to the branch predictor.
const FEW_MISS: f64 = 0.97;
/// Values are common when together they are above this share of the sample: then a chunk that has no others is
/// counted as [`Common`] does.
const COMMON: f64 = 0.9995;
/// Blocks between two sums, so that no counter of 32 bits overflows: 2^31 values.
const ROUND: usize = if cfg!(test) { 7 } else { 8192 };

/// Values to count exactly.
pub(super) struct Dictionary {
    pub(super) mix: Mix,
    /// The hash that each slot counts. A free slot has one that belongs to another.
    owners: Box<[u64; SLOTS]>,
    few_miss: bool,
    shape: Shape,
    /// The common values, if they are few.
    common: Option<Common>,
}

/// What a pass with a dictionary shows.
pub(super) struct Survey {
    dictionary: Dictionary,
    /// The values of the dictionary.
    pub(super) tally: Tally,
    suspicious: Vec<bool>,
    /// How many numbers are in suspicious buckets.
    pub(super) suspects: u64,
}

impl Dictionary {
    /// The most frequent values of the sample, and whether it seems that they are frequent enough to rule
    /// others out.
    pub(super) fn of<V: Value>(simd: Simd, sample: &Sample, seed: u64) -> (Dictionary, bool) {
        let mut values = sample.repeated();
        let most = values.first().map_or(0, |(most, _)| *most);
        if V::IS_FLOAT {
            // First, so that missing values are in no bucket.
            values.insert(0, ((sample.keys.len() - sample.numbers) as u64, i64::MAX));
        }
        let drawn = sample.keys.len() as u64;
        // A bucket whose count is twice the mean is rare; one that is above the mean by a quarter, among so
        // many, too.
        let (hits, small) = Dictionary::new(Shape::Small, &values, drawn, seed);
        if most >= FREQUENT && most * Shape::Small.buckets() as u64 > 2 * (drawn - hits) {
            return (small.with_common(simd, &values, drawn), true);
        }
        let (hits, large) = Dictionary::new(Shape::Large, &values, drawn, seed);
        let rules_out = most >= FREQUENT && most * Shape::Large.buckets() as u64 * 4 > 5 * (drawn - hits);
        (large.with_common(simd, &values, drawn), rules_out)
    }

    /// One with as many of the values as possible, and how many of the sample these are.
    fn new(shape: Shape, values: &[(u64, i64)], drawn: u64, seed: u64) -> (u64, Dictionary) {
        let all: u64 = values.iter().map(|(times, _)| times).sum();
        let tries = if values.len() < shape.slots() / 4 { TRIES } else { 1 };
        let mut best = Dictionary::fill(shape, values, drawn, seed);
        for attempt in 1..tries {
            if best.0 == all {
                break;
            }
            let other = Dictionary::fill(shape, values, drawn, seed.wrapping_add(attempt));
            if other.0 > best.0 {
                best = other;
            }
        }
        best
    }

    /// Gives each value a slot, the first ones first, as long as that is free.
    fn fill(shape: Shape, values: &[(u64, i64)], drawn: u64, seed: u64) -> (u64, Dictionary) {
        let mix = Mix::new(seed);
        let mut owners = Box::new(std::array::from_fn(|slot| !(slot as u64)));
        let mut hits = 0;
        for &(times, key) in values {
            let hash = mix.hash(key);
            let owner = &mut owners[shape.slot(hash)];
            if shape.slot(*owner) != shape.slot(hash) {
                *owner = hash;
                hits += times;
            }
        }
        let few_miss = hits as f64 > FEW_MISS * drawn as f64;
        (hits, Dictionary { shape, mix, owners, few_miss, common: None })
    }

    /// The same, with the values that are nearly all, as far as comparing with each of them pays.
    fn with_common(mut self, simd: Simd, values: &[(u64, i64)], drawn: u64) -> Dictionary {
        let most = match simd.level() {
            Level::Avx512 | Level::Avx2 => count_few::MOST,
            Level::Portable => 3,
        };
        let mut hits = 0;
        for (taken, &(times, _)) in values.iter().take(most).enumerate() {
            hits += times;
            if hits as f64 > COMMON * drawn as f64 {
                let common = values[..=taken].iter().filter(|(times, _)| *times > 0).map(|(_, key)| *key);
                // One without a slot of its own would be counted as the owner of that slot.
                let common = common.filter(|key| self.owns(self.mix.hash(*key))).collect();
                self.common = Some(Common::new(simd, common));
                break;
            }
        }
        self
    }

    /// Whether it counts the value of a hash exactly.
    pub(super) fn owns(&self, hash: u64) -> bool {
        self.owners[self.shape.slot(hash)] == hash
    }
}

impl Survey {
    /// The hash of the buckets.
    pub(super) fn mix(&self) -> &Mix {
        &self.dictionary.mix
    }

    /// Whether the value of a hash may be a mode, and is not in the dictionary.
    #[inline]
    pub(super) fn suspects(&self, hash: u64) -> bool {
        self.suspicious[self.dictionary.shape.bucket(hash)] & !self.dictionary.owns(hash)
    }
}

struct Counters {
    tables: Vec<u32>,
    hashes: [u64; CHUNK],
    common: [u64; count_few::MOST],
}

/// Counts all values, in the dictionary or in buckets.
pub(super) fn survey<V: Value>(work: &Work<'_, V>, dictionary: Dictionary) -> Result<Survey, Fault> {
    let threads = work.crew.threads().max(1);
    let mut lease = work.budget.lease();
    lease.grow((threads * TABLES * (SLOTS + BUCKETS) * size_of::<u32>()) as u64)?;
    let mut sums = vec![0_u64; SLOTS + BUCKETS];
    for blocks in work.blocks.chunks(ROUND) {
        let parts = work.crew.fold(blocks.len(), Counters::new, |counters, block| {
            count(work, &dictionary, counters, blocks[block]);
            Ok(())
        })?;
        for part in parts {
            for table in part.tables.chunks(sums.len()) {
                sums.iter_mut().zip(table).for_each(|(sum, count)| *sum += u64::from(*count));
            }
            let keys = dictionary.common.iter().flat_map(Common::keys);
            for (&key, times) in keys.zip(part.common) {
                sums[dictionary.shape.slot(dictionary.mix.hash(key))] += times;
            }
        }
    }
    let mut tally = Tally::default();
    let (exact, bounds) = sums.split_at(SLOTS);
    for (&hash, &times) in dictionary.owners.iter().zip(exact) {
        let key = dictionary.mix.key(hash);
        if times > 0 && !(V::IS_FLOAT && key == i64::MAX) {
            tally.take(key, times);
        }
    }
    let suspicious: Vec<_> = bounds.iter().map(|bound| *bound >= tally.frequency().max(1)).collect();
    let suspects =
        bounds.iter().zip(&suspicious).filter(|(_, suspicious)| **suspicious).map(|(bound, _)| bound).sum();
    Ok(Survey { dictionary, tally, suspicious, suspects })
}

impl Counters {
    fn new() -> Self {
        Counters { tables: zeros(), hashes: [0; CHUNK], common: [0; count_few::MOST] }
    }
}

fn count<V: Value>(work: &Work<'_, V>, dictionary: &Dictionary, counters: &mut Counters, block: &[V]) {
    let Dictionary { shape, mix, owners, few_miss, common } = dictionary;
    let Counters { tables, hashes: buffer, common: times } = counters;
    for (chunk, later) in ahead(block, CHUNK) {
        if let Some(common) = common {
            later.fetch_all(CHUNK);
            if common.count(chunk, times) {
                continue;
            }
        }
        let hashes_here = &mut buffer[..chunk.len()];
        hashes(work.simd, mix, chunk, hashes_here);
        count_hashes(*shape, owners, tables, hashes_here, *few_miss, &later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_value_without_a_slot_of_its_own_is_not_counted_as_another() {
        let values: Vec<(u64, i64)> = (0..16).map(|index| (100, index * 1_000_000_000_007 - 5)).collect();
        let mut lacking = 0;
        for seed in 0..1000 {
            let (hits, dictionary) = Dictionary::fill(Shape::Small, &values, 1600, seed);
            lacking += u64::from(hits < 1600);
            let dictionary = dictionary.with_common(Simd::best(), &values, 1600);
            let owned = |key: &i64| dictionary.owns(dictionary.mix.hash(*key));
            assert!(dictionary.common.iter().flat_map(Common::keys).all(owned), "seed {seed}");
        }
        assert!(lacking > 0, "no two values shared a slot");
    }
}
