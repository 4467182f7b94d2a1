//! A bracket around some rank, from a sample, and what a pass over the blocks finds inside.
//!
//! Any bracket is safe: the counts of a pass prove what it holds. Memory for what is gathered is paid before the pass,
//! and shared by the threads in pieces; where it does not suffice, a pass counts on without gathering.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::budget::Lease;
use super::crew::Crew;
use super::kernels::bracket::{self, Counts};
use super::kernels::pages;
use super::simd::Simd;
use super::value::Value;
use task_proto::fault::Fault;

/// Values of a sample.
const SAMPLE: RangeInclusive<u64> = if cfg!(test) { 256..=4096 } else { 16 * 1024..=64 * 1024 };
/// Blocks that are sampled in one step.
const SAMPLED_BLOCKS: usize = 16;
/// Values that a piece of memory holds, at most: 4 MiB, for huge pages.
pub(super) const PIECE: usize = if cfg!(test) { 256 } else { 512 * 1024 };
/// Values of one call of the kernel, for which there must be room in a piece.
const STRIDE: usize = if cfg!(test) { 50 } else { 16 * 1024 };

/// Two values between which some rank probably is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bracket<V> {
    pub(super) low: V,
    pub(super) high: V,
    /// Which part of the numbers is probably inside.
    pub(super) share: f64,
}

impl<V: Value> Bracket<V> {
    /// Brackets the number below which there is this part of all numbers, so many standard deviations to each side.
    pub(super) fn sample(
        crew: &Crew,
        blocks: &[&[V]],
        quantile: f64,
        deviations: f64,
        paid: &mut Paid,
        seed: u64,
    ) -> Result<Self, Fault> {
        let values = values(blocks);
        // A larger sample costs some 15 ns for each of it, a wider bracket some 3 ns for each number inside: most of that is
        // for fresh pages.
        let wanted = ((values as f64 / 6.0).powf(2.0 / 3.0) as u64).clamp(*SAMPLE.start(), *SAMPLE.end());
        paid.hold(4 * wanted * size_of::<i64>() as u64)?;
        let parts: Vec<&[&[V]]> = blocks.chunks(SAMPLED_BLOCKS).collect();
        let states = crew.fold(parts.len(), Vec::new, |keys, index| {
            let mut random = Random::new(seed, index as u64);
            for block in parts[index] {
                // Each block has its part of the sample, rounded at random. NaN are drawn, and left out.
                let part = block.len() as u64 * wanted;
                let drawn = part / values + u64::from(random.below(values) < part % values);
                let number = |_| block.get(random.below(block.len() as u64) as usize).copied();
                keys.extend((0..drawn).filter_map(number).filter(|value| value.is_number()).map(V::key));
            }
            Ok(())
        })?;
        let mut keys = states.concat();
        let size = keys.len() as f64;
        let margin = deviations * ((size * quantile * (1.0 - quantile)).sqrt() + 1.0);
        let (from, to) = (size * quantile - margin, size * quantile + margin);
        let mut nth = |index: f64| V::from_key(*keys.select_nth_unstable(index as usize).1);
        let low = if from >= 0.0 { nth(from) } else { V::LOWEST };
        let high = if to < size { nth(to) } else { V::HIGHEST };
        Ok(Bracket { low, high, share: 2.0 * margin / size.max(1.0) })
    }

    /// Counts and gathers the values of a block, and has the later one fetched meanwhile. Where there is no more room, it
    /// only counts.
    pub(super) fn pass(&self, simd: Simd, block: &[V], later: &[V], room: &Room, gathered: &mut Gathered<V>) {
        let mut later = later.chunks(STRIDE);
        for part in block.chunks(STRIDE) {
            let piece = gathered.piece(room);
            let before = piece.len();
            let later = later.next().unwrap_or_default();
            let counts = bracket::pass(simd, part, later, self.low, self.high, piece);
            gathered.inside += (piece.len() - before) as u64;
            gathered.counts = gathered.counts.plus(counts);
        }
    }

    /// What is found of two successive ranks among the `count` numbers, once all blocks have passed.
    pub(super) fn finish(
        self,
        gathered: Gathered<V>,
        blocks: &[&[V]],
        count: u64,
        ranks: [u64; 2],
    ) -> Outcome<V> {
        let Bracket { low, high, .. } = self;
        let Gathered { counts, inside, pieces, overflowed } = gathered;
        let below = count.saturating_sub(counts.from_low);
        let up_to_low = below + counts.at_low;
        let up_to_inside = up_to_low + inside;
        let floor = match ranks[0] {
            rank if rank >= up_to_inside => high,
            rank if rank >= below => low,
            _ => V::LOWEST,
        };
        let ceiling = match ranks[1] {
            rank if rank < up_to_low => low,
            rank if rank < up_to_inside + counts.at_high => high,
            _ => V::HIGHEST,
        };
        let is_inside = ranks[0] >= below && ranks[1] < up_to_inside + counts.at_high;
        let needs_pieces = ranks[0] < up_to_inside && ranks[1] >= up_to_low;
        // At most half, so that the selection inside comes to an end.
        if is_inside && (!needs_pieces || !overflowed && inside <= values(blocks) / 2) {
            Outcome::Inside(Inside { low, high, up_to_low, between: inside, pieces })
        } else {
            Outcome::Outside { floor, ceiling }
        }
    }

