//! Splits values by their hash into parts: all of a value's occurrences are in one part.

use std::sync::{Mutex, PoisonError};

use super::survey::Survey;
use super::{CHUNK, Work};
use crate::engine::kernels::ahead::{LINE, Later, ahead, prefetch_line_after};
use crate::engine::kernels::bounds::{retain, zeros};
use crate::engine::kernels::codes::{Mix, hashes, parts};
use crate::engine::value::Value;
use task_proto::fault::{Fault, FaultKind};

/// Values of a part.
const PART: u64 = if cfg!(test) { 512 } else { 48 * 1024 };
/// The most parts.
const PARTS: usize = 4096;
/// Room for all parts, what is missing, and up to a power of two.
const SEATS: usize = 2 * PARTS;
/// The lowest of the bits of a hash that choose a part. Those above choose the bucket of a survey; the 32 lowest choose nothing.
const PART_SHIFT: u32 = 35;

/// What decides which part a value is in.
pub(super) struct Hashing<'a, V> {
    work: &'a Work<'a, V>,
    mix: &'a Mix,
    survey: Option<&'a Survey>,
    /// The hash of missing values.
    pub(super) missing: Option<u64>,
    /// One less than the number of parts, a power of two.
    mask: u32,
}

/// What a thread needs to split blocks.
pub(super) struct Buffers {
    /// Where the next one of each part goes; of the part after the last one, the missing values, nowhere.
    pub(super) next: Box<[u32; SEATS]>,
    hashes: [u64; CHUNK],
    parts: [u32; CHUNK],
}

impl Buffers {
    /// Its bytes.
    pub(super) const BYTES: usize = SEATS * size_of::<u32>() + CHUNK * (size_of::<u64>() + size_of::<u32>());

    pub(super) fn new() -> Self {
        Buffers { next: zeros(), hashes: [0; CHUNK], parts: [0; CHUNK] }
    }
}

impl<'a, V: Value> Hashing<'a, V> {
    /// For so many numbers; after a survey only its suspects.
    pub(super) fn new(
        work: &'a Work<'a, V>,
        mix: &'a Mix,
        survey: Option<&'a Survey>,
        expected: u64,
    ) -> Hashing<'a, V> {
        let parts = (expected / PART).next_power_of_two().min(PARTS as u64) as u32;
        let missing = V::IS_FLOAT.then(|| mix.hash(i64::MAX));
        Hashing { work, mix, survey, missing, mask: parts - 1 }
    }

    /// How many parts there are.
    pub(super) fn parts(&self) -> usize {
        self.mask as usize + 1
    }

    /// The part of a number.
    pub(super) fn part(&self, hash: u64) -> u32 {
        (hash >> PART_SHIFT) as u32 & self.mask
    }

    /// Hands over the hashes of all values, with what is fetched meanwhile.
    pub(super) fn each_chunk(
        &self,
        blocks: &[&[V]],
        buffer: &mut [u64; CHUNK],
        mut take: impl FnMut(&mut [u64], Later<'_, V>),
    ) {
        for block in blocks {
            for (chunk, later) in ahead(block, CHUNK) {
                let hashes_here = &mut buffer[..chunk.len()];
                hashes(self.work.simd, self.mix, chunk, hashes_here);
                take(hashes_here, later);
            }
        }
    }

    /// Adds to `next` how many values each part has.
    pub(super) fn count(&self, blocks: &[&[V]], buffers: &mut Buffers) {
        self.each(blocks, buffers, |next, _, part| next[part as usize % SEATS] += 1);
    }

    /// Puts each hash to the place that is next for its part, if it is in `out`.
    pub(super) fn scatter<W>(
        &self,
        blocks: &[&[V]],
        buffers: &mut Buffers,
        out: &mut [W],
        word: impl Fn(u64) -> W,
    ) {
        self.each(blocks, buffers, |next, hash, part| {
            let next = &mut next[part as usize % SEATS];
            if let Some(out) = out.get_mut(*next as usize) {
                *out = word(hash);
                *next += 1;
                // It comes to one of thousands of lines, and few of those that are awaited can be awaited at once.
                prefetch_line_after(out);
            }
        });
    }

    /// Hands over each hash with its part; after a survey only of those that may be modes.
    #[inline]
    fn each(&self, blocks: &[&[V]], buffers: &mut Buffers, mut put: impl FnMut(&mut [u32; SEATS], u64, u32)) {
        let Buffers { next, hashes, parts: of } = buffers;
        self.each_chunk(blocks, hashes, |hashes, later| {
            let kept = match self.survey {
                Some(survey) => retain(hashes, |hash| survey.suspects(hash)),
                None => hashes.len(),
            };
            let (hashes, of) = (&hashes[..kept], &mut of[..kept]);
            parts(self.work.simd, PART_SHIFT, self.mask, self.missing, hashes, of);
            let (lines, rest) = hashes.as_chunks::<LINE>();
            let (lines_of, rest_of) = of.as_chunks::<LINE>();
            for (index, (line, of)) in lines.iter().zip(lines_of).enumerate() {
                later.fetch(index);
                line.iter().zip(of).for_each(|(hash, part)| put(next, *hash, *part));
            }
            rest.iter().zip(rest_of).for_each(|(hash, part)| put(next, *hash, *part));
            (lines.len()..CHUNK / LINE).for_each(|index| later.fetch(index));
        });
    }
}

/// Takes so many words that are still free.
///
/// # Errors
/// `Internal` if there are not so many.
pub(super) fn claim<'s, W>(free: &Mutex<&'s mut [W]>, words: usize) -> Result<&'s mut [W], Fault> {
    let mut free = free.lock().unwrap_or_else(PoisonError::into_inner);
    let (mine, rest) = std::mem::take(&mut *free)
        .split_at_mut_checked(words)
        .ok_or_else(|| Fault::new(FaultKind::Internal, "there are more numbers than were counted"))?;
    *free = rest;
    Ok(mine)
}

/// What is said where there is no memory for scratch.
pub(super) fn no_memory() -> Fault {
    Fault::new(FaultKind::TooLarge, "the system has no memory for the scratch space of the mode")
}
