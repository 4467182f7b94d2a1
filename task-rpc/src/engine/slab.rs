//! Memory for numbers: words on 2 MiB pages, zero at first, given back to the system on drop.
//!
//! To make a page of 4 KiB costs the kernel more than to fill it: 3.4 µs, some 0.1 ms for one of 2 MiB. And a pass that
//! writes to thousands of places at once needs an entry of the TLB for each page it writes to: with 4 KiB pages there are
//! never enough, with 2 MiB pages nearly always.

#![expect(unsafe_code, reason = "maps memory")]

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

/// A huge page of x86-64, and of aarch64 with pages of 4 KiB.
const PAGE: usize = 2 << 20;

/// What a slab holds: bytes of which any are a value, and zeros are 0.
pub(super) trait Word: sealed::Sealed + Copy {}

mod sealed {
    pub(crate) trait Sealed {}
}

impl sealed::Sealed for u32 {}
impl sealed::Sealed for u64 {}
impl sealed::Sealed for i64 {}
impl sealed::Sealed for f64 {}
impl Word for u32 {}
impl Word for u64 {}
impl Word for i64 {}
impl Word for f64 {}

/// Words of memory of their own, at first zero. They take room only where they are written to.
#[derive(Debug)]
pub(super) struct Slab<T: Word = u64> {
    words: NonNull<T>,
    len: usize,
}

impl<T: Word> Slab<T> {
    /// Maps memory for so many words. Their lease is the caller's to take, before.
    ///
    /// # Errors
    /// The system's, where it has no memory or no address for them.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Ok(Slab { words: NonNull::dangling(), len });
        }
        let size = bytes::<T>(len).ok_or(io::ErrorKind::OutOfMemory)?;
        // The mapping is a page longer than needed, so that an aligned part of it can be kept.
        let mapped = size.checked_add(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: a new private mapping, at an address that the system chooses, touches no other memory.
        let start = unsafe {
            mmap_anonymous(ptr::null_mut(), mapped, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        let before = start.addr().next_multiple_of(PAGE) - start.addr();
        let after = mapped - size - before;
        // SAFETY: `before` is less than `PAGE`, and the mapping is `size` and `PAGE` bytes long: the addresses are in it.
        let (words, end) = unsafe { (start.byte_add(before), start.byte_add(before + size)) };
        // SAFETY: both parts belong to the mapping made above, which nobody else knows, and lie outside of the words
        // kept. `before`, `size` and `mapped` are multiples of the page size, so that nothing of the words goes.
        // Where the system does not give a part back, it stays mapped, unused, and takes no memory.
        unsafe {
            if before > 0 {
                let _ = munmap(start, before);
            }
            if after > 0 {
                let _ = munmap(end, after);
            }
        }
        // SAFETY: a wish for larger pages changes nothing of what the mapping holds. A system that has none says so,
        // and the pages stay small.
        let _ = unsafe { madvise(words, size, Advice::LinuxHugepage) };
        let words = NonNull::new(words.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Slab { words, len })
    }
}

/// The length of the mapping of so many words.
fn bytes<T>(len: usize) -> Option<usize> {
    len.checked_mul(size_of::<T>())?.checked_next_multiple_of(PAGE)
}

impl<T: Word> Deref for Slab<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` words from `words` on are mapped, aligned and initialised (the system maps zeros, and a
        // `Word` is any bytes) until the drop; for none, the pointer dangles and is aligned. Their length in bytes is below `isize::MAX`, being mapped.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr(), self.len) }
    }
}

impl<T: Word> DerefMut for Slab<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `self` is borrowed alone, and owns the words.
        unsafe { std::slice::from_raw_parts_mut(self.words.as_ptr(), self.len) }
    }
}

impl<T: Word> Drop for Slab<T> {
    fn drop(&mut self) {
        if let Some(size) = bytes::<T>(self.len).filter(|size| *size > 0) {
            // SAFETY: this part was mapped by `new`, whole, and no reference into it outlives the slab.
            let _ = unsafe { munmap(self.words.as_ptr().cast(), size) };
        }
    }
}

// SAFETY: a slab owns its words, as a `Box<[T]>` does.
unsafe impl<T: Word> Send for Slab<T> {}
// SAFETY: shared references only read the words.
unsafe impl<T: Word> Sync for Slab<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_zero_at_first_and_keep_what_is_written() {
        for len in [0, 1, 511, PAGE / 8 - 1, PAGE / 8, PAGE / 8 + 1, 3 * PAGE / 8 + 7] {
            let mut slab = Slab::<u64>::new(len).unwrap();
            assert_eq!(slab.len(), len);
            assert!(slab.iter().all(|word| *word == 0));
            for (index, word) in slab.iter_mut().enumerate() {
                *word = index as u64 * 3;
            }
            assert!(slab.iter().enumerate().all(|(index, word)| *word == index as u64 * 3));
            assert!(len == 0 || slab.as_ptr().addr().is_multiple_of(PAGE));
        }
    }

    #[test]
    fn more_words_than_the_system_has_are_refused() {
        assert!(Slab::<u64>::new(usize::MAX).is_err());
        assert!(Slab::<u64>::new(usize::MAX / 8).is_err());
        assert!(Slab::<u64>::new(usize::MAX / 32).is_err());
    }

    #[test]
    fn a_dropped_slab_is_unmapped() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').next().unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = resident();
        for _ in 0..100 {
            drop(Slab::<u64>::new(64 * PAGE / 8).unwrap());
        }
        assert!(resident() < before + 50 * 64 * PAGE, "one in two at least is gone");
    }
}
