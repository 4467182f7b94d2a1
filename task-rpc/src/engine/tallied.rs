//! Numbers as how often each distinct one occurs: small integers that were counted as they came, and the few others
//! beside them.

use std::fmt;

use super::mode::{LISTED, Modes};
use super::value::Value;

/// Each distinct number, and how often it occurs.
pub(super) struct Tallied<V> {
    /// Ascending.
    entries: Vec<(V, u64)>,
    count: u64,
}

/// Bytes that so many entries take, while they are put together.
pub(super) fn bytes(entries: u64) -> u64 {
    // They are sorted in as much memory again, beside their keys.
    3 * kept(entries)
}

/// Bytes that so many distinct ones take.
pub(super) fn kept(distinct: u64) -> u64 {
    distinct * size_of::<(i64, u64)>() as u64
}

impl<V: Value> Tallied<V> {
    /// Distinct numbers, ascending, with how often each occurs (neighbours may be equal after all), and the keys of others.
    pub(super) fn new(counted: impl Iterator<Item = (V, u64)>, mut others: Vec<i64>) -> Self {
        others.sort_unstable();
        let mut entries: Vec<(i64, u64)> = counted.map(|(value, times)| (value.key(), times)).collect();
        entries.extend(others.chunk_by(i64::eq).map(|same| (same[0], same.len() as u64)));
        // Two runs, which a stable sort finds and merges.
        entries.sort_by_key(|&(key, _)| key);
        entries.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            kept.1 += if same { next.1 } else { 0 };
            same
        });
        let mut entries: Vec<_> = entries.into_iter().map(|(key, times)| (V::from_key(key), times)).collect();
        // What it has grown by is not leased.
        entries.shrink_to_fit();
        let count = entries.iter().map(|(_, times)| times).sum();
        Tallied { entries, count }
    }

    /// Distinct numbers.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The two middle ones.
    pub(super) fn middle(&self) -> Option<(V, V)> {
        let of_rank = |rank: u64| {
            let mut up_to = 0;
            let holds = |(_, times): &&(V, u64)| {
                up_to += times;
                rank < up_to
            };
            self.entries.iter().find(holds).map(|(value, _)| *value)
        };
        Some((of_rank(self.count.checked_sub(1)? / 2)?, of_rank(self.count / 2)?))
    }

    /// The most frequent ones.
    pub(super) fn modes(&self) -> Modes<V> {
        let frequency = self.entries.iter().map(|(_, times)| *times).max().unwrap_or_default();
        let modes = || self.entries.iter().filter(|(_, times)| *times == frequency).map(|(value, _)| *value);
        let total = modes().count() as u64;
        if total > 1 && total == self.len() {
            return Modes { values: Vec::new(), frequency, total: 0 };
        }
        Modes { values: modes().take(LISTED).collect(), frequency, total }
    }
}

impl<V> fmt::Debug for Tallied<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tallied").field("distinct", &self.entries.len()).field("count", &self.count).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_mode_are_those_of_the_numbers() {
        let cases: [&[i64]; 7] =
            [&[3, 1, 3, 1, 2], &[5, 4, 3], &[7, 7], &[1, 2], &[1, 1, 2, 9], &[4], &[-9, 4, 4, 5, 5, 99]];
        for ints in cases {
            let mut sorted = ints.to_vec();
            sorted.sort_unstable();
            // However many of them were counted, and even where the same number is among both.
            for split in 0..=ints.len() {
                let (mut counted, others) = (ints[..split].to_vec(), ints[split..].to_vec());
                counted.sort_unstable();
                let runs = counted.chunk_by(i64::eq).map(|same| (same[0], same.len() as u64));
                let tallied = Tallied::new(runs, others);
                let middle = (sorted[(ints.len() - 1) / 2], sorted[ints.len() / 2]);
                assert_eq!(tallied.middle(), Some(middle), "{ints:?} at {split}");
                let modes = match ints {
                    [3, 1, 3, 1, 2] => (vec![1, 3], 2, 2),
                    [7, 7] => (vec![7], 2, 1),
                    [1, 1, 2, 9] => (vec![1], 2, 1),
                    [4] => (vec![4], 1, 1),
                    [-9, ..] => (vec![4, 5], 2, 2),
                    _ => (vec![], 1, 0),
                };
                let (values, frequency, total) = modes;
                assert_eq!(tallied.modes(), Modes { values, frequency, total }, "{ints:?} at {split}");
            }
        }
    }

    #[test]
    fn integers_that_are_the_same_float_are_one_number() {
        let base = 1_i64 << 60;
        let counted = (base..base + 300).map(|int| (int as f64, 2));
        let tallied = Tallied::new(counted, vec![(base as f64).key(), (-0.0_f64).key(), 0.0_f64.key()]);
        assert_eq!((tallied.len(), tallied.count), (3, 603));
        assert_eq!(tallied.entries.capacity(), 3, "no more than is leased");
        let modes = Modes { values: vec![(base + 256) as f64], frequency: 342, total: 1 };
        assert_eq!(tallied.modes(), modes);
        assert_eq!(tallied.middle(), Some(((base + 256) as f64, (base + 256) as f64)));
    }
}
