//! The `f64` nearest to `w · 10^q`: the method of Eisel and Lemire (D. Lemire, "Number parsing at a gigabyte per second",
//! 2021), for which 128 bits of a power of five are always enough (N. Mushtak and D. Lemire, "Fast number parsing without
//! fallback", 2023), and W. D. Clinger's exact short way (1990).
//!
//! A subnormal float is written out as a decimal and read by `parse_token`: it is rare.

use std::io::Write;

use task_proto::number::{Number, Token, parse_token};

/// The powers of ten that the table knows: below, every `u64` times it is 0; above, 1 times it is infinite.
pub(super) const LEAST: i32 = -342;
const MOST: i32 = 308;
/// The greatest power of ten that never makes a `u64` infinite.
pub(super) const MOST_FINITE: i32 = 288;
const POWERS: usize = (MOST - LEAST + 1) as usize;

/// The upper 64 bits of each power of five with 128 significant bits, from [`LEAST`]: what nearly every product needs.
pub(super) static UPPER: [u64; POWERS] = FIVES.0;
/// The lower 64 bits.
static LOWER: [u64; POWERS] = FIVES.1;
/// The powers of ten that an `f64` holds exactly.
pub(super) static TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// The `f64` nearest to `w · 10^q`, ties to even, with `q` in `LEAST..=MOST_FINITE`.
#[inline]
pub(super) fn nearest(w: u64, q: i32) -> f64 {
    // Both are exact, so that the one rounding is that of the quotient or product.
    if w <= 1 << 53 && (-22..=22).contains(&q) {
        let power = TENS[q.unsigned_abs() as usize];
        return if q < 0 { w as f64 / power } else { w as f64 * power };
    }
    eisel_lemire(w, q).unwrap_or_else(|| written_out(w, q))
}

/// The number that [`nearest`] gives, or `None` where that is subnormal or infinite.
#[inline]
fn eisel_lemire(w: u64, q: i32) -> Option<f64> {
    if w == 0 {
        return Some(0.0);
    }
    let index = usize::try_from(q - LEAST).ok()?;
    let zeros = w.leading_zeros();
    let w = w << zeros;
    let product = u128::from(w) * u128::from(*UPPER.get(index)?);
    let (mut low, mut high) = (product as u64, (product >> 64) as u64);
    if high & 0x1ff == 0x1ff {
        let carry = (u128::from(w) * u128::from(LOWER[index])) >> 64;
        let (sum, over) = low.overflowing_add(carry as u64);
        (low, high) = (sum, high + u64::from(over));
    }
    let top = (high >> 63) as u32;
    let mut mantissa = high >> (top + 9);
    let exponent = binary_exponent(q) + top as i32 - zeros as i32;
    if exponent <= 0 {
        return None;
    }
    if low <= 1 && (-4..=23).contains(&q) && mantissa & 3 == 1 && mantissa << (top + 9) == high {
        // Halfway, and the even one is below.
        mantissa &= !1;
    }
    // The mantissa's topmost bit adds one to the exponent, and so does a carry out of the rounding.
    let bits = ((exponent as u64 - 1) << 52) + ((mantissa + (mantissa & 1)) >> 1);
    (bits < f64::INFINITY.to_bits()).then(|| f64::from_bits(bits))
}

/// The biased exponent of `2^63 · 10^q`, rounded down: 217706 / 65536 is log2(10), near enough for all of the table.
#[inline]
const fn binary_exponent(q: i32) -> i32 {
    ((217_706 * q) >> 16) + 63 + 1023
}

#[cold]
#[inline(never)]
fn written_out(w: u64, q: i32) -> f64 {
    let mut text = [0; 32];
    let mut rest = &mut text[..];
    // 20 digits, `e`, sign and three digits: there is room.
    let left = write!(rest, "{w}e{q}").map_or(0, |()| rest.len());
    let length = text.len() - left;
    match parse_token(&text[..length]) {
        Ok(Token::Number(Number::Float(float))) => float,
        _ => f64::INFINITY,
    }
}

/// 64-bit digits of the numbers from which the table is made: `2^960`, from which 342 divisions by five take 795 bits, and
/// `5^308` with 716.
const LIMBS: usize = 16;

