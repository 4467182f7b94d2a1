//! Small integers, counted as they come: where all lie within a [`WIDTH`], how often each occurs says all that there is to
//! say of them, and takes the same memory however many there are.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// How many integers have a counter. The tables of one thread fit its L2 cache, and of those only what is used is there.
const WIDTH: usize = 1 << 16;
/// By turns, so that one of equal neighbours need not wait for the store of the other.
const TABLES: usize = 4;
/// As many numbers may be counted before a counter might overflow.
const UNSPILLED: u64 = u32::MAX as u64;
/// Bytes of the counters of a thread.
pub(super) const BYTES: u64 = (TABLES * (WIDTH + 1) * size_of::<u32>() + WIDTH * size_of::<u64>()) as u64;
/// Of so many numbers one may lie outside: with more of them it is better to keep all.
const OUTSIDE: u64 = 64;

/// The integers that all threads of a job count.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The lowest of them.
    base: OnceLock<i64>,
    given_up: AtomicBool,
}

impl Window {
    /// The window around these, for all; `None` where they are too far apart, or others were.
    pub(super) fn around(&self, ints: &[i64]) -> Option<i64> {
        if self.is_given_up() {
            return None;
        }
        if let Some(&base) = self.base.get() {
            return Some(base);
        }
        let (low, high) = (ints.iter().min()?, ints.iter().max()?);
        let range = high.abs_diff(*low);
        if range >= WIDTH as u64 {
            self.give_up();
            return None;
        }
        let base = low.saturating_sub_unsigned((WIDTH as u64 - 1 - range) / 2);
        // Above the highest window there are no integers.
        Some(*self.base.get_or_init(|| base.min(i64::MAX - WIDTH as i64 + 1)))
    }

    /// The lowest of them, once it is known.
    pub(super) fn base(&self) -> Option<i64> {
        self.base.get().copied()
    }

    /// From this one on, unless others came before.
    pub(super) fn begin_at(&self, base: i64) {
        self.base.get_or_init(|| base);
    }

    /// Nobody counts any more.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Relaxed)
    }
}

/// How often each integer of a window occurs.
#[derive(Debug)]
pub(super) struct Counts {
    base: i64,
    /// The counters in use: all others are 0, and their memory has never been touched.
    used: Range<usize>,
    /// The counter behind those in use is, of each table, for what has none of them, while a run is counted.
    tables: Vec<u32>,
    totals: Vec<u64>,
    unspilled: u64,
    counted: u64,
    outside: u64,
}

impl Counts {
    /// None yet, of the integers from this one on.
    pub(super) fn new(base: i64) -> Self {
        let (tables, totals) = (vec![0; TABLES * (WIDTH + 1)], vec![0; WIDTH]);
        Counts { base, used: 0..0, tables, totals, unspilled: 0, counted: 0, outside: 0 }
    }

    /// Counts a run of at most 2³² integers, and hands over those that lie outside. False if by now these are
    /// many.
    pub(super) fn take(&mut self, ints: &[i64], outside: impl FnMut(i64)) -> bool {
        if self.unspilled + ints.len() as u64 > UNSPILLED {
            self.spill();
        }
        self.unspilled += ints.len() as u64;
        self.counted += ints.len() as u64;
        let first = self.base.wrapping_add(self.used.start as i64);
        let width = self.used.len();
        let at = |int: i64| (int.wrapping_sub(first) as u64).min(width as u64) as usize;
        let mut tables = self.tables.chunks_exact_mut(WIDTH + 1);
        let mut table = || &mut tables.next().expect("one of four")[self.used.start..=self.used.end];
        let [first, second, third, fourth] = [table(), table(), table(), table()];
        let (fours, few) = ints.as_chunks::<TABLES>();
        for &[a, b, c, d] in fours {
            first[at(a)] += 1;
            second[at(b)] += 1;
            third[at(c)] += 1;
            fourth[at(d)] += 1;
        }
        for &int in few {
            first[at(int)] += 1;
        }
        let beyond = [first, second, third, fourth].map(|table| std::mem::take(&mut table[width]));
        if beyond.iter().any(|&beyond| beyond > 0) {
            let beyond = ints.iter().copied().filter(|&int| at(int) == width).collect();
            self.take_beyond(beyond, outside);
        }
        self.outside <= self.counted / OUTSIDE
    }

