//! Attachments that need not be read: a memfd whose size and content are sealed, and whose pages are all there, is used
//! where it is.
#![expect(unsafe_code, reason = "mapping memory and viewing it as numbers")]

use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Weak};

use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use task_proto::limits::MAPPINGS;
use task_proto::wire::Attachment;

use super::team::lock;

/// Without one of them somebody could change a number while it is counted, or take its page away: then reading it is a
/// SIGBUS.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);
/// Pages that are looked at together.
const PAGES: usize = 4096;
/// The size of the smallest pages there are.
const PAGE: usize = 4096;

/// The mappings of one connection: one for each attachment, however many calls and sources name it.
#[derive(Debug, Default)]
pub(super) struct Maps(Mutex<Vec<(Weak<Attachment>, Weak<Map>)>>);

/// What of a mapping follows an offset. It keeps the mapping alive.
#[derive(Debug)]
pub(super) struct View {
    map: Arc<Map>,
    first: usize,
}

/// A whole file, mapped for as long as this lives. Its offset is 0, its length in words that of the file, rounded down.
#[derive(Debug)]
struct Map {
    words: NonNull<[u64]>,
    bytes: usize,
    /// Whether all its pages were seen in memory.
    is_there: AtomicBool,
}

// SAFETY: the mapping belongs to the process, not to a thread, and nobody writes to it.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Maps {
    /// The whole eight-byte values from this offset to the end of the file. `None`: it has to be read. Whether they are in
    /// memory is [to be asked](View::is_there) before they are looked at.
    pub(super) fn view(&self, attachment: &Arc<Attachment>, offset: u64) -> Option<View> {
        let mut maps = lock(&self.0);
        maps.retain(|(_, map)| map.strong_count() > 0);
        let attachment_of = Arc::downgrade(attachment);
        let known = maps.iter().find(|(of, _)| of.ptr_eq(&attachment_of)).and_then(|(_, map)| map.upgrade());
        let map = match known {
            Some(map) => map,
            None if maps.len() >= MAPPINGS => return None,
            None => {
                let map = Arc::new(Map::new(attachment)?);
                maps.push((attachment_of, Arc::downgrade(&map)));
                map
            }
        };
        let offset = usize::try_from(offset).ok()?;
        let whole = offset <= map.bytes && offset.is_multiple_of(8) && map.bytes.is_multiple_of(8);
        whole.then_some(View { map, first: offset / 8 })
    }
}

impl View {
    /// Whether the pages of these values are in memory, so that none is allocated when they are read. (The number of the
    /// file's blocks does not tell: as many as it lacks may lie beyond its end.) To look at a MiB takes some 35 µs, and
    /// next to nothing where the values are read at once.
    pub(super) fn is_there(&self, values: Range<usize>) -> bool {
        self.map.is_there.load(Relaxed) || {
            let bytes = |value: usize| (self.first + value) * size_of::<u64>();
            self.map.holds(bytes(values.start) / PAGE * PAGE..bytes(values.end))
        }
    }

    /// Says that all its values were there: they stay.
    pub(super) fn was_there(&self) {
        if self.first * size_of::<u64>() < PAGE {
            self.map.is_there.store(true, Relaxed);
        }
    }

    pub(super) fn ints(&self) -> &[i64] {
        let words = self.words();
        // SAFETY: the same memory, for as long. Every bit pattern is an `i64`, of the size and alignment of a `u64`.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    pub(super) fn floats(&self) -> &[f64] {
        let words = self.words();
        // SAFETY: the same memory, for as long. Every bit pattern is an `f64`, of the size and alignment of a `u64`.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len()) }
    }

    fn words(&self) -> &[u64] {
        // SAFETY: the mapping is page-aligned, as long as the slice says and lives as long as `self`. Nobody can write to
        // the file behind it nor shrink it: it was sealed before it was mapped.
        let words = unsafe { self.map.words.as_ref() };
        &words[self.first..]
    }
}

impl Map {
    /// Maps it, if that is safe. Whatever stands against it stands in the way of nothing: the file
    /// can still be read.
    fn new(attachment: &Attachment) -> Option<Self> {
        // The values are little-endian.
        if cfg!(target_endian = "big") || !rustix::fs::fcntl_get_seals(attachment).ok()?.contains(SEALS) {
            return None;
        }
        let bytes = usize::try_from(rustix::fs::fstat(attachment).ok()?.st_size).ok()?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::PRIVATE, attachment.as_fd(), 0)
        };
        let words = NonNull::new(base.ok()?.cast())?;
        let words = NonNull::slice_from_raw_parts(words, bytes / 8);
        Some(Map { words, bytes, is_there: AtomicBool::new(false) })
    }

    /// Whether the pages of these bytes, from the beginning of a page on, are in memory.
    fn holds(&self, bytes: Range<usize>) -> bool {
        // Larger pages fill fewer of these.
        let mut pages = [1; PAGES];
        bytes.clone().step_by(PAGES * PAGE).all(|from| {
            let length = (bytes.end - from).min(PAGES * PAGE);
            // SAFETY: it reads no memory, and writes a byte for each page of a range which has as many as fit. A range that
            // does not begin at a page, where pages are larger, is refused.
            let seen = unsafe {
                libc::mincore(self.words.as_ptr().byte_add(from).cast(), length, pages.as_mut_ptr())
            };
            seen == 0 && pages[..length.div_ceil(PAGE)].iter().all(|page| page & 1 == 1)
        })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the address and length are those of the mapping that `new` made, and no reference outlives `self`.
        // There is nothing to do about a failure.
        let _ = unsafe { munmap(self.words.as_ptr().cast(), self.bytes) };
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, fcntl_add_seals, memfd_create};

    use super::*;

    #[test]
    fn only_whole_values_from_a_place_of_a_value_are_used_where_they_are() {
        let memfd = |bytes| {
            let memfd = memfd_create("array", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
            rustix::io::write(&memfd, &vec![0; bytes]).unwrap();
            fcntl_add_seals(&memfd, SEALS).unwrap();
            Arc::new(Attachment::from(memfd))
        };
        let values =
            |memfd: &Arc<Attachment>, offset| Some(Maps::default().view(memfd, offset)?.ints().len());
        let (whole, cut) = (memfd(64), memfd(61));
        assert_eq!([0, 8, 64].map(|offset| values(&whole, offset)), [Some(8), Some(7), Some(0)]);
        assert_eq!([5, 65, 72, u64::MAX].map(|offset| values(&whole, offset)), [None; 4]);
        assert_eq!([0, 5].map(|offset| values(&cut, offset)), [None; 2]);
    }
    #[test]
    fn what_was_there_from_an_offset_on_says_nothing_of_what_comes_before() {
        let memfd = memfd_create("holed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let page = 64 * 1024;
        rustix::io::pwrite(&memfd, &vec![1; page], page as u64).unwrap();
        fcntl_add_seals(&memfd, SEALS).unwrap();
        let (maps, memfd) = (Maps::default(), Arc::new(Attachment::from(memfd)));
        let behind = maps.view(&memfd, page as u64).unwrap();
        assert!(behind.is_there(0..page / 8));
        behind.was_there();
        let whole = maps.view(&memfd, 0).unwrap();
        assert!(!whole.is_there(0..1) && !whole.is_there(0..page / 4));
        assert!(whole.is_there(page / 8..page / 4));
    }
}
