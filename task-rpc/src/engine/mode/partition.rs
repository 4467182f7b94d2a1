//! Any values: they are split by their hash into parts that fit the L2 cache, and each part is counted.
//!
//! A value is in one part only. Each block, or two where there are many, is sorted by part on its own, into scratch memory of as many
//! words: no part has a size to be known before, and no two threads write to the same place, which the system has
//! just filled with zeros and is in the cache still. (Runs of 128 to 512 bytes gathered for each part and stored past the
//! caches, as is usual, took 1.4 times as long; hashes stored at once into 4 KiB that each part has for itself, 1.3 times.)
//! Then a part is gathered from all blocks. Bits, or counters of 8 bits, by other bits of the hash, are upper bounds for
//! each value in a part, and leave few that may reach the best count so far; those are counted exactly.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Work;
use super::split::{Buffers, Hashing, claim, no_memory};
use super::survey::Survey;
use super::tally::{Tally, take_sorted};
use crate::engine::kernels::bounds::{self, Bounds, SLOT_BITS, SPARE};
use crate::engine::kernels::codes::Mix;
use crate::engine::slab::Slab;
use crate::engine::value::Value;
use task_proto::fault::Fault;

/// Blocks that are sorted as one, where there are so many for each thread: their runs are longer.
const TOGETHER: usize = 2;
const ENOUGH: usize = 16;
/// The bits that each round of upper bounds uses: others, and not those that choose the part. In place of the first there
/// may have been one of bits, which used those below 32.
const ROUNDS: [u32; 3] = [0, 64 - SLOT_BITS, SLOT_BITS];
/// Fewer values are counted exactly at once.
const SMALL: usize = 64;
/// So many, or more, are split into groups before they are sorted.
const MANY: usize = if cfg!(test) { 300 } else { 16 * 1024 };
const GROUPS: usize = 2048;

/// Some blocks, sorted by part.
struct Piece<'s> {
    hashes: &'s [u64],
    /// Where each part starts, and the last one ends.
    starts: Vec<u32>,
}

/// Tallies the numbers, `expected` of them; after a survey only its suspects.
pub(super) fn tally<V: Value>(
    work: &Work<'_, V>,
    mix: &Mix,
    survey: Option<&Survey>,
    expected: u64,
) -> Result<Tally, Fault> {
    let hashing = Hashing::new(work, mix, survey, expected);
    let parts = hashing.parts();
    let threads = work.crew.threads().max(1);
    let together = if work.blocks.len() / threads < ENOUGH { 1 } else { TOGETHER };
    let together: Vec<_> = work.blocks.chunks(together).collect();
    let mut lease = work.budget.lease();
    lease.grow(expected.saturating_mul(size_of::<u64>() as u64))?;
    lease.grow(((parts + 1) * together.len() * size_of::<u32>()) as u64)?;
    lease.grow((threads * (Buffers::BYTES + bounds::BYTES)) as u64)?;
    let mut slab =
        usize::try_from(expected).ok().and_then(|words| Slab::new(words).ok()).ok_or_else(no_memory)?;
    let free = Mutex::new(&mut slab[..]);

    let state = || (Buffers::new(), Vec::new());
    let splits = work.crew.fold(together.len(), state, |(buffers, pieces), index| {
        buffers.next.fill(0);
        hashing.count(together[index], buffers);
        let next = &mut buffers.next;
        let mut starts = Vec::with_capacity(parts + 1);
        let mut sum = 0;
        for next in &mut next[..parts] {
            starts.push(sum);
            sum += std::mem::replace(next, sum);
        }
        starts.push(sum);
        next[parts] = sum;
        let out = claim(&free, sum as usize)?;
        hashing.scatter(together[index], buffers, out, |hash| hash);
        pieces.push(Piece { hashes: out, starts });
        Ok(())
    })?;
    let pieces: Vec<_> = splits.into_iter().flat_map(|(_, pieces)| pieces).collect();
    let size =
        |part: usize| pieces.iter().map(|piece| (piece.starts[part + 1] - piece.starts[part]) as usize).sum();
    let largest: usize = (0..parts).map(size).max().unwrap_or(0);
    // A copy, and one in groups.
    lease.grow((threads * 2 * (largest + SPARE) * size_of::<u64>()) as u64)?;

    let floor = AtomicU64::new(survey.map_or(0, |survey| survey.tally.frequency()).max(2));
    let counts = work.crew.fold(
        parts,
        || Count::new(largest),
        |count, part| {
            let of_part = pieces
                .iter()
                .map(|piece| &piece.hashes[piece.starts[part] as usize..piece.starts[part + 1] as usize]);
            count.part(mix, of_part, &floor);
            Ok(())
        },
    )?;
    Ok(counts.into_iter().map(|count| count.tally).reduce(Tally::merge).unwrap_or_default())
}

/// What a thread needs to count parts.
struct Count {
    bounds: Bounds,
    hashes: Vec<u64>,
    spare: Vec<u64>,
    tally: Tally,
}

impl Count {
    /// For parts of so many at most.
    fn new(largest: usize) -> Self {
        Count {
            bounds: Bounds::default(),
            hashes: vec![0; largest + SPARE],
            spare: Vec::with_capacity(largest),
            tally: Tally::default(),
        }
    }

    /// Tallies the values of a part that reach the floor, which rises.
    fn part<'s>(&mut self, mix: &Mix, runs: impl Iterator<Item = &'s [u64]> + Clone, rising: &AtomicU64) {
        let Count { bounds, hashes, spare, tally } = self;
        let floor = rising.load(Relaxed);
        let mut before = runs.clone().map(<[u64]>::len).sum();
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
