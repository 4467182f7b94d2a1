//! What the numbers of a sequence have in common: an integer of 64 bits for each, that is ordered as they are.

#![expect(clippy::inline_always, reason = "part of the kernels, compiled for the level of each")]
#![expect(
    clippy::float_cmp,
    clippy::needless_bitwise_bool,
    reason = "differences that are no integers must show, and no branch may be taken where values are mixed"
)]

use std::fmt::Debug;

/// A number of a block, of 8 bytes, with a key that is ordered as the numbers are.
///
/// `i64` is its own key. For `f64`, −0 has the key of 0, and NaN, which is a missing value, the key `i64::MAX`: greater
/// than that of +inf.
pub trait Value: Copy + PartialOrd + Debug + Send + Sync + sealed::Sealed {
    /// The smallest number.
    const LOWEST: Self;
    /// The largest number.
    const HIGHEST: Self;
    /// Whether it is `f64`; otherwise it is `i64`. A kernel chooses its instructions by this.
    const IS_FLOAT: bool;

    /// An integer that is ordered as the number is.
    fn key(self) -> i64;

    /// The number of a key.
    fn from_key(key: i64) -> Self;

    /// False for NaN.
    fn is_number(self) -> bool;

    /// The `f64` nearest to the exact midpoint; NaN for opposite infinities.
    fn midpoint(low: Self, high: Self) -> f64;

    /// The integer that it equals, where that, and each one between it and 0, has exactly one representation.
    fn integer(self) -> Option<i64>;

    /// How far it is above `origin` (of [`integer`](Self::integer)), where that is an integer below `width`. Otherwise
    /// `width`, for a missing value `width + 1`. `width` is at most `u32::MAX - 1`.
    fn above(self, origin: i64, width: u32) -> u32;

    /// The number of an integer.
    fn from_integer(integer: i64) -> Self;
}

impl Value for i64 {
    const LOWEST: Self = i64::MIN;
    const HIGHEST: Self = i64::MAX;
    const IS_FLOAT: bool = false;

    #[inline(always)]
    fn key(self) -> i64 {
        self
    }

    #[inline(always)]
    fn from_key(key: i64) -> Self {
        key
    }

    #[inline(always)]
    fn is_number(self) -> bool {
        true
    }

    /// The sum is exact, its nearest float is rounded once, and halving that is exact.
    fn midpoint(low: Self, high: Self) -> f64 {
        (i128::from(low) + i128::from(high)) as f64 / 2.0
    }

    fn integer(self) -> Option<i64> {
        Some(self)
    }

    #[inline(always)]
    fn above(self, origin: i64, width: u32) -> u32 {
        (self.wrapping_sub(origin) as u64).min(u64::from(width)) as u32
    }

    fn from_integer(integer: i64) -> Self {
        integer
    }
}

impl Value for f64 {
    const LOWEST: Self = f64::NEG_INFINITY;
    const HIGHEST: Self = f64::INFINITY;
    const IS_FLOAT: bool = true;

    /// The bits of floats are ordered by sign and magnitude.
    #[inline(always)]
    fn key(self) -> i64 {
        // Adding zero turns −0 into 0, and changes nothing else.
        let bits = (self + 0.0).to_bits() as i64;
        if self.is_nan() { i64::MAX } else { bits ^ (bits >> 63 & i64::MAX) }
    }

    #[inline(always)]
    fn from_key(key: i64) -> Self {
        f64::from_bits((key ^ (key >> 63 & i64::MAX)) as u64)
    }

    #[inline(always)]
    fn is_number(self) -> bool {
        !self.is_nan()
    }

    /// Rounded once: either the sum is exact, being small, or halving it is, being large. Beyond the largest float
    /// both halves are exact. Adding zero turns −0 into 0.
    fn midpoint(low: Self, high: Self) -> f64 {
        let sum = low + high;
        0.0 + if sum.is_finite() { sum / 2.0 } else { low / 2.0 + high / 2.0 }
    }

