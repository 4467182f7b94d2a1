//! Goes through values chunk by chunk, and has later ones fetched meanwhile.
//!
//! The loops here work on a chunk for about as long as it takes to come from memory, and do not touch the
//! next one before they have done with it; the processor's own prefetching ends with a page of 4 KiB. Without
//! this the two times add up.
#![expect(unsafe_code, reason = "prefetches")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// Values of a line of memory.
pub(crate) const LINE: usize = 8;

/// The values in chunks of this length, the last one shorter, each with the values from the chunk after the next one on.
pub(crate) fn ahead<V>(values: &[V], chunk: usize) -> impl Iterator<Item = (&[V], Later<'_, V>)> {
    let later = move |index| Later(values.get((index + 2) * chunk..).unwrap_or_default());
    values.chunks(chunk).enumerate().map(move |(index, here)| (here, later(index)))
}

/// Values to fetch between other things, a line after the other. All lines of a chunk at once hold up what comes after them:
/// to split took 0.85 ns for a value, and so 0.5.
pub(crate) struct Later<'a, V>(&'a [V]);

impl<V> Later<'_, V> {
    /// Asks for this line of them, if there is one.
    #[inline]
    pub(crate) fn fetch(&self, line: usize) {
        prefetch_at(self.0, line * LINE);
    }

    /// Asks for so many of them.
    pub(crate) fn fetch_all(&self, values: usize) {
        prefetch(&self.0[..values.min(self.0.len())]);
    }
}

/// Bytes of a run that are fetched: the rest of a longer one the processor fetches as it is read.
const BEGINNING: usize = 4096;

/// The same runs, with the beginnings of the two after each fetched while it is worked on: they lie far apart.
pub(crate) fn runs_ahead<'a, V: 'a>(
    runs: impl Iterator<Item = &'a [V]> + Clone,
) -> impl Iterator<Item = &'a [V]> {
    let beginning = |run: &'a [V]| prefetch(&run[..run.len().min(BEGINNING / size_of::<V>().max(1))]);
    let mut later = runs.clone();
    later.by_ref().take(2).for_each(beginning);
    runs.inspect(move |_| {
        later.next().into_iter().for_each(beginning);
    })
}

/// Asks for the line of memory of this value, if there is one.
#[inline]
pub(crate) fn prefetch_at<V>(values: &[V], index: usize) {
    if let Some(value) = values.get(index) {
        prefetch(std::slice::from_ref(value));
    }
}

/// Asks for the line of memory after the one that this value is in.
#[inline]
pub(crate) fn prefetch_line_after<V>(value: &V) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as in `prefetch`; the address need not be one of the program's.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).wrapping_byte_add(64).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}

/// Asks for all lines of these values.
#[inline]
fn prefetch<V>(values: &[V]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks((64 / size_of::<V>().max(1)).max(1)) {
        // SAFETY: a prefetch reads nothing that the program sees, and SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
