//! Writes hashes to thousands of places at once: a line of the cache is gathered for each place, and goes to memory whole,
//! past the caches.
#![expect(unsafe_code, reason = "stores past the caches")]

/// Words of a line of the cache.
pub const LINE: usize = 8;

/// A line of the cache.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub struct Line([u64; LINE]);

impl Line {
    /// One for each part.
    pub fn boxed() -> Box<[Line; PARTS]> {
        let lines = vec![Line([0; LINE]); PARTS].into_boxed_slice();
        lines.try_into().unwrap_or_else(|_| Box::new([Line([0; LINE]); PARTS]))
    }
}

/// The most parts.
pub const PARTS: usize = 4096;

/// Where hashes go.
#[derive(Debug)]
pub struct Scatter<'a> {
    /// The next free place of each part.
    pub next: &'a mut [u32; PARTS],
    /// What is not yet written of each part.
    pub lines: &'a mut [Line; PARTS],
    /// All parts, one after the other. It starts with a line.
    pub out: &'a mut [u64],
}

impl Scatter<'_> {
    /// Takes each hash to its part. The words before a part in its first line are overwritten: they are of earlier parts, whose
    /// last lines are not yet written.
    pub fn take(&mut self, part: impl Fn(u64) -> usize, hashes: &[u64]) {
        for &hash in hashes {
            let part = part(hash) % PARTS;
            let (next, line) = (&mut self.next[part], &mut self.lines[part]);
            let place = *next as usize;
            line.0[place % LINE] = hash;
            *next += 1;
            if place % LINE == LINE - 1
                && let Some(out) = self.out.get_mut(place + 1 - LINE..).and_then(<[u64]>::first_chunk_mut)
            {
                stream(line, out);
            }
        }
    }

    /// Writes what is left. `starts` are the first places of all parts.
    pub fn finish(self, starts: &[u32]) {
        for ((&start, &mut end), line) in starts.iter().zip(self.next).zip(self.lines) {
            let first = start.max(end - end % LINE as u32);
            for place in first as usize..end as usize {
                self.out[place] = line.0[place % LINE];
            }
        }
        fence();
    }
}

/// Stores a line to memory past the caches, where it is one there, too.
#[inline(always)]
fn stream(line: &Line, out: &mut [u64; LINE]) {
    #[cfg(target_arch = "x86_64")]
    if out.as_ptr().addr().is_multiple_of(align_of::<Line>()) {
        use std::arch::x86_64::{__m128i, _mm_load_si128, _mm_stream_si128};
        let (from, to) = (line.0.as_ptr().cast::<__m128i>(), out.as_mut_ptr().cast::<__m128i>());
        for quarter in 0..4 {
            // SAFETY: both have four times 16 bytes, and are aligned to 64. SSE2 is part of x86-64.
            unsafe { _mm_stream_si128(to.add(quarter), _mm_load_si128(from.add(quarter))) };
        }
        return;
    }
    *out = line.0;
}

/// What was streamed is seen by others who see what this thread does next.
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64; a fence has no other conditions.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}
