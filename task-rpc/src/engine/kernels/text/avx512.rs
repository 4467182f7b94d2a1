//! Text to numbers with AVX-512: 64 bytes at a time are classified into masks, from which come the places of the tokens;
//! each token's digits are then brought into a lane of 4, 8, 16 or 32 bytes and all lanes made numbers at once.
//!
//! A window begins at a border between two tokens and is cut behind its last whole token, so that no token is in two
//! windows. The end of the text is filled up with white space.
//!
//! On Zen 5, against the AVX2 kernel, in GB/s a thread: integers of three digits 6.7 and 1.2, of 18 digits 5.7 and 2.3, floats
//! of 17 digits 2.4 and 1.5, of two decimals 3.2 and 0.9.
#![expect(unsafe_code, reason = "vector loads and stores, and a call that needs the processor's AVX-512")]

mod decimals;
mod lanes;
mod output;
mod spare;

use std::arch::x86_64::{
    __m512i, _bzhi_u64, _mm512_cmpeq_epi8_mask, _mm512_cmple_epu8_mask, _mm512_loadu_si512,
    _mm512_mask_loadu_epi8, _mm512_or_si512, _mm512_set1_epi8, _mm512_shuffle_epi8, _mm512_sub_epi8,
    _pdep_u64, _pext_u64,
};

use super::window::{self, Bytes, Numbers};
use super::{Between, portable};
use crate::engine::simd::{Level, Simd};
use lanes::Places;
use output::Output;

/// As [`super::advance`].
pub(super) fn advance(
    simd: Simd,
    text: &[u8],
    at: usize,
    stop: usize,
    between: &mut Between,
    ints: &mut Vec<i64>,
    floats: &mut Vec<f64>,
) -> usize {
    if simd.level() < Level::Avx512 {
        return portable::advance(text, at, stop, between, ints, floats);
    }
    // SAFETY: the value `simd` exists only where the processor has its level.
    unsafe { windows(text, at, stop, between, ints, floats) }
}

/// The 64 bytes from here on, with blanks behind the end of the text.
#[target_feature(enable = "avx512f,avx512bw,bmi2")]
#[inline]
fn load(text: &[u8], at: usize) -> __m512i {
    let rest = &text[at..];
    if rest.len() >= 64 {
        // SAFETY: there are 64 bytes.
        unsafe { _mm512_loadu_si512(rest.as_ptr().cast()) }
    } else {
        let there = _bzhi_u64(u64::MAX, rest.len() as u32);
        // SAFETY: only the bytes that are there are read.
        unsafe { _mm512_mask_loadu_epi8(_mm512_set1_epi8(b' ' as i8), there, rest.as_ptr().cast()) }
    }
}

/// 64 bytes, and in masks what they are.
#[derive(Clone, Copy)]
struct Window {
    bytes: __m512i,
    /// What they are as digits.
    values: __m512i,
    white: u64,
    comma: u64,
    /// White space and commas.
    gaps: u64,
    digit: u64,
    minus: u64,
    sign: u64,
}

impl Window {
    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    fn new(bytes: __m512i) -> Self {
        let set = |byte: u8| _mm512_set1_epi8(byte as i8);
        let is = |byte| _mm512_cmpeq_epi8_mask(bytes, set(byte));
        let white = _mm512_cmpeq_epi8_mask(_mm512_shuffle_epi8(WHITE, bytes), bytes);
        let comma = is(b',');
        let values = _mm512_sub_epi8(bytes, set(b'0'));
        let digit = _mm512_cmple_epu8_mask(values, set(9));
        let minus = is(b'-');
        Window { bytes, values, white, comma, gaps: white | comma, digit, minus, sign: minus | is(b'+') }
    }
}

/// White space by its low four bits; the bytes that are none have an entry that they are not.
const WHITE: __m512i = lanes::bytes({
    let mut table = [0xff; 64];
    let mut index = 0;
    while index < 64 {
        match index % 16 {
            0 => table[index] = b' ',
            low @ 9..=13 => table[index] = low as u8,
            _ => {}
        }
        index += 1;
    }
    table
});

