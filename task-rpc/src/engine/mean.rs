//! The exact mean: an exact sum and one division that is rounded once.
//!
//! The sum of floats is a fixed-point number wide enough for every `f64` and for 2⁶⁴ of them (Kulisch's long
//! accumulator), so no order, no number of threads and no cancellation of terms can change a bit of it. A value at a
//! time it takes 4 ns. Blocks come to it by one of two ways that are as exact and faster:
//! * [bins](super::kernels::sum) for values whose exponents lie within some 65 of each other, or 25 where two bins are
//!   enough: at the speed of memory;
//! * a table with one sum for each sign and exponent, for all others: 0.4–1.1 ns a value and thread.

use task_proto::limits::INLINE_NUMBERS;

use super::kernels::sum::{self, FEW_BINS, MANY_BINS};
use super::simd::Simd;

/// Floats of which [`mean_of_few`] is taken.
const MOST_OF_FEW: usize = INLINE_NUMBERS;
/// Exponent of the unit of a [`Sum`]: the smallest subnormal.
const UNIT: i32 = -1074;
/// 2098 bits for all exponents, 64 for the number of terms, one for the sign, in digits of 32.
const DIGITS: usize = 68;
const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;
const FRACTION: u64 = (1 << FRACTION_BITS) - 1;
const NOT_FINITE: usize = 0x7ff;
const SIGNS_AND_EXPONENTS: usize = 1 << 12;
/// One value in so many is added by itself, where it is beyond what suits the others; one chunk in so many is tried again
/// with few bins.
const FEW: usize = 64;
/// Values among which one attempt with bins that fails costs little.
const SPREAD: usize = 256 * 1024;

/// The sum of a block of at most 2³¹ integers.
pub fn sum_ints(block: &[i64]) -> i128 {
    sum::ints(block)
}

/// The `f64` nearest to the exact rational mean, ties to even; NaN for none.
pub fn mean_of_ints(sum: i128, count: u64) -> f64 {
    mean_of_scaled(sum, 0, count)
}

/// The same of at most [`MOST_OF_FEW`] floats, none of which is NaN. Where their exponents lie near each other, as most do,
/// their sum is an integer of 128 bits, and no [`Sum`] of half a KiB is made, carried and divided.
pub(super) fn mean_of_few(simd: Simd, floats: impl Iterator<Item = f64> + Clone) -> f64 {
    let Some((sum, unit, count)) = scaled_sum(floats.clone()) else {
        let floats: Vec<f64> = floats.collect();
        let mut sum = Sum::default();
        sum.add(simd, &floats);
        return sum.mean(floats.len() as u64);
    };
    mean_of_scaled(sum, unit, count)
}

/// The exact sum of floats, in units of this power of two, and how many they are; `None`, if it is no integer of 128 bits.
fn scaled_sum(floats: impl Iterator<Item = f64> + Clone) -> Option<(i128, i32, u64)> {
    /// A magnitude has 53 bits more, and a sum of so many [`MOST_OF_FEW`].
    const RANGE: usize = 127 - 53 - MOST_OF_FEW.ilog2() as usize;
    // Subnormals have the unit of the next exponent.
    let exponent = |float: f64| ((float.to_bits() >> FRACTION_BITS) as usize & NOT_FINITE).max(1);
    let (mut least, mut most, mut count) = (NOT_FINITE, 0, 0);
    floats.clone().for_each(|float| {
        count += 1;
        if float != 0.0 {
            least = least.min(exponent(float));
            most = most.max(exponent(float));
        }
    });
    if most == NOT_FINITE || most >= least + RANGE || count > MOST_OF_FEW {
        return None;
    }
    let term = |float: f64| {
        let hidden = u64::from(float.is_normal()) << FRACTION_BITS;
        let magnitude =
            i128::from(float.to_bits() & FRACTION | hidden) << (exponent(float).max(least) - least);
        if float < 0.0 { -magnitude } else { magnitude }
    };
    Some((floats.map(term).sum(), unit(least), count as u64))
}

/// The `f64` nearest to a sum in units of this power of two over a count, ties to even; NaN for none.
fn mean_of_scaled(sum: i128, unit: i32, count: u64) -> f64 {
    let zeros = if sum == 0 { 0 } else { sum.trailing_zeros() };
    let (magnitude, unit) = (sum.unsigned_abs() >> zeros, unit + zeros as i32);
    let most = 1 << f64::MANTISSA_DIGITS;
    if magnitude <= most && (1..=most as u64).contains(&count) && unit.abs() <= 900 {
        // Both are floats, so that their quotient is rounded once; it is normal, and stays so times the power.
        let scale = f64::from_bits(((unit + 1023) as u64) << FRACTION_BITS);
        let quotient = magnitude as u64 as f64 / count as f64 * scale;
        return if sum < 0 { -quotient } else { quotient };
    }
    let digits = [0, 32, 64, 96].map(|shift| (magnitude >> shift) as u32);
    quotient(sum < 0, &digits, unit, count)
}