    /// This bracket without what is certainly too small or too large.
    pub(super) fn within(self, floor: V, ceiling: V) -> Self {
        let low = if self.low > floor { self.low } else { floor };
        let high = if self.high < ceiling { self.high } else { ceiling };
        if low <= high {
            Bracket { low, high, ..self }
        } else {
            Bracket { low: floor, high: ceiling, ..self }
        }
    }
}

/// What one thread has counted and gathered.
#[derive(Debug)]
pub(super) struct Gathered<V> {
    counts: Counts,
    /// How many were inside, gathered or not.
    pub(super) inside: u64,
    pub(super) pieces: Vec<Vec<V>>,
    pub(super) overflowed: bool,
}

impl<V> Default for Gathered<V> {
    fn default() -> Self {
        Gathered { counts: Counts::default(), inside: 0, pieces: Vec::new(), overflowed: false }
    }
}

impl<V> Gathered<V> {
    /// Adds what another thread has.
    pub(super) fn merge(&mut self, other: Gathered<V>) {
        self.counts = self.counts.plus(other.counts);
        self.inside += other.inside;
        self.pieces.extend(other.pieces);
        self.overflowed |= other.overflowed;
    }

    /// A piece with room for one [`STRIDE`]. Without room what it held is given up.
    fn piece(&mut self, room: &Room) -> &mut Vec<V> {
        let is_full =
            self.pieces.last().is_none_or(|piece| piece.capacity() - piece.len() < bracket::room(STRIDE));
        if is_full && (self.pieces.is_empty() || room.take()) {
            self.pieces.push(Vec::new());
        }
        let last = self.pieces.len() - 1;
        let piece = &mut self.pieces[last];
        if piece.capacity() == 0 {
            *piece = pages::with_capacity(room.piece);
        } else if is_full {
            self.overflowed = true;
            piece.clear();
        }
        piece
    }
}

/// What a pass has found out about two ranks.
pub(super) enum Outcome<V> {
    /// Both are inside the bracket, or at its ends.
    Inside(Inside<V>),
    /// At least one is not, or too much is. Both are surely from `floor` to `ceiling`.
    Outside {
        /// The value is not smaller.
        floor: V,
        /// The value is not larger.
        ceiling: V,
    },
}

/// A bracket that holds two ranks, with what is inside.
pub(super) struct Inside<V> {
    pub(super) low: V,
    pub(super) high: V,
    /// How many numbers are below the lower end, or equal to it.
    pub(super) up_to_low: u64,
    /// How many are between the ends.
    pub(super) between: u64,
    /// All of those between, if a rank is one of theirs.
    pub(super) pieces: Vec<Vec<V>>,
}

/// How many pieces of memory may yet be taken, by any thread, beside the first one of each.
pub(super) struct Room {
    left: AtomicUsize,
    /// Values that a piece holds.
    piece: usize,
}

impl Room {
    /// Pays for what the bracket probably needs, and half as much; at most an eighth of the blocks.
    pub(super) fn new<V>(
        crew: &Crew,
        blocks: &[&[V]],
        bracket: &Bracket<V>,
        paid: &mut Paid,
    ) -> Result<Self, Fault> {
        let values = values(blocks);
        let needed = ((1.5 * bracket.share * values as f64) as u64).min(values / 8);
        let piece = (needed as usize).clamp(4 * STRIDE, PIECE);
        let pieces = needed / (piece - STRIDE) as u64;
        paid.hold((pieces + crew.threads() as u64) * (piece * size_of::<V>()) as u64)?;
        Ok(Room { left: AtomicUsize::new(pieces as usize), piece })
    }

    fn take(&self) -> bool {
        self.left.try_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// The most that was held at a time, paid from a lease.
pub(super) struct Paid<'a> {
    lease: &'a mut Lease,
    bytes: u64,
}

impl<'a> Paid<'a> {
    /// Nothing yet.
    pub(super) fn new(lease: &'a mut Lease) -> Self {
        Paid { lease, bytes: 0 }
    }

    /// So much is held from now on, and nothing of what was.
    fn hold(&mut self, bytes: u64) -> Result<(), Fault> {
        self.lease.grow(bytes.saturating_sub(self.bytes))?;
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }
}

pub(super) fn values<V>(blocks: &[&[V]]) -> u64 {
    blocks.iter().map(|block| block.len() as u64).sum()
}

/// Numbers that look random (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
struct Random(u64);

impl Random {
    fn new(seed: u64, stream: u64) -> Self {
        let mut random = Random(seed);
        Random(random.next() ^ Random(stream).next())
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}
