//! A random sample of the values, that chooses the way.

use super::Work;
use super::tally::take_sorted;
use crate::engine::kernels::codes::Mix;
use crate::engine::value::Value;
use task_proto::fault::Fault;

/// The largest sample. Drawing and sorting it takes about a millisecond.
const MOST: u64 = 16 * 1024;
/// One value of so many is drawn where there are few.
const ONE_OF: u64 = if cfg!(test) { 4 } else { 64 };
/// Values drawn in one step of the crew.
const STEP: u64 = 1024;

/// Some of the values, one from each of as many equal parts of the sequence.
pub(super) struct Sample {
    /// The keys drawn, ascending; a missing value's are the last.
    pub(super) keys: Vec<i64>,
    /// How many of them are numbers.
    pub(super) numbers: usize,
    /// Whether these are all integers.
    pub(super) integers: bool,
}

impl Sample {
    pub(super) fn new<V: Value>(work: &Work<'_, V>, seed: u64) -> Result<Sample, Fault> {
        let mut starts = Vec::with_capacity(work.blocks.len());
        let mut of = 0;
        for block in work.blocks {
            starts.push(of);
            of += block.len() as u64;
        }
        let drawn = (of / ONE_OF).min(MOST);
        let mix = Mix::new(!seed);
        let place = |index: u64| {
            let stratum = |index: u64| (u128::from(index) * u128::from(of) / u128::from(drawn)) as u64;
            let (start, end) = (stratum(index), stratum(index + 1));
            let random = mix.hash(index as i64);
            start + ((u128::from(random) * u128::from(end - start)) >> 64) as u64
        };
        let parts = work.crew.fold(drawn.div_ceil(STEP) as usize, Vec::new, |keys, step| {
            let first = step as u64 * STEP;
            let mut block = starts.partition_point(|start| *start <= place(first)) - 1;
            for place in (first..drawn.min(first + STEP)).map(place) {
                while place - starts[block] >= work.blocks[block].len() as u64 {
                    block += 1;
                }
                keys.push(work.blocks[block][(place - starts[block]) as usize].key());
            }
            Ok(())
        })?;
        let mut keys = parts.concat();
        keys.sort_unstable();
        let numbers = if V::IS_FLOAT { keys.partition_point(|key| *key != i64::MAX) } else { keys.len() };
        let integers = keys[..numbers].iter().all(|key| V::from_key(*key).integer().is_some());
        Ok(Sample { keys, numbers, integers })
    }

    /// The keys that were drawn more than once, and how often: the most frequent first. Without missing ones.
    pub(super) fn repeated(&self) -> Vec<(u64, i64)> {
        let mut repeated = Vec::new();
        take_sorted(&self.keys[..self.numbers], |key, times| {
            if times > 1 {
                repeated.push((times, key));
            }
        });
        repeated.sort_unstable_by(|a, b| b.cmp(a));
        repeated
    }
}
