//! Counts values of which there are sixteen at most.
//!
//! With AVX-512 each is turned into a code of 4 bits, by a multiplication under which no two have the same. The code says in
//! which slot of two registers the value has to be, and, shifted, what is added to sixteen counters in a word. Elsewhere, each
//! value is compared with each.
#![expect(unsafe_code, reason = "calls code that is compiled for more than the target has")]
#![expect(
    clippy::inline_always,
    reason = "compiled for a level only where inlined into a function of that level"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m512i, _CMP_UNORD_Q, _mm512_add_epi8, _mm512_add_epi64, _mm512_add_pd, _mm512_and_si512,
    _mm512_castpd_si512, _mm512_castsi512_pd, _mm512_cmp_pd_mask, _mm512_cmpneq_epi64_mask,
    _mm512_loadu_si512, _mm512_mask_mov_epi64, _mm512_mullo_epi64, _mm512_permutex2var_epi64,
    _mm512_set1_epi8, _mm512_set1_epi64, _mm512_setzero_pd, _mm512_setzero_si512, _mm512_slli_epi64,
    _mm512_sllv_epi64, _mm512_srai_epi64, _mm512_srli_epi64, _mm512_storeu_si512, _mm512_xor_si512,
};

use crate::engine::kernels::codes::Mix;
use crate::engine::simd::{Level, Simd};
use crate::engine::value::Value;

/// The most values.
pub(crate) const MOST: usize = 16;
/// To compare with so many is faster at each level.
const FEW: usize = 4;
/// Multipliers tried. Of a dozen values no two have the same code under one in some 300.
const TRIES: i64 = 4096;
/// The code is what a product has above these bits.
const SHIFT: u32 = 60;

/// Values to count, by their keys.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    simd: Simd,
    keys: Vec<i64>,
    coded: Option<Coded>,
}

/// A multiplier under which no two keys have the same code.
#[derive(Debug, Clone)]
struct Coded {
    multiplier: u64,
    /// The key of each code. A code that no key has, has the key of another, which never comes to it.
    owners: [i64; MOST],
}

impl Common {
    /// For these keys, at most [`MOST`] and all different.
    pub(crate) fn new(simd: Simd, keys: Vec<i64>) -> Self {
        let coded = if simd.level() == Level::Avx512 && keys.len() > FEW { Coded::new(&keys) } else { None };
        Common { simd, keys, coded }
    }

    /// The keys.
    pub(crate) fn keys(&self) -> &[i64] {
        &self.keys
    }

    /// Adds to `times` how often each of the keys occurs, if there is nothing else among the values. Whether it is so.
    ///
    /// In L2, ns for an `f64`: 0.11 portable and 0.04 with AVX2 for each key, 0.24 with AVX-512 whatever their number; an `i64`:
    /// 0.14, 0.05 and 0.15.
    pub(crate) fn count<V: Value>(&self, values: &[V], times: &mut [u64; MOST]) -> bool {
        let mut here = [0; MOST];
        match &self.coded {
            Some(coded) => {
                let mut counts = [0; MOST];
                if !coded.count(self.simd, values, &mut counts) {
                    return false;
                }
                for (here, key) in here.iter_mut().zip(&self.keys) {
                    *here = counts[coded.code(*key)];
                }
            }
            None => {
                for (here, &key) in here.iter_mut().zip(&self.keys) {
                    *here = equal(self.simd, V::from_key(key), values) as u64;
                }
            }
        }
        let all = here.iter().sum::<u64>() == values.len() as u64;
        if all {
            times.iter_mut().zip(here).for_each(|(times, here)| *times += here);
        }
        all
    }
}

impl Coded {
    fn new(keys: &[i64]) -> Option<Coded> {
        let first = *keys.first()?;
        let mix = Mix::new(0);
        (0..TRIES).find_map(|attempt| {
            let mut coded = Coded { multiplier: mix.hash(attempt), owners: [first; MOST] };
            let mut taken = [false; MOST];
            let alone = keys.iter().all(|key| {
                let code = coded.code(*key);
                coded.owners[code] = *key;
                !std::mem::replace(&mut taken[code], true)
            });
            alone.then_some(coded)
        })
    }

