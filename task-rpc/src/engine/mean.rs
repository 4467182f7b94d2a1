//! The exact mean: an exact sum and one division that is rounded once.
//!
//! The sum of floats is a fixed-point number wide enough for every `f64` and for 2⁶⁴ of them (Kulisch's long
//! accumulator), so no order, no number of threads and no cancellation of terms can change a bit of it.

use task_proto::fault::Fault;

use super::sequence::Block;
use super::{Checkpoint, Sequence};

/// Exponent of the unit of a [`Sum`]: the smallest subnormal.
const UNIT: i32 = -1074;
/// 2098 bits for all exponents, 64 for the number of terms, one for the sign, in digits of 32.
const DIGITS: usize = 68;
const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;

/// The `f64` nearest to the exact rational mean, ties to even. With infinities: infinite, or NaN for both.
///
/// # Errors
/// Only the checkpoint's.
pub fn mean(sequence: &Sequence, checkpoint: Checkpoint<'_>) -> Result<f64, Fault> {
    let mut ints: i128 = 0;
    let mut floats = Sum::default();
    for block in sequence.blocks() {
        match block {
            Block::Int(block) if sequence.is_float() => floats.add(block.iter().map(|&int| int as f64)),
            Block::Int(block) => ints += block.iter().map(|&int| i128::from(int)).sum::<i128>(),
            Block::Float(block) => floats.add(block.iter().copied()),
        }
        checkpoint()?;
    }
    Ok(if sequence.is_float() { floats.mean(sequence.count()) } else { mean_of_ints(ints, sequence.count()) })
}

fn mean_of_ints(sum: i128, count: u64) -> f64 {
    let magnitude = sum.unsigned_abs();
    let digits = [0, 32, 64, 96].map(|shift| (magnitude >> shift) as u32);
    quotient(sum < 0, &digits, 0, count)
}

/// An exact sum of floats.
struct Sum {
    /// Digits of 32 bits from the lowest, each of which may for a while be larger, or negative.
    digits: [i64; DIGITS],
    positive_infinity: bool,
    negative_infinity: bool,
}

impl Default for Sum {
    fn default() -> Self {
        Sum { digits: [0; DIGITS], positive_infinity: false, negative_infinity: false }
    }
}

impl Sum {
    /// Adds a block of at most 2³⁰ values. NaN adds nothing.
    fn add(&mut self, block: impl Iterator<Item = f64>) {
        for value in block {
            let bits = value.to_bits();
            let exponent = (bits >> FRACTION_BITS) as usize & 0x7ff;
            let fraction = bits & ((1 << FRACTION_BITS) - 1);
            if exponent == 0x7ff {
                self.positive_infinity |= value > 0.0;
                self.negative_infinity |= value < 0.0;
                continue;
            }
            // A subnormal has no hidden bit, and the exponent of the smallest normals.
            let (mantissa, shift) =
                if exponent == 0 { (fraction, 0) } else { (fraction | (1 << FRACTION_BITS), exponent - 1) };
            let wide = u128::from(mantissa) << (shift % 32);
            let parts = [wide, wide >> 32, wide >> 64].map(|part| i64::from(part as u32));
            let digits = &mut self.digits[shift / 32..shift / 32 + 3];
            for (digit, part) in digits.iter_mut().zip(parts) {
                *digit += if value.is_sign_negative() { -part } else { part };
            }
        }
        self.carry();
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

    fn mean(mut self, count: u64) -> f64 {
        match (self.positive_infinity, self.negative_infinity) {
            (true, true) => return f64::NAN,
            (true, false) => return f64::INFINITY,
            (false, true) => return f64::NEG_INFINITY,
            (false, false) => {}
        }
        let negative = self.digits[DIGITS - 1] < 0;
        if negative {
            self.digits = self.digits.map(|digit| -digit);
            self.carry();
        }
        quotient(negative, &self.digits.map(|digit| digit as u32), UNIT, count)
    }
}

/// ±`digits` × 2^`unit` ÷ `divisor`, to the nearest `f64`, ties to even; zero is always 0. `digits` are of 32 bits,
/// from the lowest. The result must be within the range of `f64`, as any mean is.
fn quotient(negative: bool, digits: &[u32], unit: i32, divisor: u64) -> f64 {
    /// Digits behind the point: a sum of at least one unit over any divisor still has 64 significant bits.
    const BEHIND: usize = 4;
    let mut quotient = vec![0; digits.len() + BEHIND];
    let mut remainder: u128 = 0;
    for (index, place) in quotient.iter_mut().enumerate().rev() {
        let digit = if index < BEHIND { 0 } else { digits[index - BEHIND] };
        let dividend = remainder << 32 | u128::from(digit);
        *place = (dividend / u128::from(divisor)) as u32;
        remainder = dividend % u128::from(divisor);
    }
    let unit = unit - 32 * BEHIND as i32;
    let Some(top) = quotient.iter().rposition(|&digit| digit != 0) else { return 0.0 };
    let highest_bit = top as i32 * 32 + quotient[top].ilog2() as i32;
    // Exponent of the result's last bit: 53 bits, fewer where subnormals begin.
    let last = (unit + highest_bit - FRACTION_BITS as i32).max(UNIT);
    let dropped = (last - unit) as usize;
    let bit = |at: usize| u64::from(quotient[at / 32] >> (at % 32) & 1);
    let kept = (dropped..=highest_bit as usize).rev().fold(0, |kept, at| kept << 1 | bit(at));
    let half = bit(dropped - 1) == 1;
    let beyond_half = remainder != 0 || (0..dropped - 1).any(|at| bit(at) == 1);
    let mantissa = kept + u64::from(half && (beyond_half || kept & 1 == 1));
    // The hidden bit, and a carry out of the mantissa, add themselves to the exponent.
    let magnitude = f64::from_bits(mantissa + (((last - UNIT) as u64) << FRACTION_BITS));
    if negative && mantissa != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beyond_all_digits_still_breaks_a_tie() {
        // 1 ÷ (2⁶³ − 2¹⁰) = 2⁻⁶³ (1 + 2⁻⁵³ + 2⁻¹⁰⁶ + …): half a last place, and a remainder.
        let above = quotient(false, &[1], 0, (1 << 63) - (1 << 10));
        assert_eq!(above.to_bits(), f64::exp2(-63.0).to_bits() + 1);
        // 2⁶³ (1 + 2⁻⁵³) is a tie.
        assert_eq!(quotient(false, &[1 << 10, 1 << 31], 0, 1).to_bits(), f64::exp2(63.0).to_bits());
    }

    #[test]
    fn the_widest_sums_fit() {
        for (value, mean) in [(f64::MAX, f64::MAX), (f64::MIN, f64::MIN), (-5e-324, -5e-324)] {
            let mut sum = Sum::default();
            for _ in 0..3 {
                sum.add(std::iter::repeat_n(value, 5000));
            }
            assert_eq!(sum.mean(15_000).to_bits(), mean.to_bits());
        }
        assert_eq!(mean_of_ints(i128::from(i64::MIN) << 60, 1 << 60).to_bits(), (i64::MIN as f64).to_bits());
        assert_eq!(quotient(true, &[1], UNIT, 3).to_bits(), 0, "no negative zero");
    }
}
