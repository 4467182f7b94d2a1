//! Few numbers: their keys are sorted.

use super::Work;
use super::tally::{Tally, take_sorted};
use crate::engine::value::Value;
use task_proto::fault::Fault;

/// So many are sorted in about a millisecond.
pub(super) const MOST: u64 = if cfg!(test) { 64 } else { 64 * 1024 };

/// Tallies all `count` of them, and they are few.
pub(super) fn tally<V: Value>(work: &Work<'_, V>, count: u64) -> Result<Tally, Fault> {
    let mut lease = work.budget.lease();
    // The keys of each thread, and all of them once more.
    lease.grow(count * 2 * size_of::<i64>() as u64)?;
    let parts = work.crew.fold(work.blocks.len(), Vec::new, |keys, block| {
        let all = work.blocks[block].iter().map(|value| value.key());
        keys.extend(all.filter(|key| !V::IS_FLOAT || *key != i64::MAX));
        Ok(())
    })?;
    let mut keys = parts.concat();
    keys.sort_unstable();
    let mut tally = Tally::default();
    take_sorted(&keys, |key, times| tally.take(key, times));
    Ok(tally)
}
