//! Median and mode: the sequence is copied into sorted runs, and one merge of them, in ascending order, finds
//! both. The copy is as large as the sequence and goes when the merge is done.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use task_proto::fault::Fault;
use task_proto::limits::MODES_LISTED;
use task_proto::number::Number;

use super::sequence::Block;
use super::{Budget, Checkpoint, Sequence};

/// Blocks of a run: 4 MiB, sorted in some 10 ms.
const RUN: usize = 4;
/// Numbers merged between two looks at its cancellation.
const STEPS: u64 = 64 * 1024;

/// What the ascending order of a sequence shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The lower of the two middle values; the middle value of an odd count.
    pub low: Number,
    /// The upper of the two middle values; the middle value of an odd count.
    pub high: Number,
    /// The values that occur most often.
    pub modes: Modes,
}

/// The values that occur most often.
#[derive(Debug, Clone, PartialEq)]
pub struct Modes {
    /// The first [`MODES_LISTED`] of them, ascending.
    pub values: Vec<Number>,
    /// How often each occurs.
    pub frequency: u64,
    /// How many there are; 0 when two or more distinct values all occur equally often.
    pub total: u64,
}

impl Order {
    /// The middle value, or the `f64` nearest to the exact midpoint of the two (NaN for opposite infinities).
    pub fn median(&self, count: u64) -> Number {
        match (self.low, self.high) {
            (low, _) if count % 2 == 1 => low,
            (Number::Int(low), Number::Int(high)) => {
                // The sum is exact, its nearest float is rounded once, and halving that is exact.
                Number::Float((i128::from(low) + i128::from(high)) as f64 / 2.0)
            }
            (low, high) => Number::Float(midpoint(low.to_f64(), high.to_f64())),
        }
    }
}

/// Rounded once: either the sum is exact, being small, or halving it is, being large. Beyond the largest float
/// both halves are exact. Adding zero turns −0 into 0.
fn midpoint(low: f64, high: f64) -> f64 {
    let sum = low + high;
    0.0 + if sum.is_finite() { sum / 2.0 } else { low / 2.0 + high / 2.0 }
}

/// Sorts a copy of the sequence, and finds its median and mode.
///
/// # Errors
/// `TooLarge` if the budget has no room for the copy; the checkpoint's.
pub fn order(sequence: &Sequence, budget: &Budget, checkpoint: Checkpoint<'_>) -> Result<Order, Fault> {
    let mut lease = budget.lease();
    lease.stands_beside(&sequence.lease);
    lease.grow(sequence.count() * size_of::<i64>() as u64)?;
    let runs = sorted_runs(sequence, checkpoint)?;

    let (low_at, high_at) = ((sequence.count() - 1) / 2, sequence.count() / 2);
    let (mut low, mut high) = (0, 0);
    let mut before = 0;
    let mut tally = Tally::default();
    merge(&runs, checkpoint, |key, times| {
        let here = before..before + times;
        if here.contains(&low_at) {
            low = key;
        }
        if here.contains(&high_at) {
            high = key;
        }
        before += times;
        tally.take(key, times);
    })?;

    let number = |key| if sequence.is_float() { Number::Float(float(key)) } else { Number::Int(key) };
    let (listed, frequency, total) = tally.finish();
    let values = listed.into_iter().map(number).collect();
    Ok(Order { low: number(low), high: number(high), modes: Modes { values, frequency, total } })
}

/// An integer that is ordered as the float is. (The bits of floats are ordered by sign and magnitude.)
fn key(float: f64) -> i64 {
    let bits = float.to_bits() as i64;
    bits ^ (bits >> 63 & i64::MAX)
}

/// The float of a [`key`].
fn float(key: i64) -> f64 {
    f64::from_bits((key ^ (key >> 63 & i64::MAX)) as u64)
}

fn sorted_runs(sequence: &Sequence, checkpoint: Checkpoint<'_>) -> Result<Vec<Vec<i64>>, Fault> {
    let blocks: Vec<_> = sequence.blocks().collect();
    let mut runs = Vec::with_capacity(blocks.len().div_ceil(RUN));
    for blocks in blocks.chunks(RUN) {
        let mut run = Vec::with_capacity(blocks.iter().map(|block| block.count()).sum());
        for &block in blocks {
            match block {
                Block::Int(ints) if sequence.is_float() => {
                    run.extend(ints.iter().map(|&int| key(int as f64)));
                }
                Block::Int(ints) => run.extend(ints),
                Block::Float(floats) => {
                    // Adding zero turns −0 into 0, and changes nothing else.
                    run.extend(floats.iter().filter(|float| !float.is_nan()).map(|float| key(float + 0.0)));
                }
            }
        }
        run.sort_unstable();
        runs.push(run);
        checkpoint()?;
    }
    Ok(runs)
}

