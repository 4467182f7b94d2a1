//! Sums without error: of floats into two or three bins, of integers into two halves.
//!
//! A bin is a float far larger than what is added to it, so that an addition rounds to a multiple of the bin's last
//! place and leaves a rest, which is exact and goes to the next bin (Rump, Ogita, Oishi 2008; Demmel and Nguyen,
//! "Fast reproducible floating-point summation", 2013). Three bins hold 120 bits below the exponent for which they are
//! made, two hold 80. Where no rest is left behind the last one, their sums are exact: this is seen, not assumed.
//!
//! One body, compiled for each level. One thread on values in L2, ns a value: three bins 0.65 portable (SSE2), 0.36 AVX2,
//! 0.142 AVX-512 (of values in memory two bins take 0.75, 0.87 and 0.98 of what three take), a survey 0.34, 0.165, 0.095.
//! Integers take 0.265 on any level, at the speed of memory.

#![expect(unsafe_code, reason = "a function compiled for a level is called where a `Simd` proves the level")]

use super::super::simd::{Level, Simd};

/// Additions into one lane of a bin, at most: 11 bits of each bin are for their carries.
const ADDITIONS: usize = 1 << 11;
/// Lanes of a bin at the highest level.
const LANES: usize = 16;
/// Enough for most values.
pub(crate) const FEW_BINS: usize = 2;
/// As many as there are at most.
pub(crate) const MANY_BINS: usize = 3;
const FRACTION_BITS: i32 = 52;
/// Exponents that lie between two bins: 53 bits, less the carries and the sign.
const STEP: i32 = 40;

/// The exact sum of the values of a chunk that are smaller than the limit.
pub(crate) struct Bins {
    /// What is in each bin, and the exponent of its unit.
    pub terms: [(i64, i32); MANY_BINS],
    /// Whether there was no rest. Otherwise the terms mean nothing.
    pub exact: bool,
    /// Whether all values were smaller than the limit.
    pub complete: bool,
}

/// What a look at a chunk shows.
pub(crate) struct Survey {
    /// How many NaN.
    pub nan: usize,
    /// Values of at least the limit, infinities among them.
    pub beyond: usize,
    /// The largest magnitude below infinity.
    pub largest: f64,
    /// A magnitude that only few exceed, where those that do are strewn at random.
    pub typical: f64,
}

/// The largest exponent for which there are bins: the first one lies 13 above, and is a float.
pub(crate) const HIGHEST: i32 = 1009;
/// The smallest exponent for which there are bins: the last one lies 67 below, and no rest is smaller than a float.
pub(crate) const LOWEST: i32 = -955;

/// Values of a chunk, at most.
pub(crate) fn chunk(simd: Simd) -> usize {
    ADDITIONS * lanes(simd)
}

/// Chunks are a multiple of this; it divides [`chunk`].
pub(crate) fn lanes(simd: Simd) -> usize {
    match simd.level() {
        Level::Avx512 => LANES,
        Level::Avx2 => LANES / 2,
        Level::Portable => LANES / 4,
    }
}

/// All values whose exponent is at most this are smaller than the limit.
pub(crate) fn limit(exponent: i32) -> f64 {
    power(exponent.clamp(LOWEST, HIGHEST) + 1)
}

/// Sums up the values of magnitudes below [`limit`] of this exponent, which is brought into the range that has bins.
/// What is beyond one [`chunk`], or behind the last whole group of [`lanes`], is left out.
pub(crate) fn bins<const BINS: usize>(simd: Simd, values: &[f64], exponent: i32) -> Bins {
    const { assert!(BINS <= MANY_BINS) };
    let limit = limit(exponent);
    let first = exponent.clamp(LOWEST, HIGHEST) + 13;
    let anchors = std::array::from_fn::<_, BINS, _>(|bin| 1.5 * power(first - STEP * bin as i32));
    let values = &values[..values.len().min(chunk(simd))];
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` of this level exists only where the processor has it.
        Level::Avx512 => unsafe { bins_avx512(values, anchors, limit) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { bins_avx2(values, anchors, limit) },
        _ => bins_in_lanes::<{ LANES / 4 }, BINS>(values, anchors, limit),
    }
}

/// Looks at a chunk: how many values are NaN or reach the limit, and which is the largest.
pub(crate) fn survey(simd: Simd, values: &[f64], limit: f64) -> Survey {
    match simd.level() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Simd` of this level exists only where the processor has it.
        Level::Avx512 => unsafe { survey_avx512(values, limit) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx2 => unsafe { survey_avx2(values, limit) },
        _ => survey_in_lanes::<{ LANES / 4 }>(values, limit),
    }
}

