//! The two middle values: a sample brackets them, one pass over the blocks counts what is below the bracket and
//! gathers what is inside, and they are selected there (Floyd and Rivest, "Expected time bounds for selection", 1975).
//!
//! The sample decides how fast the answer is found, never what it is: counts prove that the bracket holds it. Where it
//! does not, or holds too much, another pass with another sample and a wider bracket follows, and after that bisection
//! of the keys, which needs no luck and no memory. No more than an eighth of the values is
//! ever gathered, and a piece for each thread.

use super::bracket::{Bracket, Gathered, Inside, Outcome, Paid, Room, values};
use super::budget::Lease;
use super::crew::Crew;
use super::mean::Sum;
use super::simd::Simd;
use super::value::Value;
use task_proto::fault::{Fault, FaultKind};

/// So many numbers are copied, and selected from.
const FEW: u64 = if cfg!(test) { 64 } else { 64 * 1024 };
/// Half widths of the brackets that are tried, in standard deviations: the first misses once in 370 times. (With 3.5, once in
/// 2,000, each median takes 3 % longer.)
const WIDTHS: [f64; 2] = [3.0, 16.0];
/// Values that are summed up, then compared, while they are in L2. The next ones come there meanwhile: without their
/// prefetch both took 1.17 times as long.
const SHARED: usize = if cfg!(test) { 128 } else { 8 * 1024 };
/// Buckets of a bisection.
const BUCKETS: usize = 4096;

/// The two middle values of `count` numbers; the middle one twice, if the count is odd.
///
/// Takes at most an eighth of the size of the blocks from the lease, and half a MiB for each thread at least.
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

/// A sum, how many values are NaN, and the two middle numbers, if there are numbers.
pub(super) type SumAndMiddle = (Sum, u64, Option<(f64, f64)>);

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
) -> Result<SumAndMiddle, Fault> {
    let mut paid = Paid::new(lease);
    let bracket = Bracket::sample(crew, blocks, 0.5, WIDTHS[0], &mut paid, seed)?;
    let room = Room::new(crew, blocks, &bracket, &mut paid)?;
    let states = crew.fold(
        blocks.len(),
        || (Sum::default(), 0, Gathered::default()),
        |(sum, missing, gathered), index| {
            let mut later = blocks[index].chunks(SHARED).skip(1);
            for part in blocks[index].chunks(SHARED) {
                *missing += sum.add(simd, part);
                bracket.pass(simd, part, later.next().unwrap_or_default(), &room, gathered);
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

impl<V: Value> Inside<V> {
    /// The values of the ranks.
    pub(super) fn select(
        self,
        simd: Simd,
        crew: &Crew,
        ranks: [u64; 2],
        lease: &mut Lease,
        seed: u64,
    ) -> Result<[V; 2], Fault> {
        let up_to_inside = self.up_to_low + self.between;
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
        select(simd, crew, &pieces, self.between, ranks, lease, seed.wrapping_add(1))
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
            bracket.pass(simd, blocks[index], &[], &room, gathered);
            Ok(())
        })?;
        let mut gathered = Gathered::default();
        for state in states {
            gathered.merge(state);
        }
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

fn no_such_rank() -> Fault {
    Fault::new(FaultKind::Internal, "there are fewer numbers than counted")
}

#[cfg(test)]
mod tests;
