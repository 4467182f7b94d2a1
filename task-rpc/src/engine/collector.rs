//! Collects a [`Sequence`].
//!
//! Several threads collect it, each what it has read, and no answer depends on the order. Integers are kept as integers
//! until all is there; if there are floats, too, all become floats then. The exact sum is taken while the numbers are on
//! their way through the cache, so that the mean costs no pass of its own.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex};

use task_proto::fault::Fault;
use task_proto::number::Number;
use task_proto::stats::Missing;

use super::column::{BLOCK, Column};
use super::counts::{self, Counted, Counts, Window};
use super::map::View;
use super::mean::{Sum, mean_of_ints, sum_ints};
use super::sequence::{Extent, Sequence, Values, empty, huge, missing};
use super::simd::Simd;
use super::tallied::{self, Tallied};
use super::team::lock;
use super::value::Value;
use super::{Budget, Checkpoint, Lease};

/// Integers after which it is worth a look whether they are small: what they take until then is nothing to save.
const COUNTED_FROM: u64 = 4 * 1024;
/// Up to so many they are counted only where their range is that much narrower, and they will be tallied: to count them and
/// keep them after all is work for nothing.
const FEW: u64 = 64 * 1024;
const NARROWER: u64 = 8;
/// So many numbers beside those that were counted are always few.
const FEW_BESIDE: u64 = 64 * 1024;
/// More of them are never few: a thread sorts these in some 50 ms.
const MOST_BESIDE: u64 = 1024 * 1024;
/// Numbers converted at once: they stay in the nearest cache.
const CONVERTED: usize = 4096;

/// What one thread collects of a [`Sequence`].
#[derive(Debug)]
pub struct Collector {
    simd: Simd,
    policy: Missing,
    lease: Arc<Mutex<Lease>>,
    window: Arc<Window>,
    ints: Column<i64>,
    floats: Column<f64>,
    counts: Option<Counts>,
    /// Of what was not counted.
    int_sum: i128,
    /// The extremes of the first integers.
    low: i64,
    high: i64,
    float_sum: Sum,
    /// Numbers that are integers, and that are floats.
    int_count: u64,
    float_count: u64,
    missing: u64,
    middle: Option<(f64, f64)>,
    warnings: Vec<String>,
    outside: Vec<i64>,
}

impl Collector {
    /// An empty sequence, whose memory comes from this budget.
    pub fn new(simd: Simd, budget: &Budget, policy: Missing) -> Self {
        Collector::with(simd, policy, Arc::new(Mutex::new(budget.lease())), Arc::default())
    }

    fn with(simd: Simd, policy: Missing, lease: Arc<Mutex<Lease>>, window: Arc<Window>) -> Self {
        Collector {
            simd,
            policy,
            lease,
            window,
            ints: Column::default(),
            floats: Column::default(),
            counts: None,
            int_sum: 0,
            low: i64::MAX,
            high: i64::MIN,
            float_sum: Sum::default(),
            int_count: 0,
            float_count: 0,
            missing: 0,
            middle: None,
            warnings: Vec::new(),
            outside: Vec::new(),
        }
    }

    /// For another thread, that collects more of the same sequence.
    pub(super) fn beside(&self) -> Self {
        Collector::with(self.simd, self.policy, Arc::clone(&self.lease), Arc::clone(&self.window))
    }

    /// Takes what another thread has collected.
    pub(super) fn absorb(&mut self, mut other: Collector) {
        self.ints.append(&mut other.ints);
        self.floats.append(&mut other.floats);
        match (&mut self.counts, &mut other.counts) {
            (Some(counts), Some(more)) => {
                counts.add(more);
                lock(&self.lease).give_back(counts::BYTES);
            }
            (counts @ None, more) => *counts = more.take(),
            (Some(_), None) => {}
        }
        self.int_sum += other.int_sum;
        self.float_sum.merge(&other.float_sum);
        self.int_count += other.int_count;
        self.float_count += other.float_count;
        self.missing += other.missing;
    }

    pub(super) fn simd(&self) -> Simd {
        self.simd
    }

    /// What a missing value is.
    pub(super) fn policy(&self) -> Missing {
        self.policy
    }