    fn code(&self, key: i64) -> usize {
        ((key as u64).wrapping_mul(self.multiplier) >> SHIFT) as usize
    }

    /// Adds how often each code occurs, and whether all values are owners; what is added otherwise says nothing.
    fn count<V: Value>(&self, simd: Simd, values: &[V], counts: &mut [u64; MOST]) -> bool {
        #[cfg(target_arch = "x86_64")]
        if simd.level() == Level::Avx512 {
            // SAFETY: the `Simd` proves that the processor has the level's features.
            return unsafe { self.count_avx512(values, counts) };
        }
        // It is made for that level only.
        let _ = (simd, values, counts);
        false
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
    fn count_avx512<V: Value>(&self, values: &[V], counts: &mut [u64; MOST]) -> bool {
        // Additions after which a counter of four bits may be full, and of so many, one of eight bits.
        const NIBBLE: usize = 15;
        const BYTE: usize = 17;
        let load = |words: &[i64; 8]| {
            // SAFETY: 64 bytes.
            unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
        };
        let (owners, _) = self.owners.as_chunks();
        let owners = [load(&owners[0]), load(&owners[1])];
        let (multiplier, ones) = (_mm512_set1_epi64(self.multiplier as i64), _mm512_set1_epi64(1));
        let low = _mm512_set1_epi8(0x0f);
        let (groups, rest) = values.as_chunks::<8>();
        let mut others = 0;
        for groups in groups.chunks(NIBBLE * BYTE) {
            // Of even codes and of odd ones.
            let mut bytes = [_mm512_setzero_si512(); 2];
            for groups in groups.chunks(NIBBLE) {
                let mut nibbles = _mm512_setzero_si512();
                for group in groups {
                    // SAFETY: a group is 64 bytes of integers or floats.
                    let keys = keys::<V>(unsafe { _mm512_loadu_si512(group.as_ptr().cast()) });
                    let codes = _mm512_srli_epi64::<SHIFT>(_mm512_mullo_epi64(keys, multiplier));
                    let owners = _mm512_permutex2var_epi64(owners[0], codes, owners[1]);
                    others |= _mm512_cmpneq_epi64_mask(owners, keys);
                    nibbles =
                        _mm512_add_epi64(nibbles, _mm512_sllv_epi64(ones, _mm512_slli_epi64::<2>(codes)));
                }
                bytes[0] = _mm512_add_epi8(bytes[0], _mm512_and_si512(nibbles, low));
                bytes[1] = _mm512_add_epi8(bytes[1], _mm512_and_si512(_mm512_srli_epi64::<4>(nibbles), low));
            }
            for (odd, bytes) in bytes.into_iter().enumerate() {
                let mut words = [0_u64; 8];
                // SAFETY: 64 bytes.
                unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), bytes) };
                for bytes in words.map(u64::to_le_bytes) {
                    (0..8).for_each(|pair| counts[2 * pair + odd] += u64::from(bytes[pair]));
                }
            }
        }
        for value in rest {
            let code = self.code(value.key());
            counts[code] += 1;
            others |= u8::from(self.owners[code] != value.key());
        }
        others == 0
    }
}

/// The [keys](Value::key) of eight values.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw")]
fn keys<V: Value>(values: __m512i) -> __m512i {
    if !V::IS_FLOAT {
        return values;
    }
    let highest = _mm512_set1_epi64(i64::MAX);
    let floats = _mm512_add_pd(_mm512_castsi512_pd(values), _mm512_setzero_pd());
    let bits = _mm512_castpd_si512(floats);
    let keys = _mm512_xor_si512(bits, _mm512_and_si512(_mm512_srai_epi64::<63>(bits), highest));
    _mm512_mask_mov_epi64(keys, _mm512_cmp_pd_mask::<_CMP_UNORD_Q>(floats, floats), highest)
}

