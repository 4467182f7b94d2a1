//! Floats that wait, as decimals, until there are enough of them to be converted eight at a time.
#![expect(unsafe_code, reason = "vector loads and stores, and a gather from a table")]

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_loadu_si256, _mm256_mask_or_epi32, _mm256_maskz_compress_epi32,
    _mm256_min_epu32, _mm256_mullo_epi32, _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srai_epi32,
    _mm256_storeu_si256, _mm256_sub_epi32, _mm512_add_epi64, _mm512_and_si512, _mm512_cmpeq_epi64_mask,
    _mm512_cmple_epu64_mask, _mm512_cmplt_epi64_mask, _mm512_cvtepi32_epi64, _mm512_i32gather_epi64,
    _mm512_loadu_si512, _mm512_lzcnt_epi64, _mm512_maskz_compress_epi64, _mm512_maskz_mov_epi64,
    _mm512_mul_epu32, _mm512_mullo_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_slli_epi64,
    _mm512_sllv_epi64, _mm512_srli_epi64, _mm512_srlv_epi64, _mm512_storeu_si512, _mm512_sub_epi64,
    _mm512_test_epi64_mask,
};

use super::super::decimal::{LEAST, UPPER, nearest};
use super::spare::Spare;

/// How many there may be before they are drained.
const FULL: usize = 48;
/// How many are drained at once: not the latest ones, which may still be on their way to the cache.
const DRAINED: usize = 32;

pub(super) struct Decimals {
    mantissas: [u64; FULL + 24],
    /// Twice the power of ten, and one where the number is negative. All are in the table, or 0.
    powers: [i32; FULL + 24],
    count: usize,
}

impl Decimals {
    pub(super) fn new() -> Self {
        Decimals { mantissas: [0; FULL + 24], powers: [0; FULL + 24], count: 0 }
    }

    /// Adds those of eight that are named.
    #[target_feature(enable = "avx512f,avx512vl,popcnt")]
    #[inline]
    pub(super) fn push(&mut self, mantissas: __m512i, powers: __m256i, negative: u8, named: u8) {
        let powers = _mm256_slli_epi32::<1>(powers);
        let powers = _mm256_mask_or_epi32(powers, negative, powers, _mm256_set1_epi32(1));
        let at = self.count;
        let (Some(to_mantissas), Some(to_powers)) =
            (self.mantissas.get_mut(at..at + 8), self.powers.get_mut(at..at + 8))
        else {
            return;
        };
        // SAFETY: there are eight of each.
        unsafe {
            let mantissas = _mm512_maskz_compress_epi64(named, mantissas);
            _mm512_storeu_si512(to_mantissas.as_mut_ptr().cast(), mantissas);
            _mm256_storeu_si256(to_powers.as_mut_ptr().cast(), _mm256_maskz_compress_epi32(named, powers));
        }
        self.count += named.count_ones() as usize;
    }

    /// Converts what there are whole eights of, where there are many.
    #[target_feature(enable = "avx512f,avx512cd,avx512dq,avx512vl")]
    #[inline]
    pub(super) fn drain_if_full(&mut self, floats: &mut Spare<f64>) {
        if self.count < FULL {
            return;
        }
        for at in (0..DRAINED).step_by(8) {
            self.convert(at, 8, floats);
        }
        self.mantissas.copy_within(DRAINED..DRAINED + 32, 0);
        self.powers.copy_within(DRAINED..DRAINED + 32, 0);
        self.count -= DRAINED;
    }

    /// Converts all.
    #[target_feature(enable = "avx512f,avx512cd,avx512dq,avx512vl")]
    #[inline]
    pub(super) fn drain(&mut self, floats: &mut Spare<f64>) {
        let mut at = 0;
        while at < self.count {
            self.convert(at, 8.min(self.count - at), floats);
            at += 8;
        }
        self.count = 0;
    }