    /// Takes memory for numbers of so many bytes in advance, before any of them is read.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn reserve(&mut self, bytes: u64) -> Result<(), Fault> {
        lock(&self.lease).reserve(bytes)
    }

    /// Warns, once, that integers beyond 64 bits were read as floats: the first is here, in this source of several
    /// (from 0).
    pub(super) fn huge(&mut self, place: fmt::Arguments<'_>, source: Option<usize>) {
        if self.warnings.is_empty() {
            self.warnings.push(huge(place, source));
        }
    }

    /// Takes integers.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn ints(&mut self, ints: &[i64]) -> Result<(), Fault> {
        // What stays where it is costs no memory, and is not worth a pass.
        if self.counts.is_none() && !self.ints.has_mapped() && self.is_worth_counting(ints) {
            self.begin_counting(ints)?;
        }
        self.int_count += ints.len() as u64;
        let ints = match &mut self.counts {
            Some(counts) if !self.window.is_given_up() => {
                self.outside.clear();
                // Some others among the first ones are no sign of what is to come.
                if !counts.take(ints, |int| self.outside.push(int)) && self.int_count > FEW {
                    self.window.give_up();
                }
                &self.outside
            }
            _ => ints,
        };
        self.int_sum += sum_ints(ints);
        self.ints.extend(ints, &self.lease)
    }

    /// Says that all integers that come are from this one on, and fewer than there are counters above it.
    pub(super) fn expect_from(&mut self, least: i64) {
        self.window.begin_at(least);
    }

    /// Takes the tables for as many of so many threads as there is memory for, if integers are counted: each that began
    /// without one would have to keep all.
    pub(super) fn tables(&mut self, threads: usize) -> Option<usize> {
        self.counts.as_ref().filter(|_| !self.window.is_given_up())?;
        let mut lease = lock(&self.lease);
        Some((0..threads).take_while(|_| lease.try_grow(counts::BYTES)).count())
    }

    /// Gives so many of them back, which no thread took.
    pub(super) fn give_back_tables(&mut self, tables: usize) {
        lock(&self.lease).give_back(tables as u64 * counts::BYTES);
    }

    /// For another thread, that has one of them.
    pub(super) fn counting(&self) -> Self {
        let counts = self.window.base().map(Counts::new);
        Collector { counts, ..self.beside() }
    }

    /// Whether it is worth a look if all that comes can be counted, with these.
    fn is_worth_counting(&mut self, ints: &[i64]) -> bool {
        let seen = self.int_count + ints.len() as u64;
        if seen > FEW || self.window.is_given_up() {
            return !self.window.is_given_up();
        }
        self.low = ints.iter().fold(self.low, |low, &int| low.min(int));
        self.high = ints.iter().fold(self.high, |high, &int| high.max(int));
        seen > COUNTED_FROM && self.high.abs_diff(self.low) < seen / NARROWER
    }

    /// Counts what is there, and all that will come, if it is like these.
    fn begin_counting(&mut self, ints: &[i64]) -> Result<(), Fault> {
        let Some(base) = self.window.around(ints) else { return Ok(()) };
        if !lock(&self.lease).try_grow(counts::BYTES) {
            self.window.give_up();
            return Ok(());
        }
        let mut counts = Counts::new(base);
        let mut outside = Vec::new();
        self.ints.drain(&self.lease, |ints| {
            counts.take(ints, |int| outside.push(int));
            Ok(())
        })?;
        self.counts = Some(counts);
        self.int_sum = sum_ints(&outside);
        self.ints.extend(&outside, &self.lease)
    }

    /// Takes floats, where NaN is a missing value, and says how many those are.
    ///
    /// # Errors
    /// `TooLarge`.
    pub(super) fn floats(&mut self, floats: &[f64]) -> Result<u64, Fault> {
        let missing = self.pass(floats);
        if missing > 0 {
            // What is missing takes no memory.
            let there: Vec<f64> = floats.iter().copied().filter(|float| !float.is_nan()).collect();
            self.floats.extend(&there, &self.lease)?;
        } else {
            self.floats.extend(floats, &self.lease)?;
        }
        Ok(missing)
    }

    fn pass(&mut self, floats: &[f64]) -> u64 {
        let missing = self.float_sum.add(self.simd, floats) as u64;
        self.float_count += floats.len() as u64 - missing;
        self.missing += missing;
        missing
    }

    /// Looks at integers that stay where they are, in [`mapped_ints`](Self::mapped_ints).
    pub(super) fn look_at_ints(&mut self, ints: &[i64]) {
        self.int_count += ints.len() as u64;
        self.int_sum += sum_ints(ints);
    }

    /// Looks at floats that stay where they are, in [`mapped_floats`](Self::mapped_floats).
    pub(super) fn look_at_floats(&mut self, floats: &[f64]) {
        self.pass(floats);
    }

    /// How many values are missing so far.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Takes note of so many floats that were summed elsewhere, in [`mapped_floats`](Self::mapped_floats).
    pub(super) fn summed(&mut self, sum: &Sum, count: u64, missing: u64) {
        self.float_sum.merge(sum);
        self.float_count += count;
        self.missing += missing;
    }

    /// Takes note of the two middle values of all numbers.
    pub(super) fn found(&mut self, middle: Option<(f64, f64)>) {
        self.middle = middle;
    }

    /// Keeps integers where they are.
    pub(super) fn mapped_ints(&mut self, view: View) {
        self.ints.map(view);
    }

    /// Keeps floats where they are.
    pub(super) fn mapped_floats(&mut self, view: View) {
        self.floats.map(view);
    }

    /// Takes one number, where NaN is a missing value.
    ///
    /// # Errors
    /// `MissingValue` or `TooLarge`, without a place.
    pub fn number(&mut self, number: Number) -> Result<(), Fault> {
        match number {
            Number::Int(int) => self.ints(&[int]),
            Number::Float(float) if float.is_nan() => self.skip(1),
            Number::Float(float) => self.floats(&[float]).map(|_| ()),
        }
    }

    /// Takes note of missing values which are not among the floats.
    ///
    /// # Errors
    /// `MissingValue`, if they may not be missing.
    pub(super) fn skip(&mut self, values: u64) -> Result<(), Fault> {
        if values > 0 && self.policy == Missing::Error {
            return Err(missing());
        }
        self.missing += values;
        Ok(())
    }

    /// The sequence.
    ///
    /// # Errors
    /// `EmptyInput`, if there is nothing in it; the checkpoint's.
    pub fn finish(mut self, checkpoint: Checkpoint<'_>) -> Result<Sequence, Fault> {
        let count = self.int_count + self.float_count;
        if count == 0 {
            return Err(empty(self.missing));
        }
        let counted = self.counts.take().map(Counts::finish);
        let (values, mean) = match counted {
            Some(counted) if is_tallied(&counted, count) => self.tally(&counted, count, checkpoint)?,
            counted => {
                if let Some(counted) = counted {
                    self.recount(&counted, checkpoint)?;
                }
                if self.float_count > 0 {
                    self.convert(checkpoint)?;
                    (Values::Floats(mem::take(&mut self.floats)), self.float_sum.mean(count))
                } else {
                    (Values::Ints(mem::take(&mut self.ints)), mean_of_ints(self.int_sum, count))
                }
            }
        };
        let Collector { middle, missing, warnings, lease, .. } = self;
        lock(&lease).settle();
        Ok(Sequence { values, middle, extent: Extent { count, missing, warnings }, mean, lease: Some(lease) })
    }

    /// Takes each number as how often it occurs, and finds the mean.
    fn tally(
        &mut self,
        counted: &Counted,
        count: u64,
        checkpoint: Checkpoint<'_>,
    ) -> Result<(Values, f64), Fault> {
        let others = count - counted.count();
        let Collector { lease, ints, floats, float_sum, .. } = self;
        let is_float = self.float_count > 0;
        let bytes = tallied::bytes(counted.distinct() + others);
        lock(lease).grow(bytes)?;
        let mut keys = Vec::with_capacity(others as usize);
        // Of integers among floats each is taken as its nearest float, which is an integer as well.
        let nearest = |int: i64| int as f64 as i128;
        ints.drain(lease, |ints| {
            checkpoint()?;
            for &int in ints {
                keys.push(if is_float { (int as f64).key() } else { int });
                float_sum.add_int(nearest(int));
            }
            Ok(())
        })?;
        floats.drain(lease, |floats| {
            checkpoint()?;
            keys.extend(floats.iter().filter(|float| float.is_number()).map(|float| float.key()));
            Ok(())
        })?;
        let (values, mean, distinct) = if is_float {
            float_sum.add_int(counted.iter().map(|(int, times)| nearest(int) * i128::from(times)).sum());
            let tallied = Tallied::new(counted.iter().map(|(int, times)| (int as f64, times)), keys);
            let (mean, distinct) = (float_sum.mean(count), tallied.len());
            (Values::TalliedFloats(tallied), mean, distinct)
        } else {
            let mean = mean_of_ints(self.int_sum + counted.sum(), count);
            let tallied = Tallied::new(counted.iter(), keys);
            let distinct = tallied.len();
            (Values::TalliedInts(tallied), mean, distinct)
        };
        lock(lease).give_back(counts::BYTES + bytes - tallied::kept(distinct));
        Ok((values, mean))
    }

    /// Keeps each number that was counted, after all.
    fn recount(&mut self, counted: &Counted, checkpoint: Checkpoint<'_>) -> Result<(), Fault> {
        self.int_sum += counted.sum();
        for (int, times) in counted.iter() {
            let run = vec![int; times.min(BLOCK as u64) as usize];
            let mut left = times;
            while left > 0 {
                checkpoint()?;
                let taken = left.min(BLOCK as u64);
                self.ints.extend(&run[..taken as usize], &self.lease)?;
                left -= taken;
            }
        }
        lock(&self.lease).give_back(counts::BYTES);
        Ok(())
    }

    /// Makes all integers floats.
    fn convert(&mut self, checkpoint: Checkpoint<'_>) -> Result<(), Fault> {
        let Collector { simd, lease, ints, floats, float_sum, .. } = self;
        let mut room = Vec::with_capacity(CONVERTED);
        ints.drain(lease, |ints| {
            checkpoint()?;
            for ints in ints.chunks(CONVERTED) {
                room.clear();
                room.extend(ints.iter().map(|&int| int as f64));
                float_sum.add(*simd, &room);
                floats.extend(&room, lease)?;
            }
            Ok(())
        })
    }
}

/// Whether the others of so many numbers are few beside those that were counted: they are sorted. Else all are kept one
/// by one, as where that takes less memory.
fn is_tallied(counted: &Counted, count: u64) -> bool {
    let others = count - counted.count();
    others <= FEW_BESIDE.max(counted.count() / 16).min(MOST_BESIDE)
        && tallied::bytes(counted.distinct() + others) <= count * size_of::<i64>() as u64
}

#[cfg(test)]
mod tests;
