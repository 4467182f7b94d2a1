//! The two middle values: a sample brackets them, one pass over the blocks counts what is below the bracket and
//! gathers what is inside, and they are selected there (Floyd and Rivest, "Expected time bounds for selection", 1975).
//!
//! The sample decides how fast the answer is found, never what it is: counts prove that the bracket holds it. Where it
//! does not, or holds too much, another pass with another sample and a wider bracket follows, and after that bisection
//! of the keys, which needs no luck and no memory. No more than an eighth of the values is ever gathered.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::engine::budget::Lease;
use crate::engine::crew::Crew;
use task_proto::fault::{Fault, FaultKind};
use crate::engine::kernels::bracket::{self, Counts};
use crate::engine::mean::Sum;
use crate::engine::simd::Simd;
use crate::engine::value::Value;

/// So many numbers are copied, and selected from.
const FEW: u64 = if cfg!(test) { 64 } else { 64 * 1024 };
/// Values of a sample.
const SAMPLE: std::ops::RangeInclusive<u64> = if cfg!(test) { 256..=4096 } else { 16 * 1024..=64 * 1024 };
/// Blocks that are sampled in one step.
const SAMPLED_BLOCKS: usize = 16;
/// Half widths of the brackets that are tried, in standard deviations: the first misses once in 16,000 times.
const WIDTHS: [f64; 2] = [3.5, 16.0];
/// Values that a piece of memory holds: 1 MiB.
const PIECE: usize = if cfg!(test) { 256 } else { 128 * 1024 };
/// Values of one call of the kernel, for which there must be room in a piece.
const STRIDE: usize = if cfg!(test) { 50 } else { 16 * 1024 };
/// Values that are summed up, then compared, while they are in L2.
const SHARED: usize = if cfg!(test) { 128 } else { 32 * 1024 };
/// Buckets of a bisection.
const BUCKETS: usize = 4096;

/// The two middle values of `count` numbers; the middle one twice, if the count is odd.
///
/// Takes at most an eighth of the size of the blocks from the lease, and half a MiB for each thread.
///
/// # Errors
/// `TooLarge`; the crew's. `Internal`, if there are not so many numbers.
pub fn middle<V: Value>(
    simd: Simd,
    crew: &Crew,
    blocks: &[&[V]],
    count: u64,
    lease: &mut Lease,
    seed: u64,
) -> Result<(V, V), Fault> {
    let [low, high] = select(simd, crew, blocks, count, middle_ranks(count)?, lease, seed)?;
    Ok((low, high))
}

/// The sum of all floats, how many of them are NaN, and the two middle numbers, if there are numbers.
///
/// # Errors
/// As those of [`middle`].
pub fn sum_and_middle(
    simd: Simd,
    crew: &Crew,
    blocks: &[&[f64]],
    lease: &mut Lease,
    seed: u64,
) -> Result<(Sum, u64, Option<(f64, f64)>), Fault> {
    let mut paid = Paid::new(lease);
    let bracket = Bracket::sample(crew, blocks, 0.5, WIDTHS[0], &mut paid, seed)?;
    let room = Room::new(crew, blocks, &bracket, &mut paid)?;
    let states = crew.fold(
        blocks.len(),
        || (Sum::default(), 0, Gathered::default()),
        |(sum, missing, gathered), index| {
            for part in blocks[index].chunks(SHARED) {
                *missing += sum.add(simd, part);
                bracket.pass(simd, part, &room, gathered);
            }
            Ok(())
        },
    )?;
    let mut sum = Sum::default();
    let mut missing = 0;
    let mut gathered = Gathered::default();
    for (other, nan, inside) in states {
        sum.merge(&other);
        missing += nan as u64;
        gathered.merge(inside);
    }
    let count = values(blocks) - missing;
    if count == 0 {
        return Ok((sum, missing, None));
    }
    let ranks = middle_ranks(count)?;
    let [low, high] = match bracket.finish(gathered, blocks, count, ranks) {
        Outcome::Inside(inside) => inside.select(simd, crew, ranks, lease, seed)?,
        Outcome::Outside { .. } => select(simd, crew, blocks, count, ranks, lease, !seed)?,
    };
    Ok((sum, missing, Some((low, high))))
}

/// Two values between which some rank probably is.
#[derive(Debug, Clone, Copy)]
pub struct Bracket<V> {
    low: V,
    high: V,
    /// Which part of the numbers is probably inside.
    share: f64,
}

