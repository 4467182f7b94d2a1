//! The descriptors that a connection has received: where they are kept, what is asked of them, how they are closed.
//!
//! One may lead to a file system that does not answer: FUSE whose daemon hangs, NFS whose server is gone. Whoever asks it
//! anything waits, be it for the size of a file, and so does whoever closes a file of it (`flush` in close(2)). So only
//! files in memory are asked and closed wherever one is; any other is closed by a thread of its own.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::fs::{CWD, fcntl_get_seals, fstat};

use super::stream::lock;
use crate::limits::{CLOSER_STACK, CLOSING};

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

impl Drop for Attachment {
    fn drop(&mut self) {
        if self.in_memory {
            return;
        }
        let closing = Closing::begin();
        let descriptor = self.descriptor.take();
        let closer = thread::Builder::new().name("close".into()).stack_size(CLOSER_STACK);
        // Where no thread can be had it has been closed here.
        let _ = closer.spawn(move || {
            drop(descriptor);
            drop(closing);
        });
    }
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
                        "more than {limit} attachments would be alive on a connection; release one first, or raise --limit attachments={limit} of task serve"
                    ),
                ));
            }
            alive.insert(*next, Arc::new(descriptor));
            *next += 1;
        }
        Ok(())
    }
}
