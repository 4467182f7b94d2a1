//! Any values: they are split by their hash into parts that fit the L2 cache, and each part is counted.
//!
//! A value is in one part only. Every block is sorted by part on its own, into scratch memory of as many
//! words: no part has a size to be known before, and no two threads write to the same place. (Lines gathered
//! for each part and stored past the caches, as is usual, took 1.5 times as long: it seems that which store fills a line
//! cannot be predicted.) Then a part is gathered from all blocks. Counters of 8 bits, by other bits of the
//! hash, are upper bounds for each value in a part, and leave few that may reach the best count so far; those
//! are counted exactly.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::survey::Survey;
use super::tally::{Tally, take_sorted};
use super::{CHUNK, Work};
use crate::engine::kernels::ahead::ahead;
use crate::engine::kernels::bounds::{self, Bounds, SLOT_BITS, retain};
use crate::engine::kernels::codes::{Mix, hashes};
use crate::engine::slab::Slab;
use crate::engine::value::Value;
use task_proto::fault::{Fault, FaultKind};

/// Values of a part.
const PART: u64 = if cfg!(test) { 512 } else { 48 * 1024 };
/// The most parts.
const PARTS: usize = 4096;
/// The lowest of the bits of a hash that choose a part. Those above choose the bucket of a survey.
const PART_SHIFT: u32 = 36;
/// The bits that each round of upper bounds uses: others, and not those that choose the part.
const ROUNDS: [u32; 3] = [0, SLOT_BITS, 64 - SLOT_BITS];
/// Fewer values are counted exactly at once.
const SMALL: usize = 64;
/// So many, or more, are split into groups before they are sorted.
const MANY: usize = if cfg!(test) { 300 } else { 16 * 1024 };
const GROUPS: usize = 2048;

/// A block, sorted by part.
struct Piece<'s> {
    hashes: &'s [u64],
    /// Where each part starts, and the last one ends.
    starts: Vec<u32>,
}

/// What a thread needs to split blocks.
struct Split<'s> {
    pieces: Vec<Piece<'s>>,
    /// Where the next hash of each part goes, and, last, of the missing values, which go nowhere.
    next: Box<[u32; PARTS + 1]>,
    hashes: [u64; CHUNK],
}

/// Tallies the numbers, `expected` of them; after a survey only its suspects.
pub(super) fn tally<V: Value>(
    work: &Work<'_, V>,
    mix: &Mix,
    survey: Option<&Survey>,
    expected: u64,
) -> Result<Tally, Fault> {
    let parts = (expected / PART).next_power_of_two().min(PARTS as u64) as usize;
    let threads = work.crew.threads().max(1);
    let mut lease = work.budget.lease();
    lease.grow(expected.saturating_mul(size_of::<u64>() as u64))?;
    lease.grow(((parts + 1) * work.blocks.len() * size_of::<u32>()) as u64)?;
    lease.grow((threads * (PARTS * size_of::<u32>() + bounds::BYTES)) as u64)?;
    let mut slab =
        usize::try_from(expected).ok().and_then(|words| Slab::new(words).ok()).ok_or_else(|| {
            Fault::new(FaultKind::TooLarge, "the system has no memory for the scratch space of the mode")
        })?;
    let free = Mutex::new(&mut slab[..]);

    let missing = mix.hash(i64::MAX);
    let state = || Split { pieces: Vec::new(), next: boxed(), hashes: [0; CHUNK] };
    let splits = work.crew.fold(work.blocks.len(), state, |split, block| {
        let Split { pieces, next, hashes } = split;
        next.fill(0);
        let part = |hash: u64| {
            let part = (hash >> PART_SHIFT) as usize & (parts - 1) & (PARTS - 1);
            if V::IS_FLOAT && hash == missing { PARTS } else { part }
        };
        each_chunk(work, mix, survey, work.blocks[block], hashes, |hashes| {
            for &hash in hashes {
                next[part(hash)] += 1;
            }
        });
        let mut starts = Vec::with_capacity(parts + 1);
        let mut sum = 0;
        for next in &mut next[..parts] {
            starts.push(sum);
            sum += std::mem::replace(next, sum);
        }
        starts.push(sum);
        next[PARTS] = sum;
        let out = claim(&free, sum as usize)?;
        each_chunk(work, mix, survey, work.blocks[block], hashes, |hashes| {
            for &hash in hashes {
                let next = &mut next[part(hash)];
                if let Some(out) = out.get_mut(*next as usize) {
                    *out = hash;
                    *next += 1;
                }
            }
        });
        pieces.push(Piece { hashes: out, starts });
        Ok(())
    })?;
    let pieces: Vec<_> = splits.into_iter().flat_map(|split| split.pieces).collect();
    let size =
        |part: usize| pieces.iter().map(|piece| (piece.starts[part + 1] - piece.starts[part]) as usize).sum();
    let largest: usize = (0..parts).map(size).max().unwrap_or(0);
    // A copy, and one in groups.
    lease.grow((threads * 2 * largest * size_of::<u64>()) as u64)?;

    let floor = AtomicU64::new(survey.map_or(0, |survey| survey.tally.frequency()).max(2));
    let counts = work.crew.fold(parts, Count::default, |count, part| {
        let of_part = pieces
            .iter()
            .map(|piece| &piece.hashes[piece.starts[part] as usize..piece.starts[part + 1] as usize]);
        count.part(mix, of_part, &floor);
        Ok(())
    })?;
    Ok(counts.into_iter().map(|count| count.tally).reduce(Tally::merge).unwrap_or_default())
}

