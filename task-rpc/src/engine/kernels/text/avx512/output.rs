//! Where the numbers of a window go: into two `Vec`s, the harder floats by way of [`Decimals`].

use std::arch::x86_64::{
    __m512i, _bzhi_u32, _mm_bsrli_si128, _mm512_castpd_si512, _mm512_castsi512_si256, _mm512_cmpgt_epu8_mask,
    _mm512_cvtepi32_epi64, _mm512_cvtepu8_epi64, _mm512_cvtepu64_pd, _mm512_div_pd,
    _mm512_extracti64x4_epi64, _mm512_mask_or_epi64, _mm512_mask_sub_epi32, _mm512_mask_sub_epi64,
    _mm512_maskz_compress_epi8, _mm512_maskz_compress_epi64, _mm512_permutex2var_pd, _mm512_set1_epi8,
    _mm512_set1_epi64, _mm512_setr_pd, _mm512_setzero_si512, _mm512_sub_epi8,
};

use super::super::decimal::TENS;
use super::decimals::Decimals;
use super::lanes::{self, IOTA, Places};
use super::spare::Spare;

pub(super) struct Output<'a> {
    ints: Spare<'a, i64>,
    floats: Spare<'a, f64>,
    decimals: Decimals,
}

impl<'a> Output<'a> {
    /// Room for what is in so many bytes.
    pub(super) fn new(ints: &'a mut Vec<i64>, floats: &'a mut Vec<f64>, bytes: usize) -> Self {
        Output { ints: Spare::new(ints, bytes), floats: Spare::new(floats, bytes), decimals: Decimals::new() }
    }

    /// Converts what waits, and makes all numbers the `Vec`s'.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
    #[inline]
    pub(super) fn finish(mut self) {
        self.decimals.drain(&mut self.floats);
        self.ints.finish();
        self.floats.finish();
    }

    /// Takes integers of up to 18 digits, or says that there are longer ones and takes none.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
    #[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt")]
    #[inline]
    pub(super) fn integers(&mut self, values: __m512i, begins: u64, ends: u64, negative: u32) -> bool {
        let count = begins.count_ones();
        let begins = _mm512_maskz_compress_epi8(begins, IOTA);
        let ends = _mm512_maskz_compress_epi8(ends, IOTA);
        let lengths = _mm512_sub_epi8(ends, begins);
        let over = |most| _mm512_cmpgt_epu8_mask(lengths, _mm512_set1_epi8(most));
        let zero = _mm512_setzero_si512();
        if over(4) == 0 {
            // Always twice: windows of small integers have about sixteen, and a guess whether there are more is often wrong.
            for from in [0, 16] {
                let numbers = lanes::by_four(lanes::integers::<4>(values, begins, ends, from));
                let numbers = _mm512_mask_sub_epi32(numbers, (negative >> from) as u16, zero, numbers);
                let first = _mm512_castsi512_si256(numbers);
                let second = _mm512_extracti64x4_epi64::<1>(numbers);
                let at = from as usize;
                self.ints.put(at, _mm512_cvtepi32_epi64(first));
                self.ints.put(at + 8, _mm512_cvtepi32_epi64(second));
            }
            self.ints.fill(count as usize);
            return true;
        }
        let width = if over(8) == 0 {
            8
        } else if over(16) == 0 {
            16
        } else if over(18) == 0 {
            32
        } else {
            return false;
        };
        let mut taken = 0;
        while taken < count {
            let numbers = match width {
                8 => lanes::by_eight(lanes::integers::<8>(values, begins, ends, taken)),
                16 => lanes::by_sixteen(
                    lanes::integers::<16>(values, begins, ends, taken),
                    lanes::integers::<16>(values, begins, ends, taken + 4),
                ),
                _ => lanes::by_thirty_two(
                    lanes::integers::<32>(values, begins, ends, taken),
                    lanes::integers::<32>(values, begins, ends, taken + 2),
                ),
            };
            let numbers = _mm512_mask_sub_epi64(numbers, (negative >> taken) as u8, zero, numbers);
            self.ints.put(taken as usize, numbers);
            taken += if width == 32 { 4 } else { 8 };
        }
        self.ints.fill(count as usize);
        true
    }

    /// Takes numbers of any kind.
    #[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
    #[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt")]
    #[inline]
    pub(super) fn numbers(&mut self, values: __m512i, places: &Places, exponents: bool) {
        // A quotient of two exact floats, as in `decimal::nearest`.
        let short = !exponents && places.over_fifteen | places.long_fraction == 0;
        let mut from = 0;
        while from < places.count {
            let mantissas = places.eight(values, from);
            let valid = _bzhi_u32(0xff, places.count - from);
            let integer = ((places.integer >> from) & valid) as u8;
            let float = valid as u8 & !integer;
            let negative = (places.negative >> from) as u8;
            if integer != 0 {
                let signed = _mm512_mask_sub_epi64(mantissas, negative, _mm512_setzero_si512(), mantissas);
                self.ints.put(0, _mm512_maskz_compress_epi64(integer, signed));
                self.ints.fill(integer.count_ones() as usize);
            }
            if float != 0 && short {
                let fraction =
                    if from == 0 { places.fraction } else { _mm_bsrli_si128::<8>(places.fraction) };
                let quotient = quotient(mantissas, _mm512_cvtepu8_epi64(fraction), negative);
                self.floats.put(0, _mm512_maskz_compress_epi64(float, quotient));
                self.floats.fill(float.count_ones() as usize);
            } else if float != 0 {
                let power = if from == 0 {
                    _mm512_castsi512_si256(places.power)
                } else {
                    _mm512_extracti64x4_epi64::<1>(places.power)
                };
                self.decimals.push(mantissas, power, negative, float);
            }
            from += 8;
        }
        self.decimals.drain_if_full(&mut self.floats);
    }
}

/// The bits of the mantissas, each below 10^15, divided by powers of ten up to 10^15.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
fn quotient(mantissas: __m512i, powers: __m512i, negative: u8) -> __m512i {
    let low = _mm512_setr_pd(TENS[0], TENS[1], TENS[2], TENS[3], TENS[4], TENS[5], TENS[6], TENS[7]);
    let high = _mm512_setr_pd(TENS[8], TENS[9], TENS[10], TENS[11], TENS[12], TENS[13], TENS[14], TENS[15]);
    let powers = _mm512_permutex2var_pd(low, powers, high);
    let quotient = _mm512_castpd_si512(_mm512_div_pd(_mm512_cvtepu64_pd(mantissas), powers));
    _mm512_mask_or_epi64(quotient, negative, quotient, _mm512_set1_epi64(i64::MIN))
}