/// The sum of a block of at most 2³¹ integers.
///
/// Their upper and lower halves are added apart, so that nothing overflows.
pub(crate) fn ints(values: &[i64]) -> i128 {
    const LANES: usize = 8;
    let (groups, rest) = values.as_chunks::<LANES>();
    let mut upper = [0_u64; LANES];
    let mut lower = [0_u64; LANES];
    for group in groups {
        for lane in 0..LANES {
            // Without a sign, and 2⁶³ too large: SSE2 and AVX2 shift no signed 64 bits.
            let biased = (group[lane] ^ i64::MIN) as u64;
            upper[lane] += biased >> 32;
            lower[lane] += biased & 0xffff_ffff;
        }
    }
    let upper: i128 = upper.into_iter().map(i128::from).sum();
    let lower: i128 = lower.into_iter().map(i128::from).sum();
    let bias = (groups.len() * LANES) as i128 * -i128::from(i64::MIN);
    (upper << 32) + lower - bias + rest.iter().map(|&value| i128::from(value)).sum::<i128>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn bins_avx512<const BINS: usize>(values: &[f64], anchors: [f64; BINS], limit: f64) -> Bins {
    bins_in_lanes::<LANES, BINS>(values, anchors, limit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn bins_avx2<const BINS: usize>(values: &[f64], anchors: [f64; BINS], limit: f64) -> Bins {
    bins_in_lanes::<{ LANES / 2 }, BINS>(values, anchors, limit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn survey_avx512(values: &[f64], limit: f64) -> Survey {
    survey_in_lanes::<{ 2 * LANES }>(values, limit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn survey_avx2(values: &[f64], limit: f64) -> Survey {
    survey_in_lanes::<LANES>(values, limit)
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the level of its caller")]
fn survey_in_lanes<const WIDE: usize>(values: &[f64], limit: f64) -> Survey {
    let mut nan = [0_u64; WIDE];
    let mut beyond = [0_u64; WIDE];
    let mut largest = [0.0_f64; WIDE];
    let mut look = |values: &[f64; WIDE]| {
        for lane in 0..WIDE {
            let magnitude = values[lane].abs();
            nan[lane] += u64::from(magnitude.is_nan());
            beyond[lane] += u64::from(magnitude >= limit);
            let finite = if magnitude < f64::INFINITY { magnitude } else { 0.0 };
            largest[lane] = if finite > largest[lane] { finite } else { largest[lane] };
        }
    };
    let (groups, rest) = values.as_chunks();
    groups.iter().for_each(&mut look);
    let mut last = [0.0; WIDE];
    last[..rest.len()].copy_from_slice(rest);
    look(&last);
    Survey {
        nan: nan.iter().sum::<u64>() as usize,
        beyond: beyond.iter().sum::<u64>() as usize,
        largest: largest.into_iter().fold(0.0, f64::max),
        typical: largest.into_iter().fold(f64::MAX, f64::min),
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "compiled for the level of its caller")]
fn bins_in_lanes<const WIDE: usize, const BINS: usize>(
    values: &[f64],
    anchors: [f64; BINS],
    limit: f64,
) -> Bins {
    let mut sums = anchors.map(|anchor| [anchor; WIDE]);
    let mut rests = [0; WIDE];
    let mut small = [u64::MAX; WIDE];
    for group in values.as_chunks::<WIDE>().0 {
        for lane in 0..WIDE {
            // Neither infinities nor NaN are smaller than the limit.
            let is_small = group[lane].abs() < limit;
            small[lane] &= if is_small { u64::MAX } else { 0 };
            let mut rest = if is_small { group[lane] } else { 0.0 };
            for sum in &mut sums {
                let before = sum[lane];
                sum[lane] += rest;
                rest -= sum[lane] - before;
            }
            rests[lane] |= rest.to_bits();
        }
    }
    let mut terms = [(0, 0); MANY_BINS];
    for (term, (lanes, anchor)) in terms.iter_mut().zip(sums.iter().zip(anchors)) {
        // All are of one binade: their bits differ by what was added, in units of the last place.
        let added: i64 = lanes.iter().map(|lane| lane.to_bits().wrapping_sub(anchor.to_bits()) as i64).sum();
        *term = (added, exponent(anchor) - FRACTION_BITS);
    }
    // A rest of −0 is none.
    let exact = rests.iter().all(|rest| rest << 1 == 0);
    Bins { terms, exact, complete: small.iter().all(|&small| small == u64::MAX) }
}

fn exponent(float: f64) -> i32 {
    (float.to_bits() >> FRACTION_BITS) as i32 - 1023
}

/// 2 to this power, which is that of a normal float.
fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << FRACTION_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_chunk_of_the_largest_values_overflows_no_bin() {
        for simd in Simd::all() {
            for exponent in [LOWEST, 0, HIGHEST] {
                // One unit in the last place below the limit, with every bit set: each bin rounds and leaves a rest.
                let value = limit(exponent).next_down();
                let mantissa = (1_i128 << 53) - 1;
                for (sign, many) in [(1, false), (-1, false), (1, true), (-1, true)] {
                    let values = vec![f64::from(sign) * value; chunk(simd)];
                    let bins = if many {
                        bins::<MANY_BINS>(simd, &values, exponent)
                    } else {
                        bins::<FEW_BINS>(simd, &values, exponent)
                    };
                    assert!(bins.exact && bins.complete);
                    // In units of the value's last place, which is 13 below that of the first bin.
                    let [(first, unit), (second, _), (third, _)] = bins.terms;
                    assert_eq!(unit, exponent - FRACTION_BITS + 13);
                    let lower = (i128::from(second) << STEP) + i128::from(third);
                    let sum = (i128::from(first) << 13) + (lower >> (2 * STEP - 13));
                    assert_eq!(
                        sum,
                        i128::from(sign) * mantissa * chunk(simd) as i128,
                        "{simd:?}, exponent {exponent}"
                    );
                    assert_eq!(lower % (1 << (2 * STEP - 13)), 0);
                }
            }
        }
    }

    #[test]
    fn no_sum_of_integers_overflows() {
        for value in [i64::MIN, i64::MAX, -1] {
            assert_eq!(ints(&[value; 1003]), i128::from(value) * 1003);
        }
    }
}
