//! The descriptors that a connection has received: where they are kept, what is asked of them, how they are closed.
//!
//! One may lead to a file system that does not answer: FUSE whose daemon hangs, NFS whose server is gone. Whoever asks it
//! anything waits, be it for the size of a file, and so does whoever closes a file of it (`flush` in close(2)). So only
//! files in memory are asked anything where others would have to wait, and none but the small ones of these are closed
//! there: any other is closed by a thread for it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{CWD, fcntl_get_seals, fstat};

use super::stream::lock;
use crate::limits::{CLOSED_AT_ONCE, CLOSER_STACK, CLOSING, DESCRIPTORS_PER_MESSAGE};

/// A descriptor that somebody else has opened. To drop it never waits.
#[derive(Debug)]
pub struct Attachment {
    /// Taken by its end alone.
    descriptor: Option<OwnedFd>,
    in_memory: bool,
}

/// Attachments that are being closed.
static CLOSING_NOW: AtomicUsize = AtomicUsize::new(0);

/// Whether so many are being closed that no more may be received: all are of file systems that do not answer.
pub(super) fn are_stalled() -> bool {
    CLOSING_NOW.load(Relaxed) >= CLOSING
}

impl From<OwnedFd> for Attachment {
    fn from(descriptor: OwnedFd) -> Self {
        // A memfd and a file in a tmpfs have seals, and nothing else has. No file system is asked for them.
        let in_memory = fcntl_get_seals(&descriptor).is_ok();
        Attachment { descriptor: Some(descriptor), in_memory }
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // It is there for as long as anybody can ask.
        self.descriptor.as_ref().map_or(CWD, AsFd::as_fd)
    }
}

impl Attachment {
    /// Its descriptor, if whoever closes it may have to wait.
    fn slow(&mut self) -> Option<(OwnedFd, Closing)> {
        let descriptor = self.descriptor.take()?;
        let is_quick =
            self.in_memory && fstat(&descriptor).is_ok_and(|stat| stat.st_blocks <= CLOSED_AT_ONCE);
        (!is_quick).then(|| (descriptor, Closing::begin()))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        close(self.slow().into_iter().collect());
    }
}

/// Those for which no thread has come yet.
static TO_CLOSE: Mutex<Vec<(OwnedFd, Closing)>> = Mutex::new(Vec::new());

/// Closes these by a thread of their own.
fn close(descriptors: Vec<(OwnedFd, Closing)>) {
    if descriptors.is_empty() {
        return;
    }
    lock(&TO_CLOSE).extend(descriptors);
    let closer = thread::Builder::new().name("close".into()).stack_size(CLOSER_STACK);
    // Where no thread can be had the next one closes them.
    let _ = closer.spawn(|| {
        loop {
            let mut left = lock(&TO_CLOSE);
            let some = left.len().min(DESCRIPTORS_PER_MESSAGE);
            let some: Vec<_> = left.drain(..some).collect();
            drop(left);
            if some.is_empty() {
                return;
            }
        }
    });
}

/// Counts as one that is being closed.
struct Closing;

impl Closing {
    fn begin() -> Self {
        CLOSING_NOW.fetch_add(1, Relaxed);
        Closing
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        CLOSING_NOW.fetch_sub(1, Relaxed);
    }
}

/// The descriptors received on one connection: numbered 0, 1, 2… in order of arrival, never reused.
#[derive(Debug, Clone)]
pub struct Attachments(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    limit: usize,
    next: u32,
    alive: BTreeMap<u32, Arc<Attachment>>,
}

impl Drop for Table {
    /// Some by each thread: one that hangs keeps few others waiting, and few connections have more.
    fn drop(&mut self) {
        let slow =
            |attachment| Arc::into_inner(attachment).and_then(|mut attachment: Attachment| attachment.slow());
        let mut slow = std::mem::take(&mut self.alive).into_values().filter_map(slow).peekable();
        while slow.peek().is_some() {
            close(slow.by_ref().take(DESCRIPTORS_PER_MESSAGE).collect());
        }
    }
}

impl Attachments {
    pub(super) fn new(limit: usize) -> Self {
        Attachments(Arc::new(Mutex::new(Table { limit, next: 0, alive: BTreeMap::new() })))
    }

    /// The descriptor of this number, if it came and was not released.
    pub fn get(&self, number: u32) -> Option<Arc<Attachment>> {
        lock(&self.0).alive.get(&number).cloned()
    }

    /// Forgets the descriptor of this number, which makes room for another; false if there is none. It is closed
    /// when its last user is done.
    pub fn release(&self, number: u32) -> bool {
        lock(&self.0).alive.remove(&number).is_some()
    }

    /// How many descriptors came and were not released.
    pub fn alive(&self) -> usize {
        lock(&self.0).alive.len()
    }

    /// What the descriptor of this number leads to, by device and inode, if that is in memory: no other file system is
    /// sure to answer.
    pub(super) fn identity(&self, number: u32) -> Option<(u64, u64)> {
        let attachment = self.get(number).filter(|attachment| attachment.in_memory)?;
        fstat(&*attachment).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    pub(super) fn add(&self, received: Vec<Attachment>) -> io::Result<()> {
        if received.is_empty() {
            return Ok(());
        }
        let mut table = lock(&self.0);
        let Table { limit, next, alive } = &mut *table;
        for descriptor in received {
            if alive.len() >= *limit || *next == u32::MAX {
                return Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    format!(
                        "more than {limit} attachments would be alive on this connection: release some first, or raise the limit where the service runs, by task serve --limit attachments=N"
                    ),
                ));
            }
            alive.insert(*next, Arc::new(descriptor));
            *next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn nobody_waits_until_the_memory_of_a_large_attachment_is_given_back() {
        let large = || {
            let memory = memfd_create("large", MemfdFlags::CLOEXEC).unwrap();
            let part = vec![1; 1 << 20];
            for _ in 0..128 {
                rustix::io::write(&memory, &part).unwrap();
            }
            memory
        };
        let took = |drop: &dyn Fn(OwnedFd), memory| {
            let began = Instant::now();
            drop(memory);
            began.elapsed()
        };
        // The least of some tries: the machine may have been busy in any of them.
        let mut quickest = [Duration::MAX; 2];
        for _ in 0..5 {
            quickest[0] = quickest[0].min(took(&|memory| drop(memory), large()));
            quickest[1] = quickest[1].min(took(&|memory| drop(Attachment::from(memory)), large()));
        }
        let [closed, dropped] = quickest;
        assert!(4 * dropped < closed, "closed in {closed:?}, dropped in {dropped:?}");
    }
}
