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
