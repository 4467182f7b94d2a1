//! Turns values into what the tables of the mode are indexed by: hashes, and distances from an origin.
//! Written once, as plain loops, and compiled for each level.
#![expect(unsafe_code, reason = "calls code that is compiled for more than the target has")]
#![expect(
    clippy::inline_always,
    reason = "compiled for a level only where inlined into a function of that level"
)]

use crate::engine::simd::{Level, Simd};
use crate::engine::value::Value;

/// A hash of keys that has an inverse: what is found among hashes is found among keys, and no key needs to be
/// kept. Two rounds of xor and multiplication, as in the finishers of `MurmurHash3`, with seeded constants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mix {
    whiten: u64,
    first: u64,
    second: u64,
    /// The inverses of both multipliers.
    back: [u64; 2],
}

impl Mix {
    /// One of 2^64; nobody who does not know the seed can make keys whose hashes are alike.
    pub(crate) fn new(seed: u64) -> Mix {
        let word = |index: u64| {
            // SplitMix64.
            let word = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        };
        let (first, second) = (word(1) | 1, word(2) | 1);
        Mix { whiten: word(0), first, second, back: [inverse(first), inverse(second)] }
    }

    /// The hash of a key.
    #[inline(always)]
    pub(crate) fn hash(&self, key: i64) -> u64 {
        let word = (key as u64 ^ self.whiten).wrapping_mul(self.first);
        let word = (word ^ word >> 32).wrapping_mul(self.second);
        word ^ word >> 32
    }

    /// The key of a hash.
    pub(crate) fn key(&self, hash: u64) -> i64 {
        let word = (hash ^ hash >> 32).wrapping_mul(self.back[1]);
        let word = (word ^ word >> 32).wrapping_mul(self.back[0]);
        (word ^ self.whiten) as i64
    }
}

/// The inverse of an odd number, by Newton's method: each round doubles the bits that are right, from 3 on.
fn inverse(odd: u64) -> u64 {
    (0..5).fold(odd, |inverse, _| inverse.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(inverse))))
}

/// Writes the hash of each value's key to the same place of `out`; what is beyond the shorter of the two is
/// left.
///
/// In L2, ns for an `f64`: 1.26 portable, 0.56 with AVX2, 0.13 with AVX-512, which can multiply words; an
/// `i64`: 0.72, 0.36, 0.07.
pub(crate) fn hashes<V: Value>(simd: Simd, mix: &Mix, values: &[V], out: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    match simd.level() {
        // SAFETY: the `Simd` proves that the processor has the level's features.
        Level::Avx512 => return unsafe { hashes_avx512(mix, values, out) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { hashes_avx2(mix, values, out) },
        Level::Portable => {}
    }
    let _ = simd;
    hashes_loop(mix, values, out);
}

/// Writes which part each hash belongs to: its bits from `shift` on, as far as `mask` goes, or the part
/// after the last one for a `missing` value.
///
/// In L1, ns for an `f64`: 0.35 portable, 0.14 with AVX2, 0.05 with AVX-512; an `i64`: 0.12, 0.08, 0.04.
pub(crate) fn parts(
    simd: Simd,
    shift: u32,
    mask: u32,
    missing: Option<u64>,
    hashes: &[u64],
    out: &mut [u32],
) {
    #[cfg(target_arch = "x86_64")]
    match simd.level() {
        // SAFETY: the `Simd` proves that the processor has the level's features.
        Level::Avx512 => return unsafe { parts_avx512(shift, mask, missing, hashes, out) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { parts_avx2(shift, mask, missing, hashes, out) },
        Level::Portable => {}
    }
    let _ = simd;
    parts_loop(shift, mask, missing, hashes, out);
}

/// Writes how far each value is [above](Value::above) the origin; what is beyond the shorter of the two is
/// left.
///
/// In L2, ns for an `f64`: 0.52 portable, 0.37 with AVX2, 0.17 with AVX-512; an `i64`: 0.35, 0.10, 0.05.
pub(crate) fn distances<V: Value>(simd: Simd, origin: i64, width: u32, values: &[V], out: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    match simd.level() {
        // SAFETY: the `Simd` proves that the processor has the level's features.
        Level::Avx512 => return unsafe { distances_avx512(origin, width, values, out) },
        // SAFETY: as above.
        Level::Avx2 => return unsafe { distances_avx2(origin, width, values, out) },
        Level::Portable => {}
    }
    let _ = simd;
    distances_loop(origin, width, values, out);
}

#[inline(always)]
fn hashes_loop<V: Value>(mix: &Mix, values: &[V], out: &mut [u64]) {
    for (value, out) in values.iter().zip(out) {
        *out = mix.hash(value.key());
    }
}

#[inline(always)]
fn parts_loop(shift: u32, mask: u32, missing: Option<u64>, hashes: &[u64], out: &mut [u32]) {
    let part = |hash: u64| (hash >> shift) as u32 & mask;
    match missing {
        None => hashes.iter().zip(out).for_each(|(hash, out)| *out = part(*hash)),
        Some(missing) => {
            for (&hash, out) in hashes.iter().zip(out) {
                *out = if hash == missing { mask + 1 } else { part(hash) };
            }
        }
    }
}

#[inline(always)]
fn distances_loop<V: Value>(origin: i64, width: u32, values: &[V], out: &mut [u32]) {
    for (value, out) in values.iter().zip(out) {
        *out = value.above(origin, width);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn hashes_avx2<V: Value>(mix: &Mix, values: &[V], out: &mut [u64]) {
    hashes_loop(mix, values, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
fn hashes_avx512<V: Value>(mix: &Mix, values: &[V], out: &mut [u64]) {
    hashes_loop(mix, values, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn parts_avx2(shift: u32, mask: u32, missing: Option<u64>, hashes: &[u64], out: &mut [u32]) {
    parts_loop(shift, mask, missing, hashes, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
fn parts_avx512(shift: u32, mask: u32, missing: Option<u64>, hashes: &[u64], out: &mut [u32]) {
    parts_loop(shift, mask, missing, hashes, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn distances_avx2<V: Value>(origin: i64, width: u32, values: &[V], out: &mut [u32]) {
    distances_loop(origin, width, values, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
fn distances_avx512<V: Value>(origin: i64, width: u32, values: &[V], out: &mut [u32]) {
    distances_loop(origin, width, values, out);
}