/// An exact sum of at most 2⁶³ floats.
#[derive(Debug, Clone)]
pub struct Sum {
    /// Digits of 32 bits from the lowest, each of which may for a while be larger, or negative.
    digits: [i64; DIGITS],
    positive_infinity: bool,
    negative_infinity: bool,
    /// The exponent that suited the last bins.
    exponent: Option<i32>,
    /// So many chunks more go to many bins at once, as few have left a rest.
    many_bins: usize,
    /// So many values more go to the table at once, as the last ones that were tried suited no bins.
    spread: usize,
    /// What is to be added to the digits. 128 KiB, for those that need it.
    table: Option<Box<Table>>,
}

impl Default for Sum {
    fn default() -> Self {
        Sum {
            digits: [0; DIGITS],
            positive_infinity: false,
            negative_infinity: false,
            exponent: None,
            many_bins: 0,
            spread: 0,
            table: None,
        }
    }
}

impl Sum {
    /// Adds a block of at most 2³⁰ values, and counts the NaN, which add nothing.
    pub fn add(&mut self, simd: Simd, block: &[f64]) -> usize {
        let whole = block.len() - block.len() % sum::lanes(simd);
        let (whole, rest) = block.split_at(whole);
        let mut nan = 0;
        for chunk in whole.chunks(sum::chunk(simd)) {
            let binned = if self.spread == 0 { self.add_to_bins(simd, chunk) } else { None };
            nan += binned.unwrap_or_else(|| self.add_to_table(simd, chunk));
        }
        for &value in rest {
            nan += usize::from(value.is_nan());
            self.add_one(value);
        }
        self.carry();
        nan
    }

    /// Adds an integer below 2¹²⁶, in any order with all else.
    pub fn add_int(&mut self, int: i128) {
        let magnitude = int.unsigned_abs();
        add_scaled(&mut self.digits, int < 0, 0, magnitude & u128::from(u64::MAX));
        add_scaled(&mut self.digits, int < 0, u64::BITS as i32, magnitude >> u64::BITS);
        self.carry();
    }

    /// Adds what another one has.
    pub fn merge(&mut self, other: &Sum) {
        for (digit, more) in self.digits.iter_mut().zip(other.digits) {
            *digit += more;
        }
        if let Some(table) = &other.table {
            table.add_to(&mut self.digits);
        }
        self.positive_infinity |= other.positive_infinity;
        self.negative_infinity |= other.negative_infinity;
        self.carry();
    }

    /// The `f64` nearest to the exact sum over this count, ties to even. With infinities: infinite, or NaN for both.
    /// NaN for a count of 0.
    pub fn mean(&self, count: u64) -> f64 {
        match (self.positive_infinity, self.negative_infinity) {
            (true, true) => return f64::NAN,
            (true, false) => return f64::INFINITY,
            (false, true) => return f64::NEG_INFINITY,
            (false, false) => {}
        }
        let mut all = Sum::default();
        all.merge(self);
        let negative = all.digits[DIGITS - 1] < 0;
        if negative {
            all.digits = all.digits.map(|digit| -digit);
            all.carry();
        }
        quotient(negative, &all.digits.map(|digit| digit as u32), UNIT, count)
    }

    /// Adds a chunk, if some exponent suits nearly all of it, and counts the NaN.
    fn add_to_bins(&mut self, simd: Simd, chunk: &[f64]) -> Option<usize> {
        let last = self.exponent.and_then(|exponent| self.add_to_bins_of(simd, chunk, exponent));
        last.or_else(|| {
            let survey = sum::survey(simd, chunk, f64::INFINITY);
            let added = [survey.largest, survey.typical]
                .into_iter()
                .find_map(|large| self.add_to_bins_of(simd, chunk, suited_to(large)));
            if added.is_none() {
                self.spread = SPREAD;
            }
            added
        })
    }