/// Hands over the hashes of all values; after a survey only of those that may be modes.
fn each_chunk<V: Value>(
    work: &Work<'_, V>,
    mix: &Mix,
    survey: Option<&Survey>,
    block: &[V],
    buffer: &mut [u64; CHUNK],
    mut take: impl FnMut(&[u64]),
) {
    for chunk in ahead(block, CHUNK) {
        let buffer = &mut buffer[..chunk.len()];
        hashes(work.simd, mix, chunk, buffer);
        let kept = match survey {
            Some(survey) => retain(buffer, |hash| survey.suspects(hash)),
            None => chunk.len(),
        };
        take(&buffer[..kept]);
    }
}

/// Zeros, made on the heap.
fn boxed<const N: usize>() -> Box<[u32; N]> {
    vec![0; N].into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("as long as N"))
}

/// Takes so many words that are still free.
///
/// # Errors
/// `Internal` if there are not so many.
fn claim<'s>(free: &Mutex<&'s mut [u64]>, words: usize) -> Result<&'s mut [u64], Fault> {
    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
    let (mine, rest) = std::mem::take(&mut *free)
        .split_at_mut_checked(words)
        .ok_or_else(|| Fault::new(FaultKind::Internal, "there are more numbers than were counted"))?;
    *free = rest;
    Ok(mine)
}

/// What a thread needs to count parts.
#[derive(Default)]
struct Count {
    bounds: Bounds,
    hashes: Vec<u64>,
    spare: Vec<u64>,
    tally: Tally,
}

impl Count {
    /// Tallies the values of a part that reach the floor, which rises.
    fn part<'s>(&mut self, mix: &Mix, runs: impl Iterator<Item = &'s [u64]> + Clone, rising: &AtomicU64) {
        let Count { bounds, hashes, spare, tally } = self;
        let floor = rising.load(Relaxed);
        let mut before = runs.clone().map(<[u64]>::len).sum();
        if hashes.len() < before {
            hashes.resize(before, 0);
        }
        // The first round looks at them where they are: of most nothing is left.
        let mut kept = bounds.gather(runs, hashes, ROUNDS[0], floor);
        for shift in &ROUNDS[1..] {
            // Where most are left, they do occur so often.
            if kept < SMALL || kept > before / 8 * 7 {
                break;
            }
            before = kept;
            kept = bounds.prune(&mut hashes[..before], *shift, floor);
        }
        take_hashes(&mut hashes[..kept], spare, |hash, times| {
            if times >= floor {
                tally.take(mix.key(hash), times);
            }
        });
        rising.fetch_max(tally.frequency(), Relaxed);
    }
}

/// Takes each hash with the number of times it occurs. Many are split into groups of some dozen before they
/// are sorted, which takes half as long.
fn take_hashes(hashes: &mut [u64], spare: &mut Vec<u64>, mut take: impl FnMut(u64, u64)) {
    if hashes.len() < MANY {
        hashes.sort_unstable();
        return take_sorted(hashes, take);
    }
    let group = |hash: u64| hash as usize % GROUPS;
    let mut ends = [0_u32; GROUPS];
    for &hash in &*hashes {
        ends[group(hash)] += 1;
    }
    let mut sum = 0;
    for end in &mut ends {
        sum += std::mem::replace(end, sum);
    }
    spare.clear();
    spare.resize(hashes.len(), 0);
    for &hash in &*hashes {
        let end = &mut ends[group(hash)];
        spare[*end as usize] = hash;
        *end += 1;
    }
    let mut start = 0;
    for end in ends {
        let hashes = &mut spare[start as usize..end as usize];
        hashes.sort_unstable();
        take_sorted(hashes, &mut take);
        start = end;
    }
}
