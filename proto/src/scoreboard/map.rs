//! The map of a scoreboard: the only unsafe code of this package.
#![expect(unsafe_code, reason = "mapping memory and viewing it as atomics")]

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::{BYTES, SEALS, WORDS};

/// A whole board, mapped shared and writable for as long as this lives.
#[derive(Debug)]
pub(super) struct Map {
    words: NonNull<[AtomicU64; WORDS]>,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is only ever viewed as atomics.
unsafe impl Send for Map {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Map {}

impl Map {
    /// Maps a memfd, once its size is seen to be right and sealed.
    pub(super) fn new(fd: impl AsFd) -> io::Result<Self> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        let Ok(seals) = rustix::fs::fcntl_get_seals(&fd) else {
            return refuse("the scoreboard is no memfd");
        };
        if !seals.contains(SEALS) {
            return refuse("the scoreboard's size is not sealed");
        }
        if rustix::fs::fstat(&fd)?.st_size as usize != BYTES {
            return refuse("the scoreboard has another size");
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            mmap(std::ptr::null_mut(), BYTES, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }?;
        let words = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Map { words })
    }

    pub(super) fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: the mapping is page-aligned, `BYTES` = `WORDS` × 8 long and lives until `drop`. The file behind
        // it cannot shrink (sealed before it was mapped), so every word stays backed. Other processes may store
        // into it at any time, which atomics allow, and every bit pattern is a `u64`.
        unsafe { self.words.as_ref() }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the address and length are those of the mapping that `new` made, and no reference outlives `self`.
        // There is nothing to do about a failure.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), BYTES) };
    }
}