    /// Adds a chunk, if this exponent suits nearly all of it, and counts the NaN.
    fn add_to_bins_of(&mut self, simd: Simd, chunk: &[f64], exponent: i32) -> Option<usize> {
        let few = (self.many_bins == 0).then(|| sum::bins::<FEW_BINS>(simd, chunk, exponent));
        let bins = few.filter(|bins| bins.exact).unwrap_or_else(|| {
            self.many_bins = self.many_bins.checked_sub(1).unwrap_or(FEW);
            sum::bins::<MANY_BINS>(simd, chunk, exponent)
        });
        if !bins.exact {
            return None;
        }
        let mut nan = 0;
        if !bins.complete {
            let limit = sum::limit(exponent);
            let survey = sum::survey(simd, chunk, limit);
            if survey.beyond > chunk.len() / FEW {
                return None;
            }
            if survey.beyond > 0 {
                // Groups first, which is vectorised: a look at each value alone takes 0.5 ns.
                let is_beyond = |value: &&f64| value.abs() >= limit;
                for group in chunk.chunks(64).filter(|group| group.iter().filter(is_beyond).count() > 0) {
                    group.iter().filter(is_beyond).for_each(|&value| self.add_one(value));
                }
            }
            nan = survey.nan;
        }
        for (term, unit) in bins.terms {
            add_scaled(&mut self.digits, term < 0, unit, u128::from(term.unsigned_abs()));
        }
        self.exponent = Some(exponent);
        Some(nan)
    }

    /// Adds a chunk of any values, and counts the NaN.
    fn add_to_table(&mut self, simd: Simd, chunk: &[f64]) -> usize {
        let survey = sum::survey(simd, chunk, f64::INFINITY);
        if survey.beyond > 0 {
            self.positive_infinity |= chunk.contains(&f64::INFINITY);
            self.negative_infinity |= chunk.contains(&f64::NEG_INFINITY);
        }
        self.spread = self.spread.saturating_sub(chunk.len());
        let table = self.table.get_or_insert_default();
        table.add(chunk);
        if table.values >= Table::MOST {
            table.add_to(&mut self.digits);
            self.table = None;
            self.carry();
        }
        survey.nan
    }

    /// Adds one value. Up to 2³⁰ are added before a [`carry`](Self::carry).
    fn add_one(&mut self, value: f64) {
        let bits = value.to_bits();
        let exponent = (bits >> FRACTION_BITS) as usize & NOT_FINITE;
        if exponent == NOT_FINITE {
            self.positive_infinity |= value > 0.0;
            self.negative_infinity |= value < 0.0;
            return;
        }
        let hidden = u64::from(exponent != 0) << FRACTION_BITS;
        add_scaled(
            &mut self.digits,
            value.is_sign_negative(),
            unit(exponent),
            u128::from(bits & FRACTION | hidden),
        );
    }

    /// Brings every digit but the highest back into 32 bits; the highest keeps the sign.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits[..DIGITS - 1] {
            let sum = *digit + carry;
            carry = sum >> 32;
            *digit = sum & 0xffff_ffff;
        }
        self.digits[DIGITS - 1] += carry;
    }
}

/// For each sign and exponent the count and the sum of the fractions of its values, in one number: adding a value is
/// one addition of 128 bits. (A single table of signed mantissas is smaller, but 0.75 ns a value everywhere; this is 0.45 where
/// exponents repeat, 1.05 where all 4096 occur. Radford Neal, "Fast exact summation using small and large superaccumulators",
/// 2015, counts apart.)
#[derive(Debug, Clone)]
struct Table {
    /// Twice, by turns, so that an addition seldom waits for the one before it.
    sums: Vec<u128>,
    values: u64,
}

impl Default for Table {
    fn default() -> Self {
        Table { sums: vec![0; 2 * SIGNS_AND_EXPONENTS], values: 0 }
    }
}

impl Table {
    /// The lowest bit of the counts. Below it there is room for as many fractions as can be counted above it.
    const COUNT: u32 = 90;
    /// With this many values it is to be emptied, after the block that brought them.
    const MOST: u64 = 1 << (u128::BITS - Table::COUNT - 1);

    fn add(&mut self, values: &[f64]) {
        self.values += values.len() as u64;
        let ([even, odd], _) = self.sums.as_chunks_mut() else { return };
        let (pairs, rest) = values.as_chunks::<2>();
        for pair in pairs {
            Table::add_one(even, pair[0]);
            Table::add_one(odd, pair[1]);
        }
        for &value in rest {
            Table::add_one(even, value);
        }
    }

    #[inline]
    fn add_one(sums: &mut [u128; SIGNS_AND_EXPONENTS], value: f64) {
        let bits = value.to_bits();
        let sum = &mut sums[(bits >> FRACTION_BITS) as usize];
        // Of NaN there may be more than can be counted.
        *sum = sum.wrapping_add(1 << Table::COUNT | u128::from(bits & FRACTION));
    }

    /// Adds all values but infinities and NaN. The digits are not carried.
    fn add_to(&self, digits: &mut [i64; DIGITS]) {
        for (index, &sum) in self.sums.iter().enumerate() {
            let exponent = index & NOT_FINITE;
            if sum != 0 && exponent != NOT_FINITE {
                let fractions = sum & ((1 << Table::COUNT) - 1);
                let hidden = if exponent == 0 { 0 } else { sum >> Table::COUNT << FRACTION_BITS };
                add_scaled(digits, index & (NOT_FINITE + 1) != 0, unit(exponent), fractions + hidden);
            }
        }
    }
}

