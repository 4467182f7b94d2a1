//! Values that all seem to be different: that no two are alike is shown by 32 bits of their hashes.
//!
//! As in [`partition`](super::partition) they are split by their hash, but into half of the memory, and in one go: each part has
//! room for as many of a few blocks as it should get, and some deviations more. With the number of the part that makes 43 bits
//! of a hash for 100 million values, of which some hundred pairs are alike by chance. Which these are is found part by part;
//! then all values are looked at once more, and those that are alike to another one are counted, whole.
//!
//! A sample says what seems so. Where it was wrong, the work is lost that was done until then: the split, a third of all, or
//! where those that are alike are just a few too many, all of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use super::split::{Buffers, Hashing, claim, no_memory};
use super::tally::{Tally, take_sorted};
use super::{CHUNK, Work};
use crate::engine::kernels::ahead::LINE;
use crate::engine::kernels::codes::Mix;
use crate::engine::kernels::repeats::Repeats;
use crate::engine::slab::Slab;
use crate::engine::value::Value;
use task_proto::fault::Fault;

/// The most blocks that are split as one; how many of these there are at least for each thread, where that leaves so many values
/// for each part.
const TOGETHER: usize = 16;
const TURNS: usize = 8;
const LEAST: usize = 128;
/// The room of a part is so many deviations more than the mean: too little once in some ten thousand runs of 100 million.
const DEVIATIONS: f64 = 6.0;
/// Words of a line of memory. Parts begin on an odd number of lines after each other, so that not all are at the same place of a
/// page and have to share a few places of the caches.
const LINE_WORDS: usize = 16;
/// More that are alike are too many: so many, and one of so many values. Of 2^31 half as many are alike by chance.
const ALIKE: u64 = 4096;
const ONE_OF: u64 = 8192;
const LARGEST: u64 = 1 << 31;
/// Of so many values no more than one is alike to another, and some more for each thread.
const COUNTED_OF: u64 = 16;
const COUNTED: u64 = 2 * ALIKE;
/// How many places are looked at for neighbours that are alike, of which a sample of single values sees few.
const PLACES: usize = 8;
/// Bits of the filter for each that are alike, and in all: 32 KiB fit the L1 cache, 512 KiB the L2 cache.
const BITS: usize = 256;
const LEAST_BITS: usize = 1 << 18;
const MOST_BITS: usize = 1 << 22;

/// Some blocks, split.
struct Piece<'s> {
    words: &'s [u32],
    /// Words from the beginning of one part to that of the next one.
    room: usize,
    /// Where each part ends.
    ends: Vec<u32>,
}

impl Piece<'_> {
    fn of(&self, part: usize) -> &[u32] {
        &self.words[part * self.room..self.ends[part] as usize]
    }
}

/// Tallies the numbers, `expected` of them, if nearly all are different.
pub(super) fn tally<V: Value>(work: &Work<'_, V>, mix: &Mix, expected: u64) -> Result<Option<Tally>, Fault> {
    if expected > LARGEST || has_alike_neighbours(work) {
        return Ok(None);
    }
    let hashing = Hashing::new(work, mix, None, expected);
    match alike(work, &hashing, expected)? {
        None => Ok(None),
        Some(alike) if alike.is_empty() => Ok(Some(Tally::default())),
        Some(alike) => counted(work, mix, &hashing, &Alike::new(alike), expected),
    }
}

/// Whether, at one of a few places, two numbers near each other are alike.
fn has_alike_neighbours<V: Value>(work: &Work<'_, V>) -> bool {
    work.blocks.iter().step_by((work.blocks.len() / PLACES).max(1)).any(|block| {
        let numbers = block[..block.len().min(CHUNK)].iter().filter(|value| value.is_number());
        let mut keys: Vec<_> = numbers.map(|value| value.key()).collect();
        keys.sort_unstable();
        keys.array_windows().any(|[key, next]| key == next)
    })
}