    /// Counts those for which no counter was in use, and hands over those for which there is none.
    #[cold]
    fn take_beyond(&mut self, beyond: Vec<i64>, mut outside: impl FnMut(i64)) {
        let base = self.base;
        let at = |int: i64| int.wrapping_sub(base) as u64 as usize;
        let inside = beyond.iter().map(|&int| at(int)).filter(|&at| at < WIDTH);
        if let (Some(low), Some(high)) = (inside.clone().min(), inside.max()) {
            self.use_also(low..high + 1);
        }
        let mut lie_outside = 0;
        for int in beyond {
            if let Some(total) = self.totals.get_mut(at(int)) {
                *total += 1;
            } else {
                lie_outside += 1;
                outside(int);
            }
        }
        self.counted -= lie_outside;
        self.outside += lie_outside;
    }

    /// Where numbers come in order, there must be few such steps: each makes those in use twice as many.
    fn use_also(&mut self, range: Range<usize>) {
        let used = self.used.clone();
        if used.is_empty() {
            self.used = range;
            return;
        }
        if range.start < used.start {
            self.used.start = range.start.min(used.start.saturating_sub(used.len()));
        }
        if range.end > used.end {
            self.used.end = range.end.max((used.end + used.len()).min(WIDTH));
        }
    }

    /// Adds what another thread has counted, in the same window.
    pub(super) fn add(&mut self, other: &mut Counts) {
        if other.used.is_empty() {
            return;
        }
        other.spill();
        self.use_also(other.used.clone());
        for (total, more) in self.totals[other.used.clone()].iter_mut().zip(&other.totals[other.used.clone()])
        {
            *total += more;
        }
        self.counted += other.counted;
    }

    fn spill(&mut self) {
        for table in self.tables.chunks_exact_mut(WIDTH + 1) {
            for (total, count) in self.totals[self.used.clone()].iter_mut().zip(&mut table[self.used.clone()])
            {
                *total += u64::from(std::mem::take(count));
            }
        }
        self.unspilled = 0;
    }

    /// What came of it.
    pub(super) fn finish(mut self) -> Counted {
        self.spill();
        drop(self.tables);
        let first = self.base.wrapping_add(self.used.start as i64);
        Counted { first, totals: self.totals[self.used].to_vec(), count: self.counted }
    }
}

/// Integers, as how often each occurs.
pub(super) struct Counted {
    /// What the first total is of.
    first: i64,
    totals: Vec<u64>,
    count: u64,
}