/// Adds ± this magnitude, below 2⁹⁶, × 2^`unit`.
fn add_scaled(digits: &mut [i64; DIGITS], negative: bool, unit: i32, magnitude: u128) {
    let shift = (unit - UNIT) as usize;
    let scaled = magnitude << (shift % 32);
    let parts = [0, 32, 64, 96].map(|part| i64::from((scaled >> part) as u32));
    for (digit, part) in digits[shift / 32..].iter_mut().zip(parts) {
        *digit += if negative { -part } else { part };
    }
}

/// The exponent of the last place of floats of this biased exponent. Subnormals have that of the smallest normals.
fn unit(exponent: usize) -> i32 {
    UNIT + exponent.max(1) as i32 - 1
}

/// An exponent for bins that hold values up to this one, and up to twice of it, as the next chunk may have some.
fn suited_to(largest: f64) -> i32 {
    let exponent = (largest.to_bits() >> FRACTION_BITS) as i32 - 1023;
    (exponent + 1).clamp(sum::LOWEST, sum::HIGHEST)
}

/// ±`digits` × 2^`unit` ÷ `divisor`, to the nearest `f64`, ties to even; zero is always 0. `digits` are of 32 bits,
/// from the lowest. The result must be within the range of `f64`, as any mean is. NaN for a divisor of 0.
fn quotient(negative: bool, digits: &[u32], unit: i32, divisor: u64) -> f64 {
    /// Digits behind the point: a sum of at least one unit over any divisor still has 64 significant bits.
    const BEHIND: usize = 4;
    if divisor == 0 {
        return f64::NAN;
    }
    // Most of the digits are zeros on either side of a few others, and each takes a division.
    let Some(top) = digits.iter().rposition(|&digit| digit != 0) else { return 0.0 };
    let zeros = digits.iter().position(|&digit| digit != 0).unwrap_or(0);
    let (digits, unit) = (&digits[zeros..=top], unit + 32 * zeros as i32);
    let mut places = [0; DIGITS + BEHIND];
    let quotient = &mut places[..digits.len() + BEHIND];
    let mut remainder = 0;
    for (index, place) in quotient.iter_mut().enumerate().rev() {
        let digit = if index < BEHIND { 0 } else { digits[index - BEHIND] };
        (*place, remainder) = divide(remainder, digit, divisor);
    }
    let unit = unit - 32 * BEHIND as i32;
    let Some(top) = quotient.iter().rposition(|&digit| digit != 0) else { return 0.0 };
    let highest_bit = top as i32 * 32 + quotient[top].ilog2() as i32;
    // Exponent of the result's last bit: 53 bits, fewer where subnormals begin.
    let last = (unit + highest_bit - FRACTION_BITS as i32).max(UNIT);
    let dropped = (last - unit) as usize;
    // From the last bit that is kept on, which has some digits below it.
    let place = |at: usize| u128::from(quotient.get(at).copied().unwrap_or(0));
    let word = dropped / 32;
    let from_word = place(word) | place(word + 1) << 32 | place(word + 2) << 64;
    let kept = (from_word >> (dropped % 32)) as u64;
    let bit = |at: usize| quotient[at / 32] >> (at % 32) & 1 == 1;
    let half = bit(dropped - 1);
    let (word, bits) = ((dropped - 1) / 32, (dropped - 1) % 32);
    let beyond_half = remainder != 0
        || quotient[word] & ((1 << bits) - 1) != 0
        || quotient[..word].iter().any(|&place| place != 0);
    let mantissa = kept + u64::from(half && (beyond_half || kept & 1 == 1));
    // The hidden bit, and a carry out of the mantissa, add themselves to the exponent.
    let magnitude = f64::from_bits(mantissa + (((last - UNIT) as u64) << FRACTION_BITS));
    if negative && mantissa != 0 { -magnitude } else { magnitude }
}

/// One digit of a quotient, and the remainder, which is below the divisor as the one before was. A processor divides 64
/// bits many times faster than 128, and few have more than 2³² numbers.
fn divide(remainder: u64, digit: u32, divisor: u64) -> (u32, u64) {
    if let Ok(high) = u32::try_from(remainder) {
        let dividend = u64::from(high) << 32 | u64::from(digit);
        return ((dividend / divisor) as u32, dividend % divisor);
    }
    let (dividend, divisor) = (u128::from(remainder) << 32 | u128::from(digit), u128::from(divisor));
    ((dividend / divisor) as u32, (dividend % divisor) as u64)
}

#[cfg(test)]
mod tests;