/// The [marks](mark) that occur twice or more, ascending; none if they are too many.
fn alike<V: Value>(
    work: &Work<'_, V>,
    hashing: &Hashing<'_, V>,
    expected: u64,
) -> Result<Option<Vec<u64>>, Fault> {
    let most = (ALIKE + expected / ONE_OF) as usize;
    let parts = hashing.parts();
    let threads = work.crew.threads().max(1);
    let values: usize = work.blocks.iter().map(|block| block.len()).sum();
    let worthwhile = (LEAST * parts * work.blocks.len()).div_ceil(values.max(1));
    let together = (work.blocks.len() / (threads * TURNS)).max(worthwhile).clamp(1, TOGETHER);
    let together: Vec<_> = work.blocks.chunks(together).collect();
    let room = |blocks: &[&[V]]| {
        let mean = blocks.iter().map(|block| block.len()).sum::<usize>() as f64 / parts as f64;
        (((mean + DEVIATIONS * mean.sqrt()) as usize / LINE_WORDS + 1) | 1) * LINE_WORDS
    };
    let words = together.iter().map(|blocks| parts * room(blocks)).sum::<usize>();
    let bytes = (words * size_of::<u32>()) as u64;
    let has_places = |blocks: &&[&[V]]| u32::try_from(parts * room(blocks)).is_ok();
    if bytes > expected.saturating_mul(size_of::<V>() as u64) || !together.iter().all(has_places) {
        return Ok(None);
    }
    let mut lease = work.budget.lease();
    lease.grow(bytes)?;
    lease.grow((together.len() * parts * size_of::<u32>() + threads * Buffers::BYTES) as u64)?;
    let mut slab = Slab::<u32>::new(words).map_err(|_| no_memory())?;
    let free = Mutex::new(&mut slab[..]);

    let overflown = AtomicBool::new(false);
    let splits = work.crew.fold(
        together.len(),
        || (Buffers::new(), Vec::new()),
        |(buffers, pieces), index| {
            if overflown.load(Relaxed) {
                return Ok(());
            }
            let blocks = together[index];
            let room = room(blocks);
            let out = claim(&free, parts * room)?;
            for (part, next) in buffers.next[..=parts].iter_mut().enumerate() {
                *next = (part * room) as u32;
            }
            hashing.scatter(blocks, buffers, out, |hash| hash as u32);
            let ends = buffers.next[..parts].to_vec();
            // One who has filled his room may have needed more: the last part, whose words after that are in no room.
            let fits = ends.iter().enumerate().all(|(part, end)| (*end as usize) < (part + 1) * room);
            overflown.fetch_or(!fits, Relaxed);
            pieces.push(Piece { words: out, room, ends });
            Ok(())
        },
    )?;
    if overflown.into_inner() {
        return Ok(None);
    }
    let pieces: Vec<_> = splits.into_iter().flat_map(|(_, pieces)| pieces).collect();
    let size = |part: usize| pieces.iter().map(|piece| piece.of(part).len()).sum();
    let largest: usize = (0..parts).map(size).max().unwrap_or(0);
    // What is alike in a part are fewer than its words; vectors that grow may have twice the room.
    let here = 2 * largest * size_of::<u32>();
    lease.grow(
        (threads * (Repeats::bytes(largest) + here) + 4 * (most + largest) * size_of::<u64>()) as u64,
    )?;

    let (done, found) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // In all, or by far in those parts that are done.
    let too_many = || {
        let (found, done) = (found.load(Relaxed), done.load(Relaxed));
        found > most || found > most / 64 + most * done / parts * 5 / 4
    };
    let marks = work.crew.fold(
        parts,
        || (Repeats::new(largest), Vec::new(), Vec::new()),
        |(repeats, here, marks), part| {
            if !too_many() {
                here.clear();
                repeats.each(pieces.iter().map(|piece| piece.of(part)), |word| here.push(word));
                here.sort_unstable();
                here.dedup();
                marks.extend(here.iter().map(|word| mark(part as u32, *word)));
                done.fetch_add(1, Relaxed);
                found.fetch_add(here.len(), Relaxed);
            }
            Ok(())
        },
    )?;
    if done.into_inner() < parts {
        return Ok(None);
    }
    let mut marks: Vec<u64> = marks.into_iter().flat_map(|(.., marks)| marks).collect();
    marks.sort_unstable();
    Ok(Some(marks))
}

/// What is known of a hash after a split.
fn mark(part: u32, word: u32) -> u64 {
    u64::from(part) << u32::BITS | u64::from(word)
}

/// Marks that occur twice or more.
struct Alike {
    marks: Vec<u64>,
    /// Has a bit for each of them, by their words.
    filter: Vec<u64>,
}

impl Alike {
    fn new(marks: Vec<u64>) -> Self {
        let bits = (marks.len() * BITS).next_power_of_two().clamp(LEAST_BITS, MOST_BITS);
        let mut filter = vec![0; bits / 64];
        let mask = filter.len() - 1;
        for mark in &marks {
            filter[(*mark as u32 / 64) as usize & mask] |= 1 << (mark % 64);
        }
        Alike { marks, filter }
    }

    /// A word whose lowest bit is set where it may have this hash.
    #[inline]
    fn may_have(&self, hash: u64) -> u64 {
        self.filter[(hash as u32 / 64) as usize & (self.filter.len() - 1)] >> (hash % 64)
    }
}

/// Counts each value whose mark is one of these; none if they are too many.
fn counted<V: Value>(
    work: &Work<'_, V>,
    mix: &Mix,
    hashing: &Hashing<'_, V>,
    alike: &Alike,
    expected: u64,
) -> Result<Option<Tally>, Fault> {
    let threads = work.crew.threads().max(1);
    let most = (expected / COUNTED_OF / threads as u64 + COUNTED) as usize;
    let mut lease = work.budget.lease();
    // Vectors that grow may have twice the room, and then all are in one.
    lease.grow(((alike.marks.len() + alike.filter.len() + 3 * threads * most) * size_of::<u64>()) as u64)?;
    let too_many = AtomicBool::new(false);
    let found = work.crew.fold(
        work.blocks.len(),
        || ([0; CHUNK], Vec::new()),
        |(buffer, found), index| {
            if too_many.load(Relaxed) {
                return Ok(());
            }
            hashing.each_chunk(&work.blocks[index..=index], buffer, |hashes, later| {
                let mut look = |hash: u64| {
                    let mark = mark(hashing.part(hash), hash as u32);
                    if alike.may_have(hash) & 1 != 0
                        && Some(hash) != hashing.missing
                        && alike.marks.binary_search(&mark).is_ok()
                        && found.len() < most
                    {
                        found.push(hash);
                    }
                };
                let (lines, rest) = hashes.as_chunks::<LINE>();
                for (index, line) in lines.iter().enumerate() {
                    later.fetch(index);
                    // A branch for all eight: few are taken.
                    if line.iter().fold(0, |any, hash| any | alike.may_have(*hash)) & 1 != 0 {
                        for &hash in line {
                            look(hash);
                        }
                    }
                }
                for &hash in rest {
                    look(hash);
                }
            });
            too_many.fetch_or(found.len() == most, Relaxed);
            Ok(())
        },
    )?;
    if too_many.into_inner() {
        return Ok(None);
    }
    let mut hashes: Vec<u64> = found.into_iter().flat_map(|(_, found)| found).collect();
    hashes.sort_unstable();
    let mut tally = Tally::default();
    take_sorted(&hashes, |hash, times| {
        if times > 1 {
            tally.take(mix.key(hash), times);
        }
    });
    Ok(Some(tally))
}