#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
#[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt")]
fn windows(
    text: &[u8],
    mut at: usize,
    stop: usize,
    between: &mut Between,
    ints: &mut Vec<i64>,
    floats: &mut Vec<f64>,
) -> usize {
    let mut output = Output::new(ints, floats, stop.saturating_sub(at));
    while at < stop {
        let window = Window::new(load(text, at));
        let Window { white, comma, gaps, digit, minus, sign, .. } = window;
        if gaps == 0 {
            break;
        }
        let mut taken = 64 - gaps.leading_zeros();
        let mut low = _bzhi_u64(u64::MAX, taken);
        let tokens = low & !gaps;
        let starts = tokens & ((gaps << 1) | 1);
        let signs = starts & sign;
        let mut missing = 0;
        let mut plain = true;

        // Integers only, and a digit behind each sign.
        let integers = tokens & !digit == signs && (signs << 1) & !digit == 0;
        let ends = gaps & (tokens << 1);
        let begins = (starts & !signs) | (signs << 1);
        if !(integers && output.integers(window.values, begins, ends, _pext_u64(minus, starts) as u32)) {
            let general = general(&window, low, starts, &mut output);
            if general.low != low {
                low = general.low;
                taken = shortened(low);
            }
            plain = general.plain;
            missing = general.missing & low;
        }

        if comma | u64::from(between.comma) != 0 {
            missing |= window::empty_fields(white & low, comma & low, tokens & low, &mut between.comma);
        }
        if missing != 0 {
            between.miss(u64::from(missing.count_ones()), at + missing.trailing_zeros() as usize);
        }
        at = text.len().min(at + taken as usize);
        if !plain {
            break;
        }
    }
    output.finish();
    at
}

/// How much is taken of a window that is not taken whole. A call, so that the compiler makes a jump of the question whether
/// it is: were it a conditional move, each window would wait for all of the work on the one before it (17-digit floats:
/// 1.9 GB/s instead of 2.4).
#[cold]
#[inline(never)]
fn shortened(low: u64) -> u32 {
    low.count_ones()
}

/// How far a window was taken.
struct Taken {
    /// The bits of the bytes that were.
    low: u64,
    /// Whether the token behind them is none that is too much for the kernel.
    plain: bool,
    /// The starts of the tokens that are words for a missing value.
    missing: u64,
}

/// Numbers of every form, and missing values.
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi,avx512vbmi2")]
#[target_feature(enable = "bmi1,bmi2,lzcnt,popcnt")]
#[inline]
fn general(window: &Window, mut low: u64, starts: u64, output: &mut Output) -> Taken {
    let Window { bytes, values, gaps, digit, minus, sign, .. } = *window;
    let is = |bytes, byte: u8| _mm512_cmpeq_epi8_mask(bytes, _mm512_set1_epi8(byte as i8));
    let tokens = low & !gaps;
    let dot = is(bytes, b'.');
    let lower = _mm512_or_si512(bytes, _mm512_set1_epi8(0x20));
    let e = is(lower, b'e');
    let mut missing = 0;
    if tokens & !(digit | dot | e | sign) != 0 {
        let letters = [b'n', b'a', b'u', b'l'].map(|letter| is(lower, letter));
        missing = window::missing(starts, gaps, letters);
    }
    let starts_of_numbers = starts & !missing;
    let zero = is(bytes, b'0') & low;
    let parts =
        Bytes { between: gaps & low, digit: digit & low, zero, dot: dot & low, e: e & low, sign: sign & low };
    let mut numbers = window::numbers(starts_of_numbers, &parts);

    let mut plain = true;
    let all = low;
    if numbers.bad != 0 {
        std::hint::cold_path();
        low &= window::below_start(starts, numbers.bad);
        plain = false;
    }
    // A vector of sixteen holds their exponents: the seventeenth waits for the next window.
    let seventeenth = _pdep_u64(1 << 16, starts_of_numbers) & low;
    if seventeenth != 0 {
        std::hint::cold_path();
        low &= seventeenth - 1;
        plain = true;
    }
    if low & starts_of_numbers == 0 {
        std::hint::cold_path();
        return Taken { low, plain, missing };
    }
    if low != all {
        numbers = numbers.below(low);
    }
    let negative = _pext_u64(minus, starts_of_numbers & low) as u32;
    let places = Places::new(values, &numbers, gaps, minus, negative);
    if places.hard != 0 {
        std::hint::cold_path();
        let first = _pdep_u64(places.hard & places.hard.wrapping_neg(), starts_of_numbers);
        low &= first - 1;
        plain = false;
    }
    output.numbers(values, &places.first((low & starts_of_numbers).count_ones()), numbers.e & low != 0);
    Taken { low, plain, missing }
}

impl Numbers {
    /// Those that lie in these bytes.
    #[inline]
    fn below(self, low: u64) -> Self {
        Numbers {
            significant: self.significant & low,
            whole_end: self.whole_end & low,
            mantissa_end: self.mantissa_end & low,
            exponent: self.exponent & low,
            end: self.end & low,
            e: self.e & low,
            bad: 0,
        }
    }
}