    /// `decimal::eisel_lemire` for eight decimals, of which the first so many count. Where the upper half of the power's 128
    /// bits is not enough (2 ‰) that lane is done anew.
    #[target_feature(enable = "avx512f,avx512cd,avx512dq,avx512vl")]
    #[inline]
    fn convert(&self, at: usize, count: usize, floats: &mut Spare<f64>) {
        let (Some(mantissas), Some(powers)) = (self.mantissas.get(at..at + 8), self.powers.get(at..at + 8))
        else {
            return;
        };
        // SAFETY: there are eight of each.
        let (mantissa, doubled) = unsafe {
            (_mm512_loadu_si512(mantissas.as_ptr().cast()), _mm256_loadu_si256(powers.as_ptr().cast()))
        };
        let power = _mm256_srai_epi32::<1>(doubled);
        let set = |number: i64| _mm512_set1_epi64(number);
        let index = _mm256_sub_epi32(power, _mm256_set1_epi32(LEAST));
        let index = _mm256_min_epu32(index, _mm256_set1_epi32(UPPER.len() as i32 - 1));
        // SAFETY: no index is beyond the table.
        let five = unsafe { _mm512_i32gather_epi64::<8>(index, UPPER.as_ptr().cast()) };

        let zeros = _mm512_lzcnt_epi64(mantissa);
        let shifted = _mm512_sllv_epi64(mantissa, zeros);
        let (high, low) = product(shifted, five);
        let top = _mm512_srli_epi64::<63>(high);
        let shift = _mm512_add_epi64(top, set(9));
        let bits = _mm512_srlv_epi64(high, shift);
        let exponent = _mm256_srai_epi32::<16>(_mm256_mullo_epi32(power, _mm256_set1_epi32(217_706)));
        let exponent = _mm512_add_epi64(_mm512_cvtepi32_epi64(exponent), set(63 + 1023 - 1));
        let exponent = _mm512_sub_epi64(_mm512_add_epi64(exponent, top), zeros);

        let lowest = _mm512_and_si512(high, set(0x1ff));
        let mut unsure =
            _mm512_cmpeq_epi64_mask(lowest, set(0x1ff)) | _mm512_cmplt_epi64_mask(exponent, set(0));
        // Nothing is cut off but a half: the even float is the nearest.
        let exact = _mm512_cmple_epu64_mask(low, set(1));
        let halfway = _mm512_cmpeq_epi64_mask(_mm512_and_si512(bits, set(3)), set(1));
        let whole = _mm512_cmpeq_epi64_mask(_mm512_sllv_epi64(bits, shift), high);
        unsure |= exact & halfway & whole;

        let rounded = _mm512_srli_epi64::<1>(_mm512_add_epi64(bits, _mm512_and_si512(bits, set(1))));
        let float = _mm512_add_epi64(_mm512_slli_epi64::<52>(exponent), rounded);
        let there = _mm512_test_epi64_mask(mantissa, mantissa);
        let float = _mm512_maskz_mov_epi64(there, float);
        let signs = _mm512_slli_epi64::<63>(_mm512_cvtepi32_epi64(doubled));
        floats.put(0, _mm512_or_si512(float, signs));

        unsure &= there & (0xff_u32 >> (8 - count)) as u8;
        while unsure != 0 {
            let lane = unsure.trailing_zeros() as usize;
            let magnitude = nearest(mantissas[lane], powers[lane] >> 1);
            floats.replace(lane, if powers[lane] & 1 == 1 { -magnitude } else { magnitude });
            unsure &= unsure - 1;
        }
        floats.fill(count);
    }
}

/// The upper and lower 64 bits of products.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn product(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
    let half = _mm512_set1_epi64(0xffff_ffff);
    let (a_high, b_high) = (_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
    let lows = _mm512_mul_epu32(a, b);
    let middle = _mm512_add_epi64(_mm512_mul_epu32(a_high, b), _mm512_srli_epi64::<32>(lows));
    let other = _mm512_add_epi64(_mm512_mul_epu32(a, b_high), _mm512_and_si512(middle, half));
    let upper = _mm512_add_epi64(_mm512_mul_epu32(a_high, b_high), _mm512_srli_epi64::<32>(middle));
    let upper = _mm512_add_epi64(upper, _mm512_srli_epi64::<32>(other));
    (upper, _mm512_mullo_epi64(a, b))
}