/// `5^q`, scaled to 128 bits. Those of a positive `q` are cut; of a negative one too, but where `5^-q` has 64 bits at most
/// (`q ≥ -27`) the quotient is rounded up, so that an exact product is seen as such (section 5 of the paper).
const FIVES: ([u64; POWERS], [u64; POWERS]) = {
    let mut upper = [0; POWERS];
    let mut lower = [0; POWERS];
    let zero = LEAST.unsigned_abs() as usize;

    // The least limb first.
    let mut power = [0; LIMBS];
    power[0] = 1;
    let mut index = zero;
    while index < POWERS {
        (upper[index], lower[index]) = leading(&power);
        let (mut limb, mut carry) = (0, 0);
        while limb < LIMBS {
            let product = power[limb] as u128 * 5 + carry;
            (power[limb], carry) = (product as u64, product >> 64);
            limb += 1;
        }
        index += 1;
    }

    // Dividing by five what has been rounded down, n times, gives what one division by 5^n would give.
    let mut inverse = [0; LIMBS];
    inverse[LIMBS - 1] = 1;
    let mut n = 1;
    while n <= zero {
        let (mut limb, mut rest) = (LIMBS, 0);
        while limb > 0 {
            limb -= 1;
            let dividend = (rest << 64) | inverse[limb] as u128;
            (inverse[limb], rest) = ((dividend / 5) as u64, dividend % 5);
        }
        let (high, low) = leading(&inverse);
        let (low, over) = low.overflowing_add(if n <= 27 { 1 } else { 0 });
        (upper[zero - n], lower[zero - n]) = (high + over as u64, low);
        n += 1;
    }
    (upper, lower)
};

/// The first 128 significant bits.
const fn leading(limbs: &[u64; LIMBS]) -> (u64, u64) {
    let mut top = LIMBS - 1;
    while limbs[top] == 0 {
        top -= 1;
    }
    let second = if top >= 1 { limbs[top - 1] } else { 0 };
    let third = if top >= 2 { limbs[top - 2] } else { 0 };
    let shift = limbs[top].leading_zeros();
    if shift == 0 {
        return (limbs[top], second);
    }
    let back = 64 - shift;
    ((limbs[top] << shift) | (second >> back), (second << shift) | (third >> back))
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;

    use super::*;

    /// The definition in section 5 of the paper.
    fn five(q: i32) -> BigUint {
        let one = BigUint::from(1_u8);
        let power = BigUint::from(5_u8).pow(q.unsigned_abs());
        if q >= 0 {
            let shift = 128 - i64::try_from(power.bits()).unwrap();
            return if shift >= 0 { power << shift } else { power >> -shift };
        }
        let bits = (&power - &one).bits();
        let quotient = (one.clone() << if q >= -27 { bits + 127 } else { 2 * bits + 128 }) / power + one;
        let over = quotient.bits() - 128;
        quotient >> over
    }

    #[test]
    fn the_powers_of_five_are_those_of_the_paper() {
        for q in LEAST..=MOST {
            let index = usize::try_from(q - LEAST).unwrap();
            let found = (BigUint::from(UPPER[index]) << 64) + LOWER[index];
            assert_eq!(found, five(q), "5^{q}");
        }
    }

    #[test]
    fn a_decimal_is_the_nearest_float_for_every_power() {
        let mut w = 1_u64;
        for q in LEAST..=MOST_FINITE {
            for round in 0..200 {
                w = w.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let w = w >> (round % 64);
                let expected: f64 = format!("{w}e{q}").parse().unwrap();
                assert_eq!(nearest(w, q).to_bits(), expected.to_bits(), "{w}e{q}");
            }
        }
    }

    #[test]
    fn halfway_goes_to_the_even_one() {
        for shift in 0..10 {
            for odd in (0..64).map(|index| (1_u64 << 53) + 2 * index + 1) {
                for (w, q) in
                    [(odd << shift, 0), ((odd << shift) + 1, 0), ((odd << shift) - 1, 0), (odd * 5, -1)]
                {
                    let expected: f64 = format!("{w}e{q}").parse().unwrap();
                    assert_eq!(nearest(w, q).to_bits(), expected.to_bits(), "{w}e{q}");
                }
            }
        }
    }
}
