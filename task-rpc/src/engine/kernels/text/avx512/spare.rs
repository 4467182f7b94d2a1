//! The spare capacity of a `Vec`, into which whole vectors are stored: more than what counts, which the next store overwrites.
#![expect(unsafe_code, reason = "vector stores, and the length of a `Vec`")]

use std::arch::x86_64::{__m512i, _mm512_storeu_si512};

use super::super::room;

/// Numbers of eight bytes, of which any bits make one.
pub(super) trait Eight: Copy {}
impl Eight for i64 {}
impl Eight for f64 {}

pub(super) struct Spare<'a, T> {
    vec: &'a mut Vec<T>,
    filled: usize,
}

impl<'a, T: Eight> Spare<'a, T> {
    /// Room for the numbers of so many bytes of text.
    pub(super) fn new(vec: &'a mut Vec<T>, bytes: usize) -> Self {
        vec.reserve(room(bytes));
        Spare { vec, filled: 0 }
    }

    /// Stores eight numbers, so far behind what is filled.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub(super) fn put(&mut self, ahead: usize, numbers: __m512i) {
        const { assert!(size_of::<T>() == 8) };
        let at = self.filled + ahead;
        // `room` is enough: were it not, this would be where it shows.
        let slots = &mut self.vec.spare_capacity_mut()[at..at + 8];
        // SAFETY: there are eight slots of eight bytes.
        unsafe { _mm512_storeu_si512(slots.as_mut_ptr().cast(), numbers) };
    }

    /// Stores one number over one that has been stored, so far behind what is filled.
    #[inline]
    pub(super) fn replace(&mut self, ahead: usize, number: T) {
        self.vec.spare_capacity_mut()[self.filled + ahead].write(number);
    }

    /// So many of the numbers last stored count.
    #[inline]
    pub(super) fn fill(&mut self, count: usize) {
        self.filled += count;
    }

    /// Makes what is filled the `Vec`'s.
    pub(super) fn finish(self) {
        let length = self.vec.len() + self.filled;
        // SAFETY: every `fill` comes after `put`s of at least so many numbers from `filled` on, which were within the capacity.
        unsafe { self.vec.set_len(length) };
    }
}
