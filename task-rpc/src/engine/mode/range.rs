//! Integers of a small range, also as floats: a counter for each.
//!
//! What is outside of the range is kept, up to a limit, and tallied for itself. So the pass proves that it
//! counted all; beyond the limit it ends early, and another way is taken.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::sample::Sample;
use super::tally::{Tally, take_sorted};
use super::{CHUNK, Work};
use crate::engine::kernels::ahead::ahead;
use crate::engine::kernels::codes::distances;
use crate::engine::kernels::counts::{count_codes, count_codes_in_one};
use crate::engine::value::Value;
use task_proto::fault::Fault;

/// The widest range. Its counters, 4 MiB for each thread, are in the L3 cache.
const WIDEST: u64 = 1 << 20;
/// Up to this width a thread has four tables, in its L2 cache, and otherwise one. (With two, 10^5 integers
/// took as long.)
const NARROW: u32 = 1 << 15;
/// As many of a sample at each end may be left out of the range: 1 in 4096.
const RARE: usize = 4;
/// Numbers outside of the range that a thread keeps.
pub(super) const OUTLIERS: usize = if cfg!(test) { 2 * CHUNK } else { 64 * 1024 };
/// Blocks between two sums, so that no counter of 32 bits overflows: 2^31 values.
const ROUND: usize = if cfg!(test) { 7 } else { 8192 };

/// `width` integers from `origin` on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub(super) origin: i64,
    pub(super) width: u32,
}

impl Range {
    /// The range of a sample of integers, and some more on each side, where it is small for so many numbers;
    /// if it must be, without the few least and largest.
    pub(super) fn of<V: Value>(sample: &Sample, count: u64) -> Option<Range> {
        let integer = |index: usize| V::from_key(*sample.keys.get(index)?).integer();
        [0, RARE].into_iter().filter(|_| sample.integers).find_map(|rare| {
            let (least, largest) = (integer(rare)?, integer(sample.numbers.checked_sub(rare + 1)?)?);
            let more = (largest.checked_sub(least)? / 64).checked_add(16)?;
            let (origin, end) = (least.saturating_sub(more), largest.saturating_add(more));
            // Below −2^53 not every integer is a float: counted from one that is none, all would be others.
            let origin = if V::from_integer(origin).integer() == Some(origin) { origin } else { least };
            let width = end.abs_diff(origin).saturating_add(1);
            (least <= largest && width <= WIDEST.min(count / 8))
                .then_some(Range { origin, width: width as u32 })
        })
    }
}

/// Counters of one thread.
struct Counters {
    tables: Vec<u32>,
    codes: [u32; CHUNK],
    outliers: Vec<i64>,
}

/// Tallies all values, or none if there are too many outside of the range.
pub(super) fn tally<V: Value>(work: &Work<'_, V>, range: Range) -> Result<Option<Tally>, Fault> {
    let Range { origin, width } = range;
    let tables = if width <= NARROW { 4 } else { 1 };
    // One counter more for what is outside, and one for what is missing.
    let len = width as usize + 2;
    let threads = work.crew.threads().max(1);
    let mut lease = work.budget.lease();
    lease.grow((len * (threads * tables * size_of::<u32>() + size_of::<u64>())) as u64)?;
    lease.grow((OUTLIERS * (threads + 1) * size_of::<i64>()) as u64)?;

    let left = AtomicBool::new(false);
    let mut sums = vec![0_u64; len];
    let mut outliers = Vec::new();
    for blocks in work.blocks.chunks(ROUND) {
        let state = || Counters { tables: vec![0; tables * len], codes: [0; CHUNK], outliers: Vec::new() };
        let parts = work.crew.fold(blocks.len(), state, |counters, block| {
            if left.load(Relaxed) {
                return Ok(());
            }
            let fits = count(work, range, len, counters, blocks[block]);
            left.fetch_or(!fits, Relaxed);
            Ok(())
        })?;
        for mut part in parts {
            for table in part.tables.chunks(len) {
                sums.iter_mut().zip(table).for_each(|(sum, count)| *sum += u64::from(*count));
            }
            outliers.append(&mut part.outliers);
        }
        if left.load(Relaxed) || outliers.len() > OUTLIERS {
            return Ok(None);
        }
    }

    let mut tally = Tally::default();
    for (distance, &times) in (0..).zip(&sums[..width as usize]) {
        if times > 0 {
            tally.take(V::from_integer(origin.wrapping_add(distance)).key(), times);
        }
    }
    outliers.sort_unstable();
    take_sorted(&outliers, |key, times| tally.take(key, times));
    Ok(Some(tally))
}

/// Counts a block; not to its end, if that has too many outliers.
fn count<V: Value>(
    work: &Work<'_, V>,
    range: Range,
    len: usize,
    counters: &mut Counters,
    block: &[V],
) -> bool {
    let Range { origin, width } = range;
    let Counters { tables, codes, outliers } = counters;
    let outside = |tables: &[u32]| tables[width as usize..].iter().step_by(len).sum::<u32>();
    let mut before = outside(tables);
    for (chunk, later) in ahead(block, CHUNK) {
        let codes = &mut codes[..chunk.len()];
        distances(work.simd, origin, width, chunk, codes);
        if tables.len() > len {
            let (first, second) = tables.split_at_mut(2 * len);
            let ((a, b), (c, d)) = (first.split_at_mut(len), second.split_at_mut(len));
            count_codes(&mut [a, b, c, d], codes, &later);
        } else {
            count_codes_in_one(tables, codes, &later);
        }
        let after = outside(tables);
        if after != before {
            before = after;
            let values = chunk.iter().zip(&*codes).filter(|(_, code)| **code == width);
            outliers.extend(values.map(|(value, _)| value.key()));
            if outliers.len() > OUTLIERS - CHUNK {
                return false;
            }
        }
    }
    true
}