    fn integer(self) -> Option<i64> {
        const EXACT: f64 = (1_u64 << 53) as f64;
        ((-EXACT..=EXACT).contains(&self) && self.fract() == 0.0).then_some(self as i64)
    }

    #[inline(always)]
    fn above(self, origin: i64, width: u32) -> u32 {
        // A float of 2^52 and more has its integer in the lowest bits, and what is added to it is rounded to one.
        const MAGIC: f64 = (1_u64 << 52) as f64;
        let origin = origin as f64;
        let distance = self - origin;
        let shifted = distance + MAGIC;
        // The last one sees to it that the difference was not rounded to an integer.
        let inside = (distance >= 0.0)
            & (distance < f64::from(width))
            & (shifted - MAGIC == distance)
            & (distance + origin == self);
        let outside = width + u32::from(self.is_nan());
        if inside { shifted.to_bits() as u32 } else { outside }
    }

    fn from_integer(integer: i64) -> Self {
        integer as f64
    }
}

mod sealed {
    /// Only types of 8 bytes of which any bits are a value.
    pub trait Sealed {}
    impl Sealed for i64 {}
    impl Sealed for f64 {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_ordered_as_numbers_are_and_lead_back() {
        let floats = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -1.0,
            -f64::MIN_POSITIVE,
            -5e-324,
            0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
        ];
        assert!(floats.is_sorted_by(|a, b| a.key() < b.key()));
        assert!(floats.iter().all(|&float| f64::from_key(float.key()).to_bits() == float.to_bits()));
        assert_eq!((-0.0_f64).key(), 0);
        for nan in [f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001)] {
            assert_eq!(nan.key(), i64::MAX);
            assert!(f64::from_key(nan.key()).is_nan());
        }
    }

    #[test]
    fn a_midpoint_neither_overflows_nor_rounds_twice() {
        assert_eq!(<i64 as Value>::midpoint(i64::MAX, i64::MAX), i64::MAX as f64);
        assert_eq!(<i64 as Value>::midpoint(1, 2), 1.5);
        assert_eq!(<f64 as Value>::midpoint(f64::MAX, f64::MAX), f64::MAX);
        assert_eq!(<f64 as Value>::midpoint(5e-324, 1e-323).to_bits(), 2, "a tie goes to even");
        assert_eq!(<f64 as Value>::midpoint(-5e-324, 0.0).to_bits(), 0, "no negative zero");
        assert!(<f64 as Value>::midpoint(f64::NEG_INFINITY, f64::INFINITY).is_nan());
    }

    #[test]
    fn a_float_is_above_an_origin_by_an_integer_or_not_at_all() {
        assert_eq!(7.0.above(-3, 11), 10);
        assert_eq!(8.0.above(-3, 11), 11);
        assert_eq!((-3.0).above(-3, 11), 0);
        assert_eq!((-4.0).above(-3, 11), 11);
        assert_eq!((-0.0).above(0, 11), 0);
        assert_eq!(0.5.above(-3, 11), 11);
        // The difference is 1000, rounded.
        assert_eq!(1e-20.above(-1000, 2000), 2000);
        assert_eq!(f64::NAN.above(0, 11), 12);
        assert_eq!(f64::INFINITY.above(0, 11), 11);
        assert_eq!(f64::NEG_INFINITY.above(0, 11), 11);
        let large = (1_i64 << 53) - 5;
        assert_eq!(((1_i64 << 53) as f64).above(large, 11), 5);
        assert_eq!(f64::MAX.above(large, 11), 11);
    }

    #[test]
    fn an_integer_is_above_an_origin_without_overflow() {
        assert_eq!((i64::MIN + 4).above(i64::MIN, 5), 4);
        assert_eq!((i64::MIN + 5).above(i64::MIN, 5), 5);
        assert_eq!(i64::MAX.above(i64::MIN, 5), 5);
        assert_eq!(i64::MIN.above(i64::MAX - 3, 5), 4);
    }
}