/// How many values equal this one; all missing values are equal.
///
/// In L2, ns for an `f64`: 0.11 portable, 0.04 with AVX2; 0.03 with AVX-512, five at once, was not worth a version.
fn equal<V: Value>(simd: Simd, to: V, values: &[V]) -> usize {
    #[cfg(target_arch = "x86_64")]
    if simd.level() >= Level::Avx2 {
        // SAFETY: the `Simd` proves that the processor has the level's features.
        return unsafe { equal_avx2(to, values) };
    }
    let _ = simd;
    equal_loop(to, values)
}

#[inline(always)]
fn equal_loop<V: Value>(to: V, values: &[V]) -> usize {
    if to.partial_cmp(&to).is_none() {
        return values.iter().map(|value| usize::from(value.partial_cmp(value).is_none())).sum();
    }
    values.iter().map(|value| usize::from(*value == to)).sum()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi2")]
fn equal_avx2<V: Value>(to: V, values: &[V]) -> usize {
    equal_loop(to, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_where_there_are_no_others() {
        let mix = Mix::new(9);
        let mut coded = [0; MOST + 1];
        for case in 0..2000 {
            let random = |index: i64| mix.hash(case * 10_000 + index);
            let kinds = random(0) as usize % MOST + 1;
            let keys: Vec<i64> = (0..kinds as i64)
                .map(|index| match random(1) % 4 {
                    0 => index - 3,
                    1 => i64::MAX - index,
                    _ => random(2 + index) as i64 >> (random(1) % 50),
                })
                .collect();
            let len = random(100) as usize % 5000;
            let other = (random(101).is_multiple_of(2) && len > 0).then(|| random(102) as usize % len);
            for simd in Simd::all() {
                check::<i64>(simd, &keys, len, other, &mut coded);
                check::<f64>(simd, &keys, len, other, &mut coded);
            }
        }
        if Simd::best().level() == Level::Avx512 {
            assert!(coded[12] > 10 && coded[5] > 10, "{coded:?}");
        }
    }

    fn check<V: Value>(
        simd: Simd,
        keys: &[i64],
        len: usize,
        other: Option<usize>,
        coded: &mut [u32; MOST + 1],
    ) {
        let mut keys = keys.to_vec();
        keys.retain(|key| V::from_key(*key).key() == *key);
        keys.sort_unstable();
        keys.dedup();
        if keys.is_empty() {
            return;
        }
        let mut values: Vec<V> = (0..len).map(|index| V::from_key(keys[index * 7 % keys.len()])).collect();
        let mut expected = [3; MOST];
        // A value that is none of them, in any place.
        let stranger =
            (0..20).map(|index| 12_345 + index).find(|key| !keys.contains(key)).unwrap_or_default();
        if let Some(other) = other {
            values[other] = V::from_key(stranger);
        } else {
            (0..len).for_each(|index| expected[index * 7 % keys.len()] += 1);
        }
        let common = Common::new(simd, keys.clone());
        coded[keys.len()] += u32::from(common.coded.is_some());
        let mut times = [3; MOST];
        assert_eq!(common.count(&values, &mut times), other.is_none(), "{simd:?} {keys:?} {len}");
        assert_eq!(times, expected, "{simd:?} {keys:?} {len}");
    }

    #[test]
    fn zeros_and_what_is_missing_are_alike_whatever_their_bits() {
        let values: Vec<f64> =
            [0.0, -0.0, f64::NAN, -f64::NAN, f64::from_bits(0x7ff0_0000_0000_0001), 1.5].repeat(50);
        for simd in Simd::all() {
            let common = Common::new(simd, vec![0, i64::MAX, 1.5_f64.key()]);
            let mut times = [0; MOST];
            assert!(common.count(&values, &mut times));
            assert_eq!(times[..3], [100, 150, 50]);
        }
    }
}
