//! Goes through values chunk by chunk, and has the next chunk fetched meanwhile.
//!
//! The loops here work on a chunk for about as long as it takes to come from memory, and do not touch the
//! next one before they have done with it; the processor's own prefetching ends with a page of 4 KiB. Without
//! this the two times add up.
#![expect(unsafe_code, reason = "prefetches")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

/// The values in chunks of this length, the last one shorter.
pub(crate) fn ahead<V>(values: &[V], chunk: usize) -> impl Iterator<Item = &[V]> {
    values.chunks(chunk).enumerate().map(move |(index, here)| {
        let next = (index + 1) * chunk;
        prefetch(&values[next.min(values.len())..(next + chunk).min(values.len())]);
        here
    })
}

/// What of a run is fetched, in values: the rest of a longer one the processor fetches as it is read.
const BEGINNING: usize = 512;

/// The same runs, with the beginnings of the two after each fetched while it is worked on: they lie far apart.
pub(crate) fn runs_ahead<'a, V: 'a>(
    runs: impl Iterator<Item = &'a [V]> + Clone,
) -> impl Iterator<Item = &'a [V]> {
    let beginning = |run: &'a [V]| prefetch(&run[..run.len().min(BEGINNING)]);
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
