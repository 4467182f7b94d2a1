//! Which words of some occur among them more than once: exactly, in a table that fits the L2 cache.
//!
//! A word is a slot of the table, by its lower bits, and what is left of it, which the slot holds: so all of it. Each word
//! is put into its slot, and drives out what is there. Of equal ones at most the last one stays; the others have been
//! driven out, and either meet it there afterwards or are all among those driven out. These are few, and go the same way, by
//! other bits, until they are few enough to be sorted.
//!
//! For a part of 48K words, all single, 1.2 ns each in L2: 1.0 to put them, one in six is driven out. (Bits instead of words,
//! which fit the L1 cache, leave open with whom a word shares a bit; that took 1.9.)

use super::ahead::runs_ahead;
use super::bounds::zeros;

/// Lower bits of a word, that choose the slot.
const SLOT_BITS: u32 = 17;
const SLOTS: usize = 1 << SLOT_BITS;
/// In each slot that holds a word: the other bits of that are fewer than 16.
const TAKEN: u16 = 1 << 15;
/// Fewer words are sorted.
const SMALL: usize = if cfg!(test) { 8 } else { 64 };
/// Words that are put at once, and so much more room than there are words is needed.
const SPARE: usize = 8;

/// Memory that is used again and again.
#[derive(Debug)]
pub(crate) struct Repeats {
    slots: Box<[u16; SLOTS]>,
    /// What was driven out.
    out: Vec<u32>,
}

impl Repeats {
    /// For so many words at most.
    pub(crate) fn new(most: usize) -> Self {
        Repeats { slots: zeros(), out: vec![0; most + SPARE] }
    }

    /// The bytes of one for so many words.
    pub(crate) const fn bytes(most: usize) -> usize {
        SLOTS * size_of::<u16>() + (most + SPARE) * size_of::<u32>()
    }

    /// Hands over each word that occurs twice or more in these runs, at least once, and less often than it occurs.
    pub(crate) fn each<'a>(
        &mut self,
        runs: impl Iterator<Item = &'a [u32]> + Clone,
        mut take: impl FnMut(u32),
    ) {
        let mut before = 0;
        let mut left = 0;
        self.slots.fill(0);
        for run in runs_ahead(runs) {
            before += run.len();
            let (eights, rest) = run.as_chunks::<SPARE>();
            // Their loop is unrolled.
            for eight in eights {
                left += self.put(eight, left);
            }
            left += self.put(rest, left);
        }
        let mut turn = 0;
        loop {
            // Those that all share a few slots would leave a few at a time.
            let is_slow = left > before / 8 * 7;
            let Repeats { slots, out } = self;
            before = std::mem::take(&mut left);
            for index in 0..before {
                let word = out[index];
                out[left] = word;
                if slots[slot(word, turn)] == rest(word, turn) {
                    take(word);
                } else {
                    left += 1;
                }
            }
            if left < SMALL || is_slow {
                out[..left].sort_unstable();
                let alike = out[..left].array_windows().filter(|[word, next]| word == next);
                return alike.for_each(|[word, _]| take(*word));
            }
            turn = (turn + SLOT_BITS) % u32::BITS;
            slots.fill(0);
            before = std::mem::take(&mut left);
            for index in 0..before {
                let word = out[index];
                let old = std::mem::replace(&mut slots[slot(word, turn)], rest(word, turn));
                out[left] = joined(slot(word, turn), old, turn);
                left += usize::from(old != 0);
            }
        }
    }

    /// Puts at most [`SPARE`] words; those that they drive out come to this place. How many they are.
    #[inline]
    fn put(&mut self, words: &[u32], place: usize) -> usize {
        let room = &mut self.out[place..place + SPARE];
        let mut here = 0;
        for &word in words {
            let old = std::mem::replace(&mut self.slots[slot(word, 0)], rest(word, 0));
            room[here % SPARE] = joined(slot(word, 0), old, 0);
            here += usize::from(old != 0);
        }
        here
    }
}

/// The slot of a word, by its bits from `turn` on.
#[inline]
fn slot(word: u32, turn: u32) -> usize {
    word.rotate_right(turn) as usize % SLOTS
}

/// What its slot holds of it.
#[inline]
fn rest(word: u32, turn: u32) -> u16 {
    (word.rotate_right(turn) >> SLOT_BITS) as u16 | TAKEN
}

/// The word of a slot, by what that holds. The mark does not fit in it.
#[inline]
fn joined(slot: usize, rest: u16, turn: u32) -> u32 {
    (u32::from(rest) << SLOT_BITS | slot as u32).rotate_left(turn)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::engine::kernels::codes::Mix;

    #[test]
    fn a_word_is_all_of_its_slot_and_what_that_holds() {
        for turn in 0..u32::BITS {
            for word in [0, 1, 0x8000_0000, u32::MAX, 0x1234_5678, 1 << SLOT_BITS] {
                assert_eq!(joined(slot(word, turn), rest(word, turn), turn), word);
                assert_ne!(rest(word, turn), 0);
            }
        }
    }

    #[test]
    fn what_occurs_twice_is_found_and_nothing_else() {
        let mut repeats = Repeats::new(3000);
        let mut random = (0..).map(|index| Mix::new(5).hash(index));
        let mut random = |below: u64| random.next().unwrap_or_default() % below;
        for case in 0..4000 {
            // All bits, or a few of some: then most have to share a slot, for one turn or for all.
            let masks = [u32::MAX, 0x3f, 0x1f << 15, 0xff00_00ff, 0x1010_1010, 0x0007_e000];
            let mask = masks[case % 6] | 1 << random(32);
            let len = [5, 40, 300, 3000][random(4) as usize];
            let words: Vec<u32> = (0..random(len)).map(|_| random(1 << 32) as u32 & mask).collect();
            let mut counts = BTreeMap::new();
            for &word in &words {
                *counts.entry(word).or_insert(0) += 1;
            }
            let expected: BTreeSet<u32> =
                counts.iter().filter(|(_, times)| **times > 1).map(|(word, _)| *word).collect();
            let mut found = BTreeMap::new();
            repeats.each(words.chunks(1 + random(100) as usize), |word| *found.entry(word).or_insert(0) += 1);
            assert!(found.iter().all(|(word, times)| times < &counts[word]), "case {case}");
            assert_eq!(
                found.into_keys().collect::<BTreeSet<_>>(),
                expected,
                "case {case}, {} words, mask {mask:x}",
                words.len()
            );
        }
    }
}