impl Counted {
    /// Each integer that occurs, ascending, and how often.
    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, u64)> {
        let each = self.totals.iter().enumerate().filter(|&(_, &times)| times > 0);
        each.map(|(above, &times)| (self.first + above as i64, times))
    }

    /// How many they are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// How many distinct ones.
    pub(super) fn distinct(&self) -> u64 {
        self.totals.iter().filter(|&&times| times > 0).count() as u64
    }

    pub(super) fn sum(&self) -> i128 {
        self.iter().map(|(int, times)| i128::from(int) * i128::from(times)).sum()
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Counted")
            .field("first", &self.first)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn counted(base: i64, ints: &[i64]) -> (Counted, Vec<i64>) {
        let (mut counts, mut outside) = (Counts::new(base), Vec::new());
        counts.take(ints, |int| outside.push(int));
        (counts.finish(), outside)
    }

    #[test]
    fn what_lies_outside_is_handed_over_and_all_else_counted() {
        let last = WIDTH as i64 - 1;
        for base in [0, -5, i64::MIN, i64::MAX - last] {
            let ints = [
                base,
                base + last,
                base + 1,
                base + 1,
                base + 1,
                base.wrapping_sub(1),
                base.wrapping_add(last + 1),
            ];
            let (counted, outside) = counted(base, &ints);
            assert_eq!(counted.iter().collect::<Vec<_>>(), [(base, 1), (base + 1, 3), (base + last, 1)]);
            assert_eq!((counted.count, outside), (5, ints[5..].to_vec()));
        }
    }

    #[test]
    fn a_window_lies_around_the_first_numbers_anywhere_in_i64() {
        for ints in [[0, 9], [i64::MIN, i64::MIN + 9], [i64::MAX, i64::MAX - 9], [-40_000, 25_535]] {
            let window = Window::default();
            let base = window.around(&ints).unwrap();
            let (_, outside) = counted(base, &ints);
            assert!(outside.is_empty(), "{ints:?} from {base}");
            assert_eq!(window.around(&[77]), Some(base), "one for all");
        }
        for ints in [[0, WIDTH as i64], [i64::MIN, i64::MAX]] {
            let window = Window::default();
            assert_eq!(window.around(&ints), None);
            assert_eq!(window.around(&[1]), None, "given up for all");
        }
    }

    #[test]
    fn counters_that_would_overflow_are_spilled_before() {
        let (mut one, mut other) = (Counts::new(0), Counts::new(0));
        one.take(&[7; 100], |_| {});
        one.unspilled = UNSPILLED - 50;
        one.take(&[7; 100], |_| {});
        assert_eq!((one.unspilled, one.totals[7]), (100, 100));
        other.take(&[7, 8], |_| {});
        one.add(&mut other);
        assert_eq!(one.finish().iter().collect::<Vec<_>>(), [(7, 201), (8, 1)]);
    }

    #[test]
    fn as_many_counters_are_in_use_as_the_numbers_need() {
        let last = WIDTH as i64 - 1;
        let ascending: Vec<_> = (0..=last).collect();
        let descending = ascending.iter().rev().copied().collect();
        let from_the_middle =
            (0..=last).map(|step| last / 2 + if step % 2 == 0 { -step / 2 } else { step / 2 + 1 });
        let narrow = (0..5000).map(|int| 30_000 + int % 700);
        let orders: [(Vec<i64>, _, usize); 4] = [
            (ascending, 0..WIDTH, 64),
            (descending, 0..WIDTH, 64),
            (from_the_middle.filter(|int| (0..=last).contains(int)).collect(), 0..WIDTH, 64),
            (narrow.collect(), 30_000..30_700, 1),
        ];
        for base in [0, i64::MIN, i64::MAX - last] {
            for (ints, range, runs) in &orders {
                let ints: Vec<_> = ints.iter().map(|int| base + int).collect();
                let (mut counts, mut steps) = (Counts::new(base), 0);
                for run in ints.chunks(ints.len().div_ceil(*runs)) {
                    let used = counts.used.clone();
                    assert!(counts.take(run, |int| panic!("{int} lies outside")));
                    steps += usize::from(counts.used != used);
                }
                assert_eq!(counts.used, *range);
                assert!(steps <= 8, "{steps} of {runs} runs are counted twice");
                let mut expected = BTreeMap::new();
                for &int in &ints {
                    *expected.entry(int).or_insert(0) += 1;
                }
                let mut half = Counts::new(base);
                half.take(&ints[..ints.len() / 2], |_| {});
                let (counted, half) = (counts.finish(), half);
                assert_eq!(counted.iter().collect::<Vec<_>>(), expected.into_iter().collect::<Vec<_>>());
                // Two threads have different ones in use.
                let (mut low, mut high) = (half, Counts::new(base));
                high.take(&ints[ints.len() / 2..], |_| {});
                low.add(&mut high);
                let used = low.used.clone();
                low.add(&mut Counts::new(base));
                assert_eq!(low.used, used, "one that has counted nothing");
                assert!(low.finish().iter().eq(counted.iter()));
            }
        }
    }
}