impl<V: Value> Bracket<V> {
    /// Brackets the number below which there is this part of all numbers, so many standard deviations to each side.
    pub fn sample(
        crew: &Crew,
        blocks: &[&[V]],
        quantile: f64,
        deviations: f64,
        paid: &mut Paid,
        seed: u64,
    ) -> Result<Self, Fault> {
        let values = values(blocks);
        // A larger sample costs some 15 ns a value, a wider bracket some 1 ns for each number inside.
        let wanted = ((values as f64 / 16.0).powf(2.0 / 3.0) as u64).clamp(*SAMPLE.start(), *SAMPLE.end());
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

    /// Counts and gathers the values of a block. Where there is no more room, it only counts.
    pub fn pass(&self, simd: Simd, block: &[V], room: &Room, gathered: &mut Gathered<V>) {
        for part in block.chunks(STRIDE) {
            let piece = gathered.piece(room);
            let before = piece.len();
            let counts = bracket::pass(simd, part, self.low, self.high, piece);
            gathered.inside += (piece.len() - before) as u64;
            gathered.counts = gathered.counts.plus(counts);
        }
    }

    /// What is found of two successive ranks among the `count` numbers, once all blocks have passed.
    pub fn finish(self, gathered: Gathered<V>, blocks: &[&[V]], count: u64, ranks: [u64; 2]) -> Outcome<V> {
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
            Outcome::Inside(Inside { low, high, up_to_low, inside, pieces })
        } else {
            Outcome::Outside { floor, ceiling }
        }
    }

    /// This bracket without what is certainly too small or too large.
    fn within(self, floor: V, ceiling: V) -> Self {
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
pub struct Gathered<V> {
    counts: Counts,
    /// How many were inside, gathered or not.
    inside: u64,
    pieces: Vec<Vec<V>>,
    overflowed: bool,
}

impl<V> Default for Gathered<V> {
    fn default() -> Self {
        Gathered { counts: Counts::default(), inside: 0, pieces: Vec::new(), overflowed: false }
    }
}

impl<V> Gathered<V> {
    /// Adds what another thread has.
    pub fn merge(&mut self, other: Gathered<V>) {
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
            piece.reserve_exact(PIECE);
        } else if is_full {
            self.overflowed = true;
            piece.clear();
        }
        piece
    }
}

/// What a pass has found out about two ranks.
pub enum Outcome<V> {
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
pub struct Inside<V> {
    low: V,
    high: V,
    up_to_low: u64,
    inside: u64,
    pieces: Vec<Vec<V>>,
}

impl<V: Value> Inside<V> {
    /// The values of the ranks.
    pub fn select(
        self,
        simd: Simd,
        crew: &Crew,
        ranks: [u64; 2],
        lease: &mut Lease,
        seed: u64,
    ) -> Result<[V; 2], Fault> {
        let up_to_inside = self.up_to_low + self.inside;
        let is_inner = |rank: &u64| (self.up_to_low..up_to_inside).contains(rank);
        let inner: Vec<u64> = ranks.into_iter().filter(is_inner).map(|rank| rank - self.up_to_low).collect();
        let mut found = match inner[..] {
            [first, .., second] => self.select_inner(simd, crew, [first, second], lease, seed)?,
            [only] => self.select_inner(simd, crew, [only, only], lease, seed)?,
            [] => [self.low, self.high],
        };
        for (found, rank) in found.iter_mut().zip(ranks) {
            if rank < self.up_to_low {
                *found = self.low;
            } else if rank >= up_to_inside {
                *found = self.high;
            }
        }
        Ok(found)
    }

    fn select_inner(
        &self,
        simd: Simd,
        crew: &Crew,
        ranks: [u64; 2],
        lease: &mut Lease,
        seed: u64,
    ) -> Result<[V; 2], Fault> {
        let pieces: Vec<&[V]> = self.pieces.iter().map(Vec::as_slice).collect();
        select(simd, crew, &pieces, self.inside, ranks, lease, seed.wrapping_add(1))
    }
}

/// How many pieces of memory may yet be taken, by any thread, beside the first one of each.
pub struct Room(AtomicUsize);

impl Room {
    /// Pays for what the bracket probably needs, and half as much; at most an eighth of the blocks.
    pub fn new<V>(
        crew: &Crew,
        blocks: &[&[V]],
        bracket: &Bracket<V>,
        paid: &mut Paid,
    ) -> Result<Self, Fault> {
        let values = values(blocks);
        let needed = ((1.5 * bracket.share * values as f64) as u64).min(values / 8);
        let pieces = needed / (PIECE - STRIDE) as u64;
        paid.hold((pieces + crew.threads() as u64) * (PIECE * size_of::<V>()) as u64)?;
        Ok(Room(AtomicUsize::new(pieces as usize)))
    }

    fn take(&self) -> bool {
        self.0.try_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// The most that was held at a time, paid from a lease.
pub struct Paid<'a> {
    lease: &'a mut Lease,
    bytes: u64,
}

impl<'a> Paid<'a> {
    /// Nothing yet.
    pub fn new(lease: &'a mut Lease) -> Self {
        Paid { lease, bytes: 0 }
    }

