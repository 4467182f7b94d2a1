//! Digits of many tokens, each in a lane of its own.
#![expect(unsafe_code, reason = "vectors of constant bytes")]

use std::arch::x86_64::{
    __m128i, __m512i, _bzhi_u32, _mm_add_epi8, _mm_cmpgt_epu8_mask, _mm_cmple_epu8_mask, _mm_mask_mov_epi8,
    _mm_mask_sub_epi8, _mm_set1_epi8, _mm_setzero_si128, _mm_sub_epi8, _mm_subs_epu8, _mm512_add_epi8,
    _mm512_add_epi32, _mm512_add_epi64, _mm512_castsi128_si512, _mm512_castsi512_si128,
    _mm512_castsi512_si256, _mm512_cmpeq_epi8_mask, _mm512_cmpge_epi8_mask, _mm512_cmpgt_epi32_mask,
    _mm512_cmple_epi8_mask, _mm512_cmplt_epi32_mask, _mm512_cvtepu8_epi32, _mm512_inserti64x4,
    _mm512_madd_epi16, _mm512_maddubs_epi16, _mm512_mask_sub_epi8, _mm512_mask_sub_epi32,
    _mm512_maskz_compress_epi8, _mm512_maskz_permutexvar_epi8, _mm512_mul_epu32, _mm512_mullo_epi64,
    _mm512_permutex_epi64, _mm512_permutex2var_epi64, _mm512_permutexvar_epi8, _mm512_permutexvar_epi64,
    _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_setr_epi64,
    _mm512_setzero_si512, _mm512_srli_epi64, _mm512_sub_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
    _pext_u64,
};
use std::mem::transmute;

use super::super::decimal::{LEAST, MOST_FINITE};
use super::super::window::Numbers;

/// A vector of these bytes.
pub(super) const fn bytes(bytes: [u8; 64]) -> __m512i {
    // SAFETY: both are 64 bytes, and any bits make a vector.
    unsafe { transmute(bytes) }
}

/// For each byte its index.
pub(super) const IOTA: __m512i = bytes({
    let mut table = [0; 64];
    let mut index = 0;
    while index < 64 {
        table[index] = index as u8;
        index += 1;
    }
    table
});

/// For each byte the number of its lane, with lanes of so many bytes.
const fn lane(width: usize) -> __m512i {
    let mut table = [0; 64];
    let mut index = 0;
    while index < 64 {
        table[index] = (index / width) as u8;
        index += 1;
    }
    bytes(table)
}

/// For each byte how far it is from the end of its lane, as a negative number.
const fn back(width: usize) -> __m512i {
    let mut table = [0; 64];
    let mut index = 0;
    while index < 64 {
        table[index] = ((index % width) as u8).wrapping_sub(width as u8);
        index += 1;
    }
    bytes(table)
}

/// The digits between two places of each lane, at the lane's end, with zeros before them. `first` is the token of the first lane.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
pub(super) fn integers<const WIDTH: usize>(
    values: __m512i,
    begins: __m512i,
    ends: __m512i,
    first: u32,
) -> __m512i {
    let lane = _mm512_add_epi8(const { lane(WIDTH) }, _mm512_set1_epi8(first as i8));
    let from = _mm512_add_epi8(_mm512_permutexvar_epi8(lane, ends), const { back(WIDTH) });
    let within = _mm512_cmpge_epi8_mask(from, _mm512_permutexvar_epi8(lane, begins));
    _mm512_maskz_permutexvar_epi8(within, from, values)
}

/// The same for a number with a point, which is left out.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
#[inline]
fn mantissas<const WIDTH: usize>(values: __m512i, places: &Places, first: u32) -> __m512i {
    let lane = _mm512_add_epi8(const { lane(WIDTH) }, _mm512_set1_epi8(first as i8));
    let spread = |places| _mm512_permutexvar_epi8(lane, _mm512_castsi128_si512(places));
    let from = _mm512_add_epi8(spread(places.right), const { back(WIDTH) });
    let before = _mm512_cmple_epi8_mask(from, spread(places.point));
    let from = _mm512_mask_sub_epi8(from, before, from, _mm512_set1_epi8(1));
    let within = _mm512_cmpge_epi8_mask(from, spread(places.significant));
    _mm512_maskz_permutexvar_epi8(within, from, values)
}

/// The number that each four digits make.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn by_four(digits: __m512i) -> __m512i {
    let pairs = _mm512_maddubs_epi16(digits, _mm512_set1_epi16(0x010a));
    _mm512_madd_epi16(pairs, _mm512_set1_epi32(0x0001_0064))
}

/// The number that each eight digits make.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn by_eight(digits: __m512i) -> __m512i {
    let fours = by_four(digits);
    _mm512_add_epi64(_mm512_mul_epu32(fours, _mm512_set1_epi64(10_000)), _mm512_srli_epi64::<32>(fours))
}

/// The numbers that each sixteen of 128 digits make.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(super) fn by_sixteen(first: __m512i, second: __m512i) -> __m512i {
    let (first, second) = (by_eight(first), by_eight(second));
    let upper = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14), second);
    let lower = _mm512_permutex2var_epi64(first, _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15), second);
    _mm512_add_epi64(_mm512_mul_epu32(upper, _mm512_set1_epi64(100_000_000)), lower)
}