/// Hands every distinct key, ascending, to the visitor, with the number of times it occurs.
fn merge(
    runs: &[Vec<i64>],
    checkpoint: Checkpoint<'_>,
    mut visit: impl FnMut(i64, u64),
) -> Result<(), Fault> {
    // Equal keys are told apart by the number of their run, never by what follows there.
    let mut rest: Vec<&[i64]> = runs.iter().map(|run| &run[..]).collect();
    let heads = rest.iter().enumerate().filter_map(|(run, keys)| Some(Reverse((*keys.first()?, run))));
    let mut heads: BinaryHeap<_> = heads.collect();
    let mut steps = 0;
    let mut current = None;
    while let Some(mut head) = heads.peek_mut() {
        let Reverse((key, run)) = *head;
        let times = rest[run].iter().take_while(|&&other| other == key).count();
        rest[run] = &rest[run][times..];
        match rest[run].first() {
            Some(&next) => *head = Reverse((next, run)),
            None => drop(PeekMut::pop(head)),
        }
        current = match current {
            Some((same, sum)) if same == key => Some((key, sum + times as u64)),
            Some((smaller, sum)) => {
                visit(smaller, sum);
                Some((key, times as u64))
            }
            None => Some((key, times as u64)),
        };
        steps += times as u64;
        if steps >= STEPS {
            steps = 0;
            checkpoint()?;
        }
    }
    if let Some((key, sum)) = current {
        visit(key, sum);
    }
    Ok(())
}

/// Counts how often values occur, in one ascending pass.
#[derive(Default)]
struct Tally {
    listed: Vec<i64>,
    frequency: u64,
    total: u64,
    least: Option<u64>,
    distinct: u64,
}

impl Tally {
    fn take(&mut self, key: i64, times: u64) {
        self.distinct += 1;
        self.least = Some(self.least.map_or(times, |least| least.min(times)));
        if times > self.frequency {
            self.listed.clear();
            self.frequency = times;
            self.total = 0;
        }
        if times == self.frequency {
            self.total += 1;
            if self.listed.len() < MODES_LISTED {
                self.listed.push(key);
            }
        }
    }

    /// The values listed, their frequency, and how many there are.
    fn finish(self) -> (Vec<i64>, u64, u64) {
        if self.distinct >= 2 && self.least == Some(self.frequency) {
            return (Vec::new(), self.frequency, 0);
        }
        (self.listed, self.frequency, self.total)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use task_proto::fault::FaultKind;
    use task_proto::stats::Missing;

    use super::*;
    use crate::engine::Collector;

    #[test]
    fn a_cancelled_sort_or_merge_stops_at_its_next_look_which_is_never_far() {
        let budget = Budget::unlimited();
        let mut collector = Collector::new(&budget, Missing::Error);
        // All distinct, and in no order.
        let values = 1_100_000;
        for value in 0..values {
            collector.number(Number::Int(value * 1_000_003 % values)).unwrap();
        }
        let sequence = collector.finish().unwrap();
        let looks = |allowed: u64| {
            let looks = Cell::new(0);
            let outcome = order(&sequence, &budget, &|| {
                looks.set(looks.get() + 1);
                if looks.get() <= allowed { Ok(()) } else { Err(Fault::new(FaultKind::Cancelled, "")) }
            });
            (looks.get(), outcome.map_err(|fault| fault.kind).err())
        };
        let runs = sequence.blocks().count().div_ceil(RUN) as u64;
        assert!(runs > 2, "{runs}");
        let (all, None) = looks(u64::MAX) else { panic!("not cancelled") };
        assert_eq!(all, runs + values as u64 / STEPS, "one look for each run and each part of the merge");
        for allowed in [0, runs - 1, runs, all - 1] {
            assert_eq!(looks(allowed), (allowed + 1, Some(FaultKind::Cancelled)));
        }

        let runs = sorted_runs(&sequence, &|| Ok(())).unwrap();
        let (since, most) = (Cell::new(0), Cell::new(0));
        let look = || {
            most.set(most.get().max(since.replace(0)));
            Ok(())
        };
        merge(&runs, &look, |_, _| since.set(since.get() + 1)).unwrap();
        assert!(most.get() <= STEPS, "{} steps without a look", most.get());
    }
}