    /// So much is held from now on, and nothing of what was.
    fn hold(&mut self, bytes: u64) -> Result<(), Fault> {
        self.lease.grow(bytes.saturating_sub(self.bytes))?;
        self.bytes = self.bytes.max(bytes);
        Ok(())
    }
}

fn select<V: Value>(
    simd: Simd,
    crew: &Crew,
    blocks: &[&[V]],
    count: u64,
    ranks: [u64; 2],
    lease: &mut Lease,
    seed: u64,
) -> Result<[V; 2], Fault> {
    if count <= FEW {
        return select_few(crew, blocks, count, ranks, lease);
    }
    let mut paid = Paid::new(lease);
    let (mut lowest, mut highest) = (V::LOWEST, V::HIGHEST);
    for (attempt, deviations) in WIDTHS.into_iter().enumerate() {
        let quantile = ranks[0] as f64 / count as f64;
        let seed = seed.wrapping_add((attempt as u64) << 32);
        let bracket = Bracket::sample(crew, blocks, quantile, deviations, &mut paid, seed)?;
        let bracket = bracket.within(lowest, highest);
        let room = Room::new(crew, blocks, &bracket, &mut paid)?;
        let states = crew.fold(blocks.len(), Gathered::default, |gathered, index| {
            bracket.pass(simd, blocks[index], &room, gathered);
            Ok(())
        })?;
        let mut gathered = Gathered::default();
        states.into_iter().for_each(|state| gathered.merge(state));
        match bracket.finish(gathered, blocks, count, ranks) {
            Outcome::Inside(inside) => return inside.select(simd, crew, ranks, lease, seed),
            Outcome::Outside { floor, ceiling } => {
                lowest = if floor > lowest { floor } else { lowest };
                highest = if ceiling < highest { ceiling } else { highest };
            }
        }
    }
    let first = bisect(crew, blocks, ranks[0], lowest, highest)?;
    let second = if ranks[1] == ranks[0] { first } else { bisect(crew, blocks, ranks[1], first, highest)? };
    Ok([first, second])
}

fn select_few<V: Value>(
    crew: &Crew,
    blocks: &[&[V]],
    count: u64,
    ranks: [u64; 2],
    lease: &mut Lease,
) -> Result<[V; 2], Fault> {
    // Each thread's vector grows to twice its length at most, and all of them are joined.
    lease.grow(3 * count * size_of::<i64>() as u64)?;
    let keys = crew.fold(blocks.len(), Vec::new, |keys, index| {
        keys.extend(blocks[index].iter().filter(|value| value.is_number()).map(|value| value.key()));
        Ok(())
    })?;
    let mut keys = keys.concat();
    let [first, second] = ranks.map(|rank| rank as usize);
    if second >= keys.len() {
        return Err(no_such_rank());
    }
    let (_, &mut high, _) = keys.select_nth_unstable(second);
    let low = if first == second { high } else { keys[..second].iter().copied().max().unwrap_or(high) };
    Ok([low, high].map(V::from_key))
}

/// The value of a rank, which surely is from `low` to `high`. Each of at most six passes divides the keys that it may
/// have by 2048 at least.
fn bisect<V: Value>(crew: &Crew, blocks: &[&[V]], rank: u64, low: V, high: V) -> Result<V, Fault> {
    let (mut low, mut high) = (low.key(), high.key());
    while low != high {
        let width = high.wrapping_sub(low) as u64;
        let shift = (u64::BITS - width.leading_zeros()).saturating_sub(BUCKETS.ilog2());
        let states = crew.fold(
            blocks.len(),
            || (0, vec![0_u64; BUCKETS]),
            |(below, buckets), index| {
                for key in blocks[index].iter().map(|value| value.key()) {
                    let offset = key.wrapping_sub(low) as u64;
                    if key < low {
                        *below += 1;
                    } else if offset <= width
                        && let Some(bucket) = buckets.get_mut((offset >> shift) as usize)
                    {
                        *bucket += 1;
                    }
                }
                Ok(())
            },
        )?;
        let mut up_to: u64 = states.iter().map(|(below, _)| below).sum();
        let holds_rank = |bucket: &usize| {
            up_to += states.iter().map(|(_, buckets)| buckets[*bucket]).sum::<u64>();
            rank < up_to
        };
        let bucket = (0..BUCKETS).find(holds_rank).ok_or_else(no_such_rank)?;
        low = low.wrapping_add((bucket as i64) << shift);
        high = high.min(low.saturating_add((1 << shift) - 1));
    }
    Ok(V::from_key(low))
}

fn middle_ranks(count: u64) -> Result<[u64; 2], Fault> {
    let last = count.checked_sub(1).ok_or_else(no_such_rank)?;
    Ok([last / 2, count / 2])
}

fn values<V>(blocks: &[&[V]]) -> u64 {
    blocks.iter().map(|block| block.len() as u64).sum()
}

fn no_such_rank() -> Fault {
    Fault::new(FaultKind::Internal, "there are fewer numbers than counted")
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
        (u128::from(self.next()) * u128::from(bound) >> 64) as u64
    }
}

#[cfg(test)]
mod tests;