/// The numbers that each 32 of 128 digits make, of which the upper 12 are zero, in the lower four lanes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
#[inline]
pub(super) fn by_thirty_two(first: __m512i, second: __m512i) -> __m512i {
    const UPPER: i64 = 10_000_000_000_000_000;
    let weights = _mm512_setr_epi64(0, UPPER, 100_000_000, 1, 0, UPPER, 100_000_000, 1);
    let (first, second) = (by_eight(first), by_eight(second));
    let (first, second) = (_mm512_mullo_epi64(first, weights), _mm512_mullo_epi64(second, weights));
    let sums = _mm512_add_epi64(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
    // Now of the first and the second by turns: 0 + 2 and 4 + 6, 1 + 3 and 5 + 7.
    let sums = _mm512_add_epi64(sums, _mm512_permutex_epi64::<0x4e>(sums));
    _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 0, 0, 0, 0), sums)
}

/// Up to sixteen numbers: for each the places of its parts in the window.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) count: u32,
    significant: __m128i,
    /// The point; for an integer, what comes behind it.
    point: __m128i,
    /// The end of the mantissa; for an integer one more, so that a point is left out of either.
    right: __m128i,
    /// Digits behind the point.
    pub(super) fraction: __m128i,
    /// The power of ten.
    pub(super) power: __m512i,
    /// Bits of the numbers.
    pub(super) integer: u32,
    pub(super) negative: u32,
    over_eight: u32,
    pub(super) over_fifteen: u32,
    over_sixteen: u32,
    pub(super) long_fraction: u32,
    /// Those that are too much for the kernel.
    pub(super) hard: u64,
}

impl Places {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2,popcnt")]
    #[inline]
    pub(super) fn new(values: __m512i, numbers: &Numbers, gaps: u64, minus: u64, negative: u32) -> Self {
        let compress = |mask: u64| _mm512_castsi512_si128(_mm512_maskz_compress_epi8(mask, IOTA));
        let count = numbers.whole_end.count_ones();
        let significant = compress(numbers.significant);
        let point = compress(numbers.whole_end);
        let end = compress(numbers.mantissa_end);
        let one = _mm_set1_epi8(1);
        let fraction = _mm_subs_epu8(_mm_sub_epi8(end, point), one);
        // For an integer that is 255.
        let integer = _pext_u64(gaps, numbers.whole_end) as u32;
        let fraction = _mm_mask_mov_epi8(fraction, integer as u16, _mm_setzero_si128());
        let right = _mm_add_epi8(_mm_add_epi8(point, one), fraction);
        let digits = _mm_sub_epi8(right, significant);
        let with_point = _mm_cmple_epu8_mask(significant, point);
        let digits = _mm_mask_sub_epi8(digits, with_point, digits, one);
        let valid = _bzhi_u32(u32::MAX, count);
        let over = |most: i8| valid & u32::from(_mm_cmpgt_epu8_mask(digits, _mm_set1_epi8(most)));

        let mut hard = over(18);
        if hard != 0 {
            // Nineteen digits that begin with a nine may be beyond an `i64`.
            let nine = _mm512_cmpeq_epi8_mask(values, _mm512_set1_epi8(9));
            hard = over(19) | (hard & integer & _pext_u64(nine, numbers.significant) as u32);
        }
        let mut power = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_cvtepu8_epi32(fraction));
        if numbers.e != 0 {
            let begin = compress(numbers.exponent);
            let end = compress(numbers.end);
            hard |= valid & u32::from(_mm_cmpgt_epu8_mask(_mm_sub_epi8(end, begin), _mm_set1_epi8(4)));
            let digits = integers::<4>(values, _mm512_castsi128_si512(begin), _mm512_castsi128_si512(end), 0);
            let exponent = by_four(digits);
            let down = _pext_u64(minus << 1, numbers.exponent) as u16;
            // What stands before an exponent that is none may be a minus too, but then it is zero.
            let exponent = _mm512_mask_sub_epi32(exponent, down, _mm512_setzero_si512(), exponent);
            power = _mm512_add_epi32(power, exponent);
            let beyond = _mm512_cmplt_epi32_mask(power, _mm512_set1_epi32(LEAST))
                | _mm512_cmpgt_epi32_mask(power, _mm512_set1_epi32(MOST_FINITE));
            hard |= valid & u32::from(beyond);
        }
        Places {
            count,
            significant,
            point,
            right,
            fraction,
            power,
            integer: integer & valid,
            negative,
            over_eight: over(8),
            over_fifteen: over(15),
            over_sixteen: over(16),
            long_fraction: valid & u32::from(_mm_cmpgt_epu8_mask(fraction, _mm_set1_epi8(15))),
            hard: u64::from(hard),
        }
    }

    /// The first so many of them.
    #[inline]
    pub(super) fn first(self, count: u32) -> Self {
        Places { count, ..self }
    }

    /// The mantissas of eight of them, from this one on.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")]
    #[inline]
    pub(super) fn eight(&self, values: __m512i, from: u32) -> __m512i {
        if self.over_eight == 0 {
            return by_eight(mantissas::<8>(values, self, from));
        }
        // Four or fewer are the same work either way: no guess, which is often wrong where there are 16 digits or 17.
        if self.over_fifteen == 0 || self.over_sixteen | u32::from(self.count <= 4) == 0 {
            let first = mantissas::<16>(values, self, from);
            let second = mantissas::<16>(values, self, from + 4);
            return by_sixteen(first, second);
        }
        let four = |from| {
            by_thirty_two(mantissas::<32>(values, self, from), mantissas::<32>(values, self, from + 2))
        };
        let upper = if self.count > from + 4 { four(from + 4) } else { _mm512_setzero_si512() };
        _mm512_inserti64x4::<1>(four(from), _mm512_castsi512_si256(upper))
    }
}
