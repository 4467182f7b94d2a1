//! The most frequent of the values counted so far: results of parts merge, in any order, to the same.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::{LISTED, Modes};
use crate::engine::value::Value;

/// The values with the highest count so far: how many, and the smallest of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    frequency: u64,
    total: u64,
    /// Keys, the largest on top.
    listed: BinaryHeap<i64>,
}

impl Tally {
    /// The highest count so far.
    pub(super) fn frequency(&self) -> u64 {
        self.frequency
    }

    /// Takes a key that occurs so many times in all. Each is taken once.
    #[inline]
    pub(super) fn take(&mut self, key: i64, times: u64) {
        match times.cmp(&self.frequency) {
            Ordering::Less => return,
            Ordering::Equal => {}
            Ordering::Greater => {
                self.frequency = times;
                self.total = 0;
                self.listed.clear();
            }
        }
        self.total += 1;
        self.list(key);
    }

    /// Both, where no key was taken by both.
    pub(super) fn merge(mut self, other: Tally) -> Tally {
        match self.frequency.cmp(&other.frequency) {
            Ordering::Less => other,
            Ordering::Equal => {
                self.total += other.total;
                other.listed.into_iter().for_each(|key| self.list(key));
                self
            }
            Ordering::Greater => self,
        }
    }

    /// The modes of so many numbers, where all keys were taken that occur twice or more. Of those that occur
    /// once it may have all or none.
    pub(super) fn finish<V: Value>(self, count: u64) -> Modes<V> {
        let frequency = self.frequency.max(count.min(1));
        // All distinct values occur equally often exactly when the most frequent ones are all numbers.
        let alike = frequency == 1 || self.total.checked_mul(frequency) == Some(count);
        if alike && count > frequency {
            return Modes { values: Vec::new(), frequency, total: 0 };
        }
        let values = self.listed.into_sorted_vec().into_iter().map(V::from_key).collect();
        Modes { values, frequency, total: self.total }
    }

    #[inline]
    fn list(&mut self, key: i64) {
        if self.listed.len() < LISTED {
            self.listed.push(key);
        } else if let Some(mut largest) = self.listed.peek_mut()
            && key < *largest
        {
            *largest = key;
        }
    }
}

/// Takes each key of these, which are ascending, with the number of times it occurs there.
pub(super) fn take_sorted<T: Copy + PartialEq>(sorted: &[T], mut take: impl FnMut(T, u64)) {
    for same in sorted.chunk_by(T::eq) {
        take(same[0], same.len() as u64);
    }
}
